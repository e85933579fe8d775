//! What is said to the script, and what it answers: whole microseconds on the server's time.

use std::time::Duration;

use redis::Value;

use crate::key_state::{Known, LEASE};
use crate::sliding_log::Reserved;
use crate::store_thread::Response;
use crate::{Ask, GRACE, KeyState, Log, NotUntil, Reply, Slot, Ticket, Why};
use defender_core::clock::Moment;

/// What the script takes for the end of time.
const NEVER: u64 = (1 << 53) - 1;

/// A word and its numbers: the server's time, when its clock was last found to be set forward, and
/// what the word is about.
pub(super) type Answer = (String, Vec<u64>);

/// The arguments of an ask.
pub(super) fn question(ask: &Ask, slot: u64, [run, keeps_most]: [String; 2]) -> Vec<String> {
    let mut arguments = vec![
        run,
        keeps_most,
        slot.to_string(),
        ask.holder.id.to_string(),
        ask.holder.short_name(),
        ask.ticket.map(|t| t.0.to_string()).unwrap_or_default(),
        micros_up(ask.call + GRACE).to_string(),
        micros_up(LEASE).to_string(),
        ask.patience
            .map(|p| micros(p).to_string())
            .unwrap_or_default(),
    ];
    for quota in ask.quotas.iter() {
        arguments.push(quota.calls.to_string());
        arguments.push(micros_up(quota.kept()).to_string());
    }
    arguments
}

/// What the script's answer, which has come by `here`, means.
pub(super) fn response(word: &str, numbers: &[u64], here: Moment) -> Option<Response> {
    // The server said how far off a moment is. That was before now, so it can only come out later
    // than it is.
    let moment = |now: u64, at: u64| match at.checked_sub(now) {
        _ if at >= NEVER => Moment::from_nanos(u64::MAX),
        Some(wait) => here + Duration::from_micros(wait),
        None => Moment::from_nanos(
            here.as_nanos()
                .saturating_sub((now - at).saturating_mul(1000)),
        ),
    };
    let free = |now, at, why| {
        let at = moment(now, at);
        let why = match why {
            0 => Why::Quota,
            1 => Why::Lost,
            2 => Why::Service,
            _ => return None,
        };
        Some(NotUntil { at, why })
    };
    Some(match (word, numbers) {
        ("done", _) => Response::Done,
        ("admitted", [_, _, slot, used @ ..]) => Response::Reply(Reply::Admitted {
            slot: Slot(*slot),
            used: used
                .iter()
                .map(|used| usize::try_from(*used).ok())
                .collect::<Option<_>>()?,
        }),
        ("wait", [now, _, ticket, ahead, at, why, may_be_sooner]) => Response::Reply(Reply::Wait {
            ticket: Ticket(*ticket),
            ahead: usize::try_from(*ahead).ok()?,
            free: free(*now, *at, *why)?,
            may_be_sooner: *may_be_sooner == 1,
        }),
        ("not now", [now, _, at, why]) => Response::Reply(Reply::NotNow(free(*now, *at, *why)?)),
        _ => return None,
    })
}

/// A key as the script reads it out, and when.
pub(super) fn budget(value: Value) -> Option<(Moment, KeyState)> {
    type Numbers = Vec<u64>;
    type Read = (
        String,
        Numbers,
        Numbers,
        Vec<(u64, u64, u64)>,
        Vec<(String, u64)>,
        Vec<(u64, String)>,
    );
    let (_, numbers, settled, slots, queue, holders): Read = redis::from_redis_value(value).ok()?;
    let [now, closed_until, lost_until, most, longest, next_ticket] = numbers.try_into().ok()?;
    let waiting = |(name, ticket): (String, u64)| {
        let (_, holder) = name.split_once(':')?;
        Some((Ticket(ticket), holder.parse().ok()?))
    };
    let known = |(id, value): (u64, String)| {
        let (lease, name) = value.split_once(' ')?;
        let lease = moment(lease.parse().ok()?);
        let name = name.to_owned();
        Some((id, Known { name, lease }))
    };
    let reserved = |(slot, latest, holder)| Reserved {
        slot: Slot(slot),
        latest: moment(latest),
        holder,
    };
    let log = Log {
        settled: settled.into_iter().map(moment).collect(),
        reserved: slots.into_iter().map(reserved).collect(),
        next: 0,
        closed_until: moment(closed_until),
        lost_until: moment(lost_until),
        most: u32::try_from(most).ok()?,
        longest: Duration::from_micros(longest),
    };
    let budget = KeyState {
        log,
        waiting: queue.into_iter().map(waiting).collect::<Option<_>>()?,
        next_ticket,
        holders: holders.into_iter().map(known).collect::<Option<_>>()?,
    };
    Some((moment(now), budget))
}

/// A moment of the server's.
fn moment(micros: u64) -> Moment {
    Moment::from_nanos(match micros {
        NEVER.. => u64::MAX,
        micros => micros.saturating_mul(1000),
    })
}

fn micros(duration: Duration) -> u64 {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(NEVER);
    micros.min(NEVER / 2)
}

pub(super) fn micros_up(duration: Duration) -> u64 {
    micros(duration.saturating_add(Duration::from_nanos(999)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_moment_comes_out_earlier_than_the_server_meant_it() {
        let here = Moment::from_nanos(5_000_000_123);
        let far = NEVER + 1;
        for (now, at, nanos) in [
            (1_000, 1_000, 5_000_000_123),
            (1_000, 3_000, 5_002_000_123),
            (3_000, 1_000, 4_998_000_123),
            (9_000_000, 0, 0),
            (1_000, NEVER, u64::MAX),
            (1_000, far, u64::MAX),
        ] {
            let Some(Response::Reply(Reply::NotNow(free))) =
                response("not now", &[now, 0, at, 1], here)
            else {
                panic!("{at}")
            };
            assert_eq!((free.at.as_nanos(), free.why), (nanos, Why::Lost), "{at}");
        }
        assert_eq!(micros_up(Duration::from_nanos(1_001)), 2);
        assert_eq!(micros_up(Duration::from_nanos(1_000)), 1);
        assert_eq!(micros_up(Duration::MAX), NEVER / 2);
    }

    #[test]
    fn an_answer_of_another_shape_is_none() {
        for (word, numbers) in [
            ("admitted", &[1, 2][..]),
            ("wait", &[1, 2, 3]),
            ("not now", &[1, 2, 3, 9]),
            ("later", &[1, 2]),
        ] {
            assert!(response(word, numbers, Moment::ORIGIN).is_none(), "{word}");
        }
        assert!(budget(Value::Nil).is_none());
    }
}
