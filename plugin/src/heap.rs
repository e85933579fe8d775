//! The component's heap: a static arena first, then memory that grows.
//!
//! The usual allocator of this target asks the host for memory at every instantiation, and a host
//! that makes a fresh instance for each call pays for that with every call. An ordinary call fits
//! into the arena; a large answer does not, and then the memory grows. Freed memory is used again,
//! for hosts that keep an instance for many calls.

#![expect(unsafe_code, reason = "memory is handed to the allocator by address")]

use core::alloc::Layout;
use core::arch::wasm32::memory_grow;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use talc::base::Talc;
use talc::base::binning::Binning;
use talc::cell::TalcSyncCell;
use talc::source::Source;
use talc::wasm::WasmBinning;

/// Several times what a call with an answer of ordinary size needs.
const ARENA_SIZE: usize = 64 * 1024;

/// The size of a page of WebAssembly memory.
const PAGE_SIZE: usize = 64 * 1024;

/// More than the allocator needs for itself in a block of memory that it is given.
const OVERHEAD: usize = 256;

static mut ARENA: [MaybeUninit<u8>; ARENA_SIZE] = [MaybeUninit::uninit(); ARENA_SIZE];

#[global_allocator]
static HEAP: TalcSyncCell<Memory, WasmBinning> = TalcSyncCell::new_wasm(Memory {
    arena_is_claimed: false,
    end: None,
});

/// Where the allocator's memory comes from.
#[derive(Debug)]
struct Memory {
    arena_is_claimed: bool,
    /// The end of the memory that was grown last.
    end: Option<NonNull<u8>>,
}

// SAFETY: `acquire` allocates nothing.
unsafe impl Source for Memory {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        if !talc.source.arena_is_claimed {
            talc.source.arena_is_claimed = true;
            // SAFETY: nothing else uses the arena, and it is claimed once.
            let end = unsafe { talc.claim((&raw mut ARENA).cast(), ARENA_SIZE) };
            // Where the arena is too small for `layout`, the allocator asks again.
            return end.map(|_| ()).ok_or(());
        }

        let bytes = layout.size().checked_add(layout.align()).ok_or(())?;
        let pages = bytes.checked_add(OVERHEAD).ok_or(())?.div_ceil(PAGE_SIZE);
        let first = memory_grow::<0>(pages);
        if first == usize::MAX {
            return Err(());
        }
        let base = (first * PAGE_SIZE) as *mut u8;
        let new_end = base.wrapping_add(pages * PAGE_SIZE);
        talc.source.end = match talc.source.end {
            // SAFETY: `end` is the end of a heap of this allocator, and the new pages follow it.
            Some(end) if end.as_ptr() == base => Some(unsafe { talc.extend(end, new_end) }),
            // SAFETY: the pages are new, so nothing else uses them.
            _ => unsafe { talc.claim(base, pages * PAGE_SIZE) },
        };
        talc.source.end.map(|_| ()).ok_or(())
    }
}
