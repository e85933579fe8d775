//! Redaction of an exchange. Pure, and deny by default.
//!
//! A value stays as it is only if it is on a list here: names of known properties, and words of the
//! service's own vocabulary in the properties that it words itself. Every other string becomes a
//! placeholder of the same shape, every other number 0. The same value becomes the same placeholder
//! wherever it stands, so relations survive; times are shifted by one offset, so intervals do.

use std::collections::{HashMap, HashSet};

use jiff::{Timestamp, Unit};
use serde_json::{Map, Value};

use defender_connect::cloud::Service;

/// The moment that a record begins at, whenever it was made.
pub(super) const EPOCH: Timestamp = Timestamp::constant(1_577_836_800, 0);

/// Names of properties that are kept (Microsoft, "Machine action resource type", "Machine resource
/// type", "Common REST API error codes", and recorded bodies).
const PROPERTIES: &[&str] = &[
    "@odata.context",
    "@odata.count",
    "@odata.nextLink",
    "Comment",
    "aadDeviceId",
    "agentVersion",
    "cancellationComment",
    "cancellationDateTimeUtc",
    "cancellationRequestor",
    "code",
    "commands",
    "computerDnsName",
    "creationDateTimeUtc",
    "details",
    "deviceValue",
    "error",
    "errorHResult",
    "exclusionReason",
    "exposureLevel",
    "externalId",
    "firstSeen",
    "healthStatus",
    "id",
    "innererror",
    "ipAddresses",
    "isAadJoined",
    "isExcluded",
    "isPotentialDuplication",
    "lastExternalIpAddress",
    "lastIpAddress",
    "lastSeen",
    "lastUpdateDateTimeUtc",
    "lastUpdateTimeUtc",
    "machineId",
    "machineTags",
    "managedBy",
    "managedByStatus",
    "mergedIntoMachineId",
    "message",
    "onboardingStatus",
    "osArchitecture",
    "osBuild",
    "osPlatform",
    "osProcessor",
    "rbacGroupId",
    "rbacGroupName",
    "relatedFileInfo",
    "requestSource",
    "requestor",
    "requestorComment",
    "riskScore",
    "scope",
    "status",
    "target",
    "title",
    "troubleshootInfo",
    "type",
    "value",
    "version",
    "vmMetadata",
];

/// Properties that the service words itself. In these, known words stay.
const WORDED: &[&str] = &[
    "@odata.context",
    "@odata.nextLink",
    "code",
    "healthStatus",
    "message",
    "onboardingStatus",
    "osPlatform",
    "requestSource",
    "status",
    "target",
    "type",
];

/// Properties whose numbers say nothing of anybody.
const NUMBERS: &[&str] = &["@odata.count", "errorHResult"];

/// The service's own words: types, states, codes, and those of its documented and reported messages.
const WORDS: &str = "
    API APIs AND Action ActionId Active ActiveRequestAlreadyExists AppID Authorization
    BadRequest Bearer Cancelled ClientVersionNotSupported CollectInvestigationPackage Comment
    Destination DisabledFeature DisallowedOperation Failed Forbidden Identity InProgress Inactive
    InternalServerError Invalid InvalidInput InvalidRequestBody Isolate LiveResponse Machine
    Machine.Isolate Machine.Read.All Machine.ReadWrite.All Machine.RestrictExecution MachineAction
    MachineActions Machines Maximum Missing MissingRequiredParameter NotFound OData ODataError OS
    Offboard Onboarded OsPlatformNotSupported Parameter Pending Platform PublicApi Portal Request
    ResourceNotFound RestrictCodeExecution RunAntiVirusScan StopAndQuarantineFile Succeeded
    TenantID The TimeOut TooManyRequests URI Unauthorized Unisolate UnrestrictCodeExecution
    UnsupportedMediaType Windows10 Windows11 You a access action actions again allowed already an
    and any api application at be been body by calls can cannot computerDnsName content could
    creationDateTimeUtc denied does ended eq exceeded exist expired expression failed filter for found ge
    gt has have header http https id in incoming incorrect invalid is it key le lt machineId
    machineactions machines maximum media message metadata missing ne no not of on operation or
    parameter per permissions progress platform property query quota request requestor requests required
    resource restricted role roles seconds send sent skip specified status supported the this to
    token top type unsupported v1.0 valid value was with entity error
    cancel restrictCodeExecution unrestrictCodeExecution
    charset chunked deflate gzip br identity minimal none full odata.metadata
    odata.streaming json text html plain true false utf-8 4.0 429
";

/// Replaces what must not be known by placeholders.
pub(super) struct Redactor {
    /// The calendar's second that becomes [`EPOCH`].
    began: Timestamp,
    /// From a value in lower case to its placeholder.
    known: HashMap<String, String>,
    /// Whole values, in lower case: a word of the service's that is one of them does not stay.
    identities: HashSet<String>,
    counts: HashMap<&'static str, u32>,
}

/// What a service's own wording may keep besides words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Digits {
    /// Nothing.
    Hidden,
    /// Numbers of up to four digits: a quota's.
    Kept,
}

impl Redactor {
    /// Returns one for a record that began then.
    pub(super) fn new(began: Timestamp) -> Self {
        let began = Timestamp::from_second(began.as_second()).unwrap_or(began);
        Self {
            began,
            known: HashMap::new(),
            identities: HashSet::new(),
            counts: HashMap::new(),
        }
    }

    /// Redacts a JSON value, the value of a property of this name.
    pub(super) fn json(&mut self, name: &str, value: &Value, digits: Digits) -> Value {
        match value {
            Value::Null | Value::Bool(_) => value.clone(),
            Value::Number(_) if NUMBERS.contains(&name) => value.clone(),
            Value::Number(_) => Value::from(0),
            Value::String(text) if WORDED.contains(&name) => self.wording(text, digits).into(),
            Value::String(text) => self.value(text).into(),
            Value::Array(items) => {
                let items = items.iter().map(|item| self.json(name, item, digits));
                items.collect()
            }
            Value::Object(properties) => {
                let mut redacted = Map::new();
                for (name, value) in properties {
                    let value = self.json(name, value, digits);
                    let name = match PROPERTIES.contains(&name.as_str()) {
                        true => name.clone(),
                        false => self.value(name),
                    };
                    redacted.insert(name, value);
                }
                redacted.into()
            }
        }
    }

    /// Redacts a text that the service words: what is not one of its words becomes a placeholder.
    pub(super) fn wording(&mut self, text: &str, digits: Digits) -> String {
        let mut redacted = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let end = rest.find(|c| !is_of_a_word(c)).unwrap_or(rest.len());
            if end == 0 {
                redacted.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
            // What ends a sentence is not of the word.
            let word = rest[..end].trim_end_matches(['.', '-']);
            let end = word.len().max(1);
            let word = &rest[..end];
            if word == "." || word == "-" || self.stays(word, digits) {
                redacted += word;
            } else {
                redacted += &self.replaced(word);
            }
            rest = &rest[end..];
        }
        redacted
    }

    fn stays(&self, word: &str, digits: Digits) -> bool {
        let is_number = word.len() <= 4 && word.bytes().all(|b| b.is_ascii_digit());
        let is_known_word = || WORDS.split_whitespace().any(|known| known == word);
        match is_number && digits == Digits::Kept {
            true => true,
            // A device can have the name of a word.
            false => {
                !self.identities.contains(&word.to_lowercase())
                    && (is_known_word() || Service::is_listed(word))
            }
        }
    }

    /// Replaces a whole value by its placeholder.
    pub(super) fn value(&mut self, text: &str) -> String {
        self.identities.insert(text.to_lowercase());
        self.replaced(text)
    }

    fn replaced(&mut self, text: &str) -> String {
        if text.is_empty() {
            return String::new();
        }
        if let Some(time) = time(text) {
            return self.shifted(time);
        }
        let key = text.to_lowercase();
        let placeholder = match self.known.get(&key) {
            Some(placeholder) => placeholder.clone(),
            None => {
                let placeholder = self.placeholder(&key);
                self.known.insert(key, placeholder.clone());
                placeholder
            }
        };
        in_the_case_of(text, placeholder)
    }

    /// A time, by as much earlier as all others.
    pub(super) fn shifted(&self, time: Timestamp) -> String {
        let shifted = time.duration_since(self.began);
        EPOCH.saturating_add(shifted).unwrap_or(EPOCH).to_string()
    }

    fn placeholder(&mut self, text: &str) -> String {
        let mut next = |shape| {
            let count = self.counts.entry(shape).or_insert(0);
            *count += 1;
            *count
        };
        let all = |fits: fn(u8) -> bool| text.bytes().all(fits);
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if text.parse::<defender_core::id::ActionId>().is_ok() {
            format!("a0000000-0000-4000-8000-{:012x}", next("guid"))
        } else if text.len() >= 16 && all(|b| b.is_ascii_hexdigit()) {
            format!("a{:0width$x}", next("hex"), width = text.len() - 1)
        } else if let Ok(address) = text.parse::<std::net::IpAddr>() {
            // RFC 2544 and RFC 3849: addresses for benchmarks and for documentation.
            let n = next("address");
            match address.is_ipv4() {
                true => format!("198.18.{}.{}", n / 256 % 256, n % 256),
                false => format!("2001:db8::{n:x}"),
            }
        } else if text.contains('@') {
            format!("user-{}@example.test", next("user"))
        } else if all(|b| b.is_ascii_digit()) {
            format!("{:0width$}", next("number"), width = text.len())
        } else if text.bytes().all(is_name) && text.contains('.') {
            format!("name-{}.example.test", next("name"))
        } else if text.bytes().all(is_name) {
            format!("name-{}", next("name"))
        } else {
            format!("text-{}", next("text"))
        }
    }
}

fn is_of_a_word(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && (!c.is_ascii_punctuation() || "._@-".contains(c))
}

/// A moment in UTC, as the service writes one.
fn time(text: &str) -> Option<Timestamp> {
    let has_form =
        text.len() <= 30 && text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T');
    has_form.then(|| text.parse().ok()).flatten()
}

/// A value in capital letters has a placeholder in capital letters, so that it shows what was
/// written in another letter case.
fn in_the_case_of(text: &str, placeholder: String) -> String {
    let has = |is: fn(char) -> bool| text.chars().any(is);
    match (has(char::is_uppercase), has(char::is_lowercase)) {
        (true, false) => placeholder.to_uppercase(),
        _ => placeholder,
    }
}

/// The date of a header, as a time.
pub(super) fn http_date(text: &str) -> Option<Timestamp> {
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    date.timestamp().round(Unit::Second).ok()
}
