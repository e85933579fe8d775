//! An engine of one's own on the library's boundary: it releases one device with the bundled
//! plugin.
//!
//! For most, `host_demo::host::Host` is the better thing: it does all of this, and besides bounds
//! what a plugin may use, repeats a call with a new token after a 401, and holds what the plugin
//! says against what the boundary saw. Where an engine, a linker and stores are there already, this
//! is the part that is to be taken: grant, policy, quota, record, identity and transport.
//!
//! ```sh
//! cargo run --example engine -- BASE_URL AUTHORITY SCOPE TOKEN_FILE MACHINE_ID COMMENT
//! ```

use std::sync::Arc;

use anyhow::{Context as _, bail};
use host_demo::cloud::Service;
use host_demo::contract::Plugin;
use host_demo::egress::{self, Hooks, Setup, WaitOptions};
use host_demo::grant::{Grant, Operation, Target};
use host_demo::identity::FixedToken;
use host_demo::plugin::{BUNDLED, Digest};
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Config, Engine, Store, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [base_url, authority, scope, token, machine, comment] = &args[..] else {
        bail!("six arguments: BASE_URL AUTHORITY SCOPE TOKEN_FILE MACHINE_ID COMMENT");
    };

    // Once: the boundary, the engine, the component and what it is linked with.
    let service = Service::custom(base_url, authority, scope)?;
    let token = FixedToken::new(&std::fs::read_to_string(token)?)?;
    let boundary = Setup::new(service, Arc::new(token)).build()?;
    let boundary = boundary.made_for(&Digest::of(BUNDLED).to_string());
    let engine = Engine::new(Config::new().consume_fuel(true))?;
    let component = Component::from_binary(&engine, BUNDLED)?;
    let mut linker = Linker::<State>::new(&engine);
    egress::add_to_linker(&mut linker, |state| &mut state.hooks)?;

    // For each call: what it may do, its turn, and a store of its own.
    let device = Target::Machine(machine.parse()?);
    let grant = Grant::new(Operation::UnrestrictCodeExecution, Some(device)).with_comment(comment);
    let call = boundary.begin(grant, WaitOptions::default()).await?;
    let mut store = Store::new(&engine, State::new(Hooks::new(&call)));
    store.limiter(|state| &mut state.limits);
    store.set_fuel(1_000_000_000)?;
    // So that a guest that only computes lets the deadline end it.
    store.fuel_async_yield_interval(Some(1_000_000))?;
    let running = async {
        let plugin = Plugin::instantiate_async(&mut store, &component, &linker).await?;
        plugin
            .defender_endpoint_code_execution()
            .call_unrestrict_code_execution(&mut store, machine, comment)
            .await
    };
    let result = call.until_deadline(running).await;
    let seen = call.end().await;

    let action = result
        .context("no answer in time: look at the device before you repeat it")??
        .map_err(|error| anyhow::anyhow!("{}", error.message))?;
    println!("{} (the service answered {:?})", action.id, seen.status);
    Ok(())
}

/// What a store holds.
struct State {
    table: ResourceTable,
    http: WasiHttpCtx,
    hooks: Hooks,
    limits: StoreLimits,
}

impl State {
    fn new(hooks: Hooks) -> Self {
        Self {
            table: ResourceTable::new(),
            http: WasiHttpCtx::new(),
            hooks,
            limits: StoreLimitsBuilder::new().memory_size(48 << 20).build(),
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}
