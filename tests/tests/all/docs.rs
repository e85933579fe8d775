//! The documentation: what it names is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use host_demo::batch::Outcome;
use host_demo::kind::ActionKind;

/// Every page that people read, with its path.
const PAGES: &[(&str, &str)] = &[
    ("README.md", include_str!("../../../README.md")),
    ("CHANGELOG.md", include_str!("../../../CHANGELOG.md")),
    ("CONTRIBUTING.md", include_str!("../../../CONTRIBUTING.md")),
    ("SECURITY.md", include_str!("../../../SECURITY.md")),
    (
        "docs/architecture.md",
        include_str!("../../../docs/architecture.md"),
    ),
    (
        "docs/compatibility.md",
        include_str!("../../../docs/compatibility.md"),
    ),
    ("docs/engine.md", include_str!("../../../docs/engine.md")),
    (
        "docs/operator.md",
        include_str!("../../../docs/operator.md"),
    ),
    ("docs/pilot.md", include_str!("../../../docs/pilot.md")),
    (
        "docs/responder.md",
        include_str!("../../../docs/responder.md"),
    ),
    (
        "docs/security.md",
        include_str!("../../../docs/security.md"),
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What stands between backquotes, outside blocks of code.
fn quoted(page: &str) -> Vec<&str> {
    let texts = page.split("```").step_by(2);
    texts
        .flat_map(|text| text.split('`').skip(1).step_by(2))
        .collect()
}

/// The commands in blocks that are for a shell.
pub(crate) fn commands() -> Vec<&'static str> {
    let blocks = |page: &'static str| page.split("```sh\n").skip(1);
    PAGES
        .iter()
        .flat_map(|(_, page)| blocks(page))
        .flat_map(|block| block.split("```").next().unwrap_or_default().lines())
        .collect()
}

#[test]
fn every_page_there_is_is_looked_at() {
    let there: BTreeSet<String> = std::fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"))
        .collect();
    let pages = PAGES.iter().map(|(path, _)| (*path).to_owned());
    let looked_at: BTreeSet<String> = pages.filter(|path| path.starts_with("docs/")).collect();
    assert_eq!(there, looked_at);
}

/// A promise names its tests as `module::of_the_tests`, or by their file.
#[test]
fn every_test_that_a_promise_names_is_there() {
    let all = root().join("tests/tests/all");
    let mut named = 0;
    for (path, page) in PAGES {
        for name in quoted(page) {
            let is_path =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
            if let Some((module, test)) = name.rsplit_once("::")
                && name.chars().all(is_path)
                && test.contains('_')
            {
                let file = all.join(module.replace("::", "/")).with_extension("rs");
                let text = std::fs::read_to_string(&file)
                    .unwrap_or_else(|e| panic!("{path}: `{name}`: {}: {e}", file.display()));
                assert!(text.contains(&format!("fn {test}(")), "{path}: `{name}`");
                named += 1;
            } else if name.ends_with(".rs") && name.chars().all(|c| c != ' ') {
                let places = [root().join(name), all.join(name)];
                assert!(places.iter().any(|p| p.is_file()), "{path}: `{name}`");
            }
        }
    }
    assert!(named > 80, "{named}: has the form of promises changed?");
}

#[test]
fn every_link_leads_somewhere() {
    for (path, page) in PAGES {
        let here = root().join(path);
        for link in page.split("](").skip(1) {
            let (link, _) = link.split_once(')').unwrap();
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                here.clone()
            } else {
                here.parent().unwrap().join(file)
            };
            assert!(target.exists(), "{path}: {link}");
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                let slug = |heading: &str| -> String {
                    let kept = heading
                        .chars()
                        .filter(|c| c.is_alphanumeric() || " -".contains(*c));
                    kept.collect::<String>()
                        .trim()
                        .to_lowercase()
                        .replace(' ', "-")
                };
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let mut slugs = headings.map(|line| slug(line.trim_start_matches('#')));
                assert!(slugs.any(|slug| slug == anchor), "{path}: {link}");
            }
        }
    }
}

#[test]
fn the_responders_guide_has_every_outcome() {
    let page = include_str!("../../../docs/responder.md");
    let quoted = quoted(page);
    for outcome in Outcome::ALL {
        let name = outcome.name(ActionKind::Release);
        assert!(quoted.contains(&name), "`{name}`");
    }
}

/// The blocks of a page that are for this language, each with what stands before it.
pub(crate) fn blocks(page: &'static str, language: &str) -> Vec<&'static str> {
    let start = format!("```{language}\n");
    let mut found = Vec::new();
    let mut rest = page;
    while let Some((_, block)) = rest.split_once(start.as_str()) {
        let (block, after) = block.split_once("```").unwrap();
        found.push(block);
        rest = after;
    }
    found
}

#[test]
fn every_shell_block_is_one_that_a_shell_reads() {
    for (path, page) in PAGES {
        for block in blocks(page, "sh") {
            let output = std::process::Command::new("sh")
                .args(["-n", "-c", block])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{path}: {said}\n{block}");
            // What stands for something else can't be pasted.
            assert!(!block.contains('…'), "{path}: {block}");
        }
    }
}

/// cargo resolves what the engine author's guide depends on, against this workspace.
#[test]
fn the_dependency_lines_resolve() {
    let page = include_str!("../../../docs/engine.md");
    let blocks = blocks(page, "toml");
    assert!(!blocks.is_empty());
    let folder = tempfile::tempdir().unwrap();
    // The guide's name of a checkout.
    std::os::unix::fs::symlink(
        root().canonicalize().unwrap(),
        folder.path().join("defender-endpoint"),
    )
    .unwrap();
    std::fs::create_dir(folder.path().join("src")).unwrap();
    std::fs::write(folder.path().join("src/lib.rs"), "").unwrap();
    // The versions that this workspace has: nothing else need be at hand.
    std::fs::copy(root().join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
    for block in blocks {
        let manifest = format!(
            "[package]\nname = \"engine\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n{block}"
        );
        std::fs::write(folder.path().join("Cargo.toml"), &manifest).unwrap();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = std::process::Command::new(cargo)
            .args([
                "tree",
                "--offline",
                "--depth",
                "1",
                "--edges",
                "normal,features",
            ])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{manifest}");
        let tree = String::from_utf8_lossy(&output.stdout);
        assert!(
            tree.contains("host-demo feature \"bundled-plugin\""),
            "{tree}"
        );
        assert!(!tree.contains("host-demo feature \"cli\""), "{tree}");
    }
}
