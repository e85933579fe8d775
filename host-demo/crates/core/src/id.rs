//! Names of things, checked once at the door.

mod name;

use std::fmt;
use std::str::FromStr;

pub use name::DnsName;

/// Defender's id of a device: 40 hexadecimal digits, kept in lower case.
///
/// The documented examples are all of this form (Microsoft, "Machine resource type"). A computer
/// name or an Entra device id is not one, so nothing else can reach a URL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(String);

/// The id of a machine action: a GUID, kept in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionId(String);

/// A text that is not the id it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a [`MachineId`].
    #[error(
        "a machine id has 40 hexadecimal digits, such as 1e5bc9d7e413ddd7902c2932e418702b84d0cc07"
    )]
    Machine,
    /// Not an [`ActionId`].
    #[error("an action id is a GUID, such as 8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a")]
    Action,
    /// Not a [`DnsName`].
    #[error("a device's name has 1 to 255 letters, digits, hyphens, underscores and full stops")]
    Name,
}

impl FromStr for MachineId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(IdError::Machine)
        }
    }
}

impl FromStr for ActionId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits_and_dashes = text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        });
        if text.len() == 36 && digits_and_dashes {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(IdError::Action)
        }
    }
}

macro_rules! text_of {
    ($type:ty) => {
        impl $type {
            /// The id, as it stands in a URL.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
text_of!(MachineId);
text_of!(ActionId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_40_hexadecimal_digits_in_lower_case() {
        let upper = "1E5BC9D7E413DDD7902C2932E418702B84D0CC07";
        assert_eq!(
            upper.parse::<MachineId>().unwrap().as_str(),
            upper.to_ascii_lowercase()
        );
        for not_one in [
            "",
            "abc/offboard?",
            "../x",
            &upper[1..],
            &format!("{upper}0"),
            "1e5bc9d7e413ddd7902c2932e418702b84d0cc0g",
            " e5bc9d7e413ddd7902c2932e418702b84d0cc07",
            "1e5bc9d7e413ddd7902c2932e418702b84d0cc0\n",
            // 40 characters or bytes, but not of ASCII.
            "１1e5bc9d7e413ddd7902c2932e418702b84d0cc",
        ] {
            assert_eq!(
                not_one.parse::<MachineId>(),
                Err(IdError::Machine),
                "{not_one:?}"
            );
        }
    }

    #[test]
    fn an_action_id_is_a_guid_in_lower_case() {
        let id = "8A5C34DC-9CA9-4BE4-B3C2-4C70E4BFB69A";
        assert_eq!(
            id.parse::<ActionId>().unwrap().as_str(),
            id.to_ascii_lowercase()
        );
        for not_one in [
            "",
            "8a5c34dc9ca94be4b3c24c70e4bfb69a",
            "{8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a}",
            &id[1..],
        ] {
            assert_eq!(
                not_one.parse::<ActionId>(),
                Err(IdError::Action),
                "{not_one:?}"
            );
        }
    }
}
