//! 256 random bits that somebody shows to be let in: the engine's key, and each capability.
//!
//! What is kept is a print of them. Two are compared by their prints, so how long that takes says
//! nothing of either.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// Whoever has its text is let in. It has no `Debug`.
pub(super) struct Secret([u8; 32]);

/// What a secret is known by; nothing leads back from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

impl Secret {
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// 64 hexadecimal digits: what a bearer token may consist of (RFC 6750, section 2.1).
    pub(super) fn text(&self) -> String {
        self.0
            .iter()
            .fold(String::with_capacity(64), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
    }

    pub(super) fn print(&self) -> Fingerprint {
        Fingerprint::of(&self.text())
    }
}

impl Fingerprint {
    pub(super) fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Whether they are the same, looked at to the end.
    pub(super) fn is(&self, other: &Self) -> bool {
        let differ = |(a, b): (&u8, &u8)| a ^ b;
        self.0
            .iter()
            .zip(&other.0)
            .map(differ)
            .fold(0, |all, one| all | one)
            == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_its_text_and_no_two_are_the_same() {
        let (one, other) = (Secret::new().unwrap(), Secret::new().unwrap());
        assert_eq!(one.text().len(), 64);
        assert!(one.print().is(&Fingerprint::of(&one.text())));
        assert!(!one.print().is(&other.print()));
        assert!(!one.print().is(&Fingerprint::of(&one.text()[..63])));
    }
}
