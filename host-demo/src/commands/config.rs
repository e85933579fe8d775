//! `host-demo config`

use std::path::{Path, PathBuf};

use crate::settings::{EXAMPLE, Key, Settings, Source};
use serde_json::{Value, json};

use crate::args::{Config, Output};
use crate::exit::Exit;
use crate::setup::{identity, paths, settings};
use crate::ui::output;

pub(crate) fn run(args: &Config, format: Output) -> anyhow::Result<Exit> {
    match args {
        Config::Example => output::line(EXAMPLE.trim_end()),
        Config::Show(args) => {
            let connection = &args.connection;
            let (settings, file) = settings::of(connection)?;
            missing_files(&settings, file.as_deref());
            settings::tell_replaced(&settings, file.as_deref());
            show(&settings, file.as_deref(), format);
        }
    }
    Ok(Exit::Done)
}

/// Says which files are named and not there. They may come later, so it is no error.
fn missing_files(settings: &Settings, file: Option<&Path>) {
    for (key, value) in Key::all().filter_map(|key| Some((key, settings.get(key)?))) {
        let must_be_there = key.is_file_to_read();
        if must_be_there && let Err(error) = std::fs::metadata(&value.text) {
            let text = format!(
                "{}: {} is not there to be read: {error}",
                settings::called(key, value.source, file),
                value.text
            );
            note!("host-demo: {}", output::clean(&text));
        }
    }
}

/// What holds for a key that nobody has set, where something does.
fn in_effect(settings: &Settings, key: Key) -> Option<crate::settings::Value> {
    let service = || settings.service().ok();
    let file = |path: PathBuf| path.display().to_string();
    let text = match key {
        Key::BaseUrl => service()?.origin().to_string(),
        Key::Authority => service()?.authority().to_string(),
        Key::Scope => service()?.scope().to_owned(),
        Key::Auth => identity::usual_way(settings).to_owned(),
        Key::AuditFile => file(paths::usual_audit_log().ok()?),
        Key::AuditKey => file(paths::usual_audit_key().ok()?),
        Key::Ledger => file(paths::usual_ledger().ok()?),
        _ => return None,
    };
    let source = Source::Default;
    Some(crate::settings::Value { text, source })
}

fn show(settings: &Settings, file: Option<&Path>, format: Output) {
    let value = |key| {
        let set = settings.get(key).cloned();
        set.or_else(|| in_effect(settings, key))
    };
    let rows = Key::all().filter_map(|key| Some((key, value(key)?)));
    if format == Output::Json {
        let rows = rows.map(|(key, value)| {
            let text = match key.is_secret() {
                true => Value::Null,
                false => json!(value.text),
            };
            let mut row =
                json!({ "key": key.to_string(), "value": text, "hidden": key.is_secret() });
            let (source, name) = match value.source {
                Source::Default => ("default", Value::Null),
                Source::File(line) => ("file", json!(line)),
                Source::Environment(name) => ("environment", json!(name)),
                Source::Flag(flag) => ("flag", json!(flag)),
            };
            row["source"] = json!(source);
            row["where"] = name;
            row
        });
        output::json_line(&json!({
            "type": "config",
            "file": file.map(|path| path.display().to_string()),
            "values": rows.collect::<Vec<_>>(),
        }));
        return;
    }
    match file {
        Some(path) => output::line(&format!("# {}", output::clean(&path.display().to_string()))),
        None => output::line("# no configuration file"),
    }
    for (key, value) in rows {
        let text = match key.is_secret() {
            true => "set, hidden",
            false if value.text.is_empty() => "nothing",
            false => &value.text,
        };
        let source = settings::place(value.source, file);
        let (text, source) = (output::clean(text), output::clean(&source));
        output::line(&format!("{key:<28} {text}  ({source})"));
    }
}
