//! The subcommands, one file for each. They do not use each other.

pub(crate) mod audit;
pub(crate) mod cancel;
pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod dry_run;
pub(crate) mod gateway;
pub(crate) mod inspect;
pub(crate) mod quota;
pub(crate) mod report;
pub(crate) mod restricted;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod status;
