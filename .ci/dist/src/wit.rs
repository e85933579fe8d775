//! The contract in its binary form, which tools take where they take a component.

use std::path::Path;

use anyhow::{Context as _, Result};
use wit_parser::Resolve;

/// The package in a folder of WIT.
pub(crate) fn binary(folder: &Path) -> Result<Vec<u8>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(folder)?;
    wit_component::encode(&resolve, package).context("the contract can't be encoded")
}

#[cfg(test)]
mod tests {
    use super::*;
    use wit_component::{DecodedWasm, OutputToString, WitPrinter};
    use wit_parser::PackageId;

    fn printed(resolve: &Resolve, package: PackageId) -> String {
        let mut printer = WitPrinter::new(OutputToString::default());
        printer.print(resolve, package, &[]).unwrap();
        printer.output.to_string()
    }

    #[test]
    fn the_binary_contract_has_the_text_of_the_written_one_comments_and_all() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(&folder).unwrap();
        let written = printed(&resolve, package);

        let bytes = binary(&folder).unwrap();
        let DecodedWasm::WitPackage(resolve, package) = wit_component::decode(&bytes).unwrap()
        else {
            panic!("it is no package of WIT");
        };
        assert_eq!(printed(&resolve, package), written);
        assert!(
            written.contains("/// The guest calls `open` once for each call"),
            "{written}"
        );
    }
}
