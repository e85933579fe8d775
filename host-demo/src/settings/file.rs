//! The file: a text in, values with their lines or all that is wrong with it out.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Doc, Form, KEYS, Key, LIST, Source, Value, duration, nearest};
use defender_boundary::policy::Route;
use defender_quota::{LedgerName, Quota};

/// What a configuration file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct File {
    pub(super) values: BTreeMap<Key, Value>,
    pub(super) allow: Option<Vec<Route>>,
    pub(super) quotas: Option<Vec<Quota>>,
}

/// Something that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    /// The line, counted from 1.
    pub line: usize,
    /// What it is, and what to do about it.
    pub problem: Problem,
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    /// It is no TOML.
    #[error("{0}")]
    Syntax(String),
    /// There is no such key, or no such section.
    #[error(
        "unknown key {key}; {}",
        match meant {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("there are: {known}"),
        }
    )]
    UnknownKey {
        /// As it stands there, with its section.
        key: String,
        /// What was probably meant, with its section.
        meant: Option<String>,
        /// What there is.
        known: String,
    },
    /// The value is of another type.
    #[error("{key} is {found} and should be {expected}")]
    Type {
        /// The key.
        key: String,
        /// What is wanted.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// The value is not one of those that are possible.
    #[error("{}", super::about(key, problem))]
    Value {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A secret would be in it.
    #[error("{key}: a secret does not belong into this file; {instead}")]
    Secret {
        /// The key.
        key: String,
        /// Where it belongs.
        instead: &'static str,
    },
    /// More calls than the service takes.
    #[error(
        "quota: the service takes {most} calls at most in {}, and this says {}; the documented \
         quotas hold in any case, and can only be lowered",
        length(quota.per),
        quota.calls
    )]
    Quota {
        /// What stands there.
        quota: Quota,
        /// How many calls it could be at most.
        most: u128,
    },
    /// Two keys exclude each other.
    #[error("{key} and {other} exclude each other")]
    Conflict {
        /// The one.
        key: Key,
        /// The other.
        other: Key,
    },
    /// A key is of no use alone.
    #[error(
        "{key} needs {other}: a service of one's own is named by base-url, authority and scope"
    )]
    Alone {
        /// The one that is there.
        key: Key,
        /// The one that is not.
        other: Key,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

impl std::error::Error for ConfigError {}

impl File {
    /// Reads a configuration. Relative paths in it count from `folder`.
    ///
    /// # Errors
    ///
    /// All that is wrong with it, from the first line to the last.
    pub(crate) fn parse(text: &str, folder: &Path) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader {
            text,
            folder,
            file: Self::default(),
            errors: Vec::new(),
        };
        match DeTable::parse(text) {
            Ok(table) => reader.top(table.get_ref()),
            // Only the message: the library's whole text quotes the line, whatever stands in it.
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                reader.wrong(at, Problem::Syntax(error.message().to_owned()));
            }
        }
        if reader.errors.is_empty() {
            reader.together();
        }
        if reader.errors.is_empty() {
            return Ok(reader.file);
        }
        reader.errors.sort_by_key(|error| error.line);
        Err(reader.errors)
    }
}

struct Reader<'a> {
    text: &'a str,
    folder: &'a Path,
    file: File,
    errors: Vec<ConfigError>,
}

type Entry<'e, 'a> = (
    &'e Spanned<std::borrow::Cow<'a, str>>,
    &'e Spanned<DeValue<'a>>,
);

impl<'a> Reader<'a> {
    fn wrong(&mut self, at: usize, problem: Problem) {
        let line = self.line(at);
        self.errors.push(ConfigError { line, problem });
    }

    fn line(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or(self.text);
        before.matches('\n').count() + 1
    }

    fn top(&mut self, table: &DeTable<'a>) {
        for entry @ (name, value) in table {
            let section = name.get_ref().as_ref();
            if let Some(doc) = find("", section) {
                self.value(doc, entry);
            } else if KEYS.iter().any(|doc| doc.section == section) {
                match value.get_ref().as_table() {
                    Some(table) => self.section(section, table),
                    None => self.wrong_type(section, "a section, in [brackets]", value),
                }
            } else {
                self.unknown("", name);
            }
        }
    }

    fn section(&mut self, section: &str, table: &DeTable<'a>) {
        for entry @ (name, _) in table {
            match find(section, name.get_ref()) {
                Some(doc) if doc.form != Form::Secret => self.value(doc, entry),
                _ => self.unknown(section, name),
            }
        }
    }

    fn unknown(&mut self, section: &str, name: &Spanned<std::borrow::Cow<'a, str>>) {
        let key = full(section, name.get_ref());
        let problem = match secret(name.get_ref()) {
            Some(instead) => Problem::Secret { key, instead },
            None => Problem::UnknownKey {
                meant: meant(section, name.get_ref()),
                known: known(section),
                key,
            },
        };
        self.wrong(name.span().start, problem);
    }

    fn wrong_type(&mut self, key: &str, expected: &'static str, value: &Spanned<DeValue<'a>>) {
        let found = match value.get_ref().type_str() {
            "string" => "a text",
            "integer" => "a number",
            "float" => "a fraction",
            "boolean" => "true or false",
            "array" => "a list",
            "table" => "a section",
            _ => "a date",
        };
        let problem = Problem::Type {
            key: key.to_owned(),
            expected,
            found,
        };
        self.wrong(value.span().start, problem);
    }

    fn value(&mut self, doc: &Doc, (name, value): Entry<'_, 'a>) {
        let key = doc.key.to_string();
        let text = match doc.form {
            Form::Routes => self.routes(&key, value),
            Form::Quotas => self.quotas(&key, value),
            Form::Networks => self.networks(doc.form, &key, value),
            _ => match value.get_ref().as_str() {
                Some(text) => self.text(doc, text, value.span().start),
                None => {
                    self.wrong_type(&key, "a text in quotation marks", value);
                    None
                }
            },
        };
        if let Some(text) = text {
            let source = Source::File(self.line(name.span().start));
            self.file.values.insert(doc.key, Value { text, source });
        }
    }

    fn text(&mut self, doc: &Doc, text: &str, at: usize) -> Option<String> {
        let text = &doc.form.completed(text);
        let result = doc.form.judge(text).and_then(|()| match doc.form {
            Form::Path if text.starts_with('~') => Err(
                "~ is not replaced; write the whole path, or one from this file's folder".into(),
            ),
            Form::Path => Ok(self.folder.join(text).display().to_string()),
            Form::Ledger => Ok(match text.parse() {
                Ok(LedgerName::File(path)) => self.folder.join(path).display().to_string(),
                _ => text.to_owned(),
            }),
            _ => Ok(text.to_owned()),
        });
        result
            .map_err(|problem| {
                let key = doc.key.to_string();
                self.wrong(at, Problem::Value { key, problem });
            })
            .ok()
    }

    fn routes(&mut self, key: &str, value: &Spanned<DeValue<'a>>) -> Option<String> {
        let Some(list) = value.get_ref().as_array() else {
            self.wrong_type(key, "a list of rules, in [brackets]", value);
            return None;
        };
        let mut routes = Vec::new();
        for item in list.iter() {
            let Some(text) = item.get_ref().as_str() else {
                self.wrong_type(key, "a list of texts", item);
                continue;
            };
            match text.parse::<Route>() {
                Ok(route) => routes.push(route),
                Err(error) => {
                    let all = Route::ALL.map(|route| route.to_string());
                    let alike = all.iter().filter(|rule| does_the_same(text, rule));
                    let problem = match nearest(text, alike.map(String::as_str)) {
                        Some(meant) => format!("there is no {text:?}; did you mean {meant:?}?"),
                        None => format!("{text:?}: {error}"),
                    };
                    let key = key.to_owned();
                    self.wrong(item.span().start, Problem::Value { key, problem });
                }
            }
        }
        let shown: Vec<String> = routes.iter().map(ToString::to_string).collect();
        self.file.allow = Some(routes);
        Some(shown.join(LIST))
    }

    fn networks(&mut self, form: Form, key: &str, value: &Spanned<DeValue<'a>>) -> Option<String> {
        let Some(list) = value.get_ref().as_array() else {
            self.wrong_type(key, "a list of networks, in [brackets]", value);
            return None;
        };
        let mut networks = Vec::new();
        for item in list.iter() {
            let Some(text) = item.get_ref().as_str() else {
                self.wrong_type(key, "a list of texts", item);
                continue;
            };
            if let Err(problem) = form.judge(text) {
                let key = key.to_owned();
                self.wrong(item.span().start, Problem::Value { key, problem });
            }
            networks.push(text);
        }
        (!networks.is_empty()).then(|| networks.join(LIST))
    }

    fn quotas(&mut self, key: &str, value: &Spanned<DeValue<'a>>) -> Option<String> {
        let Some(list) = value.get_ref().as_array().filter(|list| !list.is_empty()) else {
            self.wrong_type(key, "one or more sections [[quota]]", value);
            return None;
        };
        let mut quotas = Vec::new();
        for item in list.iter() {
            match item.get_ref().as_table() {
                Some(table) => quotas.extend(self.quota(table, item.span().start)),
                None => self.wrong_type(key, "one or more sections [[quota]]", item),
            }
        }
        let shown = show(&quotas);
        self.file.quotas = Some(quotas);
        Some(shown)
    }

    fn quota(&mut self, table: &DeTable<'a>, at: usize) -> Option<Quota> {
        let (mut calls, mut per) = (None, None);
        let mut calls_at = at;
        let before = self.errors.len();
        for (name, value) in table {
            let wrong = |key: &str, problem: &str| Problem::Value {
                key: full("quota", key),
                problem: problem.to_owned(),
            };
            match (name.get_ref().as_ref(), value.get_ref()) {
                ("calls", DeValue::Integer(number)) => {
                    calls_at = value.span().start;
                    calls = number.as_str().parse().ok().filter(|n| *n > 0);
                    if calls.is_none() {
                        let problem = wrong("calls", "is a number from 1 on");
                        self.wrong(value.span().start, problem);
                    }
                }
                ("calls", _) => self.wrong_type("quota.calls", "a number", value),
                ("per", DeValue::String(text)) => match duration(text) {
                    Ok(time) => per = Some(time),
                    Err(problem) => self.wrong(value.span().start, wrong("per", &problem)),
                },
                ("per", _) => self.wrong_type("quota.per", "a text such as \"60s\"", value),
                (other, _) => {
                    let meant = nearest(other, ["calls", "per"]).map(|m| full("quota", m));
                    let problem = Problem::UnknownKey {
                        key: full("quota", other),
                        meant,
                        known: "calls, per".to_owned(),
                    };
                    self.wrong(name.span().start, problem);
                }
            }
        }
        if let (Some(calls), Some(per)) = (calls, per) {
            let quota = Quota { calls, per };
            if u128::from(calls) > documented(per) {
                let problem = Problem::Quota {
                    quota,
                    most: documented(per),
                };
                self.wrong(calls_at, problem);
                return None;
            }
            return Some(quota);
        }
        if self.errors.len() == before {
            let problem = Problem::Value {
                key: "quota".to_owned(),
                problem: "needs both calls and per".to_owned(),
            };
            self.wrong(at, problem);
        }
        None
    }

    /// What can't stand together, and what can't stand alone.
    fn together(&mut self) {
        use Key::{
            Authority, BaseUrl, CertificateFile, ClientSecretFile, Cloud, FederatedTokenFile,
            Region, Scope, TokenFile,
        };

        let line = |file: &File, key| match file.values.get(&key)?.source {
            Source::File(line) => Some(line),
            _ => None,
        };
        for (key, other) in [
            (BaseUrl, Cloud),
            (BaseUrl, Region),
            (ClientSecretFile, TokenFile),
            (ClientSecretFile, CertificateFile),
            (TokenFile, CertificateFile),
            (ClientSecretFile, FederatedTokenFile),
            (TokenFile, FederatedTokenFile),
            (CertificateFile, FederatedTokenFile),
        ] {
            if let (Some(a), Some(b)) = (line(&self.file, key), line(&self.file, other)) {
                let problem = Problem::Conflict { key, other };
                let line = a.max(b);
                self.errors.push(ConfigError { line, problem });
            }
        }
        for (key, other) in [(Authority, BaseUrl), (Scope, BaseUrl), (BaseUrl, Scope)] {
            if let (Some(line), None) = (line(&self.file, key), line(&self.file, other)) {
                let problem = Problem::Alone { key, other };
                self.errors.push(ConfigError { line, problem });
            }
        }
    }
}

/// How many calls the documented quotas let through in a window of this length.
fn documented(per: Duration) -> u128 {
    let in_whole =
        |quota: Quota| u128::from(quota.calls) * per.as_nanos().div_ceil(quota.per.as_nanos());
    let [minute, hour] = Quota::DOCUMENTED.map(in_whole);
    minute.min(hour)
}

/// Quotas, for people.
pub(super) fn show(quotas: &[Quota]) -> String {
    let show = |quota: &Quota| format!("{} calls per {}", quota.calls, length(quota.per));
    quotas.iter().map(show).collect::<Vec<_>>().join(LIST)
}

fn length(time: Duration) -> String {
    let time = jiff::SignedDuration::try_from(time).unwrap_or_default();
    format!("{time:#}")
}

fn find(section: &str, name: &str) -> Option<&'static Doc> {
    KEYS.iter()
        .find(|doc| doc.section == section && doc.name == name)
}

fn full(section: &str, name: &str) -> String {
    if section.is_empty() {
        name.to_owned()
    } else {
        format!("{section}.{name}")
    }
}

/// Whether a rule does what this text says, as far as method and verb tell, so that it can be
/// suggested: who asks for a restriction is not told how to allow lifting one, which looks alike.
fn does_the_same(text: &str, rule: &str) -> bool {
    let parts = |rule: &str| {
        let (method, path) = rule.trim().split_once(' ')?;
        let verb = path.rsplit('/').next().unwrap_or_default();
        let verb = if verb.starts_with('{') { "" } else { verb };
        Some((method.to_lowercase(), verb.to_lowercase()))
    };
    parts(text) == parts(rule)
}

/// What the file can have in a section, or at its top.
fn in_file() -> impl Iterator<Item = &'static Doc> {
    KEYS.iter().filter(|doc| doc.form != Form::Secret)
}

fn known(section: &str) -> String {
    let mut names: Vec<String> = if section.is_empty() {
        let sections = in_file().map(|doc| match doc.section {
            "" => format!("[[{}]]", doc.name),
            section => format!("[{section}]"),
        });
        sections.collect()
    } else {
        let keys = in_file().filter(|doc| doc.section == section);
        keys.map(|doc| doc.name.to_owned()).collect()
    };
    names.dedup();
    names.join(", ")
}

/// What was probably meant: a key of its section, a section, or a key of the same name elsewhere.
fn meant(section: &str, name: &str) -> Option<String> {
    let here = in_file().filter(|doc| doc.section == section);
    if let Some(name) = nearest(name, here.map(|doc| doc.name)) {
        return Some(full(section, name));
    }
    let sections = in_file().map(|doc| doc.section).filter(|s| !s.is_empty());
    if section.is_empty()
        && let Some(section) = nearest(name, sections)
    {
        return Some(format!("[{section}]"));
    }
    let elsewhere = nearest(name, in_file().map(|doc| doc.name))?;
    let doc = in_file().find(|doc| doc.name == elsewhere)?;
    Some(doc.key.to_string())
}

/// Where the value of a key belongs that is named like a secret.
fn secret(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase().replace('_', "-");
    if name.ends_with("-file") || name.ends_with("-path") {
        return None;
    }
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    if has(&["password", "passphrase", "private-key"]) {
        Some("put the certificate and its key into a file, and name that: certificate-file")
    } else if has(&["secret"]) {
        Some("put it into a file, and name that: client-secret-file, or set AZURE_CLIENT_SECRET")
    } else if has(&["token", "bearer", "assertion"]) {
        Some("put it into a file, and name that: token-file")
    } else {
        None
    }
}
