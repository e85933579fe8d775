//! The component, built from `plugin/`.

/// The plugin.
pub const BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/defender-endpoint.wasm"));

/// The plugin, composed with a component that reads its connection from the environment.
#[cfg(feature = "environment")]
pub const ENVIRONMENT_BYTES: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/defender-endpoint-env.wasm"));
