//! Loading a component, and running it: one fresh store for each call.
//!
//! What it is can be said without running it:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # #[cfg(feature = "bundled-plugin")] {
//! use defender_host::plugin::{Digest, LoadError, Plugin, engine, BUNDLED};
//!
//! let engine = engine(None)?;
//! let plugin = Plugin::bundled(&engine)?;
//! println!("{} bytes, SHA-256 {}", plugin.about().size, plugin.about().digest);
//! // No clock, no random source, no environment, no file, no socket.
//! assert_eq!(plugin.about().imports.len(), 7);
//!
//! // A component of which every byte is known, or none.
//! let known = Digest::of(BUNDLED);
//! let refused = Plugin::from_bytes_pinned(&engine, b"another", &known);
//! assert!(matches!(refused, Err(LoadError::OtherDigest { .. })));
//! # }
//! # Ok(()) }
//! ```
//!
//! To run it, with what a call needs besides: [`Host`](crate::Host).

mod fault;
mod validate;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{
    Cache, CacheConfig, Config, Enabled, Engine, InstanceAllocationStrategy,
    PoolingAllocationConfig, Store, StoreLimits, StoreLimitsBuilder, WasmBacktraceDetails,
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::bindings;
use crate::epoch_ticker::{EpochTicker, Needed};
use crate::wasi_hooks::{self, Hooks};
use defender_core::files::{self, Contents, FileError};
use defender_core::operation::Operation;

pub use crate::digest::{Digest, DigestError};
pub use fault::Fault;

use fault::FRAMES_MAX;
use validate::{FUNCTION_MAX, LOCALS_MAX, validate};

/// Linear memory of one instance. The guest reads lists of 16 MiB, of which it has the body (half
/// as much again while that grows) and then all the texts in it once more; the longest fits into
/// 40 MiB. Other answers have at most a sixteenth of that.
const MEMORY_MAX: usize = 48 << 20;

/// Elements of one instance's table: functions that are called by pointer.
const TABLE_MAX: usize = 10_000;

/// What a call may use, apart from memory: by what it does, because a list is long.
#[derive(Clone, Copy)]
struct Bounds {
    /// Instructions, more or less. Reading the largest answer takes a tenth, of a list a fifth.
    fuel: u64,
    /// Bytes that the host copies out of the guest at once: in one call of the guest's, or as the
    /// result of one.
    hostcall: usize,
    /// Host resources (requests, streams, headers) at a time. Each can keep what was copied once,
    /// so that the product of the two, a gibibyte, is what a guest can have the host hold.
    resources: usize,
}

impl Bounds {
    const fn of(operation: Operation) -> Self {
        if operation.reads_a_list() {
            Self {
                fuel: 4_000_000_000,
                // The list, as it is handed over: its texts, and what stands between them.
                hostcall: 32 << 20,
                resources: 32,
            }
        } else {
            Self {
                fuel: 1_000_000_000,
                hostcall: 4 << 20,
                resources: 256,
            }
        }
    }
}

/// Linear memories, tables and core instances of one component. One that is made of a core module
/// has a memory, two tables and three instances; one that was composed has them several times, but
/// for the memory.
const MEMORIES: u32 = 1;
const TABLES: u32 = 4;
const CORE_INSTANCES: u32 = 8;

/// Memory for the headers of one request or answer, the host's own structures included.
const HEADERS_MAX: usize = 64 << 10;

/// After so many instructions a call lets others run, so that its deadline can end it. About a
/// millisecond; where it has the host work, at the next [tick](crate::epoch_ticker).
const FUEL_SLICE: u64 = 1_000_000;

/// Stack of the guest's code. The component's own stack lies in its memory; this one is for calls.
const STACK_MAX: usize = 512 << 10;

/// Instances at one time. Each reserves address space for [`MEMORY_MAX`], and uses what it touches.
const INSTANCES: u32 = 128;

/// Bytes of a component's file. The largest that runtimes of other languages make have less.
const FILE_MAX: u64 = 32 << 20;

/// The component that this library was built with.
#[cfg(feature = "bundled-plugin")]
pub const BUNDLED: &[u8] = defender_component::BYTES;

/// The same component, composed with one that answers its import `connection` from the
/// environment: from `DEFENDER_BASE_URL` and `DEFENDER_TOKEN`. For other hosts, that can set
/// variables and supply no import of their own.
///
/// It is the weaker one. The guest holds the token, and whoever controls its code or its
/// environment has it; it may do for every device all that the token may; nothing keeps the quotas.
/// It imports `wasi:cli/environment`, so [`Plugin`] does not load it.
#[cfg(feature = "environment-plugin")]
pub const BUNDLED_ENVIRONMENT: &[u8] = defender_component::ENVIRONMENT_BYTES;

/// A component that is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file can't be read.
    #[error("{} can't be read: {problem}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: FileError,
    },
    /// Not WebAssembly.
    #[error("this is not WebAssembly: it does not start with the bytes 00 61 73 6d")]
    NotWasm,
    /// A core module: a component is wanted.
    #[error(
        "this is a core WebAssembly module; a component is wanted (`wasm-tools component new` makes one)"
    )]
    CoreModule,
    /// Damaged, or of a kind that the engine does not know.
    #[error("the component is not valid: {0}")]
    Invalid(String),
    /// A function that would take long to compile.
    #[error(
        "the component has a function of more than {FUNCTION_MAX} bytes or {LOCALS_MAX} local \
         variables, which could take minutes to compile"
    )]
    LargeFunction,
    /// It wants more than it may have.
    #[error("the component wants what no plugin gets: {}", .0.join(", "))]
    ForbiddenImports(Vec<String>),
    /// It is not a plugin.
    #[error("the component is not a plugin: it does not export {}", .0.join(", "))]
    MissingExports(Vec<String>),
    /// An interface has the right name and another shape.
    #[error("the component does not fit the contract: {0}")]
    OtherShape(String),
    /// It is another component than the one that was asked for.
    #[error(
        "this component is another one than was asked for: its SHA-256 is {found}, not {expected}"
    )]
    OtherDigest {
        /// What was asked for.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// The engine does not meter fuel.
    #[error(
        "the WebAssembly engine does not meter fuel, so nothing would stop a plugin that computes \
         without end: set Config::consume_fuel"
    )]
    Unmetered,
    /// The engine can't be set up.
    #[error("the WebAssembly engine can't be set up: {0}")]
    Engine(String),
}

/// The engine, with all of its settings: the only place that has them.
///
/// For one plugin: its pool has as many places as one [`Plugin`] hands out, and a second plugin on it
/// would take them away.
///
/// Compiled code is kept in `cache`. What lies there is run, so no other user may write to it, to
/// anything in it, or to a folder above it: [`make_code_cache`](files::make_code_cache) makes and checks
/// such a folder. wasmtime writes entries with the permissions that the process's umask leaves.
pub fn engine(cache: Option<&Path>) -> Result<Engine, LoadError> {
    let failed = |e: wasmtime::Error| LoadError::Engine(format!("{e:#}"));
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_MAX)
        .wasm_backtrace_max_frames(Some(FRAMES_MAX))
        // By default a variable of the environment has it read what a component says of its source.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .memory_reservation(MEMORY_MAX as u64)
        .memory_guard_size(64 << 10);
    if let Some(directory) = cache {
        let mut settings = CacheConfig::new();
        settings.with_directory(directory);
        config.cache(Some(Cache::new(settings).map_err(failed)?));
    }
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES)
        .total_core_instances(CORE_INSTANCES * INSTANCES)
        .total_memories(MEMORIES * INSTANCES)
        .total_tables(TABLES * INSTANCES)
        // What has more is refused as it is loaded, and not when it is called.
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .total_stacks(INSTANCES)
        .max_memory_size(MEMORY_MAX)
        .table_elements(TABLE_MAX)
        // What an instance touched is cleared by writing over it, which is faster than giving it
        // back and faulting it in again. Linux says which pages that were (since 6.7); where it
        // doesn't, all of a memory is written over, at the expense of what was in the caches.
        .pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(32 << 10);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config).map_err(failed)
}

/// A component that was checked, compiled and linked. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    pre: bindings::PluginPre<State>,
    /// As many calls at one time as the engine's pool has places.
    places: Arc<Semaphore>,
    pulse: Arc<EpochTicker>,
    about: Arc<About>,
}

/// What a component is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its size in bytes.
    pub size: usize,
    /// SHA-256, in hexadecimal digits.
    pub digest: String,
    /// The interfaces it imports.
    pub imports: Vec<String>,
    /// The interfaces it exports.
    pub exports: Vec<String>,
}

impl Plugin {
    /// The component that this library was built with.
    #[cfg(feature = "bundled-plugin")]
    pub fn bundled(engine: &Engine) -> Result<Self, LoadError> {
        Self::from_bytes(engine, BUNDLED)
    }

    /// A component as bytes, if it is the one with this digest. Of any other nothing is looked at.
    pub fn from_bytes_pinned(
        engine: &Engine,
        bytes: &[u8],
        expected: &Digest,
    ) -> Result<Self, LoadError> {
        let found = Digest::of(bytes);
        if found != *expected {
            let expected = *expected;
            return Err(LoadError::OtherDigest { expected, found });
        }
        Self::from_bytes(engine, bytes)
    }

    /// Loads a component from a file that no other user could have written.
    pub fn from_file(engine: &Engine, path: &Path) -> Result<Self, LoadError> {
        Self::from_bytes(engine, &contents(path, files::read_trusted)?)
    }

    /// Loads a component from a file if it has this digest. Who could have written the file is not checked.
    pub fn from_file_pinned(
        engine: &Engine,
        path: &Path,
        expected: &Digest,
    ) -> Result<Self, LoadError> {
        Self::from_bytes_pinned(engine, &contents(path, files::read)?, expected)
    }

    /// A component as bytes: binary, not text.
    ///
    /// The engine can be the caller's own. It must meter fuel ([`Config::consume_fuel`]); without a
    /// bound on its work a guest could hold a thread for ever. And it should be interrupted by epochs
    /// ([`Config::epoch_interruption`]), which are counted here while a call runs: without, a guest
    /// that has the host work for it can hold a thread for minutes.
    ///
    /// What it imports and exports, and how large its functions are, is looked at before it is
    /// compiled. Compiling takes time and memory in proportion to the code, which a component of
    /// unknown origin can make seconds and hundreds of megabytes.
    pub fn from_bytes(engine: &Engine, bytes: &[u8]) -> Result<Self, LoadError> {
        // The preamble: magic, then the version and the layer (component-model, "Binary Format").
        match bytes.get(..8) {
            Some([0, b'a', b's', b'm', _, _, 0, 0]) => return Err(LoadError::CoreModule),
            Some([0, b'a', b's', b'm', ..]) => {}
            _ => return Err(LoadError::NotWasm),
        }
        if Store::new(engine, ()).get_fuel().is_err() {
            return Err(LoadError::Unmetered);
        }
        validate(bytes)?;
        let component = Component::from_binary(engine, bytes)
            .map_err(|e| LoadError::Invalid(format!("{e:#}")))?;
        let kind = component.component_type();
        let names = |items: &mut dyn Iterator<Item = (&str, ComponentItem)>| -> Vec<String> {
            items.map(|(name, _)| name.to_owned()).collect()
        };
        let imports = names(&mut kind.imports(engine).map(|(name, item)| (name, item.ty)));
        let exports = names(&mut kind.exports(engine).map(|(name, item)| (name, item.ty)));

        let shape = |e: wasmtime::Error| LoadError::OtherShape(format!("{e:#}"));
        let pre = linker(engine)
            .and_then(|linker| linker.instantiate_pre(&component))
            .map_err(shape)?;
        let pulse = EpochTicker::start(engine).map_err(|e| LoadError::Engine(e.to_string()))?;
        let about = About {
            size: bytes.len(),
            digest: Digest::of(bytes).to_string(),
            imports,
            exports,
        };
        Ok(Self {
            pre: bindings::PluginPre::new(pre).map_err(shape)?,
            places: Arc::new(Semaphore::new(INSTANCES as usize)),
            pulse: Arc::new(pulse),
            about: Arc::new(about),
        })
    }

    /// What it is.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Calls `code-execution.unrestrict-code-execution`.
    pub async fn unrestrict_code_execution(
        &self,
        hooks: Hooks,
        machine_id: &str,
        comment: &str,
    ) -> Result<Result<bindings::MachineAction, bindings::Error>, Fault> {
        let (_place, mut store, plugin) = self.instance(hooks).await?;
        plugin
            .defender_endpoint_code_execution()
            .call_unrestrict_code_execution(&mut store, machine_id, comment)
            .await
            .map_err(Fault::from)
    }

    /// Calls `restriction.restrict-code-execution`.
    pub async fn restrict_code_execution(
        &self,
        hooks: Hooks,
        machine_id: &str,
        comment: &str,
    ) -> Result<Result<bindings::MachineAction, bindings::Error>, Fault> {
        let (_place, mut store, plugin) = self.instance(hooks).await?;
        plugin
            .defender_endpoint_restriction()
            .call_restrict_code_execution(&mut store, machine_id, comment)
            .await
            .map_err(Fault::from)
    }

    /// Calls `machine-actions.get-machine-action`.
    pub async fn get_machine_action(
        &self,
        hooks: Hooks,
        action_id: &str,
    ) -> Result<Result<bindings::MachineAction, bindings::Error>, Fault> {
        let (_place, mut store, plugin) = self.instance(hooks).await?;
        plugin
            .defender_endpoint_machine_actions()
            .call_get_machine_action(&mut store, action_id)
            .await
            .map_err(Fault::from)
    }

    /// Calls `machine-actions.list-machine-actions`.
    pub async fn list_machine_actions(
        &self,
        hooks: Hooks,
        filter: &bindings::MachineActionFilter,
        top: u32,
        skip: u32,
    ) -> Result<Result<bindings::MachineActionPage, bindings::Error>, Fault> {
        let (_place, mut store, plugin) = self.instance(hooks).await?;
        plugin
            .defender_endpoint_machine_actions()
            .call_list_machine_actions(&mut store, filter, top, skip)
            .await
            .map_err(Fault::from)
    }

    /// Calls `machine-actions.cancel-machine-action`.
    pub async fn cancel_machine_action(
        &self,
        hooks: Hooks,
        action_id: &str,
        comment: &str,
    ) -> Result<Result<bindings::MachineAction, bindings::Error>, Fault> {
        let (_place, mut store, plugin) = self.instance(hooks).await?;
        plugin
            .defender_endpoint_machine_actions()
            .call_cancel_machine_action(&mut store, action_id, comment)
            .await
            .map_err(Fault::from)
    }

    /// Calls `machines.find-machines`.
    pub async fn find_machines(
        &self,
        hooks: Hooks,
        computer_dns_name: &str,
    ) -> Result<Result<bindings::FoundMachines, bindings::Error>, Fault> {
        let (_place, mut store, plugin) = self.instance(hooks).await?;
        plugin
            .defender_endpoint_machines()
            .call_find_machines(&mut store, computer_dns_name)
            .await
            .map_err(Fault::from)
    }

    /// A new store, with its limits, and a new instance in it. The place must outlive both.
    async fn instance(
        &self,
        hooks: Hooks,
    ) -> Result<(Place, Store<State>, bindings::Plugin), Fault> {
        let closed = |_| Fault::Engine("it is shutting down".to_owned());
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(closed)?;
        let bounds = Bounds::of(hooks.operation());
        let mut store = Store::new(self.pre.engine(), State::new(hooks, bounds));
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(bounds.hostcall);
        store.set_fuel(bounds.fuel)?;
        store.fuel_async_yield_interval(Some(FUEL_SLICE))?;
        // At an epoch it would trap otherwise.
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let place = Place {
            _place: place,
            _needed: self.pulse.needed(),
        };
        let plugin = self.pre.instantiate_async(&mut store).await?;
        Ok((place, store, plugin))
    }
}

/// What a call has of the engine's, for as long as it runs.
struct Place {
    _place: OwnedSemaphorePermit,
    _needed: Needed,
}

fn contents(
    path: &Path,
    read: impl FnOnce(&Path, u64) -> Result<Contents, FileError>,
) -> Result<Vec<u8>, LoadError> {
    let contents = read(path, FILE_MAX).map_err(|problem| LoadError::Unreadable {
        path: path.to_owned(),
        problem,
    })?;
    Ok(contents.bytes)
}

/// Links `connection`, `wasi:http` and the parts of `wasi:io` that it is made of, and nothing else.
fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasi_hooks::add_to_linker(&mut linker, |state: &mut State| &mut state.hooks)?;
    Ok(linker)
}

/// What a store holds.
struct State {
    table: ResourceTable,
    http: WasiHttpCtx,
    hooks: Hooks,
    limits: StoreLimits,
}

impl State {
    fn new(hooks: Hooks, bounds: Bounds) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(bounds.resources);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HEADERS_MAX);
        let limits = StoreLimitsBuilder::new()
            .memory_size(MEMORY_MAX)
            .table_elements(TABLE_MAX)
            .memories(MEMORIES as usize)
            .tables(TABLES as usize)
            .instances(CORE_INSTANCES as usize)
            .build();
        Self {
            table,
            http,
            hooks,
            limits,
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

#[cfg(test)]
mod tests {
    use super::validate::REQUIRED_EXPORTS;
    use super::*;

    #[cfg(feature = "bundled-plugin")]
    #[test]
    fn a_component_is_loaded_only_by_its_own_digest() {
        let engine = engine(None).unwrap();
        let right = Digest::of(BUNDLED);
        let plugin = Plugin::from_bytes_pinned(&engine, BUNDLED, &right).unwrap();
        assert_eq!(plugin.about().digest.parse(), Ok(right));
        let upper = right.to_string().to_uppercase();
        assert_eq!(upper.parse(), Ok(right));
        let wrong = Digest::of(b"another");
        // Not even whether it is WebAssembly is looked at.
        for bytes in [BUNDLED, b"#!/bin/sh"] {
            let error = Plugin::from_bytes_pinned(&engine, bytes, &wrong).err();
            let Some(LoadError::OtherDigest { expected, found }) = error else {
                panic!("{error:?}")
            };
            assert_eq!((expected, found), (wrong, Digest::of(bytes)));
        }
        for text in [
            "",
            "abc",
            &upper[1..],
            &format!("{upper}0"),
            &upper.replace('A', "é"),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(DigestError), "{text}");
        }
    }

    #[test]
    fn an_engine_that_does_not_meter_fuel_is_refused() {
        let empty = wat::parse_str("(component)").unwrap();
        let error = Plugin::from_bytes(&Engine::default(), &empty).err();
        assert!(matches!(error, Some(LoadError::Unmetered)), "{error:?}");
    }

    #[test]
    fn a_component_with_more_parts_than_a_plugin_has_is_not_loaded() {
        let engine = engine(None).unwrap();
        let memories = "(core module $m (memory 1))".to_owned()
            + &"(core instance (instantiate $m))".repeat(MEMORIES as usize + 1);
        let tables = "(core module $t (table 1 funcref))".to_owned()
            + &"(core instance (instantiate $t))".repeat(TABLES as usize + 1);
        let instances = "(core module $i)".to_owned()
            + &"(core instance (instantiate $i))".repeat(CORE_INSTANCES as usize + 1);
        let memory = format!(
            "(core module $m (memory {})) (core instance (instantiate $m))",
            (MEMORY_MAX >> 16) + 1
        );
        let table = format!(
            "(core module $t (table {} funcref)) (core instance (instantiate $t))",
            TABLE_MAX + 1
        );
        for parts in [memories, tables, instances, memory, table] {
            let exports = REQUIRED_EXPORTS.map(|name| format!("(export {name:?} (instance $no))"));
            let exports = exports.join(" ");
            let text = format!("(component {parts} (instance $no) {exports})");
            let bytes = wat::parse_str(text).unwrap();
            let error = Plugin::from_bytes(&engine, &bytes).err();
            assert!(
                matches!(error, Some(LoadError::Invalid(_))),
                "{error:?}: {parts}"
            );
        }
    }
}
