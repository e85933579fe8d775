//! Makes what a subcommand works with from arguments, configuration and environment: host, audit log,
//! ledger, devices.

pub(crate) mod audit;
pub(crate) mod devices;
pub(crate) mod forecast;
pub(crate) mod host;
pub(crate) mod identity;
pub(crate) mod interrupt;
pub(crate) mod ledger;
pub(crate) mod own_file;
pub(crate) mod paths;
pub(crate) mod plugin;
pub(crate) mod policy;
pub(crate) mod prepare;
pub(crate) mod read;
pub(crate) mod read_actions;
pub(crate) mod settings;
