//! From a device's name to its id: the one device that has it, or why none is taken for it.
//!
//! Nothing is guessed. Of several records the active one, the newest or the one that is not merged
//! may be the device that is meant, and may be the one beside it that was set up under the old
//! name. Besides, of a device only its id and its name are held against the service's answer; all
//! that tells one record from another is the plugin's word. So that can rule a device out, and
//! never in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use defender_core::id::{DnsName, MachineId};
use defender_host::bindings::{FoundMachines, Machine, Reason};
use defender_host::boundary::waiting::{Cause, Trouble, Waiting};
use defender_host::{CallError, Host, WaitOptions};
use futures_util::stream::{self, StreamExt as _};

/// Names that are looked for at one time. The quota sets the pace; this only bounds what is in
/// flight.
const AT_ONCE: usize = 8;

/// How often a name is asked for again that the service put off. Whoever uses up the quota then
/// does not stop.
const RESENDS: u32 = 10;

/// How often, where it failed or did not answer. Reading changes nothing, so that is safe.
const RETRIES: u32 = 3;

/// How long it is left alone before the first of these. Each time after that it is twice as long.
const PAUSE: Duration = Duration::from_secs(2);

/// Why a name is not taken for a device.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NameError {
    /// There is none, or none that the application may see.
    #[error(
        "no device has this name; wanted is the whole name that Defender has, such as \
         pc-1.contoso.com"
    )]
    Nobody,
    /// There are several.
    #[error("{} devices have this name; name the one that is meant by its id", .0.len())]
    Several(Vec<Machine>),
    /// There may be more than those that the service listed.
    #[error(
        "more devices have this name than these {}; name the one that is meant by its id", .0.len()
    )]
    Truncated(Vec<Machine>),
    /// There is one, and it is the old record of another one.
    #[error(
        "the one record of this name was merged into {into}; if that is the device that is meant, \
         name it by that id"
    )]
    Merged {
        /// The record.
        machine: Box<Machine>,
        /// What it was merged into.
        into: String,
    },
    /// There is one, whose id is none.
    #[error("the service gives it {0:?} for an id, which is no machine id")]
    NoId(String),
    /// The service has no usable answer for this name.
    #[error("it is not known which device has this name: {0}")]
    Unanswered(Box<CallError>),
}

impl NameError {
    /// One word for it, for programs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Nobody => "not-found",
            Self::Several(_) => "ambiguous",
            Self::Truncated(_) => "truncated",
            Self::Merged { .. } => "merged",
            Self::NoId(_) => "no-id",
            Self::Unanswered(_) => "unanswered",
        }
    }

    /// The devices that it may be.
    pub fn candidates(&self) -> &[Machine] {
        match self {
            Self::Several(machines) | Self::Truncated(machines) => machines,
            Self::Merged { machine, .. } => std::slice::from_ref(machine),
            Self::Nobody | Self::NoId(_) | Self::Unanswered(_) => &[],
        }
    }
}

/// Which device a name is, by all that the service found of that name.
pub fn choose(found: FoundMachines) -> Result<MachineId, NameError> {
    let FoundMachines {
        mut items,
        truncated,
    } = found;
    if truncated {
        return Err(NameError::Truncated(items));
    }
    if items.len() > 1 {
        return Err(NameError::Several(items));
    }
    let machine = items.pop().ok_or(NameError::Nobody)?;
    match machine.merged_into_machine_id.clone() {
        Some(into) if !into.is_empty() => Err(NameError::Merged {
            machine: Box::new(machine),
            into,
        }),
        _ => machine.id.parse().map_err(|_| NameError::NoId(machine.id)),
    }
}

/// Why the names could not be looked for: what would be met at the next name, too.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("looking for {name}: {error}")]
pub struct SearchAborted {
    /// The name at which it was met.
    pub name: DnsName,
    /// What was met.
    #[source]
    pub error: CallError,
}

/// Returns how many calls [`find`] makes for these names at most: two for a name that is written
/// differently in lower case.
pub fn most_calls(names: &[DnsName]) -> usize {
    let in_two_spellings = names.iter().filter(|name| name.lower_case().is_some());
    names.len() + in_two_spellings.count()
}

/// Looks for the devices of these names, each of which should stand there once: one call for each,
/// and a second one for a name that no device has as it is written, in lower case. (Whether the
/// service regards case is not known; most records are in lower case, but not all.)
/// The answers come in the order of the names; `on_answer` is told of each as it comes.
///
/// What is put off or fails is asked for again, a few times.
pub async fn find(
    host: &Host,
    names: Vec<DnsName>,
    patience: WaitOptions,
    on_answer: impl Fn(&DnsName) + Send + Sync + 'static,
) -> Result<Vec<Result<MachineId, NameError>>, SearchAborted> {
    let search = Arc::new(Search {
        host: host.clone(),
        patience,
        on_answer: Box::new(on_answer),
        stuck: Mutex::new(None),
    });
    let each = stream::iter(names).map(|name: DnsName| {
        let search = Arc::clone(&search);
        async move { search.one(name).await }
    });
    let answers: Vec<_> = each.buffered(AT_ONCE).collect().await;
    match search.stuck().take() {
        Some(stuck) => Err(stuck),
        None => Ok(answers.into_iter().flatten().collect()),
    }
}

struct Search {
    host: Host,
    patience: WaitOptions,
    on_answer: Box<dyn Fn(&DnsName) + Send + Sync>,
    /// Why no further name is looked for.
    stuck: Mutex<Option<SearchAborted>>,
}

impl Search {
    /// The answer for one name; none, if it is stuck.
    async fn one(&self, name: DnsName) -> Option<Result<MachineId, NameError>> {
        if self.stuck().is_some() {
            return None;
        }
        let answer = match self.in_any_spelling(&name).await {
            Ok(found) => choose(found),
            Err(error) if concerns_all(&error) => {
                self.stuck().get_or_insert(SearchAborted { name, error });
                return None;
            }
            Err(error) => Err(NameError::Unanswered(Box::new(error))),
        };
        (self.on_answer)(&name);
        Some(answer)
    }

    /// The devices of a name as it is written; where there are none, in lower case.
    async fn in_any_spelling(&self, name: &DnsName) -> Result<FoundMachines, CallError> {
        let found = self.ask(name).await?;
        match name.lower_case() {
            Some(lower) if found.items.is_empty() && !found.truncated => self.ask(&lower).await,
            _ => Ok(found),
        }
    }

    async fn ask(&self, name: &DnsName) -> Result<FoundMachines, CallError> {
        let (mut resends, mut retries, mut pause) = (0, 0, PAUSE);
        loop {
            let finding = self
                .host
                .find_machines(name.as_str(), self.patience.clone());
            let error = match finding.await {
                Err(error) => error,
                found => return found,
            };
            match error.reason() {
                // As it is documented for a tenant where nothing reported of late.
                Some(Reason::NotFound) => {
                    return Ok(FoundMachines {
                        items: Vec::new(),
                        truncated: false,
                    });
                }
                // The host has closed the key; the next call waits until it opens.
                Some(Reason::RateLimited(_)) if resends < RESENDS => resends += 1,
                _ if may_pass(&error) && retries < RETRIES => {
                    retries += 1;
                    // The pauses before it were as long as this one together.
                    if retries > 1 {
                        self.tell(&error, pause);
                    }
                    self.rest(pause).await?;
                    pause *= 2;
                }
                _ => return Err(error),
            }
        }
    }

    fn tell(&self, error: &CallError, pause: Duration) {
        if let Some(on_wait) = &self.patience.on_wait {
            let until = self.host.clock().now() + pause;
            on_wait(Waiting {
                cause: Cause::Read(Trouble::from(error)),
                until: Some(self.host.calendar(until)),
            });
        }
    }

    async fn rest(&self, time: Duration) -> Result<(), CallError> {
        let clock = self.host.clock();
        let rest = clock.sleep_until(clock.now() + time);
        let Some(mut stop) = self.patience.stop.clone() else {
            rest.await;
            return Ok(());
        };
        tokio::select! {
            biased;
            Ok(_) = stop.wait_for(|stop| *stop) => Err(CallError::Stopped),
            () = rest => Ok(()),
        }
    }

    fn stuck(&self) -> MutexGuard<'_, Option<SearchAborted>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it may be better in a moment.
fn may_pass(error: &CallError) -> bool {
    matches!(error, CallError::TimedOut { .. })
        || matches!(
            error.reason(),
            Some(Reason::ServiceFailure(_) | Reason::Transport)
        )
}

/// Whether the next name would meet the same. Only what is wrong with one name's answer would not.
fn concerns_all(error: &CallError) -> bool {
    match error {
        CallError::Fault { .. } => false,
        CallError::Answered { error, .. } => !matches!(
            error.reason,
            Reason::InvalidArgument(_) | Reason::Rejected | Reason::UnexpectedResponse
        ),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
    const B: &str = "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9";

    fn machine(id: &str) -> Machine {
        Machine {
            id: id.to_owned(),
            merged_into_machine_id: None,
            is_potential_duplication: None,
            computer_dns_name: Some("pc-1".to_owned()),
            first_seen: None,
            last_seen: None,
            os_platform: None,
            last_ip_address: None,
            health_status: Some("Active".to_owned()),
            rbac_group_name: None,
            aad_device_id: None,
            machine_tags: None,
            onboarding_status: None,
            additional_properties: Vec::new(),
        }
    }

    fn merged(id: &str, into: &str) -> Machine {
        Machine {
            merged_into_machine_id: Some(into.to_owned()),
            ..machine(id)
        }
    }

    fn inactive(id: &str) -> Machine {
        Machine {
            health_status: Some("Inactive".to_owned()),
            ..machine(id)
        }
    }

    fn choose_of(items: &[Machine], truncated: bool) -> Result<String, &'static str> {
        let found = FoundMachines {
            items: items.to_vec(),
            truncated,
        };
        let chosen = choose(found).map(|id| id.to_string());
        chosen.map_err(|unclear| unclear.name())
    }

    #[test]
    fn a_name_is_the_one_device_that_has_it_and_otherwise_nobodys() {
        let upper = A.to_uppercase();
        for (items, truncated, expected) in [
            (&[machine(A)][..], false, Ok(A.to_owned())),
            (&[machine(&upper)], false, Ok(A.to_owned())),
            (&[inactive(A)], false, Ok(A.to_owned())),
            (&[merged(A, "")], false, Ok(A.to_owned())),
            (&[], false, Err("not-found")),
            (&[], true, Err("truncated")),
            (&[machine(A)], true, Err("truncated")),
            (&[machine(A), machine(B)], false, Err("ambiguous")),
            (&[machine(A), inactive(B)], false, Err("ambiguous")),
            (&[machine(A), merged(B, A)], false, Err("ambiguous")),
            (&[merged(A, B)], false, Err("merged")),
            (&[machine("abc/offboard?")], false, Err("no-id")),
        ] {
            assert_eq!(choose_of(items, truncated), expected, "{items:?}");
        }
    }

    #[test]
    fn who_has_to_choose_is_told_between_what() {
        let found = FoundMachines {
            items: vec![merged(A, B)],
            truncated: false,
        };
        let unclear = choose(found).unwrap_err();
        assert!(unclear.to_string().contains(B), "{unclear}");
        assert_eq!(unclear.candidates(), [merged(A, B)]);
    }

    proptest! {
        /// Whatever else is said of the devices, one is taken only where it is the only one.
        #[test]
        fn nothing_that_is_said_of_a_device_makes_it_the_one(
            machines in proptest::collection::vec(
                (0..3_usize, proptest::option::of("[AI][a-z]{0,6}"), proptest::option::of("[0-9a-f]{0,2}")),
                0..4,
            ),
            truncated: bool,
        ) {
            let items: Vec<Machine> = machines
                .into_iter()
                .map(|(id, health_status, merged_into_machine_id)| Machine {
                    health_status,
                    merged_into_machine_id,
                    ..machine([A, B, "no id"][id])
                })
                .collect();
            match choose_of(&items, truncated) {
                Ok(id) => prop_assert!(items.len() == 1 && items[0].id == id && !truncated),
                Err(_) => prop_assert!(
                    truncated
                        || items.len() != 1
                        || items[0].id == "no id"
                        || items[0].merged_into_machine_id.as_ref().is_some_and(|i| !i.is_empty())
                ),
            }
        }
    }
}
