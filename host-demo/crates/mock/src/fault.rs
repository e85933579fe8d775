//! What can be made to go wrong, and for which requests.

use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderValue, StatusCode};

use super::Api;
use super::wire::Reply;
use defender_core::clock::Moment;

/// Something that goes wrong with the next request, or with more of them.
///
/// It strikes after the request was counted against the quota, in place of the service's own
/// answer; with [`Fault::after_acting`] the service has done what it was asked for by then. One
/// fault strikes a request: the first that was injected and fits.
#[derive(Clone, Debug)]
pub struct Fault {
    pub(super) kind: Kind,
    pub(super) acts: bool,
    api: Option<Api>,
    /// None: all.
    left: Option<u32>,
    /// So many that fit are let through first.
    spares: u32,
    /// None of those that arrive from then on.
    ends: Option<Moment>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Answer(Reply),
    ServerError(StatusCode),
    Delay(Duration),
    Reset,
    TruncatedBody,
    EndlessBody,
    Garbage,
    RefusedConnection,
}

impl Fault {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            acts: false,
            api: None,
            left: Some(1),
            spares: 0,
            ends: None,
        }
    }

    /// This answer instead of the service's. An impossible status becomes 500.
    pub fn answer(status: u16, body: impl Into<Bytes>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(Kind::Answer(Reply::bare(status).with_body(body.into())))
    }

    /// A header for [`Fault::answer`]; the others have none. An impossible one is left out.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Kind::Answer(reply) = &mut self.kind
            && let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
        {
            reply.headers.append(name, value);
        }
        self
    }

    /// An error of the service with the body that the switch `server-error-body` says.
    pub fn server_error(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(Kind::ServerError(status))
    }

    /// A wait by the stand-in's clock, and then all goes on as it would have. A client that hangs
    /// up meanwhile mostly takes its request along: have the service act first where it should not.
    pub fn delay(time: Duration) -> Self {
        Self::new(Kind::Delay(time))
    }

    /// A TCP reset after the whole request was read, in place of an answer.
    pub fn reset() -> Self {
        Self::new(Kind::Reset)
    }

    /// The service's answer, of which half the body arrives before the connection ends.
    pub fn truncated_body() -> Self {
        Self {
            acts: true,
            ..Self::new(Kind::TruncatedBody)
        }
    }

    /// The service's status, with a body that never ends.
    pub fn endless_body() -> Self {
        Self {
            acts: true,
            ..Self::new(Kind::EndlessBody)
        }
    }

    /// Bytes that are not HTTP, in place of the service's answer.
    pub fn garbage() -> Self {
        Self {
            acts: true,
            ..Self::new(Kind::Garbage)
        }
    }

    /// A TCP reset as soon as the next connection is there: nothing can have been sent. It knows
    /// no endpoint, and a client that reuses a connection does not meet it.
    pub fn refused_connection() -> Self {
        Self::new(Kind::RefusedConnection)
    }

    /// Strikes after the service has acted. What spoils an answer always does.
    #[must_use]
    pub fn after_acting(self) -> Self {
        Self { acts: true, ..self }
    }

    /// Strikes requests to this endpoint only.
    #[must_use]
    pub fn on(self, api: Api) -> Self {
        Self {
            api: Some(api),
            ..self
        }
    }

    /// Strikes so many requests; without this, one.
    #[must_use]
    pub fn times(self, n: u32) -> Self {
        Self {
            left: Some(n),
            ..self
        }
    }

    /// Lets so many requests through before it strikes.
    #[must_use]
    pub fn after(self, requests: u32) -> Self {
        Self {
            spares: requests,
            ..self
        }
    }

    /// Strikes all requests that arrive before a moment of the stand-in's clock.
    #[must_use]
    pub fn until(self, end: Moment) -> Self {
        Self {
            left: None,
            ends: Some(end),
            ..self
        }
    }

    /// Strikes until [`super::Mock::clear_faults`].
    #[must_use]
    pub fn always(self) -> Self {
        Self { left: None, ..self }
    }
}

#[derive(Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault that strikes this request.
    pub(super) fn strike(&mut self, api: Option<Api>, now: Moment) -> Option<Fault> {
        self.0
            .retain(|fault| fault.ends.is_none_or(|end| now < end));
        self.take(|fault| {
            !matches!(fault.kind, Kind::RefusedConnection)
                && fault.api.is_none_or(|a| Some(a) == api)
        })
    }

    /// Whether this connection is refused.
    pub(super) fn refuses_connection(&mut self) -> bool {
        self.take(|fault| matches!(fault.kind, Kind::RefusedConnection))
            .is_some()
    }

    fn take(&mut self, fits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut fitting = self.0.iter_mut();
        let index = fitting.position(|fault| {
            if fault.left == Some(0) || !fits(fault) {
                return false;
            }
            let spared = fault.spares > 0;
            fault.spares = fault.spares.saturating_sub(1);
            !spared
        })?;
        let fault = &mut self.0[index];
        if let Some(left) = &mut fault.left {
            *left -= 1;
        }
        let struck = fault.clone();
        self.0.retain(|fault| fault.left != Some(0));
        Some(struck)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_the_requests_that_it_fits_as_often_as_it_was_told() {
        let mut faults = Faults::default();
        faults.add(Fault::refused_connection());
        faults.add(Fault::reset().on(Api::UnrestrictCodeExecution).times(2));
        faults.add(Fault::garbage().always());
        let now = Moment::ORIGIN;
        let mut strike = |api| match faults.strike(api, now).map(|fault| fault.kind) {
            Some(Kind::Reset) => "reset",
            Some(Kind::Garbage) => "garbage",
            _ => "nothing",
        };
        assert_eq!(strike(Some(Api::Token)), "garbage");
        assert_eq!(strike(Some(Api::UnrestrictCodeExecution)), "reset");
        assert_eq!(strike(None), "garbage");
        assert_eq!(strike(Some(Api::UnrestrictCodeExecution)), "reset");
        assert_eq!(strike(Some(Api::UnrestrictCodeExecution)), "garbage");
        assert!(faults.refuses_connection());
        assert!(!faults.refuses_connection());
        faults.clear();
        assert!(faults.strike(None, now).is_none());
    }

    #[test]
    fn a_fault_can_begin_later_and_end_at_a_moment() {
        let at = |second: u64| Moment::from_nanos(second * 1_000_000_000);
        let mut faults = Faults::default();
        faults.add(Fault::reset().after(2));
        faults.add(Fault::garbage().until(at(5)));
        let mut strike = |second| match faults.strike(None, at(second)).map(|fault| fault.kind) {
            Some(Kind::Reset) => "reset",
            Some(Kind::Garbage) => "garbage",
            _ => "nothing",
        };
        let struck = [0, 1, 2, 4, 5].map(&mut strike);
        assert_eq!(
            struck,
            ["garbage", "garbage", "reset", "garbage", "nothing"]
        );
    }
}
