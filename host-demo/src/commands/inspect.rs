//! `host-demo inspect`

use serde_json::json;

use crate::args::{Inspect, Output};
use crate::exit::Exit;
use crate::setup::{plugin, settings};
use crate::ui::output;

pub(crate) fn run(args: &Inspect, format: Output) -> anyhow::Result<Exit> {
    let (settings, _) = settings::settings(args.plugin.config.as_deref(), [])?;
    let plugin = plugin::load(&settings::plugin(&args.plugin, &settings))?;
    let about = plugin.about();
    let policy = settings.policy(settings.service()?.origin().clone());
    let routes: Vec<String> = policy.routes().iter().map(ToString::to_string).collect();
    if format == Output::Json {
        output::json_line(&json!({
            "type": "plugin",
            "size": about.size,
            "sha256": about.digest,
            "imports": about.imports,
            "exports": about.exports,
            "origin": policy.origin().to_string(),
            "routes": routes,
        }));
        return Ok(Exit::Done);
    }
    let list = |title: &str, items: &[String]| {
        output::line(title);
        for item in items {
            output::line(&format!("  {}", output::clean(item)));
        }
    };
    output::line(&format!("size    {} bytes", about.size));
    output::line(&format!("sha256  {}", about.digest));
    list("imports", &about.imports);
    list("exports", &about.exports);
    list(
        &format!(
            "may send, to {} and for one device each time",
            policy.origin()
        ),
        &routes,
    );
    Ok(Exit::Done)
}
