//! What the integration tests and the benchmark share.

pub mod bare;
pub mod binary;
pub mod redis;
mod watched;
pub mod world;
