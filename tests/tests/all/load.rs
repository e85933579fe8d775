//! Which components are loaded, and what the built one is.

use host_demo::plugin::{BUNDLED, LoadError, Plugin};
use tests::world::{EVIL, engine, real_plugin};

fn load(bytes: &[u8]) -> Result<Plugin, LoadError> {
    Plugin::from_bytes(&engine(), bytes)
}

fn load_text(text: &str) -> LoadError {
    match load(&wat::parse_str(text).unwrap()) {
        Ok(_) => panic!("loaded: {text}"),
        Err(error) => error,
    }
}

/// Both exports by name, with nothing in them.
const EMPTY_EXPORTS: &str = r#"
    (instance $nothing)
    (export "defender:endpoint/code-execution@0.1.0" (instance $nothing))
    (export "defender:endpoint/machine-actions@0.1.0" (instance $nothing))
    (export "defender:endpoint/machines@0.1.0" (instance $nothing))
    (export "defender:endpoint/restriction@0.1.0" (instance $nothing))"#;

#[test]
fn a_component_that_wants_more_is_not_loaded_and_the_message_names_what_it_wanted() {
    let error = load_text(&format!(
        r#"(component
            (import "wasi:io/poll@0.2.4" (instance))
            (import "wasi:cli/environment@0.2.4" (instance
                (export "get-environment" (func (result (list (tuple string string)))))))
            (import "wasi:filesystem/preopens@0.2.4" (instance))
            (import "wasi:http/types@0.3.0" (instance))
            (import "secrets" (func (result string)))
            {EMPTY_EXPORTS})"#
    ));
    match &error {
        LoadError::ForbiddenImports(names) => assert_eq!(
            names,
            &[
                "wasi:cli/environment@0.2.4",
                "wasi:filesystem/preopens@0.2.4",
                "wasi:http/types@0.3.0",
                "secrets",
            ]
        ),
        other => panic!("{other}"),
    }
    let text = error.to_string();
    assert!(text.contains("wasi:cli/environment@0.2.4"), "{text}");
}

#[test]
fn a_component_that_is_no_plugin_is_not_loaded_and_the_message_names_what_it_lacks() {
    for (text, lacks) in [
        (
            "(component)",
            &[
                "defender:endpoint/code-execution@0.1.0",
                "defender:endpoint/machine-actions@0.1.0",
                "defender:endpoint/machines@0.1.0",
                "defender:endpoint/restriction@0.1.0",
            ][..],
        ),
        (
            r#"(component (instance $nothing)
                (export "defender:endpoint/code-execution@0.1.0" (instance $nothing))
                (export "defender:endpoint/machines@0.1.0" (instance $nothing))
                (export "defender:endpoint/restriction@0.1.0" (instance $nothing))
                (export "defender:endpoint/machine-actions@0.2.0" (instance $nothing)))"#,
            &["defender:endpoint/machine-actions@0.1.0"],
        ),
        (
            r#"(component (instance $nothing)
                (export "defender:endpoint/machine-actions@0.1.0" (instance $nothing))
                (export "defender:endpoint/machines@0.1.0" (instance $nothing))
                (export "defender:endpoint/restriction@0.1.0" (instance $nothing))
                (export "wasi:http/incoming-handler@0.2.4" (instance $nothing)))"#,
            &["defender:endpoint/code-execution@0.1.0"],
        ),
    ] {
        match load_text(text) {
            LoadError::MissingExports(names) => assert_eq!(names, lacks),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_component_of_the_right_names_and_another_shape_is_not_loaded() {
    for text in [
        format!("(component {EMPTY_EXPORTS})"),
        format!(
            r#"(component
                (import "defender:endpoint/connection@0.1.0" (instance
                    (export "open" (func (result string)))))
                {EMPTY_EXPORTS})"#
        ),
        format!(
            r#"(component
                (import "wasi:io/poll@0.2.4" (instance (export "sleep" (func))))
                {EMPTY_EXPORTS})"#
        ),
    ] {
        let error = load_text(&text);
        assert!(matches!(error, LoadError::OtherShape(_)), "{error}");
    }
}

#[test]
fn a_component_that_would_take_long_to_compile_is_not_loaded() {
    let drops = "(drop (i32.const 0))".repeat(70_000);
    let locals = "(local i64)".repeat(2_001);
    for code in [&drops, &locals] {
        let text = format!("(component (core module (func {code})) {EMPTY_EXPORTS})");
        let error = load_text(&text);
        assert!(matches!(error, LoadError::LargeFunction), "{error}");
    }
    // What is not a plugin is not compiled either.
    let text = format!("(component (core module (func {drops})))");
    assert!(matches!(load_text(&text), LoadError::LargeFunction));
}

#[test]
fn what_is_no_component_is_not_loaded() {
    let module = wat::parse_str("(module)").unwrap();
    assert!(matches!(load(&module), Err(LoadError::CoreModule)));
    for not_wasm in [&b""[..], b"\0asm", b"(component)", b"#!/bin/sh\n"] {
        assert!(matches!(load(not_wasm), Err(LoadError::NotWasm)));
    }
    for length in [8, 9, 100, BUNDLED.len() / 2, BUNDLED.len() - 1] {
        let error = load(&BUNDLED[..length]).err().unwrap();
        // Of the preamble alone it is an empty component, which is valid.
        let expected = match error {
            LoadError::MissingExports(_) => length == 8,
            LoadError::Invalid(_) => length > 8,
            _ => false,
        };
        assert!(expected, "{length} bytes: {error}");
    }
    let mut damaged = BUNDLED.to_vec();
    damaged[BUNDLED.len() / 2] ^= 0xff;
    damaged[8] = 0xff;
    assert!(matches!(load(&damaged), Err(LoadError::Invalid(_))));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let path = std::path::Path::new("no/such/plugin.wasm");
    let error = Plugin::from_file(&engine(), path).err().unwrap();
    assert!(matches!(error, LoadError::Unreadable { .. }), "{error}");
    assert!(error.to_string().contains("no/such/plugin.wasm"), "{error}");
}

#[test]
fn the_plugin_imports_seven_interfaces_and_exports_four() {
    let plugin = real_plugin();
    let about = plugin.about();
    let mut imports: Vec<&str> = about
        .imports
        .iter()
        .map(|name| match name.split_once("@0.2.") {
            Some((name, patch)) if name.starts_with("wasi:") && patch.parse::<u8>().is_ok() => name,
            _ => name,
        })
        .collect();
    imports.sort_unstable();
    assert_eq!(
        imports,
        [
            "defender:endpoint/connection@0.1.0",
            "defender:endpoint/types@0.1.0",
            "wasi:http/outgoing-handler",
            "wasi:http/types",
            "wasi:io/error",
            "wasi:io/poll",
            "wasi:io/streams",
        ]
    );
    assert_eq!(
        about.exports,
        [
            "defender:endpoint/code-execution@0.1.0",
            "defender:endpoint/machine-actions@0.1.0",
            "defender:endpoint/machines@0.1.0",
            "defender:endpoint/restriction@0.1.0",
        ]
    );
}

#[test]
fn the_hostile_guest_is_a_plugin_like_any_other() {
    let plugin = load(EVIL).unwrap();
    assert_eq!(plugin.about().exports, real_plugin().about().exports);
}

#[test]
fn the_plugin_is_small_and_names_no_machine() {
    assert!(BUNDLED.len() <= 128 * 1024, "{} bytes", BUNDLED.len());
    let here = env!("CARGO_MANIFEST_DIR").trim_end_matches("/tests");
    let mut paths = vec!["/root/".to_owned(), "/home/".to_owned(), here.to_owned()];
    let homes = ["CARGO_HOME", "RUSTUP_HOME", "HOME"].map(std::env::var);
    paths.extend(homes.into_iter().flatten().filter(|home| home.len() > 1));
    for path in paths {
        let found = BUNDLED
            .windows(path.len())
            .any(|bytes| bytes == path.as_bytes());
        assert!(!found, "the component names {path}");
    }
}
