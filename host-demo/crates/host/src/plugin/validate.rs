//! Whether a component is a plugin, and small enough: looked at before it is compiled.

use wasmparser::{BinaryReaderError, Parser, Payload};

use super::LoadError;

/// Bytes of one function's code, and its local variables: a compiler's time and memory grow faster
/// than these do. The component that this library is built with has less than an eighth of either.
pub(super) const FUNCTION_MAX: usize = 128 << 10;
pub(super) const LOCALS_MAX: u32 = 2_000;

/// What a component may import, and what the host links. Any 0.2 release of `wasi` will do.
const ALLOWED_IMPORTS: [&str; 7] = [
    "defender:endpoint/connection@0.1.0",
    "defender:endpoint/types@0.1.0",
    "wasi:http/outgoing-handler@0.2",
    "wasi:http/types@0.2",
    "wasi:io/error@0.2",
    "wasi:io/poll@0.2",
    "wasi:io/streams@0.2",
];

pub(super) const REQUIRED_EXPORTS: [&str; 4] = [
    "defender:endpoint/code-execution@0.1.0",
    "defender:endpoint/machine-actions@0.1.0",
    "defender:endpoint/machines@0.1.0",
    "defender:endpoint/restriction@0.1.0",
];

/// Refuses what is not a plugin, and what would take long to compile.
pub(super) fn validate(bytes: &[u8]) -> Result<(), LoadError> {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            // Those of the modules and components within are each other's.
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export?.name.name.to_owned());
                }
            }
            Payload::CodeSectionEntry(body) => {
                let mut locals = 0_u32;
                for local in body.get_locals_reader()? {
                    locals = locals.saturating_add(local?.0);
                }
                if body.range().len() > FUNCTION_MAX || locals > LOCALS_MAX {
                    return Err(LoadError::LargeFunction);
                }
            }
            _ => {}
        }
    }
    imports.retain(|name| !is_allowed(name));
    if !imports.is_empty() {
        return Err(LoadError::ForbiddenImports(imports));
    }
    let missing = REQUIRED_EXPORTS
        .into_iter()
        .filter(|wanted| !exports.iter().any(|name| name == wanted));
    let missing: Vec<String> = missing.map(str::to_owned).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(LoadError::MissingExports(missing))
    }
}

impl From<BinaryReaderError> for LoadError {
    fn from(error: BinaryReaderError) -> Self {
        Self::Invalid(error.to_string())
    }
}

fn is_allowed(import: &str) -> bool {
    ALLOWED_IMPORTS.iter().any(|allowed| {
        import
            .strip_prefix(allowed)
            .is_some_and(|rest| match rest.strip_prefix('.') {
                None => rest.is_empty() && !allowed.starts_with("wasi:"),
                Some(patch) => allowed.starts_with("wasi:") && patch.parse::<u32>().is_ok(),
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_allowed_by_its_whole_name() {
        for allowed in [
            "defender:endpoint/connection@0.1.0",
            "wasi:http/types@0.2.4",
            "wasi:io/streams@0.2.12",
        ] {
            assert!(is_allowed(allowed), "{allowed}");
        }
        for forbidden in [
            "wasi:http/types@0.3.0",
            "wasi:http/types@0.2",
            "wasi:http/types@0.20.1",
            "wasi:http/types@0.2.x",
            "wasi:http/types-more@0.2.4",
            "wasi:cli/environment@0.2.4",
            "wasi:clocks/monotonic-clock@0.2.4",
            "defender:endpoint/connection@0.1.0.1",
            "defender:endpoint/connection@0.2.0",
        ] {
            assert!(!is_allowed(forbidden), "{forbidden}");
        }
    }

    #[cfg(feature = "bundled-plugin")]
    #[test]
    fn the_bundled_components_largest_function_has_less_than_an_eighth_of_what_one_may_have() {
        let (mut code, mut locals) = (0, 0);
        for payload in Parser::new(0).parse_all(crate::plugin::BUNDLED) {
            if let Payload::CodeSectionEntry(body) = payload.unwrap() {
                let groups = body.get_locals_reader().unwrap().into_iter();
                code = code.max(body.range().len());
                locals = locals.max(groups.map(|group| group.unwrap().0).sum());
            }
        }
        assert!((1..FUNCTION_MAX / 8).contains(&code), "{code} bytes");
        assert!((1..LOCALS_MAX / 8).contains(&locals), "{locals} locals");
    }
}
