//! Where the calls are remembered, and by whom they are shared.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{Ask, KeyState, Reply, Update};
use defender_core::clock::{Clock, Moment};
use defender_core::operation::Operation;
use defender_core::trust::Distrust;

/// What the service counts by: a real 429 names it "Destination+TenantID+AppID".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The tenant.
    pub tenant: String,
    /// The application.
    pub application: String,
    /// The API operation.
    pub operation: Operation,
}

/// As a ledger names it: `tenant/application/operation`, with whatever is neither a letter, a digit
/// nor one of `-._` in the first two escaped as in a URL.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.tenant, &self.application] {
            for byte in part.bytes() {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                        write!(f, "{}", char::from(byte))?;
                    }
                    _ => write!(f, "%{byte:02X}")?,
                }
            }
            f.write_str("/")?;
        }
        write!(f, "{}", self.operation)
    }
}

/// Not the name of a key, or of one that a later version knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no key")]
pub struct NoKey(String);

impl FromStr for Key {
    type Err = NoKey;

    fn from_str(name: &str) -> Result<Self, NoKey> {
        let parse = || {
            let mut parts = name.split('/');
            let (tenant, application) = (unescape(parts.next()?)?, unescape(parts.next()?)?);
            let operation = parts.next()?;
            let operation = Operation::ALL
                .into_iter()
                .find(|known| known.to_string() == operation)?;
            parts.next().is_none().then_some(Self {
                tenant,
                application,
                operation,
            })
        };
        parse().ok_or_else(|| NoKey(name.to_owned()))
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Remembers calls for all who share a quota.
///
/// Whatever a ledger can't be told, counts: a slot that is never settled counts from the latest
/// moment at which the service can have counted it.
#[async_trait]
pub trait QuotaStore: Send + Sync + 'static {
    /// Decides whether a call can be made, and reserves its slot. It is reserved durably before
    /// this completes. A reply that nobody receives, because the future was dropped, is undone.
    ///
    /// Moments in the reply are on the scale of the caller's clock.
    async fn ask(&self, key: &Key, ask: Ask) -> Result<Reply, LedgerError>;

    /// Passes news on, in the order they are told and before anything that is asked later. Does not
    /// wait, and can't fail: what can't be written down counts.
    fn tell(&self, key: &Key, news: Update);

    /// Everything that is known.
    async fn read(&self) -> Result<Reading, LedgerError>;

    /// Opens every key, because the operator overrules it: no call is missing, although what was
    /// counted was lost, and the service takes calls again, although it said not to call.
    async fn reopen(&self) -> Result<(), LedgerError>;
}

/// What a ledger knows, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// That moment. It is on the ledger's own scale, as all moments in it are: what is left of a
    /// wait is the difference.
    pub now: Moment,
    /// Until then a key that is not there may have calls that were lost, and is closed.
    pub lost_until: Option<Moment>,
    /// In the keys' order.
    pub budgets: BTreeMap<Key, KeyState>,
}

/// Which ledger is meant: the word `memory`, a server (`redis://host:6379`, `rediss://…` over TLS)
/// or else a file's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerName {
    /// This process's memory.
    Memory,
    /// An SQLite file.
    File(PathBuf),
    /// A Redis or Valkey server, by its URL. There is no password in it.
    Redis(String),
}

/// Names no ledger. The text is not repeated: it may have a password in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoLedger {
    /// A URL of another kind.
    #[error(
        "a ledger is `memory`, a file, or a server whose URL begins with redis:// or rediss://"
    )]
    Scheme,
    /// There is a password in the URL, which is where it gets seen.
    #[error(
        "the server's URL has a password in it, which is where it gets seen; put it into \
         HOST_DEMO_LEDGER_PASSWORD or a file (--ledger-password-file), and leave the user's name, \
         as in redis://user@host"
    )]
    Password,
}

impl FromStr for LedgerName {
    type Err = NoLedger;

    fn from_str(text: &str) -> Result<Self, NoLedger> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(match text {
                "memory" => Self::Memory,
                path => Self::File(path.into()),
            });
        };
        if !["redis", "rediss"].contains(&scheme) {
            return Err(NoLedger::Scheme);
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        match authority.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => Err(NoLedger::Password),
            _ => Ok(Self::Redis(text.to_owned())),
        }
    }
}

impl Reading {
    /// What is known of a key, as the next one to ask for it will find it.
    pub fn budget(&self, key: &Key) -> KeyState {
        let known = self.budgets.get(key).cloned();
        known.unwrap_or_else(|| self.unused())
    }

    /// What is known of a key that is not there.
    pub fn unused(&self) -> KeyState {
        let mut budget = KeyState::default();
        let log = &mut budget.log;
        log.close_for_loss(self.lost_until.unwrap_or_default());
        budget
    }
}

/// Why a ledger can't be used. Nothing is sent without one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the quotas' ledger, {ledger}, {problem}")]
pub struct LedgerError {
    /// Which: a file's path, or a server's address without its password.
    pub ledger: String,
    /// What is wrong with it, and what to do.
    pub problem: LedgerProblem,
}

/// What is wrong with a ledger, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerProblem {
    /// What was given is no address of one.
    #[error("can't be named like that: {0}")]
    Address(&'static str),
    /// The operating system, the disk or the network refuses.
    #[error("can't be used: {0}; nothing is sent while calls can't be counted")]
    Unreachable(String),
    /// Another user could have changed it.
    #[error("is not used: {0}")]
    Untrusted(Distrust),
    /// Another process has it for too long.
    #[error(
        "has been held by another process for {} s; nothing is sent while calls can't be counted",
        .0.as_secs()
    )]
    Held(Duration),
    /// What is in it is not what was written.
    #[error(
        "is damaged ({0}), and what was counted can't be known: restore it, or begin a new one"
    )]
    Damaged(String),
    /// A later version wrote it.
    #[error(
        "was written by a later version (format {found}; this one knows {known}): update this \
         program, or name another ledger"
    )]
    Newer {
        /// The format's number there.
        found: u32,
        /// The latest that this version knows.
        known: u32,
    },
    /// The file system is shared by machines, and locks are not to be trusted there.
    #[error(
        "lies on a network file system ({0}), where processes can't be kept apart; name one on a \
         local disk, or share a Redis server"
    )]
    NetworkFileSystem(&'static str),
    /// The server is set up such that it can lose what it was told.
    #[error("would lose calls: {0}")]
    Unsafe(String),
}

/// In this process's memory: shared by those who have a clone, forgotten with the last of them.
#[derive(Clone)]
pub struct Memory {
    clock: Arc<dyn Clock>,
    budgets: Arc<Mutex<BTreeMap<Key, KeyState>>>,
}

impl Memory {
    /// An empty one.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            budgets: Arc::default(),
        }
    }

    fn budgets(&self) -> MutexGuard<'_, BTreeMap<Key, KeyState>> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl QuotaStore for Memory {
    async fn ask(&self, key: &Key, ask: Ask) -> Result<Reply, LedgerError> {
        let mut budgets = self.budgets();
        let now = self.clock.now();
        Ok(match budgets.get_mut(key) {
            Some(budget) => budget.ask(&ask, now),
            None => budgets.entry(key.clone()).or_default().ask(&ask, now),
        })
    }

    fn tell(&self, key: &Key, news: Update) {
        if let Some(budget) = self.budgets().get_mut(key) {
            budget.tell(news);
        } else if let Update::ClosedUntil(_) = news {
            self.budgets().entry(key.clone()).or_default().tell(news);
        }
    }

    async fn read(&self) -> Result<Reading, LedgerError> {
        let budgets = self.budgets().clone();
        Ok(Reading {
            now: self.clock.now(),
            lost_until: None,
            budgets,
        })
    }

    /// Nothing is lost here but with the process.
    async fn reopen(&self) -> Result<(), LedgerError> {
        for budget in self.budgets().values_mut() {
            budget.reopen();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reopening_opens_what_a_429_closed() {
        let clock = defender_core::clock::ManualClock::new();
        let ledger = Memory::new(Arc::new(clock.clone()));
        let key = Key {
            tenant: "t".into(),
            application: "a".into(),
            operation: Operation::UnrestrictCodeExecution,
        };
        let until = clock.now() + Duration::from_secs(24 * 3600);
        ledger.tell(&key, Update::ClosedUntil(until));
        let closed_until = async || {
            let reading = ledger.read().await.unwrap();
            reading.budgets[&key].log().closed_until()
        };
        assert_eq!(closed_until().await, until);
        ledger.reopen().await.unwrap();
        assert_eq!(closed_until().await, Moment::ORIGIN);
    }

    #[test]
    fn a_ledger_is_the_memory_a_file_or_a_server_whose_password_is_elsewhere() {
        for (text, name) in [
            ("memory", Ok(LedgerName::Memory)),
            ("./memory", Ok(LedgerName::File("./memory".into()))),
            (
                "/var/lib/x.sqlite",
                Ok(LedgerName::File("/var/lib/x.sqlite".into())),
            ),
            (
                "redis://h:1/0",
                Ok(LedgerName::Redis("redis://h:1/0".to_owned())),
            ),
            (
                "rediss://u@h",
                Ok(LedgerName::Redis("rediss://u@h".to_owned())),
            ),
            ("redis://u:p@h", Err(NoLedger::Password)),
            ("redis://:p@h", Err(NoLedger::Password)),
            ("http://h", Err(NoLedger::Scheme)),
        ] {
            assert_eq!(text.parse(), name, "{text}");
        }
    }
}
