//! A wasmtime host for the Defender for Endpoint plugin.
//!
//! It runs the component the way an automation platform should: the plugin never holds the token,
//! can act only on the device it was called for, reaches one API and nothing else, and can neither
//! exceed the API's quotas nor hang its caller. The contract between the two is in `wit/`.
//!
//! ```text
//! batch → host → plugin ──(guest)──► egress: policy and grant → permit → audit → identity → transport ──► service
//! ```
//!
//! - [`host`]: everything together. Start here.
//! - [`plugin`]: loads a component and runs it. [`contract`] has its types.
//! - [`egress`]: the boundary. One method decides the order. A host with an engine of its own, or
//!   without a guest, begins there.
//! - [`gateway`]: the same as a service on loopback, for engines that can't hook what leaves.
//! - [`policy`], [`grant`], [`id`], [`query`], [`limits`], [`identity`], [`cloud`],
//!   [`transport`], [`clock`]: what it decides by. None of them knows of WebAssembly.
//! - [`network`], [`guard`]: how a service is reached, and which addresses may be dialled for it.
//! - [`config`]: what can be configured, as text in and values out. [`check`]: whether it would
//!   work.
//! - [`stray`]: characters that cling to a credential.
//! - [`audit`]: what is kept of every call.
//! - [`files`]: which files are read, and which folders are one's own.
//! - [`input`]: lists of devices, as people have them. [`names`]: which device a name is.
//! - [`batch`]: many devices, released and followed to the end; [`journal`]: what such a run
//!   intends, does and knows, on disk.
//! - [`report`]: what there is to say of a run, and a page that shows it. [`harmless`]: text from
//!   outside, fit to be shown.
//! - [`survey`]: many actions, read page by page. [`history`]: what they say of devices.
//!   [`kind`]: the two things that are done with them.
//! - [`cancel`]: actions, taken back.
//! - [`pilot`]: one test device, restricted and released, and what the service answers.
//! - [`shell`]: text that can be pasted into a shell.
//! - [`mock`]: a stand-in for the service, for tests and for trying things out.
//!
//! # Parts
//!
//! Without the default features the library is what decides and sends: policy, grant, quotas,
//! identity, record, boundary; no wasmtime. `wasm` adds `plugin`, `host` and all that is made of
//! them, `bundled-plugin` the component, `gateway` and `mock` the services on loopback, and `cli` is
//! the command.
//!
//! The library never prints, exits, or reads the environment.

#![deny(missing_docs)]
#![cfg_attr(
    not(feature = "wasm"),
    allow(
        dead_code,
        unused_imports,
        reason = "what only a plugin's call has: its claims, its faults, its way out"
    )
)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

mod answer;
pub mod audit;
#[cfg(feature = "wasm")]
pub mod batch;
#[cfg(feature = "wasm")]
pub mod cancel;
#[cfg(feature = "wasm")]
pub mod check;
pub mod clock;
pub mod cloud;
pub mod config;
#[cfg(feature = "wasm")]
pub mod contract;
mod denial;
pub mod digest;
#[cfg(feature = "wasm")]
mod each;
pub mod egress;
mod encoding;
#[cfg(feature = "wasm")]
mod entry;
pub mod files;
#[cfg(feature = "gateway")]
pub mod gateway;
pub mod grant;
pub mod guard;
pub mod harmless;
#[cfg(feature = "wasm")]
pub mod history;
#[cfg(feature = "wasm")]
pub mod host;
pub mod id;
pub mod identity;
pub mod input;
#[cfg(feature = "wasm")]
pub mod journal;
#[cfg(feature = "wasm")]
pub mod kind;
pub mod limits;
#[cfg(feature = "mock")]
pub mod mock;
#[cfg(feature = "wasm")]
pub mod names;
pub mod network;
mod operation;
mod origin;
#[cfg(feature = "wasm")]
pub mod pilot;
#[cfg(feature = "wasm")]
pub mod plugin;
pub mod policy;
#[cfg(feature = "wasm")]
mod pulse;
pub mod query;
#[cfg(feature = "wasm")]
pub mod report;
mod resolve;
pub mod retry;
mod said;
pub mod shell;
pub mod stray;
#[cfg(feature = "wasm")]
pub mod survey;
pub mod transport;
pub mod waiting;
