//! Why the API does not do what it was asked for, and the document that says so.

use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::quota::Exceeded;
use super::switches::{Header, QuotaCode, QuotaWording, RetryAfter, Switches, Target};
use super::wire::{Reply, header_text};

/// An error of the API: one of Microsoft's codes, and a sentence.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
    code: &'static str,
    retry_after: Option<HeaderValue>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// The OData layer's errors have this, an empty code and no target
    /// (MicrosoftDocs/microsoft-365-docs#12682).
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<[(); 0]>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: String) -> Self {
        Self {
            status,
            message,
            code,
            retry_after: None,
        }
    }

    pub(super) fn bad_request(code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message.to_owned())
    }

    pub(super) fn not_found(what: &str, id: &str) -> Self {
        let message = format!("{what} {id} was not found");
        Self::new(StatusCode::NOT_FOUND, "ResourceNotFound", message)
    }

    /// MicrosoftDocs/microsoft-365-docs#4616, and the wording that names the key.
    pub(super) fn quota(exceeded: Exceeded, switches: &Switches, now: Timestamp) -> Self {
        let Exceeded {
            limit,
            window,
            wait,
        } = exceeded;
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let span = window.as_secs();
        let span = format!("{:02}:{:02}:{:02}", span / 3600, span / 60 % 60, span % 60);
        let message = match switches.quota_wording {
            QuotaWording::KeyAndWait => format!(
                "API calls quota exceeded! Maximum allowed {limit} per {span} for the key \
                 Destination+TenantID+AppID. You can send requests again in {seconds} seconds."
            ),
            QuotaWording::Short => {
                format!("API calls quota exceeded! maximum allowed {limit} per {span}")
            }
        };
        let code = match switches.quota_code {
            QuotaCode::Number => "429",
            QuotaCode::Name => "TooManyRequests",
        };
        let retry_after = match switches.retry_after {
            RetryAfter::Seconds => Some(header_text(seconds)),
            RetryAfter::Date => {
                // An HTTP date has whole seconds: rounded up, so that it is not too early.
                let then = now.saturating_add(wait).unwrap_or(now);
                let up = i64::from(then.subsec_nanosecond() > 0);
                let then = Timestamp::from_second(then.as_second() + up).unwrap_or(then);
                Some(header_text(then.strftime("%a, %d %b %Y %H:%M:%S GMT")))
            }
            RetryAfter::Absent => None,
        };
        Self {
            retry_after,
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, code, message)
        }
    }

    /// The documented error without a message of its own (Microsoft, "Common REST API error
    /// codes").
    pub(super) fn server_error(status: StatusCode) -> Self {
        Self::new(status, "InternalServerError", String::new())
    }

    pub(super) fn into_reply(self, switches: &Switches) -> Reply {
        let correlation = Uuid::new_v4();
        let odata = self.code.is_empty();
        let target = match switches.target {
            Target::Guid => Some(correlation.to_string()),
            Target::Hierarchical => Some(format!("|{}.", &correlation.simple().to_string()[..16])),
            Target::Absent => None,
        };
        let error = ErrorBody {
            code: self.code,
            message: &self.message,
            target: target.filter(|_| !odata),
            details: odata.then_some([]),
        };
        let mut reply = Reply::api(self.status, correlation, &Envelope { error });
        if let Some(value) = self.retry_after {
            reply = reply.with(RETRY_AFTER, value);
        }
        if self.status == StatusCode::UNAUTHORIZED && switches.www_authenticate == Header::Present {
            let value = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            reply = reply.with(WWW_AUTHENTICATE, value);
        }
        reply
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_quota_error_says_how_long_to_wait_in_the_form_of_the_switch() {
        let now: Timestamp = "2026-01-30T21:11:22.8Z".parse().unwrap();
        let exceeded = Exceeded {
            limit: 1500,
            window: Duration::from_secs(3600),
            wait: Duration::from_millis(7_300),
        };
        for (retry_after, header) in [
            (RetryAfter::Seconds, Some("8")),
            (RetryAfter::Date, Some("Fri, 30 Jan 2026 21:11:31 GMT")),
            (RetryAfter::Absent, None),
        ] {
            let switches = Switches {
                retry_after,
                ..Switches::default()
            };
            let reply = Refusal::quota(exceeded, &switches, now).into_reply(&switches);
            let got = reply.headers.get(RETRY_AFTER).map(|v| v.to_str().unwrap());
            assert_eq!((reply.status.as_u16(), got), (429, header));
            let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(body["error"]["code"], "429");
            assert_eq!(
                body["error"]["message"],
                "API calls quota exceeded! Maximum allowed 1500 per 01:00:00 for the key \
                 Destination+TenantID+AppID. You can send requests again in 8 seconds."
            );
        }
        let switches = Switches {
            quota_wording: QuotaWording::Short,
            quota_code: QuotaCode::Name,
            target: Target::Hierarchical,
            ..Switches::default()
        };
        let reply = Refusal::quota(exceeded, &switches, now).into_reply(&switches);
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(body["error"]["code"], "TooManyRequests");
        let message = "API calls quota exceeded! maximum allowed 1500 per 01:00:00";
        assert_eq!(body["error"]["message"], message);
        assert!(
            body["error"]["target"].as_str().unwrap().starts_with('|'),
            "{body}"
        );
    }
}
