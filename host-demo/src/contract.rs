//! The contract in `wit/`, as Rust types.
//!
//! They are generated from it, and named here once; nothing else in this library knows how they came about.

/// What `bindgen!` makes.
mod generated {
    #![expect(missing_docs, reason = "generated; the documentation is in wit/")]
    #![allow(unreachable_pub, clippy::pedantic, reason = "generated")]

    wasmtime::component::bindgen!({
        path: "../wit",
        world: "plugin",
        exports: { default: async },
        additional_derives: [PartialEq, Clone],
    });
}

pub(crate) use generated::defender::endpoint::connection;
pub(crate) use generated::{Plugin, PluginPre};

pub use generated::defender::endpoint::types::{
    ActionStatus, ActionType, Effect, Error, InvalidArgument, Failure, Limiter, MachineAction, MissingRoles, Property,
    RateLimit, Reason, ServiceError,
};
