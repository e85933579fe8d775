//! Puts one component's exports into another one's imports.

use std::fmt::Display;

use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions};

/// The socket, with what the plug exports in the place of the imports of that name. What else
/// either of them imports, the result imports.
pub fn plugged(socket: Vec<u8>, plug: Vec<u8>) -> Result<Vec<u8>, String> {
    fn failed(e: impl Display) -> String {
        format!("the components can't be composed: {e}")
    }
    let mut graph = CompositionGraph::new();
    let mut register = |name: &str, bytes: Vec<u8>| {
        let package = Package::from_bytes(name, None, bytes, graph.types_mut()).map_err(failed)?;
        graph.register_package(package).map_err(failed)
    };
    let (socket, plug) = (register("socket", socket)?, register("plug", plug)?);
    wac_graph::plug(&mut graph, vec![plug], socket).map_err(failed)?;
    graph.encode(EncodeOptions::default()).map_err(failed)
}
