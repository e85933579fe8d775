//! What is on the wire: the documents with their properties in the recorded order, times, escapes.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::machine::Machine;
use super::machine_action::{MachineAction, ticks};
use super::switches::ContentEncoding;

/// A machine: the properties of a record of 2026 in their order, most of them the same for all.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MachineEntity<'a> {
    id: &'a str,
    merged_into_machine_id: Option<&'a str>,
    is_potential_duplication: bool,
    is_excluded: bool,
    exclusion_reason: Option<&'a str>,
    computer_dns_name: Option<&'a str>,
    first_seen: &'a str,
    last_seen: String,
    os_platform: &'a str,
    os_processor: &'a str,
    version: &'a str,
    last_ip_address: &'a str,
    last_external_ip_address: &'a str,
    agent_version: &'a str,
    os_build: u32,
    health_status: &'a str,
    device_value: &'a str,
    rbac_group_id: u32,
    rbac_group_name: Option<&'a str>,
    risk_score: &'a str,
    exposure_level: &'a str,
    is_aad_joined: bool,
    aad_device_id: Option<String>,
    machine_tags: [&'a str; 0],
    onboarding_status: &'a str,
    os_architecture: &'a str,
    managed_by: &'a str,
    managed_by_status: &'a str,
    ip_addresses: [&'a str; 0],
    vm_metadata: Option<&'a str>,
}

/// An answer, ready to be sent.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Reply {
    /// An answer with nothing but a status, such as web servers give for paths they do not have.
    pub(super) fn bare(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    pub(super) fn json(
        status: StatusCode,
        content_type: &'static str,
        body: &impl Serialize,
    ) -> Self {
        let body = serde_json::to_vec(body).expect("these documents have string keys and no maps");
        Self::bare(status)
            .with(CONTENT_TYPE, HeaderValue::from_static(content_type))
            .with_body(body.into())
    }

    /// An answer of the API, with the headers that were recorded on real ones. Not among them are
    /// `Content-Encoding: deflate` with its `Vary` (clients are expected to ask for `identity`).
    pub(super) fn api(status: StatusCode, correlation: Uuid, body: &impl Serialize) -> Self {
        const ODATA_JSON: &str =
            "application/json; odata.metadata=minimal; odata.streaming=true; charset=utf-8";
        Self::json(status, ODATA_JSON, body)
            .with(
                HeaderName::from_static("odata-version"),
                HeaderValue::from_static("4.0"),
            )
            .with(
                HeaderName::from_static("mise-correlation-id"),
                header_text(correlation),
            )
            .with(
                STRICT_TRANSPORT_SECURITY,
                HeaderValue::from_static("max-age=31536000; includeSubDomains"),
            )
    }

    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// The same with its body in this encoding.
    pub(super) fn encoded(self, encoding: ContentEncoding) -> Self {
        let level = Compression::fast();
        let compressed = match encoding {
            _ if self.body.is_empty() => return self,
            ContentEncoding::Identity => return self,
            ContentEncoding::Gzip => read(GzEncoder::new(&self.body[..], level)),
            ContentEncoding::Deflate => read(ZlibEncoder::new(&self.body[..], level)),
            ContentEncoding::RawDeflate => read(DeflateEncoder::new(&self.body[..], level)),
            // Nobody here can read it, so it need not be it.
            ContentEncoding::Brotli => self.body.clone(),
        };
        let name = match encoding {
            ContentEncoding::Deflate | ContentEncoding::RawDeflate => "deflate",
            ContentEncoding::Brotli => "br",
            ContentEncoding::Identity | ContentEncoding::Gzip => "gzip",
        };
        self.with(CONTENT_ENCODING, HeaderValue::from_static(name))
            .with_body(compressed)
    }

    pub(super) fn with_body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }
}

/// All that an encoder of bytes in memory makes of them.
fn read(mut encoder: impl std::io::Read) -> Bytes {
    let mut all = Vec::new();
    encoder
        .read_to_end(&mut all)
        .expect("it reads from memory, and writes to it");
    all.into()
}

/// A header value of plain ASCII text; anything else becomes an empty one.
pub(super) fn header_text(value: impl Display) -> HeaderValue {
    HeaderValue::try_from(value.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[derive(Serialize)]
struct Entity<'a, T> {
    #[serde(rename = "@odata.context")]
    context: String,
    #[serde(flatten)]
    entity: &'a T,
}

pub(super) fn action(status: StatusCode, host: &str, action: &MachineAction) -> Reply {
    let context = format!("https://{host}/api/$metadata#MachineActions/$entity");
    Reply::api(
        status,
        Uuid::new_v4(),
        &Entity {
            context,
            entity: action,
        },
    )
}

/// An OData collection.
#[derive(Serialize)]
struct Collection<'a, T> {
    #[serde(rename = "@odata.context")]
    context: String,
    value: &'a [T],
    #[serde(rename = "@odata.nextLink", skip_serializing_if = "Option::is_none")]
    next_link: Option<String>,
}

/// A page of a list, and the link to the next one.
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    pub(super) next_link: Option<String>,
}

impl<T: Serialize> Page<T> {
    fn reply(self, host: &str, set: &str) -> Reply {
        let collection = Collection {
            context: format!("https://{host}/api/$metadata#{set}"),
            value: &self.items,
            next_link: self.next_link,
        };
        Reply::api(StatusCode::OK, Uuid::new_v4(), &collection)
    }
}

pub(super) fn actions(host: &str, page: Page<MachineAction>) -> Reply {
    page.reply(host, "MachineActions")
}

pub(super) fn machines(host: &str, page: Page<&Machine>, now: Timestamp) -> Reply {
    let entities = page.items.iter().map(|machine| entity(machine, now));
    let page = Page {
        items: entities.collect(),
        next_link: page.next_link,
    };
    page.reply(host, "Machines")
}

pub(super) fn machine(host: &str, machine: &Machine, now: Timestamp) -> Reply {
    let context = format!("https://{host}/api/$metadata#Machines/$entity");
    Reply::api(
        StatusCode::OK,
        Uuid::new_v4(),
        &Entity {
            context,
            entity: &entity(machine, now),
        },
    )
}

fn entity(machine: &Machine, now: Timestamp) -> MachineEntity<'_> {
    const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
    let (last_seen, health_status) = match machine.is_active() {
        true => (now, "Active"),
        false => (now.saturating_sub(MONTH).unwrap_or(now), "Inactive"),
    };
    MachineEntity {
        id: machine.id(),
        merged_into_machine_id: machine.merged_into_id(),
        is_potential_duplication: machine.merged_into_id().is_some(),
        is_excluded: false,
        exclusion_reason: None,
        computer_dns_name: machine.dns_name(),
        first_seen: "2025-11-03T08:15:30.1234567Z",
        last_seen: ticks(last_seen).to_string(),
        os_platform: "Windows11",
        os_processor: "x64",
        version: "24H2",
        last_ip_address: "192.0.2.10",
        last_external_ip_address: "198.51.100.10",
        agent_version: "10.8800.26100.7019",
        os_build: 26100,
        health_status,
        device_value: "Normal",
        rbac_group_id: 0,
        rbac_group_name: None,
        risk_score: "None",
        exposure_level: "Low",
        is_aad_joined: machine.entra_id().is_some(),
        aad_device_id: machine.entra_id().map(|id| id.to_string()),
        machine_tags: [],
        onboarding_status: "Onboarded",
        os_architecture: "64-bit",
        managed_by: "Unknown",
        managed_by_status: "Unknown",
        ip_addresses: [],
        vm_metadata: None,
    }
}

/// Text without its percent-escapes; with `form`, `+` is a space (the form encoding of HTML).
///
/// An escape that is none stays as it is. Bytes that are not UTF-8 are replaced.
pub(super) fn unescape(text: &str, form: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escape = after.get(..2).and_then(|hex| {
            let digit = |b: u8| (b as char).to_digit(16);
            u8::try_from(digit(hex[0])? * 16 + digit(hex[1])?).ok()
        });
        let (byte, after) = match (byte, escape) {
            (b'%', Some(escaped)) => (escaped, &after[2..]),
            (b'+', _) if form => (b' ', after),
            (plain, _) => (plain, after),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_up_to_seven_digits_of_a_second_and_no_trailing_zeros() {
        for (time, sent) in [
            (
                "2026-01-30T21:11:22.841930399Z",
                "2026-01-30T21:11:22.8419303Z",
            ),
            ("2024-01-02T13:39:46.773821Z", "2024-01-02T13:39:46.773821Z"),
            ("2021-01-26T20:33:58.420000099Z", "2021-01-26T20:33:58.42Z"),
            ("2021-01-26T20:33:59.2Z", "2021-01-26T20:33:59.2Z"),
            ("2021-01-26T20:33:59.000000001Z", "2021-01-26T20:33:59Z"),
        ] {
            let time: Timestamp = time.parse().unwrap();
            assert_eq!(ticks(time).to_string(), sent);
        }
    }

    #[test]
    fn escapes_are_undone_and_what_is_none_stays() {
        for (text, form, plain) in [
            ("a%20b+c", false, "a b+c"),
            ("a%20b+c", true, "a b c"),
            ("%3a%3A%", false, "::%"),
            ("%zz%4", true, "%zz%4"),
            ("%C3%A4%ff", false, "ä\u{fffd}"),
        ] {
            assert_eq!(unescape(text, form), plain, "{text}");
        }
    }
}
