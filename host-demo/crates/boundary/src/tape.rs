//! A tape of what crosses the boundary, for a pilot: requests as they left, responses as they came.
//!
//! It is not the audit log. It keeps paths, queries and bodies as they are, in memory only, and
//! redact it before writing it to a file. The token is never on it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, Method, Uri};
use jiff::Timestamp;

use crate::grant::Operation;
use crate::response_body::TokenScanner;
use defender_core::clock::{Clock, Moment};

/// The response headers that a tape keeps.
const HEADERS: [HeaderName; 7] = [
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::LOCATION,
    header::RETRY_AFTER,
    header::TRANSFER_ENCODING,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("odata-version"),
];

/// Keeps the exchanges of an [`Egress`](super::Egress), while a step is named. Clones share it.
#[derive(Clone, Default)]
pub struct Tape(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    step: Option<&'static str>,
    exchanges: Vec<Exchange>,
}

/// One request, and its response if one came.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The step that was named when the request left.
    pub step: &'static str,
    /// The operation that the call was granted.
    pub operation: Operation,
    /// The request's method.
    pub method: Method,
    /// The request's URL.
    pub uri: Uri,
    /// The request's body.
    pub request_body: Bytes,
    /// When the request was handed to the transport.
    pub sent: Moment,
    /// The same moment, on the calendar.
    pub sent_at: Timestamp,
    /// When the response's head came.
    pub answered: Option<Moment>,
    /// The response's status.
    pub status: Option<u16>,
    /// The response's headers, those that a tape keeps.
    pub headers: Vec<(String, String)>,
    /// The response's body, as far as it was read.
    pub body: Vec<u8>,
    /// Whether the exchange is over: nothing is added to it any more.
    pub is_closed: bool,
}

impl Tape {
    /// Returns an empty tape.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the step that the next exchanges belong to. Without a step nothing is kept.
    pub fn set_step(&self, step: Option<&'static str>) {
        self.state().step = step;
    }

    /// Returns what is on it, in the order in which the requests left.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.state().exchanges.clone()
    }

    /// Keeps a request that leaves now, and returns its place.
    pub(super) fn depart(
        &self,
        operation: Operation,
        head: &http::request::Parts,
        body: &Bytes,
        clock: &dyn Clock,
    ) -> Option<usize> {
        let mut state = self.state();
        let step = state.step?;
        state.exchanges.push(Exchange {
            step,
            operation,
            method: head.method.clone(),
            uri: head.uri.clone(),
            request_body: body.clone(),
            sent: clock.now(),
            sent_at: clock.wall(),
            answered: None,
            status: None,
            headers: Vec::new(),
            body: Vec::new(),
            is_closed: false,
        });
        Some(state.exchanges.len() - 1)
    }

    /// Keeps the head of a response. A header that repeats the token is left out.
    pub(super) fn answer(
        &self,
        place: usize,
        status: u16,
        headers: &HeaderMap,
        token: &TokenScanner,
        now: Moment,
    ) {
        let kept = headers
            .iter()
            .filter(|(name, value)| HEADERS.contains(name) && !token.is_in(value.as_bytes()))
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.to_string(), value)
            })
            .collect();
        let mut state = self.state();
        if let Some(exchange) = state.exchanges.get_mut(place) {
            exchange.status = Some(status);
            exchange.answered = Some(now);
            exchange.headers = kept;
        }
    }

    /// Keeps the body of a response, the first time that it is told.
    pub(super) fn close(&self, place: usize, body: &[u8]) {
        let mut state = self.state();
        if let Some(exchange) = state.exchanges.get_mut(place)
            && !exchange.is_closed
        {
            exchange.is_closed = true;
            exchange.body = body.to_vec();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tape").finish_non_exhaustive()
    }
}
