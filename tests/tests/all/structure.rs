//! The parts depend on each other in one direction only: the crates, the command's folders, and the
//! modules within each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each crate may use of the others, besides for its tests.
const CRATES: [(&str, &[&str]); 12] = [
    ("defender-core", &[]),
    ("defender-mock", &["core"]),
    ("defender-quota", &["core"]),
    ("defender-connect", &["core"]),
    ("defender-audit", &["core", "quota"]),
    ("defender-boundary", &["audit", "connect", "core", "quota"]),
    ("defender-gateway", &["boundary", "core"]),
    ("defender-component", &[]),
    (
        "defender-host",
        &[
            "audit",
            "boundary",
            "component",
            "connect",
            "core",
            "plugin",
            "quota",
        ],
    ),
    ("defender-release", &["connect", "core", "host", "quota"]),
    (
        "host-demo",
        &[
            "audit", "boundary", "connect", "core", "gateway", "host", "quota", "release",
        ],
    ),
    ("plugin", &[]),
];

/// What each part of the command may use of the others.
const MAY_USE: [(&str, &[&str]); 7] = [
    ("dispatch", &["args", "commands", "exit", "setup", "ui"]),
    ("commands", &["args", "exit", "settings", "setup", "ui"]),
    ("setup", &["args", "exit", "settings", "ui"]),
    ("ui", &["args", "exit"]),
    ("args", &["settings"]),
    ("settings", &[]),
    ("exit", &[]),
];

/// The names from the crate's root to a module or an item.
type Names = Vec<String>;

#[test]
fn each_crate_depends_only_on_those_below_it() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let workspace: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = workspace["packages"].as_array().unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    for (part, below) in CRATES {
        let package = packages.iter().find(|package| name(package) == part);
        let package = package.unwrap_or_else(|| panic!("there is no package {part}"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let other = name(dependency);
            let is_own = ours.contains(&other) && dependency["kind"].is_null();
            let short = other.trim_start_matches("defender-");
            assert!(
                !is_own || below.contains(&short),
                "{part} depends on {other}"
            );
        }
    }
}

#[test]
fn each_part_uses_only_the_parts_below_it() {
    for (module, uses) in modules(&sources("host-demo")) {
        let (part, below) = MAY_USE.iter().find(|(part, _)| *part == module[0]).unwrap();
        // A subcommand is a part of its own.
        let own = &module[..module.len().min(if *part == "commands" { 2 } else { 1 })];
        for used in uses.iter().filter(|used| !used.starts_with(own)) {
            let other = used.first().map_or("", String::as_str);
            assert!(below.contains(&other), "{module:?} uses {used:?}");
        }
    }
}

/// A parent and its children may use each other; siblings form no cycle.
#[test]
fn siblings_form_no_cycle() {
    let crates = CRATES[..CRATES.len() - 1].iter().map(|(name, _)| *name);
    for name in crates {
        let modules = modules(&sources(name));
        let parents: BTreeSet<Names> = modules
            .iter()
            .flat_map(|(module, _)| (0..module.len()).map(|depth| module[..depth].to_vec()))
            .collect();
        for parent in parents {
            no_cycle(name, &parent, &modules);
        }
    }
}

fn no_cycle(name: &str, parent: &Names, modules: &[(Names, Vec<Names>)]) {
    let depth = parent.len();
    let child = |names: &Names| {
        (names.len() > depth && names.starts_with(parent)).then(|| names[depth].clone())
    };
    let mut children: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, uses) in modules {
        if let Some(own) = child(module) {
            let others = uses.iter().filter_map(child).filter(|other| *other != own);
            let others: Vec<_> = others.collect();
            children.entry(own).or_default().extend(others);
        }
    }
    while !children.is_empty() {
        let all: BTreeSet<String> = children.keys().cloned().collect();
        children.retain(|_, others| !others.is_disjoint(&all));
        assert!(
            children.len() < all.len(),
            "a cycle in {name}, {parent:?}: {children:#?}"
        );
    }
}

/// The folder of a crate's sources.
fn sources(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host-demo");
    match name.strip_prefix("defender-") {
        Some(part) => root.join("crates").join(part).join("src"),
        None => root.join("src"),
    }
}

/// The modules, each with what it uses.
fn modules(root: &Path) -> Vec<(Names, Vec<Names>)> {
    let mut modules = Vec::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        if let Ok(entries) = path.read_dir() {
            paths.extend(entries.map(|entry| entry.unwrap().path()));
            continue;
        }
        let name = path.strip_prefix(root).unwrap().with_extension("");
        let is_code = path.extension() == Some("rs".as_ref());
        let is_left_out =
            |part: &std::ffi::OsStr| part == "lib" || part == "main" || part == "tests";
        if !is_code || name.iter().any(is_left_out) {
            continue;
        }
        let names = name.iter().map(|name| name.to_str().unwrap().to_owned());
        let module: Names = names.filter(|name| name != "mod").collect();
        let text = std::fs::read_to_string(&path).unwrap();
        let (code, _tests) = text.split_once("\n#[cfg(test)]").unwrap_or((&text, ""));
        modules.push((module.clone(), uses(&module, code)));
    }
    modules
}

/// Every path that begins with `crate` or `super`. (`note!` calls `ui::output`.)
fn uses(module: &Names, code: &str) -> Vec<Names> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let code = code.replace("note!(", " crate::ui::output(");
    let starts = code
        .match_indices("crate::")
        .chain(code.match_indices("super::"));
    let mut uses = Vec::new();
    for (at, _) in starts.filter(|(at, _)| !code[..*at].ends_with(is_path)) {
        let (path, rest) = code[at..].split_at(code[at..].find(|c| !is_path(c)).unwrap());
        let group = rest
            .strip_prefix('{')
            .map_or("", |group| group.split('}').next().unwrap());
        assert!(
            !group.contains('{'),
            "a `use` line for each module: {path}{{{group}}}"
        );
        for item in group.split(',').map(str::trim) {
            let mut names = module.clone();
            for name in path.split("::").chain(item.split(' ').take(1)) {
                match name {
                    "crate" => names.clear(),
                    "super" => drop(names.pop()),
                    "self" | "" => {}
                    name => names.push(name.to_owned()),
                }
            }
            uses.push(names);
        }
    }
    uses
}
