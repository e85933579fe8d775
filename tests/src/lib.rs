//! What the integration tests and the benchmark share.

pub mod bare;
pub mod binary;
mod watched;
pub mod world;
