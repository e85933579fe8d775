//! The ledger that machines share: a Redis or Valkey server.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, Value};

use self::connection::{Failure, Link, Place};
use self::protocol::{Answer, budget, micros_up, question, response};
use super::store_thread::{OWED_MAX, Request, Response, Store, Worker};
use super::{Ask, Key, LOSS, LedgerError, LedgerProblem, QuotaStore, Reading, Reply, Update};
use defender_core::clock::{Clock, Moment};

mod connection;
mod protocol;

/// The format's number.
const FORMAT: u32 = 1;

/// How much further than this machine's clock the server's may have gone between two decisions,
/// besides a thousandth of the time: both are read in whole microseconds, by programs that others
/// interrupt.
const STEP: Duration = Duration::from_millis(10);

/// How often a key that is not there is made before it is given up.
const TRIES: usize = 3;

/// Which keys there are, and since when calls may be missing. Without expiry, like all that is kept.
const LEDGER: &str = "host-demo:ledger";

/// Remembers calls on a Redis (6 or newer) or Valkey server, for all machines that name the same
/// one.
///
/// Each decision is one script, run by the server on its own time, so the clocks of those who share
/// it need not agree. A full key (1,500 calls) takes 16 KB of its memory.
///
/// Redis acknowledges before what it was told is safe. What it may have lost is therefore taken for
/// used:
///
/// - After a restart or a failover, the calls of the shortest window: a minute's quota, which counts
///   from the moment at which the service can have counted the last of them.
/// - Where no append-only file is written, everything: no call is admitted for one whole window.
/// - Likewise where a key or the whole ledger is gone, and when a ledger is begun, which looks the
///   same. [`reopen`](QuotaStore::reopen) overrides it.
/// - Likewise when the server's clock was set forward, as far as somebody who goes on asking notices:
///   it goes a thousandth and 10 ms further than one's own does in the same time.
///
/// A server's clock that was set back stands still until it has caught up; no call goes too early for
/// that, but the times that are told until then are too early.
///
/// A server that may evict keys is refused, and so is a replica. What can't be seen: a restart
/// behind a proxy that keeps the connection; a replica that was more than the shortest window behind
/// when it took over; two servers that both believe to be the primary; an eviction policy or an
/// append-only file that is changed while all are connected; single keys that somebody deletes by
/// hand; and a clock that was set forward while nobody asked, or by less than a thousandth of the
/// time since somebody did.
///
/// The server's user needs no more than `~host-demo:* +@read +@write +@scripting +time +info`.
pub struct Redis(Worker);

/// How a server is used. It has no `Debug`, for the password's sake.
#[derive(Clone, Default)]
pub struct RedisOptions {
    /// The password, which is never part of an address.
    pub password: Option<String>,
    /// The certificate authorities to trust instead of the system's, in PEM. For `rediss://`.
    pub authorities: Option<Vec<u8>>,
    /// How long it may take to connect, and how long the server may take to answer, if not 3 s.
    pub timeout: Option<Duration>,
    /// Whose time counts instead of the server's. Those who share a ledger have to share it too: for
    /// clocks that run faster, and tests.
    pub time: Option<Arc<dyn Clock>>,
}

impl Redis {
    /// Connects to `redis://host:port/database`, over TLS with `rediss://`. Port and database can be
    /// left out; a user who is not the server's default one is named before the host:
    /// `rediss://user@host`.
    ///
    /// What is not there is made.
    pub fn open(
        url: &str,
        options: RedisOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LedgerError> {
        Server::open(url, options, clock).map(|server| Self(Worker::start(server)))
    }
}

#[async_trait]
impl QuotaStore for Redis {
    async fn ask(&self, key: &Key, ask: Ask) -> Result<Reply, LedgerError> {
        self.0.ask(key, ask).await
    }

    fn tell(&self, key: &Key, news: Update) {
        self.0.tell(key, news);
    }

    async fn read(&self) -> Result<Reading, LedgerError> {
        self.0.read().await
    }

    async fn reopen(&self) -> Result<(), LedgerError> {
        self.0.reopen().await
    }
}

struct Server {
    place: Place,
    clock: Arc<dyn Clock>,
    time: Option<Arc<dyn Clock>>,
    link: Option<Link>,
    /// What the present requests asked for.
    asked: Vec<Asked>,
    /// What was asked for in vain: nobody knows whether it was had, and nobody uses it.
    undo: Vec<Asked>,
    marks: HashMap<Key, Mark>,
}

/// A slot that was asked for, or a place in the queue for it.
#[derive(Clone)]
struct Asked {
    key: Key,
    slot: u64,
    holder: u64,
}

/// What the two clocks said at one decision on a key.
#[derive(Clone, Copy)]
struct Mark {
    /// Before it.
    here: Moment,
    there: u64,
}

impl Server {
    fn open(url: &str, options: RedisOptions, clock: Arc<dyn Clock>) -> Result<Self, LedgerError> {
        let place = Place::new(url, &options)?;
        let mut server = Self {
            place,
            clock,
            time: options.time,
            link: None,
            asked: Vec::new(),
            undo: Vec::new(),
            marks: HashMap::new(),
        };
        let link = server.connect()?;
        server.link = Some(link);
        Ok(server)
    }

    fn connect(&self) -> Result<Link, Failure> {
        let mut link = self.place.connect()?;
        self.find_ledger(&mut link)?;
        Ok(link)
    }

    /// Makes it where it is not there, and refuses one that is not understood.
    fn find_ledger(&self, link: &mut Link) -> Result<(), Failure> {
        let [run, keeps_most] = link.run();
        let arguments = [FORMAT.to_string(), run, keeps_most];
        let ledger = self.task(link, "ledger", &[LEDGER], &arguments);
        let (found, is_new): (u32, bool) = self.place.one(link, ledger)?;
        if found > FORMAT {
            let known = FORMAT;
            let newer = LedgerProblem::Newer { found, known };
            return Err(Failure::Other(self.place.error(newer)));
        }
        if is_new {
            tracing::warn!(
                ledger = self.place.name(),
                "the ledger is new or was lost: no call is admitted for one whole window"
            );
        }
        Ok(())
    }

    fn attempt(&mut self, link: &mut Link, requests: &[Request]) -> Result<Vec<Response>, Failure> {
        let mut responses = Vec::with_capacity(requests.len());
        let is_of_key = |request: &Request| key_of(request).is_some();
        for together in requests.chunk_by(|one, next| is_of_key(one) && is_of_key(next)) {
            match together {
                [Request::Read] => responses.push(Response::Read(self.read(link)?)),
                [Request::Reopen] => {
                    self.reopen(link)?;
                    responses.push(Response::Done);
                }
                _ => responses.append(&mut self.play(link, together)?),
            }
        }
        Ok(responses)
    }

    /// Requests that are about keys, in their order. Again for keys that have to be made first, or
    /// that had to be closed.
    fn play(&mut self, link: &mut Link, requests: &[Request]) -> Result<Vec<Response>, Failure> {
        let mut responses = vec![Response::Done; requests.len()];
        let mut pending: Vec<(usize, &Key)> = requests
            .iter()
            .enumerate()
            .filter_map(|(at, request)| Some((at, key_of(request)?)))
            .collect();
        for _ in 0..TRIES {
            let mut commands: Vec<Cmd> = self
                .undo
                .iter()
                .map(|of| {
                    let arguments = [of.slot.to_string(), of.holder.to_string()];
                    self.task(link, "undo", &names(&of.key), &arguments)
                })
                .collect();
            let undone = commands.len();
            let before = self.clock.now();
            for (at, _) in &pending {
                commands.extend(self.command(link, &requests[*at], before)?);
            }
            let mut answers: Vec<Answer> = self.place.all(link, &commands)?;
            let after = self.clock.now();
            self.undo.clear();

            let (mut unknown, mut stepped) = (BTreeSet::new(), BTreeSet::new());
            let mut seen: BTreeMap<&Key, u64> = BTreeMap::new();
            for ((at, key), (word, numbers)) in pending.iter().zip(answers.drain(undone..)) {
                let (there, noted) = match (word.as_str(), numbers.as_slice()) {
                    ("unknown", _) => {
                        if matches!(
                            requests[*at],
                            Request::Ask(..) | Request::Tell(_, Update::ClosedUntil(_))
                        ) {
                            unknown.insert(*key);
                        }
                        continue;
                    }
                    (_, [there, noted, ..]) => (*there, *noted),
                    _ => return Err(self.misunderstood()),
                };
                if let Some(mark) = self.marks.get(key)
                    && mark.there > noted
                    && is_stepped(*mark, after, there)
                {
                    stepped.insert(*key);
                }
                seen.insert(key, there);
                responses[*at] =
                    response(&word, &numbers, after).ok_or_else(|| self.misunderstood())?;
            }
            for (key, there) in seen {
                let here = before;
                self.marks.insert(key.clone(), Mark { here, there });
            }
            for key in &unknown {
                self.make(link, key)?;
            }
            for key in &stepped {
                self.lose(link, key)?;
            }
            pending.retain(|(at, key)| {
                unknown.contains(key)
                    || stepped.contains(key) && matches!(requests[*at], Request::Ask(..))
            });
            if pending.is_empty() {
                return Ok(responses);
            }
        }
        let problem = "its keys vanish as soon as they are made".to_owned();
        let problem = LedgerProblem::Unsafe(problem);
        Err(Failure::Other(self.place.error(problem)))
    }

    fn command(
        &mut self,
        link: &Link,
        request: &Request,
        now: Moment,
    ) -> Result<Option<Cmd>, Failure> {
        Ok(match request {
            Request::Ask(key, ask) => {
                let slot = getrandom::u64().map_err(|e| {
                    let problem = LedgerProblem::Unreachable(format!("no random numbers: {e}"));
                    Failure::Other(self.place.error(problem))
                })?;
                let holder = ask.holder.id;
                self.asked.push(Asked {
                    key: key.clone(),
                    slot,
                    holder,
                });
                Some(self.task(link, "ask", &names(key), &question(ask, slot, link.run())))
            }
            Request::Tell(key, news) => {
                let (task, argument) = match news {
                    Update::Settled(slot, _) => ("settle", slot.0),
                    Update::Cancelled(slot) => ("cancel", slot.0),
                    Update::Left(ticket) => ("leave", ticket.0),
                    Update::ClosedUntil(until) => ("close", micros_up(until.since(now))),
                };
                Some(self.task(link, task, &names(key), &[argument.to_string()]))
            }
            Request::Read | Request::Reopen => None,
        })
    }

    /// Makes a key that is not there. One that has been there is lost.
    ///
    /// It is there before it is registered, and registered before it admits a call: so whoever finds
    /// it registered and not there knows that it was lost, and nobody does while others make it.
    fn make(&self, link: &mut Link, key: &Key) -> Result<(), Failure> {
        self.find_ledger(link)?;
        let field = key.to_string();
        let mut about = redis::cmd("HMGET");
        about.arg(LEDGER);
        about.arg(&["lost", "restarted", "kept_most", &field]);
        let about: (String, String, Option<String>, Option<String>) =
            self.place.one(link, about)?;
        let (mut lost, restarted, kept_most, registered) = about;
        // After a restart as if it had been made before.
        let [run, keeps_most] = match restarted.as_str() {
            "" => link.run(),
            _ => [String::new(), kept_most.unwrap_or_default()],
        };
        if registered.is_some() {
            tracing::warn!(
                ledger = self.place.name(), %key,
                "what was counted is lost: no call is admitted for one whole window"
            );
            "now".clone_into(&mut lost);
        }
        let mut register = redis::cmd("HSET");
        register.arg(LEDGER).arg(&field).arg(1);
        let names = names(key);
        let commands = [
            self.task(link, "create", &names, &[lost, restarted, run, keeps_most]),
            register,
            self.task(link, "register", &names, &[]),
        ];
        self.place.all::<Value>(link, &commands).map(drop)
    }

    /// Closes a key, whose clock was set forward, and takes back what it admitted since.
    fn lose(&mut self, link: &mut Link, key: &Key) -> Result<(), Failure> {
        tracing::warn!(
            ledger = self.place.name(), %key,
            "the server's clock was set forward, so calls may have been forgotten too early: none is \
             admitted for one whole window"
        );
        let of_key = self.asked.extract_if(.., |asked| asked.key == *key);
        self.undo.extend(of_key);
        let lose = self.task(link, "lose", &names(key), &[]);
        self.place.one::<Value>(link, lose).map(drop)
    }

    fn keys(&self, link: &mut Link) -> Result<Vec<Key>, Failure> {
        let mut keys = redis::cmd("HKEYS");
        keys.arg(LEDGER);
        let fields: Vec<String> = self.place.one(link, keys)?;
        Ok(fields.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn reopen(&self, link: &mut Link) -> Result<(), Failure> {
        self.find_ledger(link)?;
        let mut found = redis::cmd("HSET");
        found.arg(LEDGER).arg(&["lost", "", "restarted", ""]);
        let mut commands = vec![found];
        for key in self.keys(link)? {
            let names = names(&key);
            let run = link.run();
            let [start, keeps_most] = run.clone();
            let new = [String::new(), String::new(), start, keeps_most];
            commands.push(self.task(link, "create", &names, &new));
            commands.push(self.task(link, "register", &names, &[]));
            commands.push(self.task(link, "reopen", &names, &run));
        }
        self.place.all::<Value>(link, &commands).map(drop)
    }

    fn read(&self, link: &mut Link) -> Result<Reading, Failure> {
        let keys = self.keys(link)?;
        let commands: Vec<Cmd> = keys
            .iter()
            .map(|key| self.task(link, "read", &names(key), &[]))
            .collect();
        let values: Vec<Value> = self.place.all(link, &commands)?;
        let now = match &self.time {
            Some(clock) => clock.now(),
            None => {
                let (seconds, micros): (u64, u64) = self.place.one(link, redis::cmd("TIME"))?;
                Moment::from_nanos((seconds * 1_000_000 + micros) * 1000)
            }
        };
        let mut lost = redis::cmd("HGET");
        lost.arg(LEDGER).arg("lost");
        let lost: Option<String> = self.place.one(link, lost)?;
        let lost = lost.and_then(|micros| micros.parse::<u64>().ok());
        let lost_until = lost.map(|micros| Moment::from_nanos(micros * 1000) + LOSS);
        let mut reading = Reading {
            now,
            lost_until,
            ..Reading::default()
        };
        for (key, value) in keys.into_iter().zip(values) {
            // One that is not there is made when somebody asks.
            if matches!(&value, Value::Array(parts) if parts.len() == 2) {
                continue;
            }
            let (now, mut budget) = budget(value).ok_or_else(|| self.misunderstood())?;
            // As the next one to ask will find it.
            budget.log.close_for_loss(lost_until.unwrap_or_default());
            reading.now = reading.now.max(now);
            reading.budgets.insert(key, budget);
        }
        Ok(reading)
    }

    fn misunderstood(&self) -> Failure {
        let problem = LedgerProblem::Damaged("an answer is not understood".to_owned());
        Failure::Other(self.place.error(problem))
    }

    fn task(&self, link: &Link, task: &str, keys: &[impl AsRef<str>], arguments: &[String]) -> Cmd {
        let time = self
            .time
            .as_ref()
            .map(|clock| clock.now().as_nanos() / 1000);
        link.task(task, keys, time, arguments)
    }
}

impl Store for Server {
    fn name(&self) -> String {
        self.place.name().to_owned()
    }

    fn handle(&mut self, requests: &[Request]) -> Result<Vec<Response>, LedgerError> {
        loop {
            let is_old = self.link.is_some();
            let mut link = match self.link.take() {
                Some(link) => link,
                None => self.connect()?,
            };
            let result = self.attempt(&mut link, requests);
            if result.is_ok() {
                self.asked.clear();
            }
            self.undo.append(&mut self.asked);
            // The oldest go. Their slots count until they would be forgotten, their places until
            // whoever asked is gone.
            self.undo.drain(..self.undo.len().saturating_sub(OWED_MAX));
            match result {
                // It was closed while nobody asked.
                Err(Failure::Closed(_)) if is_old => {}
                // With it goes the connection: whoever is connected to next may have another role.
                Err(failure) => return Err(failure.into()),
                Ok(responses) => {
                    self.link = Some(link);
                    return Ok(responses);
                }
            }
        }
    }
}

fn key_of(request: &Request) -> Option<&Key> {
    match request {
        Request::Ask(key, _) | Request::Tell(key, _) => Some(key),
        Request::Read | Request::Reopen => None,
    }
}

/// With one hash tag, so that a cluster keeps them together.
fn names(key: &Key) -> [String; 5] {
    ["meta", "settled", "slots", "queue", "holders"]
        .map(|part| format!("host-demo:{{{key}}}:{part}"))
}

/// Whether the server's clock went further since the mark than it can have by itself.
fn is_stepped(mark: Mark, after: Moment, there: u64) -> bool {
    let elapsed = after.since(mark.here);
    let most = elapsed + elapsed / 1000 + STEP;
    Duration::from_micros(there.saturating_sub(mark.there)) > most
}
