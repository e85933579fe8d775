//! Which packages are inside what was built: cargo's own answer, for these features and this target,
//! with the checksums that Cargo.lock has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use toml::de::{DeTable, DeValue};

use crate::host;

/// A package's name and version.
pub(crate) type Id = (String, String);

pub(crate) struct Package {
    /// As its author wrote it: in old packages with a slash.
    pub(crate) licence: String,
    /// SHA-256. The workspace's own have none.
    pub(crate) checksum: Option<String>,
    pub(crate) needs: BTreeSet<Id>,
}

#[derive(Default)]
pub(crate) struct Packages {
    pub(crate) roots: BTreeSet<Id>,
    pub(crate) all: BTreeMap<Id, Package>,
}

impl Packages {
    /// What is linked into these of the workspace's packages. Macros and build scripts are not: they
    /// run when it is built.
    pub(crate) fn of(
        root: &Path,
        lock: &str,
        packages: &[&str],
        features: &[&str],
        target: Option<&str>,
    ) -> Result<Self> {
        let mut cargo = host::cargo(root);
        cargo
            .args(["tree", "--locked", "--edges", "normal,no-proc-macro"])
            .args(["--charset", "ascii", "--prefix", "depth"])
            .args(["--format", "\t{p}\t{l}\t"]);
        for package in packages {
            cargo.args(["--package", package]);
        }
        for feature in features {
            cargo.args(["--features", feature]);
        }
        if let Some(target) = target {
            cargo.args(["--target", target]);
        }
        let said = cargo.output()?;
        let problem = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "cargo tree: {problem}");
        Self::parse(&String::from_utf8(said.stdout)?, &checksums(lock)?)
    }

    /// A tree as cargo prints it: depth, package and licence. A package that was there before stands
    /// there again without what is below it.
    fn parse(tree: &str, checksums: &BTreeMap<Id, String>) -> Result<Self> {
        let mut found = Self::default();
        let mut above: Vec<Id> = Vec::new();
        for line in tree.lines().filter(|line| !line.is_empty()) {
            let (id, depth, licence) =
                fields(line).with_context(|| format!("cargo tree says {line:?}"))?;
            above.truncate(depth);
            match above.last() {
                None => {
                    found.roots.insert(id.clone());
                }
                Some(parent) => {
                    if let Some(parent) = found.all.get_mut(parent) {
                        parent.needs.insert(id.clone());
                    }
                }
            }
            found.all.entry(id.clone()).or_insert_with(|| Package {
                licence: licence.to_owned(),
                checksum: checksums.get(&id).cloned(),
                needs: BTreeSet::new(),
            });
            above.push(id);
        }
        ensure!(!found.all.is_empty(), "cargo tree says nothing");
        Ok(found)
    }
}

/// `1<tab>serde v1.0.229<tab>MIT OR Apache-2.0<tab>`
fn fields(line: &str) -> Option<(Id, usize, &str)> {
    let mut fields = line.split('\t');
    let depth = fields.next()?.parse().ok()?;
    let mut package = fields.next()?.split(' ');
    let name = package.next()?;
    let version = package.next()?.strip_prefix('v')?;
    Some(((name.to_owned(), version.to_owned()), depth, fields.next()?))
}

fn checksums(lock: &str) -> Result<BTreeMap<Id, String>> {
    let lock = DeTable::parse(lock).map_err(|e| anyhow!("Cargo.lock: {e}"))?;
    let packages = lock.get_ref().get("package").map(|value| value.get_ref());
    let Some(DeValue::Array(packages)) = packages else {
        return Err(anyhow!("Cargo.lock lists no packages"));
    };
    let text = |package: &DeTable<'_>, key: &str| {
        let value = package.get(key)?.get_ref().as_str()?;
        Some(value.to_owned())
    };
    let checksum = |package: &DeTable<'_>| {
        let id = (text(package, "name")?, text(package, "version")?);
        Some((id, text(package, "checksum")?))
    };
    let tables = packages
        .iter()
        .filter_map(|package| match package.get_ref() {
            DeValue::Table(package) => Some(package),
            _ => None,
        });
    Ok(tables.filter_map(checksum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, version: &str) -> Id {
        (name.to_owned(), version.to_owned())
    }

    #[test]
    fn a_tree_is_read_with_what_each_package_needs() {
        let tree = "0\tplugin v0.1.0 (/p/plugin)\tApache-2.0\t\n\
                    1\tserde v1.0.229\tMIT OR Apache-2.0\t\n\
                    2\tserde_core v1.0.229\tMIT/Apache-2.0\t\n\
                    1\tserde_json v1.0.154\tMIT\t\n\
                    2\tserde_core v1.0.229\tMIT/Apache-2.0\t\n\
                    \n\
                    0\tenvironment v0.1.0 (/p/plugin/environment)\tApache-2.0\t\n\
                    1\tserde v1.0.229\tMIT OR Apache-2.0\t (*)\n";
        let checksums = checksums(
            r#"
            [[package]]
            name = "plugin"
            version = "0.1.0"
            [[package]]
            name = "serde_json"
            version = "1.0.154"
            checksum = "00ff"
            "#,
        );
        let found = Packages::parse(tree, &checksums.unwrap()).unwrap();
        let roots = [id("environment", "0.1.0"), id("plugin", "0.1.0")];
        assert_eq!(found.roots, BTreeSet::from(roots));
        assert_eq!(found.all.len(), 5);
        let needs = |name: &str, version: &str| {
            let needs = found.all[&id(name, version)].needs.iter();
            needs.map(|(name, _)| name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(needs("plugin", "0.1.0"), ["serde", "serde_json"]);
        assert_eq!(needs("environment", "0.1.0"), ["serde"]);
        assert_eq!(needs("serde", "1.0.229"), ["serde_core"]);
        assert_eq!(needs("serde_json", "1.0.154"), ["serde_core"]);
        let json = &found.all[&id("serde_json", "1.0.154")];
        assert_eq!(json.checksum.as_deref(), Some("00ff"));
        assert_eq!(found.all[&id("plugin", "0.1.0")].checksum, None);
    }

    #[test]
    fn a_tree_that_is_none_is_not_a_shorter_one() {
        for tree in ["", "error", "0\tplugin\tMIT\t", "0\tplugin 0.1.0\tMIT\t"] {
            assert!(Packages::parse(tree, &BTreeMap::new()).is_err(), "{tree:?}");
        }
    }
}
