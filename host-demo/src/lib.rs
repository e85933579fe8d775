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
//! This crate re-exports its parts, each a crate of its own in `host-demo/crates/`. A program that
//! needs one of them, for example the limiter, depends on that crate alone.
//! `docs/architecture.md` describes them.
//!
//! - [`host`]: everything together. Start here.
//! - [`plugin`]: loads a component and runs it. [`contract`] has its types.
//! - [`egress`]: the boundary. One method decides the order. A host with an engine of its own, or
//!   without a guest, begins there. [`waiting`]: what delays a call.
//! - [`gateway`]: the same as a service on loopback, for engines that cannot intercept HTTP.
//! - [`policy`], [`grant`], [`id`], [`query`], [`limits`], [`identity`], [`cloud`],
//!   [`transport`], [`clock`], [`retry`]: what it decides by. None of them uses WebAssembly.
//! - [`network`], [`guard`]: how a service is reached, and which addresses may be dialled for it.
//! - [`check`]: whether a configuration would work. [`stray`]: characters that cling to a credential.
//! - [`audit`]: the audit log of every call.
//! - [`files`]: which files are read, and which folders are private. [`digest`]: SHA-256 of bytes.
//! - [`input`]: lists of devices in the formats that tools write. [`names`]: which device a name is.
//! - [`batch`]: many devices, released and followed to the end; [`journal`]: what such a run
//!   intends, does and knows, on disk.
//! - [`report`]: a run's outcome as text, CSV and HTML. [`harmless`]: text from outside, escaped
//!   for a terminal.
//! - [`survey`]: actions, read page by page. [`history`]: what they say of devices.
//!   [`kind`]: release and restrict.
//! - [`cancel`]: cancels actions.
//! - [`pilot`]: one test device, restricted and released, and what the service answers.
//! - [`shell`]: text that can be pasted into a shell.
//!
//! The library never prints, exits, or reads the environment.

#[doc(inline)]
pub use defender_audit as audit;
#[doc(inline)]
pub use defender_boundary::{grant, policy, waiting};
#[doc(inline)]
pub use defender_connect::{
    address_guard as guard, cloud, identity, proxy as network, stray, transport,
};
#[doc(inline)]
pub use defender_core::{clock, escape as harmless, files, id, query, retry, shell};
#[doc(inline)]
pub use defender_gateway as gateway;
#[doc(inline)]
pub use defender_host as host;
#[doc(inline)]
pub use defender_host::{bindings as contract, digest, plugin};
#[doc(inline)]
pub use defender_quota as limits;
#[doc(inline)]
pub use defender_release::{
    action_kind as kind, batch, cancel, device_history as history, device_list as input, journal,
    list_actions as survey, pilot, preflight as check, report, resolve_names as names,
};

/// The boundary: which requests leave, and in which order that is decided.
pub mod egress {
    #[doc(inline)]
    pub use defender_boundary::*;
    #[doc(inline)]
    pub use defender_host::wasi_hooks::{Hooks, add_to_linker, add_wasi_to_linker};
}
