//! The chain: how a record is bound to the one before it, and how that is checked.
//!
//! A line is a JSON object that begins with its place in the chain (`seq`, `previous`, `key`) and
//! ends with `hash`: HMAC-SHA-256 (RFC 2104), under the key, of the line's own bytes up to
//! `,"hash":`. The previous record's hash is among those bytes, so each hash vouches for all
//! records before it. Nothing is parsed and written anew to be checked: what counts is the bytes.

use std::collections::HashMap;
use std::io::{BufRead, Read as _};

use hmac::{Hmac, Mac as _};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::AuditError;
use super::key::Key;
use defender_core::escape::hex;

/// The length of a hash in hexadecimal digits.
pub(super) const HASH_DIGITS: usize = 64;

/// What stands for the hash before the first record's.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

const BEFORE_HASH: &[u8] = b",\"hash\":\"";
const AFTER_HASH: &[u8] = b"\"}";
const ENDING: usize = BEFORE_HASH.len() + HASH_DIGITS + AFTER_HASH.len();

/// No record comes near it, nor does what a killed process leaves behind. What is longer is not
/// read whole, and is damage.
pub(super) const LINE_MAX: usize = 1 << 20;

/// Where the chain stands: the last record's number and hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) hash: String,
}

impl Head {
    /// Before the first record.
    pub(super) fn start() -> Self {
        Self {
            seq: 0,
            hash: NOTHING.to_owned(),
        }
    }
}

/// Bytes that a process left behind when it was killed in the middle of a line. They stay where
/// they are; the record after them says that they are no record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Torn {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// The members of a record that the chain goes by.
#[derive(Debug, Deserialize)]
pub(super) struct Links {
    pub(super) seq: u64,
    pub(super) previous: String,
    key: String,
    pub(super) time: String,
    pub(super) torn: Option<Torn>,
    kind: Option<String>,
    call: Option<String>,
    operation: Option<String>,
    machine: Option<String>,
    action: Option<String>,
}

impl Links {
    /// The call that it begins, if it is an intent.
    fn begun(&self) -> Option<OpenCall> {
        let is_intent = self.kind.as_deref() == Some("intent");
        is_intent.then_some(OpenCall {
            seq: self.seq,
            call: self.call.clone()?,
            time: self.time.clone(),
            operation: self.operation.clone().unwrap_or_default(),
            machine: self.machine.clone(),
            action: self.action.clone(),
        })
    }

    /// The call that it ends, if it is an outcome.
    fn ended(&self) -> Option<&str> {
        let is_outcome = self.kind.as_deref() == Some("outcome");
        self.call.as_deref().filter(|_| is_outcome)
    }
}

/// Why a line is not a record of this chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not of a record's form.
    #[error("it is not a record")]
    NotARecord,
    /// It ends before it is whole.
    #[error("it is cut off, and nothing was written since")]
    CutOff,
    /// Made with another key.
    #[error("it was written with another key ({found}; this key is {expected})")]
    OtherKey {
        /// The name of the key that was given.
        expected: String,
        /// The name of the key that the record was made with, as it says.
        found: String,
    },
    /// Its hash is not the hash of its bytes.
    #[error("it was changed after it was written")]
    Altered,
    /// It is a record, but not the one that belongs here.
    #[error(
        "record {expected} belongs here, and this is record {found}: some are missing, or moved"
    )]
    OutOfOrder {
        /// The number that comes next.
        expected: u64,
        /// The number that is there.
        found: u64,
    },
    /// The right number, and a different past.
    #[error("it does not follow from the record before it")]
    OtherPast,
}

/// The line of a record that follows `head`, without a line's end, and where the chain stands then.
/// `record` is a JSON object with at least one member.
pub(super) fn link(key: &Key, head: &Head, record: &str) -> (String, Head) {
    let seq = head.seq + 1;
    let members = record.strip_prefix('{').unwrap_or(record);
    let members = members.strip_suffix('}').unwrap_or(members);
    let mut line = format!(
        r#"{{"seq":{seq},"previous":"{}","key":"{}",{members}"#,
        head.hash,
        key.name()
    );
    let hash = hex(&mac(key, line.as_bytes()).finalize().into_bytes());
    line.push_str(r#","hash":""#);
    line.push_str(&hash);
    line.push_str("\"}");
    (line, Head { seq, hash })
}

/// What a line says, if it was made with this key and is as it was made.
pub(super) fn check(key: &Key, line: &[u8]) -> Result<(Links, Head), Problem> {
    let (signed, hash) = halves(line).ok_or(Problem::NotARecord)?;
    let object = [signed, b"}"].concat();
    let links: Links = serde_json::from_slice(&object).map_err(|_| Problem::NotARecord)?;
    if links.key != key.name() {
        return Err(Problem::OtherKey {
            expected: key.name().to_owned(),
            found: links.key,
        });
    }
    // Compared as text: upper-case digits would be the same number, and another file.
    let expected = mac(key, signed);
    if hex(&expected.clone().finalize().into_bytes()).as_bytes() != hash {
        return Err(Problem::Altered);
    }
    let hash = String::from_utf8_lossy(hash).into_owned();
    let head = Head {
        seq: links.seq,
        hash,
    };
    Ok((links, head))
}

/// Whether a line holds more than a killed process leaves: the beginning of a record lacks the
/// record's last bracket, so it never begins with a whole object, and never ends like a record.
pub(super) fn is_whole(line: &[u8]) -> bool {
    let mut values = serde_json::Deserializer::from_slice(line).into_iter::<IgnoredAny>();
    let is_object = line.trim_ascii_start().starts_with(b"{");
    halves(line).is_some() || is_object && matches!(values.next(), Some(Ok(_)))
}

/// What is hashed, and the hash.
fn halves(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (signed, ending) = line.split_at_checked(line.len().checked_sub(ENDING)?)?;
    let hash = ending.strip_prefix(BEFORE_HASH)?.strip_suffix(AFTER_HASH)?;
    let digits = hash.iter().all(u8::is_ascii_hexdigit);
    (digits && signed.first() == Some(&b'{')).then_some((signed, hash))
}

fn mac(key: &Key, bytes: &[u8]) -> Hmac<Sha256> {
    let mut mac = key.mac();
    mac.update(bytes);
    mac
}

/// A file that is as it was written, as far as it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many records it has.
    pub records: u64,
    /// How many times a process was killed in the middle of a line. Each is accounted for by the
    /// record after it.
    pub torn: u64,
    /// When the first record was made.
    pub first: Option<String>,
    /// When the last record was made.
    pub last: Option<String>,
    /// The calls that have an intent and no outcome, in the order of their intents. They were cut
    /// short, or are under way now, and may have arrived.
    pub open: Vec<OpenCall>,
    /// The last record's hash. Whoever keeps it elsewhere can tell later that nothing was cut off.
    pub head: String,
    /// How many records follow the one with the hash that was looked for. `None`: there is no such
    /// record.
    pub after_noted: Option<u64>,
}

/// A call of which it is not known how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenCall {
    /// The number of its intent's record.
    pub seq: u64,
    /// The call's id.
    pub call: String,
    /// When its intent was recorded.
    pub time: String,
    /// What it was to do.
    pub operation: String,
    /// To which device.
    pub machine: Option<String>,
    /// To which action.
    pub action: Option<String>,
}

/// What keeps a file from being verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It can't be opened, or another process holds it.
    #[error(transparent)]
    Closed(#[from] AuditError),
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// It is not as it was written.
    #[error("line {line} is damaged: {problem}")]
    Damaged {
        /// The first line that is damaged, counted from 1.
        line: u64,
        /// What is wrong with it.
        problem: Problem,
    },
}

/// Walks a whole chain, and looks for a hash that was noted earlier. That the file's end was cut
/// off can't be seen by the chain alone: every beginning of a chain is one.
pub(super) fn verify(
    mut file: impl BufRead,
    key: &Key,
    noted: Option<&str>,
) -> Result<Verified, VerifyError> {
    let mut head = Head::start();
    let mut found = Verified {
        records: 0,
        torn: 0,
        first: None,
        last: None,
        open: Vec::new(),
        head: head.hash.clone(),
        after_noted: (noted == Some(NOTHING)).then_some(0),
    };
    // Only these are kept of a file that can be large.
    let mut open: HashMap<String, OpenCall> = HashMap::new();
    // Lines that were not made with the key, until the record after them accounts for them.
    let mut loose: Option<Loose> = None;
    let (mut number, mut offset) = (0, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut file)
            .take(LINE_MAX as u64 + 1)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        number += 1;
        let is_ended = line.pop_if(|last| *last == b'\n').is_some();
        let damaged = |line, problem| Err(VerifyError::Damaged { line, problem });
        let checked = match check(key, &line) {
            _ if line.len() > LINE_MAX => return damaged(number, Problem::NotARecord),
            Ok(_) if !is_ended => Err(Problem::CutOff),
            Err(Problem::NotARecord) if !is_ended && !is_whole(&line) => Err(Problem::CutOff),
            checked => checked,
        };
        match checked {
            Ok((links, next)) => {
                if let Some(loose) = loose.take() {
                    if links.torn.as_ref() != Some(&loose.torn(offset)) {
                        return damaged(loose.line, loose.problem);
                    }
                    found.torn += 1;
                }
                if links.seq != head.seq + 1 {
                    let expected = head.seq + 1;
                    let found = links.seq;
                    return damaged(number, Problem::OutOfOrder { expected, found });
                }
                if links.previous != head.hash {
                    return damaged(number, Problem::OtherPast);
                }
                if let Some(call) = links.ended() {
                    open.remove(call);
                } else if let Some(begun) = links.begun() {
                    open.insert(begun.call.clone(), begun);
                }
                head = next;
                found.records += 1;
                found.after_noted = match found.after_noted {
                    Some(after) => Some(after + 1),
                    None => (noted == Some(head.hash.as_str())).then_some(0),
                };
                found.first.get_or_insert_with(|| links.time.clone());
                found.last = Some(links.time);
            }
            Err(problem) => {
                let loose = loose.get_or_insert_with(|| Loose {
                    line: number,
                    offset,
                    problem,
                    hash: Sha256::new(),
                });
                if is_whole(&line) {
                    // No record after it can account for it.
                    return damaged(loose.line, loose.problem.clone());
                }
                if loose.offset != offset {
                    loose.hash.update(b"\n");
                }
                loose.hash.update(&line);
            }
        }
        offset += read as u64;
    }
    if let Some(loose) = loose {
        return Err(VerifyError::Damaged {
            line: loose.line,
            problem: loose.problem,
        });
    }
    found.open = open.into_values().collect();
    found.open.sort_unstable_by_key(|call| call.seq);
    found.head = head.hash;
    Ok(found)
}

struct Loose {
    line: u64,
    offset: u64,
    problem: Problem,
    hash: Sha256,
}

impl Loose {
    /// What a record at `next` says of these lines, if they are what a killed process left.
    fn torn(&self, next: u64) -> Torn {
        Torn {
            offset: self.offset,
            bytes: next - 1 - self.offset,
            sha256: hex(&self.hash.clone().finalize()),
        }
    }
}
