//! From arguments, configuration and environment to what a command works with.

pub(crate) mod devices;
pub(crate) mod host;
pub(crate) mod interrupt;
