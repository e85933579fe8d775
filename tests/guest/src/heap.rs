//! An allocator that, when told to, never gives an answer.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

static SPINS: AtomicBool = AtomicBool::new(false);

/// From now on whoever wants memory waits for ever: the host too, through `cabi_realloc`.
pub(crate) fn spin() {
    SPINS.store(true, Ordering::Relaxed);
}

struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

// SAFETY: it is the system's allocator, or it does not return.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        while SPINS.load(Ordering::Relaxed) {
            black_box(());
        }
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
