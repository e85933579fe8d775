//! Loading a component, and running it: one fresh store for each call.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmparser::{BinaryReaderError, Parser, Payload};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasData, HasSelf, Linker, ResourceTable};
use wasmtime::{
    Cache, CacheConfig, Config, Enabled, Engine, InstanceAllocationStrategy,
    PoolingAllocationConfig, Store, StoreLimits, StoreLimitsBuilder, Trap, WasmBacktrace,
    WasmBacktraceDetails,
};
use wasmtime_wasi::p2::bindings::io;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::contract::{self, connection};
use crate::egress::{Call, Hooks};
use crate::files::{self, FileError};
use crate::grant::Operation;
use crate::pulse::{Needed, Pulse};

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
/// millisecond; where it has the host work, at the next [beat](crate::pulse).
const FUEL_SLICE: u64 = 1_000_000;

/// Stack of the guest's code. The component's own stack lies in its memory; this one is for calls.
const STACK_MAX: usize = 512 << 10;

/// Frames of a trap's backtrace.
const FRAMES_MAX: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// Characters of a function's name in it.
const FUNCTION_NAME_MAX: usize = 200;

/// Instances at one time. Each reserves address space for [`MEMORY_MAX`], and uses what it touches.
const INSTANCES: u32 = 128;

/// Bytes of a component's file. The largest that runtimes of other languages make have less.
const FILE_MAX: u64 = 32 << 20;

/// Bytes of one function's code, and its local variables: a compiler's time and memory grow faster
/// than these do. The component that this library is built with has less than an eighth of either.
const FUNCTION_MAX: usize = 128 << 10;
const LOCALS_MAX: u32 = 2_000;

/// What a component may import, and what the host links. Any 0.2 release of `wasi` will do.
const ALLOWED_IMPORTS: [&str; 7] = [
    "defender:endpoint/connection@0.1.0",
    "defender:endpoint/types@0.1.0",
    "wasi:http/outgoing-handler@0.2",
    "wasi:http/types@0.2",
    "wasi:io/error@0.2",
    "wasi:io/poll@0.2",
    "wasi:io/streams@0.2",
];

const REQUIRED_EXPORTS: [&str; 4] = [
    "defender:endpoint/code-execution@0.1.0",
    "defender:endpoint/machine-actions@0.1.0",
    "defender:endpoint/machines@0.1.0",
    "defender:endpoint/restriction@0.1.0",
];

/// The component that this library was built with.
#[cfg(feature = "bundled-plugin")]
pub const BUNDLED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/defender-endpoint.wasm"));

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
/// Compiled code is kept in `cache`. What lies there is run, so nobody else may write to it or put
/// another directory into its place: [`make_private`](files::make_private) and
/// [`out_of_reach`](files::out_of_reach) see to that.
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
    pre: contract::PluginPre<State>,
    /// As many calls at one time as the engine's pool has places.
    places: Arc<Semaphore>,
    pulse: Arc<Pulse>,
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

    /// A component in a file.
    pub fn from_file(engine: &Engine, path: &Path) -> Result<Self, LoadError> {
        Self::from_bytes(engine, &read(path)?)
    }

    /// A component in a file, if it is the one with this digest.
    pub fn from_file_pinned(
        engine: &Engine,
        path: &Path,
        expected: &Digest,
    ) -> Result<Self, LoadError> {
        Self::from_bytes_pinned(engine, &read(path)?, expected)
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
        look_at(bytes)?;
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
        let pulse = Pulse::start(engine).map_err(|e| LoadError::Engine(e.to_string()))?;
        let about = About {
            size: bytes.len(),
            digest: Digest::of(bytes).to_string(),
            imports,
            exports,
        };
        Ok(Self {
            pre: contract::PluginPre::new(pre).map_err(shape)?,
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
    pub(crate) async fn unrestrict_code_execution(
        &self,
        call: Arc<Call>,
        machine_id: &str,
        comment: &str,
    ) -> Result<Result<contract::MachineAction, contract::Error>, Fault> {
        let (_place, mut store, plugin) = self.instance(call).await?;
        plugin
            .defender_endpoint_code_execution()
            .call_unrestrict_code_execution(&mut store, machine_id, comment)
            .await
            .map_err(Fault::from)
    }

    /// Calls `restriction.restrict-code-execution`.
    pub(crate) async fn restrict_code_execution(
        &self,
        call: Arc<Call>,
        machine_id: &str,
        comment: &str,
    ) -> Result<Result<contract::MachineAction, contract::Error>, Fault> {
        let (_place, mut store, plugin) = self.instance(call).await?;
        plugin
            .defender_endpoint_restriction()
            .call_restrict_code_execution(&mut store, machine_id, comment)
            .await
            .map_err(Fault::from)
    }

    /// Calls `machine-actions.get-machine-action`.
    pub(crate) async fn get_machine_action(
        &self,
        call: Arc<Call>,
        action_id: &str,
    ) -> Result<Result<contract::MachineAction, contract::Error>, Fault> {
        let (_place, mut store, plugin) = self.instance(call).await?;
        plugin
            .defender_endpoint_machine_actions()
            .call_get_machine_action(&mut store, action_id)
            .await
            .map_err(Fault::from)
    }

    /// Calls `machine-actions.list-machine-actions`.
    pub(crate) async fn list_machine_actions(
        &self,
        call: Arc<Call>,
        filter: &contract::MachineActionFilter,
        top: u32,
        skip: u32,
    ) -> Result<Result<contract::MachineActionPage, contract::Error>, Fault> {
        let (_place, mut store, plugin) = self.instance(call).await?;
        plugin
            .defender_endpoint_machine_actions()
            .call_list_machine_actions(&mut store, filter, top, skip)
            .await
            .map_err(Fault::from)
    }

    /// Calls `machine-actions.cancel-machine-action`.
    pub(crate) async fn cancel_machine_action(
        &self,
        call: Arc<Call>,
        action_id: &str,
        comment: &str,
    ) -> Result<Result<contract::MachineAction, contract::Error>, Fault> {
        let (_place, mut store, plugin) = self.instance(call).await?;
        plugin
            .defender_endpoint_machine_actions()
            .call_cancel_machine_action(&mut store, action_id, comment)
            .await
            .map_err(Fault::from)
    }

    /// Calls `machines.find-machines`.
    pub(crate) async fn find_machines(
        &self,
        call: Arc<Call>,
        computer_dns_name: &str,
    ) -> Result<Result<contract::FoundMachines, contract::Error>, Fault> {
        let (_place, mut store, plugin) = self.instance(call).await?;
        plugin
            .defender_endpoint_machines()
            .call_find_machines(&mut store, computer_dns_name)
            .await
            .map_err(Fault::from)
    }

    /// A new store, with its limits, and a new instance in it. The place must outlive both.
    async fn instance(
        &self,
        call: Arc<Call>,
    ) -> Result<(Place, Store<State>, contract::Plugin), Fault> {
        let closed = |_| Fault::Engine("it is shutting down".to_owned());
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(closed)?;
        let bounds = Bounds::of(call.operation());
        let mut store = Store::new(self.pre.engine(), State::new(call, bounds));
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

/// What the plugin did that no plugin may do, or what the engine could not do for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It used up what one call may compute.
    #[error("the plugin computed without end and was stopped")]
    OutOfFuel,
    /// It stopped itself, or did what WebAssembly does not allow.
    #[error("the plugin trapped: {message}")]
    Trap {
        /// What it did.
        message: String,
        /// Where: a line for each frame, the innermost first. Functions have names where the build
        /// kept them. The names are the component's own words, with control characters escaped.
        backtrace: String,
    },
    /// The engine refused it something, memory or resources.
    #[error("the plugin was stopped by the engine: {0}")]
    Engine(String),
    /// It reported a success that the boundary did not see: there was none, or the action has
    /// another id, type, status or device than in the service's answer. An action's other
    /// properties are not compared.
    #[error("the plugin reported a success, but {0}")]
    UnfoundedSuccess(&'static str),
    /// It reported an error that the boundary did not see.
    #[error("the plugin reported an error of the service's or the host's, but {0}")]
    UnfoundedError(&'static str),
}

impl Fault {
    /// Where the plugin was, if it trapped.
    pub fn backtrace(&self) -> Option<&str> {
        match self {
            Self::Trap { backtrace, .. } => Some(backtrace),
            _ => None,
        }
    }
}

/// SHA-256 of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is not a [`Digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 has 64 hexadecimal digits, as `host-demo inspect` and `sha256sum` print them")]
pub struct DigestError;

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(DigestError);
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| DigestError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| DigestError)?;
        }
        Ok(Self(bytes))
    }
}

impl From<wasmtime::Error> for Fault {
    fn from(error: wasmtime::Error) -> Self {
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => Self::OutOfFuel,
            Some(trap) => Self::Trap {
                message: trap.to_string(),
                backtrace: error
                    .downcast_ref::<WasmBacktrace>()
                    .map_or_else(String::new, frames),
            },
            None => Self::Engine(format!("{error:#}")),
        }
    }
}

/// Refuses what is not a plugin, and what would take long to compile.
fn look_at(bytes: &[u8]) -> Result<(), LoadError> {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            // Those of the modules and components within are each other's.
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export?.name.name.to_owned());
                }
            }
            Payload::CodeSectionEntry(body) => {
                let mut locals = 0_u32;
                for local in body.get_locals_reader()? {
                    locals = locals.saturating_add(local?.0);
                }
                if body.range().len() > FUNCTION_MAX || locals > LOCALS_MAX {
                    return Err(LoadError::LargeFunction);
                }
            }
            _ => {}
        }
    }
    imports.retain(|name| !is_allowed(name));
    if !imports.is_empty() {
        return Err(LoadError::ForbiddenImports(imports));
    }
    let missing = REQUIRED_EXPORTS
        .into_iter()
        .filter(|wanted| !exports.iter().any(|name| name == wanted));
    let missing: Vec<String> = missing.map(str::to_owned).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(LoadError::MissingExports(missing))
    }
}

impl From<BinaryReaderError> for LoadError {
    fn from(error: BinaryReaderError) -> Self {
        Self::Invalid(error.to_string())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let contents = files::read(path, FILE_MAX).map_err(|problem| LoadError::Unreadable {
        path: path.to_owned(),
        problem,
    })?;
    Ok(contents.bytes)
}

/// A line for each frame. The names come from the component, so they are made harmless, and there
/// is an end to them.
fn frames(backtrace: &WasmBacktrace) -> String {
    let mut text = String::new();
    for (at, frame) in backtrace.frames().iter().enumerate() {
        let _ = write!(text, "{at:>4}: ");
        match frame.func_name() {
            Some(name) => {
                for c in name.chars().take(FUNCTION_NAME_MAX) {
                    match c.is_ascii_graphic() || c == ' ' {
                        true => text.push(c),
                        false => text.extend(c.escape_default()),
                    }
                }
            }
            None => {
                let _ = write!(text, "function {}", frame.func_index());
            }
        }
        if let Some(offset) = frame.module_offset() {
            let _ = write!(text, " at {offset:#x}");
        }
        text.push('\n');
    }
    text
}

fn is_allowed(import: &str) -> bool {
    ALLOWED_IMPORTS.iter().any(|allowed| {
        import
            .strip_prefix(allowed)
            .is_some_and(|rest| match rest.strip_prefix('.') {
                None => rest.is_empty() && !allowed.starts_with("wasi:"),
                Some(patch) => allowed.starts_with("wasi:") && patch.parse::<u32>().is_ok(),
            })
    })
}

/// Links `connection`, `wasi:http` and the parts of `wasi:io` that it is made of, and nothing else.
fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    connection::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    io::error::add_to_linker::<State, Io>(&mut linker, |state| &mut state.table)?;
    io::poll::add_to_linker::<State, Io>(&mut linker, |state| &mut state.table)?;
    io::streams::add_to_linker::<State, Io>(&mut linker, |state| &mut state.table)?;
    Ok(linker)
}

struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

/// What a store holds.
struct State {
    table: ResourceTable,
    http: WasiHttpCtx,
    hooks: Hooks,
    limits: StoreLimits,
}

impl State {
    fn new(call: Arc<Call>, bounds: Bounds) -> Self {
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
            hooks: Hooks(call),
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

impl connection::Host for State {
    fn open(
        &mut self,
        operation: connection::Operation,
        target: Option<String>,
    ) -> Result<connection::Access, connection::Refusal> {
        self.hooks.0.open(operation, target.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_allowed_by_its_whole_name() {
        for allowed in [
            "defender:endpoint/connection@0.1.0",
            "wasi:http/types@0.2.4",
            "wasi:io/streams@0.2.12",
        ] {
            assert!(is_allowed(allowed), "{allowed}");
        }
        for forbidden in [
            "wasi:http/types@0.3.0",
            "wasi:http/types@0.2",
            "wasi:http/types@0.20.1",
            "wasi:http/types@0.2.x",
            "wasi:http/types-more@0.2.4",
            "wasi:cli/environment@0.2.4",
            "wasi:clocks/monotonic-clock@0.2.4",
            "defender:endpoint/connection@0.1.0.1",
            "defender:endpoint/connection@0.2.0",
        ] {
            assert!(!is_allowed(forbidden), "{forbidden}");
        }
    }

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

    #[cfg(feature = "bundled-plugin")]
    #[test]
    fn the_bundled_components_largest_function_has_less_than_an_eighth_of_what_one_may_have() {
        let (mut code, mut locals) = (0, 0);
        for payload in Parser::new(0).parse_all(BUNDLED) {
            if let Payload::CodeSectionEntry(body) = payload.unwrap() {
                let groups = body.get_locals_reader().unwrap().into_iter();
                code = code.max(body.range().len());
                locals = locals.max(groups.map(|group| group.unwrap().0).sum());
            }
        }
        assert!((1..FUNCTION_MAX / 8).contains(&code), "{code} bytes");
        assert!((1..LOCALS_MAX / 8).contains(&locals), "{locals} locals");
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

    /// What becomes of a call of a component whose one function has this name and body.
    async fn run(name: &str, body: &str) -> Fault {
        let engine = engine(None).unwrap();
        let text = format!(
            r#"(component
                (core module $m (func ${name} (export "f") {body}))
                (core instance $i (instantiate $m))
                (func (export "f") (canon lift (core func $i "f"))))"#
        );
        let component = Component::from_binary(&engine, &wat::parse_str(text).unwrap()).unwrap();
        let mut store = Store::new(&engine, ());
        store.set_fuel(FUEL_SLICE).unwrap();
        store.set_epoch_deadline(1);
        let linker = Linker::<()>::new(&engine);
        let instance = linker
            .instantiate_async(&mut store, &component)
            .await
            .unwrap();
        let f = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
        f.call_async(&mut store, ()).await.unwrap_err().into()
    }

    #[tokio::test]
    async fn a_trap_says_where_the_guest_was_by_the_names_that_the_build_kept() {
        let fault = run("the_function", "unreachable").await;
        let backtrace = fault.backtrace().unwrap();
        assert!(backtrace.contains("0: the_function at 0x"), "{backtrace}");
        assert_eq!(fault.to_string().lines().count(), 1, "{fault}");
        assert!(!fault.to_string().contains("the_function"), "{fault}");
    }

    #[tokio::test]
    async fn a_trace_without_end_is_cut_and_a_name_cannot_drive_the_terminal() {
        let fault = run("f", "call $f").await;
        let Fault::Trap { message, backtrace } = &fault else {
            panic!("{fault:?}")
        };
        assert!(message.contains("stack"), "{message}");
        assert_eq!(backtrace.lines().count(), FRAMES_MAX.get());
        assert_eq!(run("f", "(loop br 0)").await, Fault::OutOfFuel);

        let fault = run(r#""\1b[2J\0a\u{202e}""#, "unreachable").await;
        let backtrace = fault.backtrace().unwrap();
        assert!(backtrace.contains(r"\u{1b}[2J\n\u{202e}"), "{backtrace:?}");
        assert!(!backtrace.contains('\u{1b}'), "{backtrace:?}");
    }
}
