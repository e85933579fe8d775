//! Many devices, released (or restricted) and followed until it is known how it ended.
//!
//! The POST is not idempotent, and the service answers a duplicate in two ways. So:
//!
//! - What certainly did not leave, or was put off, is sent again, with growing pauses.
//! - What may have arrived is looked up among the machine's actions first, and repeated only where
//!   it is not there when a new action must have become visible. A random reference at the end of
//!   each comment makes the run's own actions recognisable.
//! - Where an action like it is under way, that one is adopted; where the opposite one is, it is
//!   reported and not overtaken, unless that was asked for.
//! - Each step is in the [journal](crate::journal) before and after it happens, so that a run that
//!   was killed goes on without losing or repeating one.
//! - Accepted actions are followed by readings that answer for a hundred at a time.
//!
//! What is next is decided in `scheduler`, without time or effects of its own; here it is done.

mod circuit_breaker;
mod scheduler;

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

pub use crate::entry::{Action, Entry, Outcome, Problem, State, Verdict};

use self::scheduler::{Event, Read, Rules, Scheduler, Wanted};
use crate::action_kind::ActionKind;
use crate::journal::{Begun, Call, Journal, JournalError};
use crate::list_actions::{self, Bounds};
use defender_core::clock::Moment;
use defender_core::operation::Operation;
use defender_host::bindings::{MachineAction, Reason};
use defender_host::boundary::waiting::{Cause, OnWait, Waiting};
use defender_host::{BeforeSend, CallError, Host, TOKEN_RETRY_RUN, WaitOptions};

/// How many requests are under way at one time, unless it is said. The quota sets the pace; this
/// only bounds what is in flight.
pub const AT_ONCE: usize = 8;

/// From which share of answers that went wrong on it pauses, unless it is said: per cent.
pub const PAUSE_ABOVE: u8 = 50;

/// The most characters of a comment: what the contract allows, less the reference that is added.
pub const COMMENT_MAX: usize = 4096 - 15;

/// Why nothing was sent for a device.
const STOPPED: &str = "stopped before it was sent";
const TOO_LATE: &str = "the deadline came before it was sent";

/// How far an accepted action is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Not at all.
    Not,
    /// For so long, from the moment it was accepted.
    For(Duration),
    /// Until it has ended, or the run's deadline.
    ToTheEnd,
}

/// How a run is driven.
#[derive(Clone)]
pub struct Plan {
    /// How far accepted actions are followed.
    pub follow: Follow,
    /// When all of it is to be over. What the quota would put off until after that is not sent, and
    /// nothing is followed any longer. `None`: it takes as long as it takes.
    pub deadline: Option<Moment>,
    /// How many requests may be under way at one time: [`AT_ONCE`].
    pub at_once: usize,
    /// From which share of answers that went wrong on it pauses: [`PAUSE_ABOVE`]; 100 is never.
    pub pause_above: u8,
    /// What else is said of an error, to those who can do something about it.
    pub advice: fn(&CallError) -> Option<String>,
}

impl Plan {
    /// With the defaults.
    pub const fn new(follow: Follow) -> Self {
        Self {
            follow,
            deadline: None,
            at_once: AT_ONCE,
            pause_above: PAUSE_ABOVE,
            advice: |_| None,
        }
    }
}

/// Why a comment can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommentError {
    /// Nothing in it can be seen.
    #[error("the comment is blank; say why, for the record of each action")]
    Blank,
    /// It is too long.
    #[error("the comment has {0} characters, and at most {COMMENT_MAX} are sent")]
    TooLong(usize),
    /// It holds something else than text.
    #[error("the comment has the control character {0:?}; only tabs and line breaks are sent")]
    Control(char),
}

/// A comment that has room for the reference. By the contract's rules, of which the plugin can't see
/// the first kept once the reference stands behind it: not blank, not too long, and no control
/// characters but tabs and line breaks.
pub fn check_comment(comment: &str) -> Result<(), CommentError> {
    let is_sent = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    let length = comment.chars().count();
    match comment.chars().find(|c| !is_sent(*c)) {
        _ if comment.chars().all(is_blank) => Err(CommentError::Blank),
        _ if length > COMMENT_MAX => Err(CommentError::TooLong(length)),
        Some(control) => Err(CommentError::Control(control)),
        None => Ok(()),
    }
}

/// Whether a character leaves nothing to be seen where it stands: it has the property White_Space
/// (Unicode, PropList.txt) or Default_Ignorable_Code_Point (DerivedCoreProperties.txt), or is one of
/// the three marks of an interlinear annotation. What the contract calls blank.
const fn is_blank(c: char) -> bool {
    c.is_whitespace()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// What cannot be read, and what is done instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreadable {
    /// The service rejects a filter by id. Each action is read by itself.
    ByIds,
    /// The service rejects the reading of one action. The actions of all devices are listed.
    Each,
    /// The service rejects the filter of a list. A simpler one is tried.
    Filter,
    /// The service rejects every list. What is under way already can't be seen.
    Lists,
    /// Nothing can be read: neither what is under way already, nor how an action ends.
    All,
}

impl Unreadable {
    /// One word for it, for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ByIds => "filter-by-id",
            Self::Each => "single-action",
            Self::Filter => "filter",
            Self::Lists => "list",
            Self::All => "everything",
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ByIds => {
                "machine actions cannot be listed by their ids, so each is read by itself"
            }
            Self::Each => {
                "machine actions cannot be read by themselves, so those of all devices are listed"
            }
            Self::Filter => {
                "the service rejected a filter of machine actions, so a simpler one is used"
            }
            Self::Lists => {
                "machine actions cannot be listed, so the run cannot see what is already in progress"
            }
            Self::All => {
                "machine actions cannot be read, so the run cannot see what is already in progress, \
                 or how an action ends"
            }
        })
    }
}

/// Is told what happens, as it happens.
pub trait Reporter: Send + Sync {
    /// The run waits: with one device's request, or with what concerns no device.
    fn waiting(&self, entry: Option<&Entry>, waiting: &Waiting);

    /// So many calls are under way now, or wait for the quota.
    fn calls(&self, under_way: usize);

    /// A device stands otherwise than before.
    fn changed(&self, entry: &Entry);

    /// This device is done with, for now.
    fn finished(&self, entry: &Entry, outcome: Outcome);

    /// Something cannot be read for the rest of the run.
    fn unreadable(&self, what: Unreadable, why: &CallError);
}

/// How a run ended, or was interrupted.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The devices, in their order.
    pub entries: Vec<Entry>,
    /// Whether accepted actions were followed.
    pub follows: bool,
    /// Why not all were sent for, where it is the same for all of them.
    pub hopeless: Option<CallError>,
    /// Why the journal may lack something. What was done is not affected.
    pub unwritten: Option<JournalError>,
}

impl Finished {
    /// What is said of each device, in their order.
    pub fn outcomes(&self) -> impl Iterator<Item = Outcome> {
        self.entries.iter().map(|entry| entry.outcome(self.follows))
    }
}

/// Drives a run on from where it stands, to its end.
///
/// Where a call could not even be tried, for a reason that will not be better for the next device
/// (no token, a connection that the policy denies, a service that never answered, a quota that
/// others have used up each time, a journal that can't be written), no further one is begun.
///
/// When `stop` becomes true, what is in flight is brought to its answer, and nothing else is begun
/// or followed.
///
/// Fails only where nothing was done, because the journal can't be written.
pub async fn drive(
    host: &Host,
    journal: &Journal,
    entries: Vec<Entry>,
    plan: &Plan,
    reporter: Arc<dyn Reporter>,
    stop: watch::Receiver<bool>,
) -> Result<Finished, JournalError> {
    let run = journal.run();
    let rules = Rules {
        kind: run.kind,
        nonce: run.nonce,
        override_pending: run.override_pending,
        follow: plan.follow,
        deadline: plan.deadline,
        at_once: plan.at_once,
        pause_above: plan.pause_above,
        advice: plan.advice,
    };
    journal.end(None, None).await?;
    let (ask, asked) = mpsc::unbounded_channel();
    let drive = Drive {
        host: host.clone(),
        journal: journal.clone(),
        deadline: plan.deadline,
        reporter,
        stop,
        ask,
        no_token: Arc::default(),
    };
    let mut book = Scheduler::new(rules, entries, host.clock().now());
    drive.to_the_end(&mut book, asked).await;
    let at = Some(host.clock().wall());
    let why = book.hopeless().map(ToString::to_string);
    let unwritten = journal.end(at, why).await.err();
    Ok(Finished {
        entries: book.entries().to_vec(),
        follows: plan.follow != Follow::Not,
        hopeless: book.hopeless().cloned(),
        unwritten,
    })
}

/// A request that was under way.
struct Sent {
    n: usize,
    /// How often it may have left, and when it did last.
    sends: u32,
    sent: Option<Timestamp>,
    result: Result<MachineAction, CallError>,
}

type Actions = (Vec<MachineAction>, bool);
type Reading = Pin<Box<dyn Future<Output = Result<Actions, CallError>> + Send>>;

#[derive(Clone)]
struct Drive {
    host: Host,
    journal: Journal,
    deadline: Option<Moment>,
    reporter: Arc<dyn Reporter>,
    stop: watch::Receiver<bool>,
    ask: mpsc::UnboundedSender<Asked>,
    /// Why there is no token at the moment.
    no_token: Arc<Mutex<Option<Cause>>>,
}

/// A device whose request has its permit: whether it may leave.
type Asked = (usize, oneshot::Sender<bool>);

impl Drive {
    async fn to_the_end(&self, book: &mut Scheduler, mut asked: mpsc::UnboundedReceiver<Asked>) {
        let clock = Arc::clone(self.host.clock());
        let mut sends: JoinSet<Sent> = JoinSet::new();
        let mut reading: Option<(Read, Moment, Reading)> = None;
        let mut stop = self.stop.clone();
        let mut is_closed = false;
        let (mut told, mut calls) = (None, 0);
        loop {
            let now = clock.now();
            let is_late = self.deadline.is_some_and(|deadline| now >= deadline);
            if !is_closed && (is_late || *self.stop.borrow()) {
                is_closed = true;
                let no_token = self.no_token().clone();
                book.close(if is_late { TOO_LATE } else { STOPPED }, no_token, now);
                if let Some((read, began, _)) = reading.take() {
                    book.was_read(&read, began, &Err(CallError::Stopped), now);
                }
            }
            while let Some(n) = book.next_send(now) {
                let (entry, reference) = (book.entries()[n].clone(), book.reference(n));
                let drive = self.clone();
                sends.spawn(async move { drive.send(n, entry, reference).await });
            }
            if reading.is_none()
                && let Some(read) = book.next_read(now)
            {
                let wanted = book.wanted(&read);
                let drive = self.clone();
                let begun = Box::pin(async move { drive.read(wanted).await });
                reading = Some((read, now, begun));
            }
            let news = book.news();
            if !news.is_empty() {
                self.tell(book, news);
                continue;
            }
            if book.is_over() {
                return;
            }
            let under_way = sends.len() + usize::from(reading.is_some());
            if under_way != calls {
                calls = under_way;
                self.reporter.calls(calls);
            }
            let waits = book.waits(now);
            if let (Some((cause, until)), true) = (&waits, waits != told) {
                let until = Some(self.host.calendar(*until));
                let cause = cause.clone();
                self.reporter.waiting(None, &Waiting { cause, until });
            }
            told = waits;
            let wake = [book.wake(now), self.deadline.filter(|_| !is_closed)];
            let wake = wake.into_iter().flatten().min();
            tokio::select! {
                biased;
                Ok(_) = stop.wait_for(|stop| *stop), if !is_closed => {}
                Some(sent) = sends.join_next(), if !sends.is_empty() => {
                    // A task that panics takes the run with it: what it knew is lost.
                    let Sent { n, sends, sent, result } = match sent {
                        Ok(sent) => sent,
                        Err(error) => std::panic::resume_unwind(error.into_panic()),
                    };
                    book.answered(n, sends, sent, &result, clock.now());
                }
                Some((n, answer)) = asked.recv() => {
                    // Who does not wait for it any more does not send.
                    let _ = answer.send(book.may_leave(n, clock.now()));
                }
                result = next(&mut reading) => {
                    if let Some((read, began, _)) = reading.take() {
                        book.was_read(&read, began, &result, clock.now());
                    }
                }
                () = wait(&*clock, wake) => {}
            }
        }
    }

    /// Notes what changed, and tells of it.
    fn tell(&self, book: &Scheduler, news: Vec<Event>) {
        let at = self.host.clock().wall();
        let follows = book.follows();
        for news in news {
            match news {
                Event::Changed(n) => {
                    let entry = &book.entries()[n];
                    self.journal.note(n, entry, at);
                    self.reporter.changed(entry);
                }
                Event::Left(n) => {
                    let entry = &book.entries()[n];
                    self.reporter.finished(entry, entry.outcome(follows));
                }
                Event::Paused(until, wrong, of) => {
                    let pause = Waiting {
                        cause: Cause::Pause { wrong, of },
                        until: Some(self.host.calendar(until)),
                    };
                    self.reporter.waiting(None, &pause);
                }
                Event::Unreadable(what, why) => {
                    tracing::warn!(%why, "{what}");
                    self.reporter.unreadable(what, &why);
                }
                Event::Hopeless(why) => tracing::warn!(%why, "nothing more is sent"),
            }
        }
    }

    /// Sends for one device. That it may have left is in the journal before it does.
    async fn send(self, n: usize, entry: Entry, reference: String) -> Sent {
        let run = self.journal.run();
        let (kind, comment) = (run.kind, format!("{} [{reference}]", run.comment));
        let machine = entry.machine.clone();
        let on_wait = self.on_wait(Some(entry.clone()));
        let sending = Arc::new(Mutex::new(Sending {
            entry,
            sends: 0,
            sent: None,
            call: None,
            is_put_off: false,
        }));
        let patience = WaitOptions {
            stop: Some(self.stop.clone()),
            on_wait: Some(on_wait),
            consent: Some(self.sending(n, &sending)),
            ..self.patience()
        };
        let result = match kind {
            ActionKind::Release => {
                let call =
                    self.host
                        .unrestrict_code_execution(machine.as_str(), &comment, patience);
                call.await
            }
            ActionKind::Restrict => {
                let call = self
                    .host
                    .restrict_code_execution(machine.as_str(), &comment, patience);
                call.await
            }
        };
        let sending = sending.lock().unwrap_or_else(PoisonError::into_inner);
        self.answered(sending.call, result.as_ref().map(|_| ()));
        let result = match sending.is_put_off {
            true => Err(CallError::Stopped),
            false => result,
        };
        Sent {
            n,
            sends: sending.sends,
            sent: sending.sent,
            result,
        }
    }

    /// Reads one action, or what a filter lets through, page after page.
    async fn read(self, wanted: Wanted) -> Result<Actions, CallError> {
        let call = Arc::new(Mutex::new(None));
        let operation = match &wanted {
            Wanted::List(_) => Operation::ListMachineActions,
            Wanted::Action(_) => Operation::GetMachineAction,
        };
        let patience = WaitOptions {
            on_wait: Some(self.on_wait(None)),
            consent: Some(self.reading(operation, &call)),
            ..self.patience()
        };
        let read = match &wanted {
            Wanted::List(filter) => {
                let survey =
                    list_actions::survey(&self.host, filter, Bounds::default(), patience).await;
                survey.map(|survey| (survey.actions, survey.is_cut))
            }
            Wanted::Action(id) => {
                let action = self.host.get_machine_action(id, patience).await;
                action.map(|action| (vec![action], false))
            }
        };
        let call = *call.lock().unwrap_or_else(PoisonError::into_inner);
        self.answered(call, read.as_ref().map(|_| ()));
        read
    }

    /// How long a run waits: until its deadline, or else for a token for [`TOKEN_RETRY_RUN`].
    fn patience(&self) -> WaitOptions {
        WaitOptions {
            until: self.deadline,
            token_retry: self.deadline.is_none().then_some(TOKEN_RETRY_RUN),
            ..WaitOptions::default()
        }
    }

    fn on_wait(&self, entry: Option<Entry>) -> OnWait {
        let drive = self.clone();
        Arc::new(move |waiting: Waiting| {
            if matches!(waiting.cause, Cause::Token(_)) {
                *drive.no_token() = Some(waiting.cause.clone());
            }
            drive.reporter.waiting(entry.as_ref(), &waiting);
        })
    }

    fn no_token(&self) -> MutexGuard<'_, Option<Cause>> {
        self.no_token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks whether a request may still leave, and writes down that it is about to.
    fn sending(&self, n: usize, sending: &Arc<Mutex<Sending>>) -> BeforeSend {
        let (drive, sending) = (self.clone(), Arc::clone(sending));
        Arc::new(move || {
            let (drive, sending) = (drive.clone(), Arc::clone(&sending));
            Box::pin(async move {
                // A call has its token before it asks.
                *drive.no_token() = None;
                if !drive.may_leave(n).await {
                    let mut sending = sending.lock().unwrap_or_else(PoisonError::into_inner);
                    sending.is_put_off = true;
                    return Err("it is not to leave yet".to_owned());
                }
                let kind = drive.journal.run().kind;
                let call = drive.call(kind.operation(), Some(n));
                let began = call.began;
                let mut entry = {
                    let sending = sending.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut entry = sending.entry.clone();
                    entry.sends += sending.sends;
                    entry
                };
                entry.state = State::Sending;
                entry.sends += 1;
                entry.sent = Some(began);
                let begun = drive.journal.begin(call, Some((n, entry))).await;
                let begun = begun.map_err(|error| error.to_string())?;
                let mut sending = sending.lock().unwrap_or_else(PoisonError::into_inner);
                sending.sends += 1;
                sending.sent = Some(began);
                // Once more only where the first was refused for its token.
                let first = sending.call.replace(begun);
                if let Some(first) = first {
                    drive
                        .journal
                        .note_answer(first, began, "unauthorized", true);
                }
                Ok(())
            })
        })
    }

    async fn may_leave(&self, n: usize) -> bool {
        let (answer, answered) = oneshot::channel();
        self.ask.send((n, answer)).is_ok() && answered.await.unwrap_or(false)
    }

    /// Writes down that something is read.
    fn reading(&self, operation: Operation, begun: &Arc<Mutex<Option<Begun>>>) -> BeforeSend {
        let (drive, begun) = (self.clone(), Arc::clone(begun));
        Arc::new(move || {
            let (drive, begun) = (drive.clone(), Arc::clone(&begun));
            Box::pin(async move {
                *drive.no_token() = None;
                let call = drive.call(operation, None);
                let call = drive.journal.begin(call, None).await;
                let call = call.map_err(|error| error.to_string())?;
                let mut begun = begun.lock().unwrap_or_else(PoisonError::into_inner);
                // There is another page only where one was read.
                drive.answered(begun.replace(call), Ok(()));
                Ok(())
            })
        })
    }

    fn call(&self, operation: Operation, device: Option<usize>) -> Call {
        Call {
            operation,
            device,
            began: self.host.clock().wall(),
            ended: None,
            result: None,
            left: true,
        }
    }

    fn answered(&self, call: Option<Begun>, result: Result<(), &CallError>) {
        if let Some(call) = call {
            let (name, left) = call_result_name(result);
            let now = self.host.clock().wall();
            self.journal.note_answer(call, now, name, left);
        }
    }
}

/// A device that is sent for.
struct Sending {
    /// As it stood before.
    entry: Entry,
    /// How often it may have left since, when it did last, and where that is written.
    sends: u32,
    sent: Option<Timestamp>,
    call: Option<Begun>,
    /// It was not to leave yet.
    is_put_off: bool,
}

/// Completes with the reading that is under way; without one, never.
async fn next(reading: &mut Option<(Read, Moment, Reading)>) -> Result<Actions, CallError> {
    match reading {
        Some((_, _, reading)) => reading.await,
        None => std::future::pending().await,
    }
}

async fn wait(clock: &dyn defender_core::clock::Clock, until: Option<Moment>) {
    match until {
        Some(until) => clock.sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// What came of a call, in a word, and whether it may have left. What did not gave back what it had
/// of the quota.
const fn call_result_name(result: Result<(), &CallError>) -> (&'static str, bool) {
    let Err(error) = result else {
        return ("ok", true);
    };
    match error {
        CallError::Answered { error, .. } => {
            let stayed = matches!(
                error.reason,
                Reason::InvalidArgument(_) | Reason::Denied | Reason::Unavailable
            );
            (error.reason.name(), !stayed)
        }
        CallError::Identity(_) => ("no-token", false),
        CallError::Quota { .. } => ("quota", false),
        CallError::Ledger(_) => ("ledger", false),
        CallError::Stopped => ("stopped", false),
        CallError::Aborted(_) => ("withheld", false),
        CallError::TokenEchoed { .. } => ("token-echoed", true),
        CallError::Audit(_) => ("audit", false),
        CallError::TimedOut { .. } => ("timed-out", true),
        CallError::Fault { .. } => ("fault", true),
        CallError::PluginContradicted => ("plugin-contradicted", false),
    }
}
