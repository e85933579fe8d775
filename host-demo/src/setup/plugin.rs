//! Loads the plugin that a subcommand runs.

use std::path::PathBuf;

use anyhow::Context as _;
use etcetera::BaseStrategy as _;
use host_demo::files;
use host_demo::plugin::{self, LoadError, Plugin};

use super::interrupt;
use crate::args;

/// The plugin in the file that was named, or the one that is built in.
pub(crate) fn load(args: &args::Plugin) -> anyhow::Result<Plugin> {
    interrupt::uninterrupted(|| compiled(args))
}

fn compiled(args: &args::Plugin) -> anyhow::Result<Plugin> {
    let engine = plugin::engine(cache().as_deref())?;
    let pin = args.sha256.as_ref();
    match &args.file {
        Some(path) => match pin {
            Some(pin) => Plugin::from_file_pinned(&engine, path, pin),
            None => Plugin::from_file(&engine, path),
        }
        .map_err(|error| match error {
            LoadError::Unreadable { .. } => anyhow::Error::from(error).context("no plugin"),
            _ => anyhow::Error::from(error)
                .context(format!("the plugin {} is not loaded", path.display())),
        }),
        None => match pin {
            Some(pin) => Plugin::from_bytes_pinned(&engine, plugin::BUNDLED, pin),
            None => Plugin::bundled(&engine),
        }
        .context("the plugin that is built in is not loaded"),
    }
}

/// Where compiled code is kept: a directory of the user's own, out of everyone else's reach,
/// because what lies in it is run. Without one, the plugin is compiled anew each time.
fn cache() -> Option<PathBuf> {
    let directory = etcetera::choose_base_strategy()
        .ok()?
        .cache_dir()
        .join("host-demo/compiled");
    files::make_private(&directory)
        .and_then(|()| files::out_of_reach(&directory))
        .inspect_err(|error| {
            tracing::warn!(%error, directory = %directory.display(), "compiled code is not kept");
        })
        .ok()
}
