//! Many machine actions, read page by page, within bounds.

use std::collections::HashMap;
use std::fmt;

use jiff::Timestamp;

use crate::device_history::When;
use defender_core::id::MachineId;
use defender_host::bindings::{MachineAction, MachineActionFilter, MachineActionPage, Reason};
use defender_host::{CallError, Host, WaitOptions};

/// How much a survey may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Calls that it may make.
    pub reads: usize,
    /// After so many actions it begins no further page.
    pub actions: usize,
    /// The length of a page: 1 to 1,000.
    pub page: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            reads: 20,
            actions: 20_000,
            page: 1000,
        }
    }
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    /// The actions, each once, in the service's order, as they were read last.
    pub actions: Vec<MachineAction>,
    /// How many calls it took.
    pub reads: usize,
    /// Whether something is missing, for all that is known: there are more than the bounds allow, or
    /// two pages did not meet.
    pub is_cut: bool,
    /// The creation of the oldest that was read.
    pub oldest: Option<Timestamp>,
    /// The creation of the newest.
    pub newest: Option<Timestamp>,
    /// When it began, by the host's calendar: what came later need not be in it.
    pub began: Timestamp,
}

/// Reads the actions that a filter lets through, until there are no more or a bound is reached.
///
/// It is no picture of one moment. While it is taken, actions are created, which moves those behind
/// them on to the next page (the newest come first), and go out of the list, where the filter asks
/// for a state; so a page begins with the last ones of the page before. What is there twice is kept
/// once. Where a page begins with none that was read before, the survey is cut: so much has gone
/// that others may have slipped through. What can be missed unseen is an action that was created
/// just now, which the service may not show yet.
///
/// A page that the service puts off with a 429 is asked for again when the quota allows it, and
/// counts as a read each time. Any other error ends it. `patience` is for each of the calls.
pub async fn survey(
    host: &Host,
    filter: &MachineActionFilter,
    bounds: Bounds,
    patience: WaitOptions,
) -> Result<Survey, CallError> {
    let mut pages = Pages::new(bounds, host.clock().wall());
    pages.read(host, filter, patience).await?;
    Ok(pages.survey)
}

/// Reads surveys, and asks in a simpler way where the service rejects a filter.
///
/// A filter with several conditions is replaced by one with a single condition (the device, else the
/// time of creation), and that one by none. Actions that the original filter excludes are removed
/// here. What was rejected once is not asked for again.
pub struct Lister {
    /// Bounds of the list without a filter. It has the actions of all devices, and is read once.
    everything_bounds: Bounds,
    lists: Lists,
    everything: Option<Survey>,
    rejected: Option<Rejected>,
}

impl Lister {
    /// Creates one that uses filters until one is rejected. These are the bounds of a list without a
    /// filter.
    pub const fn new(everything_bounds: Bounds) -> Self {
        Self {
            everything_bounds,
            lists: Lists::Filtered,
            everything: None,
            rejected: None,
        }
    }

    /// The first filter that was rejected, if one was.
    pub const fn rejected(&self) -> Option<&Rejected> {
        self.rejected.as_ref()
    }

    /// Reads the actions that a filter lets through, as [`survey`] does. The rejected reads count.
    ///
    /// `bounds` are for each attempt with a filter. An error is returned if the list without a filter
    /// is rejected, too, or if a page after the first one is.
    pub async fn survey(
        &mut self,
        host: &Host,
        filter: &MachineActionFilter,
        bounds: Bounds,
        patience: WaitOptions,
    ) -> Result<Survey, CallError> {
        let mut reads = 0;
        loop {
            let asked = self.lists.of(filter);
            let is_everything = asked == MachineActionFilter::everything();
            if let (true, Some(everything)) = (is_everything, &self.everything) {
                let mut survey = everything.clone();
                survey.reads = reads;
                survey.keep(filter);
                return Ok(survey);
            }
            let bounds = match is_everything {
                true => self.everything_bounds,
                false => bounds,
            };
            let mut pages = Pages::new(bounds, host.clock().wall());
            let read = pages.read(host, &asked, patience.clone()).await;
            let mut survey = pages.survey;
            survey.reads += reads;
            match read {
                Ok(()) => {
                    if is_everything {
                        self.everything = Some(survey.clone());
                    }
                    if asked != *filter {
                        survey.keep(filter);
                    }
                    return Ok(survey);
                }
                Err(error) => {
                    let is_rejected = error.reason() == Some(&Reason::Rejected);
                    if is_everything || !is_rejected || !survey.actions.is_empty() {
                        return Err(error);
                    }
                    reads = survey.reads;
                    self.was_rejected(filter, error);
                }
            }
        }
    }

    /// Goes on to the next way that asks for something else.
    fn was_rejected(&mut self, filter: &MachineActionFilter, error: CallError) {
        let asked = self.lists.of(filter);
        while self.lists != Lists::Everything && self.lists.of(filter) == asked {
            self.lists = self.lists.simpler();
        }
        let instead = self.lists.of(filter);
        match &mut self.rejected {
            Some(rejected) => rejected.instead = instead,
            None => {
                self.rejected = Some(Rejected {
                    filter: asked,
                    instead,
                    error,
                });
            }
        }
    }
}

impl Default for Lister {
    fn default() -> Self {
        Self::new(Bounds::default())
    }
}

/// A filter that the service rejected.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// The filter.
    pub filter: MachineActionFilter,
    /// What was asked for instead, in the end.
    pub instead: MachineActionFilter,
    /// How the service rejected it.
    pub error: CallError,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rejected = conditions(&self.filter).join(" and ");
        write!(
            f,
            "the service rejected a filter of machine actions (by {rejected}), so "
        )?;
        match conditions(&self.instead)[..] {
            [] => f.write_str("the actions of all devices were listed without a filter"),
            ref instead => write!(f, "they were listed by {} only", instead.join(" and ")),
        }
    }
}

/// The names of a filter's conditions, for people.
fn conditions(filter: &MachineActionFilter) -> Vec<&'static str> {
    let conditions = [
        (!filter.ids.is_empty(), "id"),
        (filter.machine_id.is_some(), "device"),
        (!filter.types.is_empty(), "type"),
        (!filter.statuses.is_empty(), "status"),
        (filter.created_since.is_some(), "creation time"),
    ];
    let there = conditions.into_iter().filter(|(is_there, _)| *is_there);
    there.map(|(_, name)| name).collect()
}

/// How lists are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lists {
    /// By the whole filter.
    Filtered,
    /// By one condition at most: the device, or the time of creation.
    Simple,
    /// Without a filter.
    Everything,
}

impl Lists {
    const fn simpler(self) -> Self {
        match self {
            Self::Filtered => Self::Simple,
            Self::Simple | Self::Everything => Self::Everything,
        }
    }

    /// What is asked for in place of a filter.
    fn of(self, filter: &MachineActionFilter) -> MachineActionFilter {
        let everything = MachineActionFilter::everything();
        match (self, &filter.machine_id) {
            (Self::Filtered, _) => filter.clone(),
            (Self::Simple, Some(_)) => MachineActionFilter {
                machine_id: filter.machine_id.clone(),
                ..everything
            },
            (Self::Simple, None) => MachineActionFilter {
                created_since: filter.created_since.clone(),
                ..everything
            },
            (Self::Everything, _) => everything,
        }
    }
}

/// Whether a filter lets an action through. One without a time of creation may be new enough.
fn lets_through(filter: &MachineActionFilter, action: &MachineAction) -> bool {
    let machine = |id: &str| id.parse::<MachineId>().ok();
    let time = |text: &Option<String>| text.as_deref().map(When::read).and_then(|when| when.at());
    let is_old = match (
        time(&filter.created_since),
        time(&action.creation_date_time_utc),
    ) {
        (Some(since), Some(created)) => created < since,
        _ => false,
    };
    !is_old
        && (filter.ids.is_empty()
            || filter
                .ids
                .iter()
                .any(|id| id.eq_ignore_ascii_case(&action.id)))
        && (filter.types.is_empty() || filter.types.contains(&action.type_))
        && (filter.statuses.is_empty() || filter.statuses.contains(&action.status))
        && filter.machine_id.as_ref().is_none_or(|wanted| {
            let id = action.machine_id.as_deref().and_then(machine);
            id.is_some() && id == machine(wanted)
        })
}

impl Survey {
    /// Removes the actions that a filter excludes.
    fn keep(&mut self, filter: &MachineActionFilter) {
        self.actions.retain(|action| lets_through(filter, action));
    }
}

impl Pages {
    /// Reads pages until there are no more or a bound is reached.
    async fn read(
        &mut self,
        host: &Host,
        filter: &MachineActionFilter,
        patience: WaitOptions,
    ) -> Result<(), CallError> {
        loop {
            self.survey.reads += 1;
            let page =
                host.list_machine_actions(filter, self.bounds.page, self.skip, patience.clone());
            match page.await {
                Ok(page) => {
                    if !self.add(page) {
                        return Ok(());
                    }
                }
                Err(error)
                    if matches!(error.reason(), Some(Reason::RateLimited(_)))
                        && self.may_read() => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What was read so far, and where the next page begins.
struct Pages {
    bounds: Bounds,
    survey: Survey,
    /// Where each action stands, by its id.
    places: HashMap<String, usize>,
    skip: u32,
    /// Whether the next page should begin with what was read before.
    overlaps: bool,
}

impl Pages {
    fn new(bounds: Bounds, began: Timestamp) -> Self {
        Self {
            bounds,
            survey: Survey {
                actions: Vec::new(),
                reads: 0,
                is_cut: false,
                oldest: None,
                newest: None,
                began,
            },
            places: HashMap::new(),
            skip: 0,
            overlaps: false,
        }
    }

    /// Takes a page in, and says whether there is to be another.
    fn add(&mut self, page: MachineActionPage) -> bool {
        let length = page.items.len() as u32;
        let mut meets = false;
        for action in page.items {
            meets |= self.take(action);
        }
        self.survey.is_cut |= self.overlaps && !meets;
        if !page.truncated {
            return false;
        }
        if length == 0 || !self.may_read() || self.survey.actions.len() >= self.bounds.actions {
            self.survey.is_cut = true;
            return false;
        }
        let overlap = (length / 100).max(1).min(length - 1);
        self.overlaps = overlap > 0;
        self.skip = self.skip.saturating_add(length - overlap);
        true
    }

    const fn may_read(&self) -> bool {
        self.survey.reads < self.bounds.reads
    }

    /// Whether it was there before.
    fn take(&mut self, action: MachineAction) -> bool {
        let survey = &mut self.survey;
        let created = action.creation_date_time_utc.as_deref().map(When::read);
        if let Some(created) = created.and_then(|when| when.at()) {
            survey.oldest = Some(survey.oldest.map_or(created, |oldest| oldest.min(created)));
            survey.newest = survey.newest.max(Some(created));
        }
        let id = action.id.to_ascii_lowercase();
        match self.places.get(&id) {
            Some(place) => {
                survey.actions[*place] = action;
                true
            }
            None => {
                self.places.insert(id, survey.actions.len());
                survey.actions.push(action);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use defender_host::bindings::{ActionStatus, ActionType};

    fn action(n: u32) -> MachineAction {
        MachineAction {
            creation_date_time_utc: Timestamp::from_second(n.into()).ok().map(|t| t.to_string()),
            ..MachineAction::blank(
                &format!("a{n}"),
                ActionType::RestrictCodeExecution,
                ActionStatus::Succeeded,
            )
        }
    }

    fn page(numbers: &[u32], truncated: bool) -> MachineActionPage {
        MachineActionPage {
            items: numbers.iter().copied().map(action).collect(),
            truncated,
        }
    }

    fn pages(reads: usize, actions: usize, page: u32) -> Pages {
        let bounds = Bounds {
            reads,
            actions,
            page,
        };
        Pages::new(bounds, Timestamp::UNIX_EPOCH)
    }

    /// Reads a list that `change` changes after each page.
    fn read(pages: &mut Pages, list: &mut Vec<u32>, mut change: impl FnMut(&mut Vec<u32>)) {
        loop {
            pages.survey.reads += 1;
            let rest = list.get(pages.skip as usize..).unwrap_or_default();
            let top = rest.len().min(pages.bounds.page as usize);
            if !pages.add(page(&rest[..top], rest.len() >= pages.bounds.page as usize)) {
                return;
            }
            change(list);
        }
    }

    fn numbers(pages: &Pages) -> Vec<u32> {
        let ids = pages.survey.actions.iter().map(|action| &action.id[1..]);
        ids.map(|id| id.parse().unwrap()).collect()
    }

    #[test]
    fn pages_overlap_by_a_hundredth_and_what_is_on_two_is_kept_once() {
        let mut pages = pages(20, 20_000, 1000);
        let mut list: Vec<u32> = (0..2500).rev().collect();
        read(&mut pages, &mut list, |_| {});
        assert_eq!((pages.survey.reads, pages.skip), (3, 1980));
        assert_eq!(numbers(&pages), list);
        assert!(!pages.survey.is_cut);
        assert_eq!(pages.survey.newest.unwrap().as_second(), 2499);
        assert_eq!(pages.survey.oldest.unwrap().as_second(), 0);
    }

    #[test]
    fn what_a_later_page_says_of_an_action_takes_the_place_of_what_an_earlier_one_said() {
        let mut pages = pages(20, 20_000, 2);
        pages.survey.reads = 1;
        assert!(pages.add(page(&[2, 1], true)));
        let mut changed = page(&[1, 0], false);
        changed.items[0].status = ActionStatus::Cancelled;
        changed.items[0].id = "A1".to_owned();
        assert!(!pages.add(changed));
        let statuses: Vec<_> = pages
            .survey
            .actions
            .iter()
            .map(|a| a.status.as_str())
            .collect();
        assert_eq!(statuses, ["Succeeded", "Cancelled", "Succeeded"]);
    }

    #[test]
    fn a_bound_that_is_reached_is_a_cut_unless_the_list_ends_there() {
        for (length, reads, actions, is_cut, got) in [
            (20, 2, 1000, true, 19),
            (19, 2, 1000, true, 19),
            (18, 2, 1000, false, 18),
            (50, 9, 20, true, 28),
            (9, 1, 1000, false, 9),
            (10, 1, 1000, true, 10),
            (0, 1, 1, false, 0),
        ] {
            let mut pages = pages(reads, actions, 10);
            read(&mut pages, &mut (0..length).rev().collect(), |_| {});
            let read = (pages.survey.is_cut, pages.survey.actions.len());
            assert_eq!(read, (is_cut, got), "{length} {reads} {actions}");
        }
    }

    #[test]
    fn a_page_that_says_that_there_is_more_and_has_nothing_ends_it() {
        let mut pages = pages(20, 20_000, 10);
        pages.survey.reads = 1;
        assert!(!pages.add(page(&[], true)));
        assert!(pages.survey.is_cut);
    }

    #[test]
    fn a_page_that_does_not_begin_where_the_last_one_ended_is_a_cut() {
        let mut pages = pages(20, 20_000, 10);
        let mut list: Vec<u32> = (0..30).rev().collect();
        read(&mut pages, &mut list, |list| {
            list.drain(..3);
        });
        assert!(pages.survey.is_cut);
        assert!(numbers(&pages).len() < 30);
    }

    proptest! {
        /// Whatever comes and goes meanwhile: what stays is read, or it is said that some may not
        /// have been.
        #[test]
        fn nothing_that_stays_is_missed_without_a_word(
            length in 0..60u32,
            page in 2..15u32,
            changes in proptest::collection::vec((0..4u32, 0..4usize, any::<bool>()), 0..40),
            is_newest_first in any::<bool>(),
        ) {
            let mut list: Vec<u32> = (0..length).collect();
            if is_newest_first {
                list.reverse();
            }
            let mut stays = list.clone();
            let (mut next, mut changes) = (length, changes.into_iter());
            let mut pages = pages(1000, 1000, page);
            read(&mut pages, &mut list, |list| {
                let Some((created, gone, at_front)) = changes.next() else { return };
                for _ in 0..created {
                    list.insert(if is_newest_first { 0 } else { list.len() }, next);
                    next += 1;
                }
                for _ in 0..gone.min(list.len()) {
                    let id = list.remove(if at_front { 0 } else { list.len() - 1 });
                    stays.retain(|stay| *stay != id);
                }
            });
            let got = numbers(&pages);
            let mut once = got.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), got.len());
            let has_all = stays.iter().all(|id| got.contains(id));
            prop_assert!(has_all || pages.survey.is_cut, "{:?} of {:?}", got, stays);
        }
    }
}
