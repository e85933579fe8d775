//! `host-demo gateway`

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use host_demo::config::Key;
use host_demo::gateway::Gateway;
use host_demo::identity::Method;
use serde_json::json;
use tokio::sync::watch;

use super::args::{self, Output};
use super::{Exit, audit, config, connect, interrupt, output};

pub(crate) async fn run(args: args::Gateway, format: Output) -> anyhow::Result<Exit> {
    let plugin = &args.connection.plugin;
    if plugin.file.is_some() || plugin.sha256.is_some() {
        bail!("the gateway runs no plugin: leave out --plugin and --plugin-sha256");
    }
    let (connection, settings) = config::settle(&args.connection)?;
    if settings.text(Key::Auth) == Some(Method::DeviceCode.name()) {
        bail!(
            "nobody is there to sign in when a gateway needs a token: let it be an application, or a \
             user who is signed in already (--auth azure-cli)"
        );
    }
    let (egress, _) = connect::boundary(&connection, &settings)?;
    let gateway = Gateway::bind(&egress, args.listen).await?;
    let key_file = match &args.key_file {
        // An engine may be started elsewhere.
        Some(path) => std::path::absolute(path)?,
        // A gateway beside this one has another port.
        None => audit::private(audit::folder()?)?
            .join(format!("gateway-{}.key", gateway.address()?.port())),
    };
    gateway
        .write_key(&key_file)
        .with_context(|| format!("the key can't be written to {}", key_file.display()))?;
    let key = KeyFile::new(key_file);

    let (stop, stopped) = watch::channel(false);
    tokio::spawn(interrupt::listen(stop));
    introduce(gateway.base_url(), &key.path, format);
    gateway.serve(stopped).await;
    drop(key);
    let missing = audit::missing_of(egress.audit()).await;
    Ok(Exit::Done.failed_if(missing.is_some()))
}

/// Removed in the end: what is in it is good for nothing then. The one that another gateway has put
/// in its place since stays.
struct KeyFile {
    path: PathBuf,
    own: Option<(u64, u64)>,
}

impl KeyFile {
    fn new(path: PathBuf) -> Self {
        let own = which(&path);
        Self { path, own }
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        if self.own.is_some() && which(&self.path) == self.own {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What tells a file from another one at its path.
fn which(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// What an engine needs to know.
fn introduce(base_url: &str, key: &Path, format: Output) {
    if format == Output::Json {
        output::json_line(&json!({
            "type": "gateway",
            "base_url": base_url,
            "key_file": key.display().to_string(),
        }));
        return;
    }
    output::line(&format!("# The gateway listens at {base_url}."));
    output::line("# An engine asks it for a capability, with the key in this file:");
    output::line(&output::clean(&format!("#   {}", key.display())));
}
