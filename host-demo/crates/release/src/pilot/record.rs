//! The record of a pilot: a redacted exchange, in one JSON document.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::redact::{Digits, Redactor, http_date};
use defender_connect::cloud::Service;
use defender_core::clock::Moment;
use defender_host::boundary::Exchange;
use defender_host::boundary::policy::Origin;

/// The format of [`Record`]. It changes whenever an older reader would misread a record.
pub const FORMAT: &str = "host-demo-pilot/1";

/// A redacted exchange: requests and responses, in the order in which the requests left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: String,
    /// The version of host-demo that made it.
    pub host_demo: String,
    /// The service's origin, if it is one of Microsoft's, or a placeholder.
    pub service: String,
    /// The exchanges.
    pub exchanges: Vec<Recorded>,
}

/// One request, and its response if one came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// What it was made for: the name of a [`Step`](super::Step).
    pub step: String,
    /// Milliseconds from the beginning of the record until the request left.
    pub at_ms: u64,
    /// The request.
    pub request: Request,
    /// The response. Without one, none came.
    pub response: Option<Response>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The operation, as `connection.operation` in the contract names it.
    pub operation: String,
    /// The method.
    pub method: String,
    /// The path, with `{id}` where an id stands.
    pub path: String,
    /// The id in the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The query's parameters, without their escapes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub query: BTreeMap<String, String>,
    /// The body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Milliseconds from the request until the response's head came.
    pub after_ms: u64,
    /// The status.
    pub status: u16,
    /// The headers that matter, by their names.
    pub headers: BTreeMap<String, String>,
    /// The body, if it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// How many bytes the body has.
    pub bytes: usize,
}

impl Record {
    /// Redacts what is on a tape.
    pub fn of(exchanges: &[Exchange], service: &Service) -> Self {
        let first = exchanges.first();
        let began = first.map_or(Timestamp::UNIX_EPOCH, |first| first.sent_at);
        let mut redactor = Redactor::new(began);
        let mut make = || Self {
            format: FORMAT.to_owned(),
            host_demo: env!("CARGO_PKG_VERSION").to_owned(),
            service: origin(&mut redactor, service.origin()),
            exchanges: exchanges
                .iter()
                .map(|exchange| recorded(&mut redactor, exchange, began, first))
                .collect(),
        };
        // The first time it learns which values are names: a word that is a person's name does not
        // stay, wherever it stood before.
        make();
        make()
    }

    /// The record as a file's text.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

fn origin(redactor: &mut Redactor, origin: &Origin) -> String {
    match Service::is_listed(origin.host()) {
        true => origin.to_string(),
        false => format!("https://{}", redactor.value(origin.host())),
    }
}

fn milliseconds(from: Moment, to: Moment) -> u64 {
    u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX)
}

fn recorded(
    redactor: &mut Redactor,
    exchange: &Exchange,
    began: Timestamp,
    first: Option<&Exchange>,
) -> Recorded {
    // From the full second that the times of the bodies are shifted by.
    let fraction = Duration::from_nanos(began.subsec_nanosecond().unsigned_abs().into());
    let fraction = u64::try_from(fraction.as_millis()).unwrap_or_default();
    let since = first.map_or(0, |first| milliseconds(first.sent, exchange.sent));
    let request = request(redactor, exchange);
    let response = exchange.status.map(|status| {
        let digits = match status {
            429 => Digits::Kept,
            _ => Digits::Hidden,
        };
        let body: Option<Value> = serde_json::from_slice(&exchange.body).ok();
        let headers = exchange.headers.iter().map(|(name, value)| {
            let value = header(redactor, name, value);
            (name.clone(), value)
        });
        Response {
            after_ms: exchange
                .answered
                .map_or(0, |answered| milliseconds(exchange.sent, answered)),
            status,
            headers: headers.collect(),
            body: body.map(|body| redactor.json("", &body, digits)),
            bytes: exchange.body.len(),
        }
    });
    Recorded {
        step: exchange.step.to_owned(),
        at_ms: fraction + since,
        request,
        response,
    }
}

fn request(redactor: &mut Redactor, exchange: &Exchange) -> Request {
    let mut id = None;
    let segments = exchange.uri.path().split('/').map(|segment| {
        let is_id = segment.len() > 30 && segment.contains(|c: char| c.is_ascii_digit());
        if is_id {
            id = Some(redactor.value(segment));
            "{id}".to_owned()
        } else {
            redactor.wording(segment, Digits::Hidden)
        }
    });
    let path: Vec<String> = segments.collect();
    let query = exchange.uri.query().unwrap_or_default();
    let parameters = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = parameters.map(|(name, value)| {
        let value = value.replace("%20", " ").replace("%27", "'");
        let digits = match name {
            "$top" | "$skip" => Digits::Kept,
            _ => Digits::Hidden,
        };
        let name = redactor.wording(name, Digits::Hidden);
        (name, redactor.wording(&value, digits))
    });
    let query = query.collect();
    let body: Option<Value> = serde_json::from_slice(&exchange.request_body).ok();
    Request {
        operation: exchange.operation.to_string(),
        method: exchange.method.to_string(),
        path: path.join("/"),
        id,
        query,
        body: body.map(|body| redactor.json("", &body, Digits::Hidden)),
    }
}

fn header(redactor: &mut Redactor, name: &str, value: &str) -> String {
    match (name, http_date(value)) {
        ("retry-after", Some(date)) => redactor.shifted(date),
        ("retry-after", None) => {
            let is_number = value.len() <= 6 && value.bytes().all(|b| b.is_ascii_digit());
            match is_number {
                true => value.to_owned(),
                false => redactor.value(value),
            }
        }
        _ => redactor.wording(value, Digits::Hidden),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use defender_core::clock::Moment;
    use http::Method;
    use jiff::Timestamp;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use defender_host::boundary::grant::Operation;

    fn exchange(path: &str, body: &Value, headers: &[(&str, &str)], status: u16) -> Exchange {
        Exchange {
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            step: "restrict",
            operation: Operation::UnrestrictCodeExecution,
            method: Method::POST,
            uri: format!("https://api.security.microsoft.com{path}")
                .parse()
                .unwrap(),
            request_body: Bytes::new(),
            sent: Moment::ORIGIN,
            sent_at: Timestamp::UNIX_EPOCH,
            answered: Some(Moment::ORIGIN),
            status: Some(status),
            body: body.to_string().into_bytes(),
            is_closed: true,
        }
    }

    fn record(exchanges: &[Exchange]) -> Record {
        Record::of(exchanges, &Service::commercial())
    }

    /// The body that was recorded for this very action (`docs/pilot.md` has what a record keeps).
    #[test]
    fn a_record_keeps_the_services_words_and_nobodys_names() {
        let body = json!({
            "@odata.context": "https://api.security.microsoft.com/api/$metadata#MachineActions/$entity",
            "id": "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a", "type": "UnrestrictCodeExecution",
            "title": null, "requestor": "Defender for Endpoint API",
            "requestorComment": "Device cleared, removing app restriction", "status": "Pending",
            "machineId": "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9",
            "computerDnsName": "johns-work-computer",
            "creationDateTimeUtc": "2026-01-30T21:11:22.8419303Z",
            "lastUpdateDateTimeUtc": "2026-01-30T21:11:22.8419314Z",
            "cancellationRequestor": null, "errorHResult": -2_145_844_840, "scope": null,
            "requestSource": "PublicApi", "relatedFileInfo": null, "commands": [],
            "Contoso-secret": "10.20.30.40", "rbacGroupId": 4711
        });
        let path = "/api/machines/49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9/unrestrictCodeExecution";
        let headers = [
            (
                "content-type",
                "application/json; odata.metadata=minimal; charset=utf-8",
            ),
            (
                "location",
                "https://eu.contoso.com/api/machineactions/8A5C34DC-9CA9-4BE4-B3C2-4C70E4BFB69A",
            ),
        ];
        let mut one = exchange(path, &body, &headers, 201);
        one.sent_at = "2026-01-30T21:11:22.5Z".parse().unwrap();
        one.request_body = json!({ "Comment": "Device cleared, removing app restriction" })
            .to_string()
            .into();
        let record = record(&[one]);
        let response = record.exchanges[0].response.as_ref().unwrap();
        let (machine, action) = (
            "a000000000000000000000000000000000000001",
            "a0000000-0000-4000-8000-000000000001",
        );
        assert_eq!(
            response.body,
            Some(json!({
                "@odata.context": "https://api.security.microsoft.com/api/$metadata#MachineActions/$entity",
                "id": action, "type": "UnrestrictCodeExecution", "title": null,
                "requestor": "text-2", "requestorComment": "text-1", "status": "Pending",
                "machineId": machine, "computerDnsName": "name-2",
                "creationDateTimeUtc": "2020-01-01T00:00:00.8419303Z",
                "lastUpdateDateTimeUtc": "2020-01-01T00:00:00.8419314Z",
                "cancellationRequestor": null, "errorHResult": -2_145_844_840, "scope": null,
                "requestSource": "PublicApi", "relatedFileInfo": null, "commands": [],
                "name-3": "198.18.0.1", "rbacGroupId": 0
            }))
        );
        assert_eq!(
            response.headers["location"],
            format!(
                "https://name-1.example.test/api/machineactions/{}",
                action.to_uppercase()
            )
        );
        assert_eq!(
            response.headers["content-type"],
            "application/json; odata.metadata=minimal; charset=utf-8"
        );
        let request = &record.exchanges[0].request;
        assert_eq!(request.path, "/api/machines/{id}/unrestrictCodeExecution");
        assert_eq!(request.id.as_deref(), Some(machine));
        assert_eq!(request.body, Some(json!({ "Comment": "text-1" })));
        assert_eq!(
            (record.exchanges[0].at_ms, record.service.as_str()),
            (500, "https://api.security.microsoft.com")
        );
    }

    #[test]
    fn of_a_429_the_numbers_stay_and_of_other_errors_they_do_not() {
        let message = "API calls quota exceeded! Maximum allowed 30 per 00:01:00 for the key \
                       Destination+TenantID+AppID. You can send requests again in 8 seconds.";
        let body = json!({ "error": { "code": "429", "message": message, "target": "|4f1e9d2c7b6a5e3f." } });
        for (status, expected) in [(429, message), (400, "")] {
            let record = record(&[exchange(
                "/api/machineactions",
                &body,
                &[("retry-after", "8")],
                status,
            )]);
            let response = record.exchanges[0].response.as_ref().unwrap();
            let error = &response.body.as_ref().unwrap()["error"];
            assert_eq!(error["message"] == expected, status == 429, "{error}");
            assert_eq!(error["code"], "429");
            assert_eq!(error["target"], "|a000000000000001.");
            assert_eq!(response.headers["retry-after"], "8");
        }
    }

    #[test]
    fn a_device_whose_name_is_a_word_of_the_services_is_hidden_in_messages() {
        let error = json!({ "error": { "code": "ResourceNotFound", "message": "Machine found was not found" } });
        let action = json!({ "computerDnsName": "found" });
        let record = record(&[
            exchange("/api/machineactions", &error, &[], 404),
            exchange("/api/machineactions", &action, &[], 200),
        ]);
        let text = record.to_json();
        assert!(!text.contains("found"), "{text}");
    }

    proptest! {
        /// Wherever an id, a name, an address, a comment or a token stands, none of it survives, and
        /// the same value is the same placeholder everywhere.
        #[test]
        fn nothing_of_an_identity_survives(
            machine in "[0-9a-f]{40}",
            guid in "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}",
            name in "[a-zA-Z]{3}[0-9]{4}[a-z-]{0,8}(\\.[a-z]{4}9[a-z]{3}\\.com)?",
            user in "[a-z]{4}\\.[a-z]{5}7@[a-z]{4}8[a-z]{3}\\.com",
            ip in "(25[0-4]|1[0-9]{2})\\.(25[0-4]|1[0-9]{2})\\.1[0-9]\\.2[0-9]",
            comment in "\\PC{0,10}[A-Z]{3}-[0-9]{4} \\PC{5,20}",
            token in "eyJ[A-Za-z0-9_-]{20}\\.[A-Za-z0-9_-]{20}\\.[A-Za-z0-9_-]{20}",
            key in "[A-Z]{4}[0-9]{4}",
            upper in any::<bool>(),
        ) {
            let secrets = [&machine, &guid, &name, &user, &ip, &comment, &token, &key];
            let machine_as_sent = match upper { true => machine.to_uppercase(), false => machine.clone() };
            let free = format!("Machine {machine_as_sent} of {user} at {ip} ({name}): {comment}; {guid} {token}");
            let body = json!({
                "id": guid, "machineId": machine, "computerDnsName": name, "requestor": user,
                "requestorComment": comment, "lastIpAddress": ip, "type": name, "status": user,
                "title": free, "scope": token, "commands": [{ "params": [{ "key": name, "value": free }] }],
                key.clone(): { "deep": [free, guid, { user.clone(): ip.clone() }] },
                "error": { "code": name, "message": free, "target": format!("|{machine}.") },
            });
            let path = format!("/api/machines/{machine_as_sent}/unrestrictCodeExecution");
            let list = format!("/api/machineactions?$filter=machineId%20eq%20%27{machine}%27%20and%20id%20eq%20%27{guid}%27&$top=100");
            let location = format!("https://{ip}/api/machineactions/{guid}?user={user}");
            let headers = [("location", location.as_str()), ("www-authenticate", free.as_str()), ("content-type", name.as_str())];
            let record = record(&[
                exchange(&path, &body, &headers, 201),
                exchange(&list, &body, &headers, 429),
            ]);
            let text = record.to_json().to_lowercase();
            for secret in secrets {
                prop_assert!(!text.contains(&secret.to_lowercase()), "{secret} in {text}");
            }
            for label in [name.split('.').next().unwrap(), user.split('@').next().unwrap()] {
                prop_assert!(!text.contains(&label.to_lowercase()), "{label} in {text}");
            }
            let [one, other] = &record.exchanges[..] else { panic!() };
            let (a, b) = (one.response.as_ref().unwrap(), other.response.as_ref().unwrap());
            let of = |response: &Response, name: &str| response.body.as_ref().unwrap()[name].clone();
            for property in ["id", "machineId", "computerDnsName", "requestor", "requestorComment"] {
                prop_assert_eq!(of(a, property), of(b, property));
            }
            let machine = of(a, "machineId").as_str().unwrap().to_owned();
            let id = one.request.id.clone().unwrap();
            prop_assert_eq!(id == machine, !upper || machine == machine.to_uppercase());
            prop_assert!(id.eq_ignore_ascii_case(&machine));
            let filter = &other.request.query["$filter"];
            prop_assert!(filter.contains(&machine), "{}", filter);
        }
    }
}
