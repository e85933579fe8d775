//! The command's modules depend on each other in one direction only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What each part of the command may use of the others.
const MAY_USE: [(&str, &[&str]); 6] = [
    ("dispatch", &["args", "commands", "exit", "setup", "ui"]),
    ("commands", &["args", "exit", "setup", "ui"]),
    ("setup", &["args", "exit", "ui"]),
    ("ui", &["args", "exit"]),
    ("args", &[]),
    ("exit", &[]),
];

/// The names from the crate's root to a module or an item.
type Names = Vec<String>;

#[test]
fn each_part_uses_only_the_parts_below_it() {
    for (module, uses) in modules() {
        let (part, below) = MAY_USE.iter().find(|(part, _)| *part == module[0]).unwrap();
        // A subcommand is a part of its own.
        let own = &module[..module.len().min(if *part == "commands" { 2 } else { 1 })];
        for used in uses.iter().filter(|used| !used.starts_with(own)) {
            let other = used.first().map_or("", String::as_str);
            assert!(below.contains(&other), "{module:?} uses {used:?}");
        }
    }
}

#[test]
fn the_files_of_a_folder_form_no_cycle() {
    let mut files: BTreeMap<Names, BTreeSet<Names>> = BTreeMap::new();
    for (module, uses) in modules().into_iter().filter(|(module, _)| module.len() > 1) {
        let used = uses.iter().filter_map(|used| Some(used.get(..2)?.to_vec()));
        let file = module[..2].to_vec();
        let others = used.filter(|other| *other != file && other[0] == file[0]);
        files.entry(file.clone()).or_default().extend(others);
    }
    while !files.is_empty() {
        let all: BTreeSet<Names> = files.keys().cloned().collect();
        files.retain(|_, others| !others.is_disjoint(&all));
        assert!(files.len() < all.len(), "a cycle: {files:#?}");
    }
}

/// The modules, each with what it uses.
fn modules() -> Vec<(Names, Vec<Names>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host-demo/src");
    let mut modules = Vec::new();
    let mut paths = Vec::from(MAY_USE.map(|(part, _)| root.join(part)));
    while let Some(path) = paths.pop() {
        if let Ok(entries) = path.read_dir() {
            paths.extend(entries.map(|entry| entry.unwrap().path()));
            continue;
        }
        let name = path.strip_prefix(&root).unwrap().with_extension("");
        let names = name.iter().map(|name| name.to_str().unwrap().to_owned());
        let module: Names = names.filter(|name| name != "mod").collect();
        let text = std::fs::read_to_string(path.with_extension("rs")).unwrap();
        let (code, _tests) = text.split_once("\n#[cfg(test)]").unwrap_or((&text, ""));
        modules.push((module.clone(), uses(&module, code)));
    }
    modules
}

/// Every path that begins with `crate` or `super`. (`note!` calls `ui::output`.)
fn uses(module: &Names, code: &str) -> Vec<Names> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
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
