//! Which components are loaded, and what the built one is.

use host_demo::plugin::{BUNDLED, BUNDLED_ENVIRONMENT, LoadError, Plugin};
use tests::world::{EVIL, engine, real_plugin};
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

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

/// In alphabetical order, without the versions of WASI 0.2.
fn names<'a>(interfaces: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = interfaces
        .into_iter()
        .map(|name| match name.split_once("@0.2.") {
            Some((name, patch)) if name.starts_with("wasi:") && patch.parse::<u8>().is_ok() => name,
            _ => name,
        })
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn the_plugin_imports_seven_interfaces_and_exports_four() {
    let plugin = real_plugin();
    let about = plugin.about();
    assert_eq!(
        names(about.imports.iter().map(String::as_str)),
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
fn the_component_for_the_environment_imports_that_instead_of_a_connection() {
    // Of two that were composed, each has a memory: more than the library's engine gives to one.
    let engine = wasmtime::Engine::default();
    let component = Component::from_binary(&engine, BUNDLED_ENVIRONMENT).unwrap();
    let kind = component.component_type();
    let imports: Vec<_> = kind.imports(&engine).collect();
    assert_eq!(
        names(imports.iter().map(|(name, _)| *name)),
        [
            "defender:endpoint/types@0.1.0",
            "wasi:cli/environment",
            "wasi:http/outgoing-handler",
            "wasi:http/types",
            "wasi:io/error",
            "wasi:io/poll",
            "wasi:io/streams",
        ]
    );
    for (name, import) in imports {
        let ComponentItem::ComponentInstance(instance) = import.ty else {
            panic!("{name} is no instance");
        };
        let mut items = instance.exports(&engine);
        if name.starts_with("defender:") {
            let is_type = |item: ComponentItem| matches!(item, ComponentItem::Type(_));
            assert!(items.all(|(_, item)| is_type(item.ty)), "{name}");
        } else if name.starts_with("wasi:cli/") {
            let only: Vec<_> = items.map(|(name, _)| name).collect();
            assert_eq!(only, ["get-environment"]);
        }
    }
    let exports: Vec<_> = kind.exports(&engine).map(|(name, _)| name).collect();
    assert_eq!(names(exports), real_plugin().about().exports);
}

#[test]
fn the_component_for_the_environment_is_not_for_this_host() {
    match load(BUNDLED_ENVIRONMENT) {
        Err(LoadError::ForbiddenImports(names)) => {
            assert_eq!(names.len(), 1, "{names:?}");
            assert!(names[0].starts_with("wasi:cli/environment@"), "{names:?}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("loaded"),
    }
}

#[test]
fn the_hostile_guest_is_a_plugin_like_any_other() {
    let plugin = load(EVIL).unwrap();
    assert_eq!(plugin.about().exports, real_plugin().about().exports);
}

#[test]
fn the_components_are_small_and_name_no_machine() {
    assert!(BUNDLED.len() <= 160 * 1024, "{} bytes", BUNDLED.len());
    let provider = BUNDLED_ENVIRONMENT.len() - BUNDLED.len();
    assert!(provider <= 16 * 1024, "{provider} bytes more");
    let here = env!("CARGO_MANIFEST_DIR").trim_end_matches("/tests");
    let mut paths = vec!["/root/".to_owned(), "/home/".to_owned(), here.to_owned()];
    let homes = ["CARGO_HOME", "RUSTUP_HOME", "HOME"].map(std::env::var);
    paths.extend(homes.into_iter().flatten().filter(|home| home.len() > 1));
    for path in paths {
        for component in [BUNDLED, BUNDLED_ENVIRONMENT] {
            let mut windows = component.windows(path.len());
            let found = windows.any(|bytes| bytes == path.as_bytes());
            assert!(!found, "the component names {path}");
        }
    }
}
