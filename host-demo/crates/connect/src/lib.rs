//! How a cloud is reached: which service and authority, through which proxy, at which addresses,
//! over which TLS; and with which token.
//!
//! Nothing here decides what may be sent.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

pub mod address_guard;
pub mod cloud;
pub mod content_encoding;
pub mod identity;
pub mod proxy;
mod resolve;
pub mod stray;
pub mod transport;
