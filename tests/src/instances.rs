//! What an instance takes, without a call.

use std::time::Instant;

use host_demo::plugin;
use wasmtime::Store;
use wasmtime::component::{Component, Linker};

use crate::bare::Error;

/// Makes so many stores, each with an instance of the plugin in it: the seconds that each took.
pub fn instances(count: usize) -> Result<Vec<f64>, Error> {
    let engine = plugin::engine(None)?;
    let component = Component::from_binary(&engine, plugin::BUNDLED)?;
    let mut linker = Linker::new(&engine);
    linker.define_unknown_imports_as_traps(&component)?;
    let pre = linker.instantiate_pre(&component)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            let mut store = Store::new(&engine, ());
            store.set_fuel(u64::MAX)?;
            store.set_epoch_deadline(1);
            pre.instantiate_async(&mut store).await?;
            times.push(start.elapsed().as_secs_f64());
        }
        Ok(times)
    })
}
