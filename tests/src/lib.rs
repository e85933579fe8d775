//! What the integration tests and the benchmark share.

pub mod bare;
pub mod batch;
pub mod binary;
pub mod browser;
pub mod foreign;
pub mod instances;
pub mod lot;
pub mod naive;
pub mod redis;
pub mod report;
pub mod simulation;
pub mod usage;
mod watched;
pub mod world;
