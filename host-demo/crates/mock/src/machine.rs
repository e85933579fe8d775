//! The devices that the service knows.

use uuid::Uuid;

/// A device that the service knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    id: String,
    dns_name: Option<String>,
    entra_id: Option<Uuid>,
    restricted: bool,
    active: bool,
    merged_into: Option<String>,
}

impl Machine {
    /// A restricted device. Real ids have 40 hexadecimal digits; any other text does, too.
    pub fn new(id: impl Into<String>, dns_name: impl Into<String>) -> Self {
        let dns_name = Some(dns_name.into());
        Self {
            id: id.into(),
            dns_name,
            entra_id: None,
            restricted: true,
            active: true,
            merged_into: None,
        }
    }

    /// One of a row of made-up devices, the same in every run.
    pub(super) fn made_up(index: u64) -> Self {
        let [a, b, c] = [1, 2, 3].map(|n| scramble(index * 3 + n));
        let id = format!("{a:016x}{b:016x}{:08x}", c >> 32);
        Self::new(id, format!("device-{:03}.contoso.com", index + 1))
    }

    /// Without a name: `computerDnsName` is null in some records.
    #[must_use]
    pub fn nameless(self) -> Self {
        Self {
            dns_name: None,
            ..self
        }
    }

    /// Not under a restriction.
    #[must_use]
    pub fn unrestricted(self) -> Self {
        Self {
            restricted: false,
            ..self
        }
    }

    /// Not heard of for a month, as records of devices are that were set up anew.
    #[must_use]
    pub fn inactive(self) -> Self {
        Self {
            active: false,
            ..self
        }
    }

    /// Whose record was merged into another one, that has this id.
    #[must_use]
    pub fn merged_into(self, id: impl Into<String>) -> Self {
        Self {
            merged_into: Some(id.into()),
            ..self
        }
    }

    /// Joined to Entra under this device id.
    #[must_use]
    pub fn with_entra_id(self, id: Uuid) -> Self {
        Self {
            entra_id: Some(id),
            ..self
        }
    }

    /// Defender's id of it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its name.
    pub fn dns_name(&self) -> Option<&str> {
        self.dns_name.as_deref()
    }

    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    pub(super) fn merged_into_id(&self) -> Option<&str> {
        self.merged_into.as_deref()
    }

    /// Before any action of it has succeeded.
    pub(super) fn is_restricted_at_first(&self) -> bool {
        self.restricted
    }

    /// Entra's id of it.
    pub fn entra_id(&self) -> Option<Uuid> {
        self.entra_id
    }
}

/// SplitMix64, which makes distant numbers of near ones.
fn scramble(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_machines_have_ids_of_40_hexadecimal_digits_that_differ() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|i| Machine::made_up(i).id).collect();
        assert_eq!(ids.len(), 1000);
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        assert!(
            ids.iter()
                .all(|id| id.len() == 40 && id.bytes().all(is_digit))
        );
    }
}
