//! A tick at which guests let others run.
//!
//! Fuel bounds what a guest computes, and costs next to nothing where the guest has the host work for
//! it: a name of megabytes can be handed over a hundred thousand times for a few instructions each.
//! Epochs are real time. They are counted by a thread of their own, because a guest that has a thread
//! of the runtime's has it until it is made to yield; and only while a call runs.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wasmtime::{Engine, EngineWeak};

/// From one tick to the next.
pub(crate) const BEAT: Duration = Duration::from_millis(10);

/// Counts an engine's epochs while somebody needs it, until it is dropped.
pub(crate) struct EpochTicker(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    needed: usize,
    is_over: bool,
}

/// As long as it is there, the epochs are counted.
pub(crate) struct Needed(Arc<Shared>);

impl EpochTicker {
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let (engine, heart) = (engine.weak(), Arc::clone(&shared));
        std::thread::Builder::new()
            .name("pulse".to_owned())
            .spawn(move || tick(&engine, &heart))?;
        Ok(Self(shared))
    }

    pub(crate) fn needed(&self) -> Needed {
        self.0.state().needed += 1;
        self.0.changed.notify_one();
        Needed(Arc::clone(&self.0))
    }
}

fn tick(engine: &EngineWeak, shared: &Shared) {
    loop {
        let rest = |state: &mut State| state.needed == 0 && !state.is_over;
        let state = shared.changed.wait_while(shared.state(), rest);
        if state.unwrap_or_else(PoisonError::into_inner).is_over {
            return;
        }
        std::thread::sleep(BEAT);
        match engine.upgrade() {
            Some(engine) => engine.increment_epoch(),
            None => return,
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Needed {
    fn drop(&mut self) {
        self.0.state().needed -= 1;
    }
}

impl Drop for EpochTicker {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.changed.notify_one();
    }
}
