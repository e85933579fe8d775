//! The contract in `wit/`, held to what was published of it.

use std::collections::BTreeMap;
use std::path::Path;

use wit_component::{OutputToString, WitPrinter};
use wit_parser::{PackageId, Resolve};

/// Each version of the package that was published, as it was, without its documentation. To
/// publish another one is to add its line and its file, which the last test here prints.
const PUBLISHED: &[(&str, &str)] = &[("0.1.0", include_str!("../../published/0.1.0.wit"))];

/// A package's text in one form, whatever form it was written in: interfaces and worlds by name.
struct Package {
    version: String,
    items: BTreeMap<String, String>,
    text: String,
}

impl Package {
    fn current() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let mut resolve = Resolve::default();
        let (id, _) = resolve.push_dir(folder).unwrap();
        Self::of(&resolve, id)
    }

    fn parse(text: &str) -> Self {
        let mut resolve = Resolve::default();
        let id = resolve.push_source("package.wit", text).unwrap();
        Self::of(&resolve, id)
    }

    fn of(resolve: &Resolve, id: PackageId) -> Self {
        let version = resolve.packages[id].name.version.as_ref().unwrap();
        let mut printer = WitPrinter::new(OutputToString::default());
        printer.emit_docs(false).print(resolve, id, &[]).unwrap();
        let text = printer.output.to_string();
        let mut items = BTreeMap::new();
        // Only what an interface or a world begins with stands at the beginning of a line.
        for item in text.split("\n}\n") {
            let start = ["interface ", "world "].map(|kind| item.rfind(&format!("\n{kind}")));
            if let Some(at) = start.into_iter().flatten().max() {
                let item = item[at + 1..].to_owned();
                let name = item.lines().next().unwrap().trim_end_matches(" {");
                items.insert(name.to_owned(), item);
            }
        }
        Self {
            version: version.to_string(),
            items,
            text,
        }
    }
}

/// What of a published version a later one does not keep, where it has to: semantic versions count
/// from the first number that is not 0.
fn broken(published: &Package, current: &Package) -> Vec<String> {
    let track = |version: &str| -> String {
        let mut numbers = version.split('.');
        let [major, minor, patch] = std::array::from_fn(|_| numbers.next().unwrap_or("0"));
        match (major, minor) {
            ("0", "0") => format!("0.0.{patch}"),
            ("0", _) => format!("0.{minor}"),
            _ => major.to_owned(),
        }
    };
    if track(&published.version) != track(&current.version) {
        return Vec::new();
    }
    let changed = |(name, was): (&String, &String)| match current.items.get(name) {
        None => Some(format!("{name} is gone")),
        Some(is) if name.starts_with("world") => {
            let lines = |text: &str, word: &str| -> Vec<String> {
                let lines = text.lines().map(str::trim);
                lines
                    .filter(|line| line.starts_with(word))
                    .map(str::to_owned)
                    .collect()
            };
            let kept = lines(was, "export")
                .iter()
                .all(|export| lines(is, "export").contains(export));
            let same = lines(was, "import") == lines(is, "import");
            (!kept || !same).then(|| format!("{name} exports less, or imports something else"))
        }
        Some(is) => (was != is).then(|| format!("{name} was\n{was}\nand is\n{is}")),
    };
    published.items.iter().filter_map(changed).collect()
}

#[test]
fn a_published_interface_does_not_change() {
    let current = Package::current();
    for (version, text) in PUBLISHED {
        let published = Package::parse(text);
        assert_eq!(published.version, *version);
        assert_eq!(published.items.len(), 7, "six interfaces and a world");
        let broken = broken(&published, &current);
        assert!(
            broken.is_empty(),
            "{version} is published and does not change (docs/compatibility.md); add an interface \
             beside it, or raise the package's version:\n{}",
            broken.join("\n")
        );
    }
}

#[test]
fn each_way_to_break_a_caller_is_seen_and_growing_beside_it_is_none() {
    let (_, text) = PUBLISHED[0];
    let published = Package::parse(text);
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        broken(&published, &Package::parse(&text.replacen(from, to, 1)))
    };
    for (from, to) in [
        // A field, a case, a function, a parameter and a type.
        ("title: option<string>,", ""),
        (
            "title: option<string>,",
            "title: option<string>,\n    subtitle: option<string>,",
        ),
        ("not-found,", "not-found,\n    gone,"),
        ("status: u16,", "status: u32,"),
        (
            "(machine-id: string, comment: string)",
            "(machine-id: string)",
        ),
        ("get-machine-action: func", "read-machine-action: func"),
        // What a component needs, and what it has.
        (
            "import connection;",
            "import connection;\n  import code-execution;",
        ),
        ("export restriction;", ""),
    ] {
        assert_ne!(with(from, to), Vec::<String>::new(), "{from} -> {to}");
    }
    let beside = "interface more {\n  more: func();\n}\n\nworld plugin {";
    assert_eq!(with("world plugin {", beside), Vec::<String>::new());
    let exported = "export restriction;\n  export more;\n}\n\ninterface more {\n  more: func();";
    assert_eq!(with("export restriction;", exported), Vec::<String>::new());
    // Another version is another contract.
    let next = text
        .replace("@0.1.0", "@0.2.0")
        .replace("not-found,", "not-found,\n    gone,");
    assert_eq!(
        broken(&published, &Package::parse(&next)),
        Vec::<String>::new()
    );
}

/// Whoever publishes a version writes down what it is.
#[test]
fn the_version_of_the_contract_is_one_that_is_written_down() {
    let current = Package::current();
    assert!(
        PUBLISHED
            .iter()
            .any(|(version, _)| *version == current.version),
        "tests/published/{}.wit is missing; it would be:\n{}",
        current.version,
        current.text
    );
}
