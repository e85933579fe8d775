//! Names of devices: what Windows and the DNS allow, and when two of them are the same.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_normalizer::properties::CanonicalCombiningClassMapBorrowed;

use super::IdError;

/// A device's name: 1 to 255 bytes of letters, digits, hyphens, underscores and full stops.
///
/// Letters and digits are those of any script, because Windows allows them. The name is kept as it
/// was written, in Unicode's composed form (NFC) and without the DNS's root, a full stop at the end.
/// Two values are equal only if they are written alike; [`is`](Self::is) and
/// [`folded`](Self::folded) ignore case, as Windows and the DNS do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

impl DnsName {
    /// The longest name, in bytes (RFC 1035, section 2.3.4).
    const MAX_BYTES: usize = 255;

    /// Returns the name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name in lower case, where that is another spelling.
    pub fn lower_case(&self) -> Option<Self> {
        let lower: Self = self.0.chars().map(lower).collect::<String>().parse().ok()?;
        (lower != *self).then_some(lower)
    }

    /// Returns the name without case, for comparing: names that differ in case alone become equal.
    pub fn folded(&self) -> Self {
        Self(self.0.chars().map(folded).collect())
    }

    /// Returns whether a text is this name, in any case.
    pub fn is(&self, other: &str) -> bool {
        self.0.chars().map(folded).eq(other.chars().map(folded))
    }
}

impl FromStr for DnsName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let name = match name.is_ascii() {
            true => Cow::Borrowed(name),
            false => ComposingNormalizerBorrowed::new_nfc().normalize(name),
        };
        let has_labels = name.split('.').all(|label| !label.is_empty());
        if has_labels && name.len() <= Self::MAX_BYTES && name.chars().all(is_of_a_name) {
            Ok(Self(name.into_owned()))
        } else {
            Err(IdError::Name)
        }
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a character can be one of a name: a letter or a digit, or a mark on one.
///
/// Letters that cannot be seen (the Hangul fillers) are refused, and so are those that old code
/// pages make an apostrophe of (modifier letters): an apostrophe ends a text in a query.
fn is_of_a_name(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    }
    let is_refused = matches!(c,
        '\u{115f}'..='\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{34f}' | '\u{17b4}'..='\u{17b5}'
        | '\u{2b0}'..='\u{2ff}' | '\u{374}' | '\u{7f4}'..='\u{7f5}' | '\u{a78b}'..='\u{a78c}');
    let is_mark = || CanonicalCombiningClassMapBorrowed::new().get_u8(c) != 0;
    !is_refused && (c.is_alphanumeric() || is_mark())
}

/// A character without its case, as Windows compares names and the plugin too: its upper case, where
/// that is one character, so that "ß" is not "ss". The dotless i is another letter than the i.
fn folded(c: char) -> char {
    match c {
        _ if c.is_ascii() => c.to_ascii_uppercase(),
        '\u{131}' => c,
        _ => single(c.to_uppercase()).unwrap_or(c),
    }
}

/// A character in lower case, if that is the same character but for its case.
fn lower(c: char) -> char {
    let lower = single(c.to_lowercase()).filter(|lower| folded(*lower) == folded(c));
    lower.unwrap_or(c)
}

/// The character of a mapping that has one.
fn single(mut mapped: impl Iterator<Item = char>) -> Option<char> {
    mapped.next().filter(|_| mapped.next().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> DnsName {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_kept_as_written_without_the_root() {
        for (text, kept) in [
            (
                "Johns_Work-Computer.contoso.com",
                "Johns_Work-Computer.contoso.com",
            ),
            ("device-001.contoso.com.", "device-001.contoso.com"),
            ("büro-pc01.contoso.com", "büro-pc01.contoso.com"),
            // Decomposed, as a Mac writes names of files.
            ("bu\u{308}ro-pc01", "büro-pc01"),
            ("电脑-1", "电脑-1"),
            ("ПК-01", "ПК-01"),
            ("パソコン", "パソコン"),
            ("น้ำ-1", "น้ำ-1"),
            ("हिन्दी", "हिन्दी"),
        ] {
            assert_eq!(name(text).as_str(), kept);
        }
        assert!("x".repeat(255).parse::<DnsName>().is_ok());
        assert!(format!("{}.", "x".repeat(255)).parse::<DnsName>().is_ok());
    }

    #[test]
    fn what_windows_and_the_dns_do_not_allow_is_refused() {
        for text in [
            "",
            ".",
            "..",
            ".pc",
            "pc..",
            "pc..contoso",
            "pc'",
            "pc\u{2019}",
            "pc\u{2bc}",
            "pc\u{ff07}",
            "pc\u{a78c}",
            "p c",
            "pc\u{a0}",
            "pc%27",
            "pc\n",
            "pc\u{200b}",
            "pc\u{feff}",
            "pc\u{3164}",
            "pc\u{2013}1",
            "pc\u{2011}1",
            "pc\u{fffd}",
            "pc\u{1f680}",
            &"x".repeat(256),
            &"ü".repeat(128),
        ] {
            assert_eq!(text.parse::<DnsName>(), Err(IdError::Name), "{text:?}");
        }
    }

    #[test]
    fn names_are_compared_without_case() {
        for (one, other, same) in [
            ("PC-1", "pc-1", true),
            ("BÜRO-PC01", "büro-pc01", true),
            ("ПК-01", "пк-01", true),
            ("ΠΥΡΓΟΣ", "πυργος", true),
            ("straße", "STRASSE", false),
            ("straße", "STRAẞE", false),
            ("pc-ı", "pc-i", false),
            ("pc-İ", "pc-i", false),
            ("büro", "buro", false),
            ("pc-1", "pc-1.contoso.com", false),
        ] {
            assert_eq!(name(one).is(other), same, "{one} {other}");
            let folded = name(one).folded() == name(other).folded();
            assert_eq!(folded, same, "{one} {other}");
        }
    }

    #[test]
    fn the_spelling_in_lower_case_is_another_one_or_none() {
        assert_eq!(name("C-Lab-31").lower_case(), Some(name("c-lab-31")));
        assert_eq!(name("BÜRO").lower_case(), Some(name("büro")));
        assert_eq!(name("c-lab-31").lower_case(), None);
        assert_eq!(name("电脑").lower_case(), None);
    }

    proptest! {
        #[test]
        fn a_name_reads_as_itself_in_any_spelling(text in "\\PC{0,20}") {
            if let Ok(name) = text.parse::<DnsName>() {
                let mut spellings = vec![name.clone()];
                spellings.extend(name.lower_case());
                for spelling in spellings {
                    prop_assert_eq!(spelling.as_str().parse::<DnsName>(), Ok(spelling.clone()));
                    prop_assert!(name.is(spelling.as_str()));
                    prop_assert!(!spelling.as_str().contains(['\'', ' ', '%', '&']));
                }
            }
        }
    }
}
