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

/// The folder of compiled code, to which no other user can write, because what lies in it is run.
/// Without one, the plugin is compiled each time.
fn cache() -> Option<PathBuf> {
    let directory = etcetera::choose_base_strategy()
        .ok()?
        .cache_dir()
        .join("host-demo/compiled");
    let shown = directory.display();
    match files::make_code_cache(&directory) {
        Ok((path, emptied)) => {
            if let Some(reason) = emptied {
                tracing::warn!(%reason, directory = %shown, "compiled code was removed");
            }
            Some(path)
        }
        Err(error) => {
            tracing::warn!(%error, directory = %shown, "compiled code is not kept");
            None
        }
    }
}
