//! Device-code sign-in (Microsoft identity platform, "OAuth 2.0 device authorization grant"), and
//! the refresh tokens that come of it.

use std::collections::{HashMap, HashSet};

use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::Failure;
use crate::switches::{Switches, UserSignIn};

/// Seconds between two polls, as documented.
const INTERVAL: u64 = 5;

#[derive(Default)]
pub(crate) struct SignIns {
    waiting: HashMap<String, Waiting>,
    refresh: HashSet<String>,
}

struct Waiting {
    audience: String,
    /// Whether a refresh token was asked for.
    offline: bool,
    until: Timestamp,
    polled: u32,
}

#[derive(Serialize)]
pub(crate) struct DeviceCodeAnswer {
    user_code: String,
    device_code: String,
    verification_uri: &'static str,
    expires_in: u64,
    interval: u64,
    message: String,
}

/// A sign-in that has come to its end.
pub(crate) struct SignedIn {
    pub(crate) audience: String,
    pub(crate) refresh_token: Option<String>,
}

impl SignIns {
    /// Answers the device-code endpoint.
    pub(crate) fn begin(
        &mut self,
        audience: String,
        offline: bool,
        switches: &Switches,
        now: Timestamp,
    ) -> DeviceCodeAnswer {
        let device_code = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let user_code: String = Uuid::new_v4()
            .simple()
            .to_string()
            .to_ascii_uppercase()
            .chars()
            .take(9)
            .collect();
        let lifetime = switches.device_code_lifetime;
        let waiting = Waiting {
            audience,
            offline,
            until: now.saturating_add(lifetime).unwrap_or(now),
            polled: 0,
        };
        self.waiting.insert(device_code.clone(), waiting);
        let page = "https://microsoft.com/devicelogin";
        DeviceCodeAnswer {
            message: format!(
                "To sign in, use a web browser to open the page {page} and enter the code \
                 {user_code} to authenticate."
            ),
            user_code,
            device_code,
            verification_uri: page,
            expires_in: lifetime.as_secs(),
            interval: INTERVAL,
        }
    }

    /// Answers a poll. The user comes, if at all, between the first one and the second.
    pub(crate) fn poll(
        &mut self,
        device_code: &str,
        switches: &Switches,
        now: Timestamp,
    ) -> Result<SignedIn, Failure> {
        let bad = |error, number, text: &str| {
            Err(Failure(
                StatusCode::BAD_REQUEST,
                error,
                number,
                text.to_owned(),
            ))
        };
        let Some(waiting) = self.waiting.get_mut(device_code) else {
            let text = "Invalid verification code due to User typing in wrong user code for device \
                        code flow.";
            return bad("bad_verification_code", 70018, text);
        };
        if now >= waiting.until {
            self.waiting.remove(device_code);
            // Azure/azure-cli#22251; the name is the documented one. (Seen was `code_expired`, too:
            // Azure/azure-cli#22252.)
            let text = "The provided value for the input parameter 'device_code' is not valid. \
                        This device code has expired.";
            return bad("expired_token", 70020, text);
        }
        waiting.polled += 1;
        match switches.user_sign_in {
            UserSignIn::Approve if waiting.polled > 1 => {}
            UserSignIn::Decline if waiting.polled > 1 => {
                self.waiting.remove(device_code);
                // The name is documented; number and words are those of a declined consent.
                let text = "User declined to consent to access the app.";
                return bad("authorization_declined", 65004, text);
            }
            _ => {
                let text =
                    "OAuth 2.0 device flow error. Authorization is pending. Continue polling.";
                return bad("authorization_pending", 70016, text);
            }
        }
        let waiting = self.waiting.remove(device_code);
        let (audience, offline) =
            waiting.map_or_else(Default::default, |w| (w.audience, w.offline));
        Ok(SignedIn {
            audience,
            refresh_token: offline.then(|| self.issue()),
        })
    }

    /// Redeems a refresh token for another one. As at Entra, the old one goes on to hold.
    pub(crate) fn refresh(&mut self, token: &str, switches: &Switches) -> Result<String, Failure> {
        if switches.refresh_tokens && self.refresh.contains(token) {
            return Ok(self.issue());
        }
        let text = "The refresh token has expired due to inactivity.";
        Err(Failure(
            StatusCode::BAD_REQUEST,
            "invalid_grant",
            700082,
            text.to_owned(),
        ))
    }

    fn issue(&mut self) -> String {
        let token = format!("0.{}.{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        self.refresh.insert(token.clone());
        token
    }
}
