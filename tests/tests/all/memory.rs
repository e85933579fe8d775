//! The token never reaches the guest's memory: all of it is searched after the call.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use defender_mock::Grant;
use host_demo::identity::FixedToken;
use host_demo::plugin::{BUNDLED, Plugin};
use tests::naive;
use tests::world::{World, release};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, LinearMemory, MemoryCreator, MemoryType,
};

const COMMENT: &str = "INC-42: a text that is found in the guest's memory";

/// As much as a guest may have.
const CAPACITY: usize = 16 << 20;

/// Makes linear memories, and keeps them when their instances are gone.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Arc<Block>>>>);

struct Block {
    start: *mut u8,
    /// How much of it the guest has.
    size: AtomicUsize,
}

struct Memory(Arc<Block>);

impl Recorder {
    /// An engine like the library's, but for where its memories come from: a pool takes them from
    /// nobody.
    fn engine(&self) -> Engine {
        let mut config = Config::new();
        config
            .consume_fuel(true)
            .allocation_strategy(InstanceAllocationStrategy::OnDemand)
            // Every access is checked, so that no guard pages are needed behind a block.
            .memory_reservation(0)
            .memory_guard_size(0)
            .memory_init_cow(false)
            .with_host_memory(Arc::new(self.clone()));
        Engine::new(&config).unwrap()
    }

    /// How often a text stands in all the memories there were.
    fn count(&self, text: &str) -> usize {
        let blocks = self.0.lock().unwrap();
        assert!(!blocks.is_empty(), "no guest had a memory");
        let count = |block: &Arc<Block>| {
            let size = block.size.load(Ordering::Relaxed);
            // SAFETY: the block is longer, was zeroed when it was made, and its instance is gone.
            let bytes = unsafe { std::slice::from_raw_parts(block.start, size) };
            let starts = bytes.windows(text.len()).filter(|w| w == &text.as_bytes());
            starts.count()
        };
        blocks.iter().map(count).sum()
    }
}

impl Block {
    const LAYOUT: Layout = match Layout::from_size_align(CAPACITY, 64 << 10) {
        Ok(layout) => layout,
        Err(_) => panic!("a power of two"),
    };
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and nobody else has it.
        unsafe { dealloc(self.start, Self::LAYOUT) };
    }
}

// SAFETY: whoever has the block reads it only when its instance is gone.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

// SAFETY: each memory is a block of its own, zeroed, aligned, of the full capacity from the start,
// and kept by the memory for as long as that lives.
unsafe impl MemoryCreator for Recorder {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        _: Option<usize>,
        _: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if minimum > CAPACITY {
            return Err(format!("{minimum} bytes"));
        }
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(Block::LAYOUT) };
        assert!(!start.is_null(), "out of memory");
        let block = Arc::new(Block {
            start,
            size: AtomicUsize::new(minimum),
        });
        self.0.lock().unwrap().push(Arc::clone(&block));
        Ok(Box::new(Memory(block)))
    }
}

// SAFETY: the block never moves, and has the capacity that it says.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.0.size.load(Ordering::Relaxed)
    }

    fn byte_capacity(&self) -> usize {
        CAPACITY
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        wasmtime::ensure!(size <= CAPACITY, "{size} bytes");
        self.0.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.start
    }
}

/// The token and its parts: a guest could have seen less than the whole.
fn pieces(token: &str) -> Vec<&str> {
    let pieces: Vec<_> = [token].into_iter().chain(token.split('.')).collect();
    assert_eq!(pieces.len(), 4);
    pieces
}

#[tokio::test]
async fn the_token_never_reaches_the_guests_memory() {
    let world = World::new().await;
    let recorder = Recorder::default();
    let plugin = Plugin::from_bytes(&recorder.engine(), BUNDLED).unwrap();
    let good = world.mock.token(Grant::new());
    let refused = world.mock.token(Grant::new().roles(["Alert.Read.All"]));
    for token in [&good, &refused] {
        let host = world.host_of(&plugin, |setup| {
            setup.tokens = Arc::new(FixedToken::new(token).unwrap());
        });
        let result = release(&host, &world.machine(0), COMMENT).await;
        assert_eq!(result.is_ok(), token == &good, "{result:?}");
    }
    assert_eq!(world.releases(), 2);

    assert!(recorder.count(COMMENT) > 0, "the search does not work");
    for piece in [pieces(&good), pieces(&refused)].concat() {
        assert_eq!(recorder.count(piece), 0, "{piece}");
    }
}

/// The same search, of the same component, where a host hands the token over.
#[tokio::test]
async fn the_search_finds_a_token_that_a_host_hands_over() {
    let world = World::with(|scene| scene.plain_http = true).await;
    let recorder = Recorder::default();
    let token = world.mock.token(Grant::new());
    let service = naive::Service {
        base_url: world.mock.base_url().to_owned(),
        token: token.clone(),
    };
    naive::release(&recorder.engine(), service, &world.machine(0), COMMENT)
        .await
        .unwrap();
    assert_eq!(world.releases(), 1);
    assert!(recorder.count(COMMENT) > 0);
    // In parts: what was freed is written over here and there.
    let found = pieces(&token).iter().any(|piece| recorder.count(piece) > 0);
    assert!(found, "the search does not work");
}

/// By the same host, which may keep an instance for many calls.
#[tokio::test]
async fn an_instance_that_is_kept_takes_no_call_for_the_one_before() {
    let service = naive::Service {
        base_url: "http://127.0.0.1:9".to_owned(),
        token: "unused".to_owned(),
    };
    let said = naive::refusals(&Recorder::default().engine(), service).await;
    let parameters: Vec<_> = said
        .iter()
        .map(|message| message.split(' ').nth(2).unwrap())
        .collect();
    let (machine, action) = ("machine-id", "action-id");
    assert_eq!(
        parameters,
        [action, machine, action, machine, machine, action]
    );
}
