//! The record of a pilot as a service: it answers as the recorded one did.
//!
//! A request is matched with a recorded one by its operation and by what it stands in relation to:
//! the first action of its kind or one beside another that is under way, an action by its age, a
//! list by the form of its filter. Placeholders are bound to what the client sends: the record's
//! device to each device that is asked for, its actions to actions of their own, its times to now.
//! Answers that only say to come back later (429, 5xx) are no part of it, but for the body of a
//! 429, which replaces the stand-in's own.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use http::header::{CONTENT_ENCODING, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::action::Now;
use super::api_error::Refusal;
use super::api_handlers::{ACTION_PROPERTIES, Request, query_of};
use super::machine_action::ActionType;
use super::odata::{Condition, Query};
use super::route::Call;
use super::switches::Switches;
use super::wire::Reply;
use defender_core::clock::Moment;

/// The format that is read.
const FORMAT: &str = "host-demo-pilot/1";

/// The moment that the times of a record count from.
const EPOCH: Timestamp = Timestamp::constant(1_577_836_800, 0);

/// Why a record can't be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It is not a record.
    #[error("it is not a record of a pilot")]
    Json(#[from] serde_json::Error),
    /// It has another format.
    #[error("its format is {0:?}; this version reads {FORMAT:?}")]
    Format(String),
    /// No request in it was answered.
    #[error("no request in it was answered")]
    Empty,
}

#[derive(Deserialize)]
struct Record {
    format: String,
    exchanges: Vec<Exchange>,
}

#[derive(Deserialize)]
struct Exchange {
    at_ms: u64,
    request: Asked,
    response: Option<Answer>,
}

#[derive(Deserialize)]
struct Asked {
    operation: String,
    id: Option<String>,
    #[serde(default)]
    query: BTreeMap<String, String>,
    body: Option<Value>,
}

#[derive(Deserialize)]
struct Answer {
    after_ms: u64,
    status: u16,
    headers: BTreeMap<String, String>,
    body: Option<Value>,
}

/// A request that was answered, and how.
struct Answered {
    at_ms: u64,
    asked: Asked,
    answer: Answer,
}

impl Answered {
    const fn is_success(&self) -> bool {
        matches!(self.answer.status, 200..300)
    }

    /// The action that it answers with.
    fn action(&self) -> Option<&str> {
        let body = self.answer.body.as_ref().filter(|_| self.is_success())?;
        body.get("id")?.as_str()
    }

    fn items(&self) -> &[Value] {
        let body = self.answer.body.as_ref().filter(|_| self.is_success());
        let value = body.and_then(|body| body.get("value")?.as_array());
        value.map_or(&[], Vec::as_slice)
    }

    const fn ended_at(&self) -> u64 {
        self.at_ms + self.answer.after_ms
    }
}

/// A record that answers.
pub struct Replay {
    answered: Vec<Answered>,
    quota: Option<Answer>,
    /// The actions that clients asked for, the oldest first.
    actions: Vec<Placed>,
    /// The devices that clients looked up, by their names in lower case.
    names: HashMap<String, String>,
}

/// An action that a client asked for.
#[derive(Clone)]
struct Placed {
    /// The recorded action that it is like.
    like: String,
    operation: &'static str,
    id: Uuid,
    machine: String,
    comment: String,
    at: Now,
}

/// A property of a filter, whether it has several values, and whether they are in capital letters.
type Form = Vec<(String, bool, bool)>;

/// What takes the place of placeholders.
struct Binding {
    ids: Vec<(String, String)>,
    /// Texts that are replaced as a whole.
    texts: Vec<(String, String)>,
    shift: SignedDuration,
}

impl Replay {
    /// Reads a record.
    ///
    /// # Errors
    ///
    /// When it is not a record, has another format or no answers.
    pub fn read(json: &[u8]) -> Result<Self, ReplayError> {
        let record: Record = serde_json::from_slice(json)?;
        if record.format != FORMAT {
            return Err(ReplayError::Format(record.format));
        }
        let (mut answered, mut quota) = (Vec::new(), None);
        for exchange in record.exchanges {
            match exchange.response {
                Some(answer) if answer.status == 429 => quota = quota.or(Some(answer)),
                Some(answer) if answer.status < 500 => answered.push(Answered {
                    at_ms: exchange.at_ms,
                    asked: exchange.request,
                    answer,
                }),
                _ => {}
            }
        }
        if answered.is_empty() {
            return Err(ReplayError::Empty);
        }
        Ok(Self {
            answered,
            quota,
            actions: Vec::new(),
            names: HashMap::new(),
        })
    }

    /// The recorded 429, if there is one.
    pub(super) fn quota(&self) -> Option<Reply> {
        let answer = self.quota.as_ref()?;
        Some(reply(answer, answer.body.clone(), &Binding::none()))
    }

    pub(super) fn answer(&mut self, request: &Request<'_>, now: Now) -> Reply {
        match request.call {
            Call::Act(r#type) => self.act(r#type, request, now),
            Call::ReadAction => self.read_action(request.name, now),
            Call::ListActions => self.list(request, now),
            Call::ListMachines => self.find(request),
            Call::CancelAction | Call::ReadMachine => not_recorded(),
        }
    }

    fn of(&self, operation: &str) -> impl Iterator<Item = &Answered> {
        let is_of = move |answered: &&Answered| answered.asked.operation == operation;
        self.answered.iter().filter(is_of)
    }

    fn act(&mut self, r#type: ActionType, request: &Request<'_>, now: Now) -> Reply {
        let operation = match r#type {
            ActionType::RestrictCodeExecution => "restrict-code-execution",
            ActionType::UnrestrictCodeExecution => "unrestrict-code-execution",
        };
        let machine = request.name.to_ascii_lowercase();
        let under_way = self.actions.iter().rev().find(|placed| {
            let is_same = placed.machine == machine && placed.operation == operation;
            is_same && !self.has_ended(placed, now.moment)
        });
        // The first that the service accepted, and the one that came beside it.
        let mut recorded: Vec<_> = self.of(operation).collect();
        let accepted = recorded.iter().position(|answered| answered.is_success());
        let recorded = recorded.split_off(accepted.unwrap_or(0));
        let Some(first) = recorded.first() else {
            return not_recorded();
        };
        let chosen = match under_way {
            Some(_) => recorded.get(1).unwrap_or(first),
            None => first,
        };
        let comment: Option<Value> = serde_json::from_slice(request.body).ok();
        let comment = comment.and_then(|body| Some(body.get("Comment")?.as_str()?.to_owned()));
        let Some(like) = chosen.action().map(str::to_owned) else {
            let binding = Binding {
                ids: vec![(id_of(chosen), machine)],
                ..Binding::none()
            };
            return reply(&chosen.answer, chosen.answer.body.clone(), &binding);
        };
        let placed = match under_way.filter(|placed| placed.like == like) {
            Some(same) => same.clone(),
            None => Placed {
                like,
                operation,
                id: Uuid::new_v4(),
                machine,
                comment: comment.unwrap_or_default(),
                at: now,
            },
        };
        let answer = reply(
            &chosen.answer,
            chosen.answer.body.clone(),
            &self.binding(&placed),
        );
        if self.actions.iter().all(|action| action.id != placed.id) {
            self.actions.push(placed);
        }
        answer
    }

    fn read_action(&self, id: &str, now: Now) -> Reply {
        const READ: &str = "get-machine-action";
        let is_like = |answered: &&Answered, like: &str| {
            let id = answered.asked.id.as_deref();
            id.is_some_and(|id| id.eq_ignore_ascii_case(like))
        };
        let asked = id.parse::<Uuid>().ok();
        let Some(placed) = self.actions.iter().find(|placed| Some(placed.id) == asked) else {
            let created: Vec<_> = self.answered.iter().filter_map(Answered::action).collect();
            let missing = self.of(READ).find(|read| {
                !read.is_success() && created.iter().all(|created| !is_like(read, created))
            });
            return missing.map_or_else(not_recorded, |missing| {
                let binding = Binding {
                    ids: vec![(id_of(missing), id.to_owned())],
                    ..Binding::none()
                };
                reply(&missing.answer, missing.answer.body.clone(), &binding)
            });
        };
        let age = self.age(placed, now.moment);
        let reads: Vec<_> = self
            .of(READ)
            .filter(|read| is_like(read, &placed.like))
            .collect();
        let read = reads.iter().rev().find(|read| read.at_ms <= age);
        let binding = self.binding(placed);
        match read.or(reads.first()) {
            Some(read) => reply(&read.answer, read.answer.body.clone(), &binding),
            None => {
                let body = self.state(placed, now.moment).cloned();
                Reply::json(StatusCode::OK, "application/json", &binding.bind(body))
            }
        }
    }

    fn list(&self, request: &Request<'_>, now: Now) -> Reply {
        const LIST: &str = "list-machine-actions";
        let query = match Query::read(query_of(request.head), &ACTION_PROPERTIES) {
            Ok(query) => query,
            Err(refusal) => return refusal.into_reply(&Switches::default()),
        };
        let form = form(&query);
        let is_by_id = |form: &Form| form.iter().any(|(property, ..)| property == "id");
        let of_form = |list: &&Answered, is_alike: &dyn Fn(&Form) -> bool| {
            recorded_form(list).is_some_and(|recorded| is_alike(&recorded))
        };
        let exact = self
            .of(LIST)
            .find(|list| of_form(list, &|recorded| *recorded == form));
        // A service that does not filter by id does not, whatever else is in the filter.
        let similar = self
            .of(LIST)
            .find(|list| is_by_id(&form) && of_form(list, &is_by_id));
        let recorded = exact.or(similar);
        if let Some(refused) = recorded.filter(|list| !list.is_success()) {
            return reply(
                &refused.answer,
                refused.answer.body.clone(),
                &Binding::none(),
            );
        }
        let in_capitals = form.iter().any(|(.., in_capitals)| *in_capitals);
        let finds_nothing = in_capitals && exact.is_none_or(|recorded| recorded.items().is_empty());
        let mut items = Vec::new();
        for placed in self.actions.iter().rev().filter(|_| !finds_nothing) {
            if let Some(state) = self.listed(placed, now.moment) {
                let item = self.binding(placed).bind(Some(state.clone()));
                let holds = |condition: &Condition| holds(condition, &item, in_capitals);
                if query.conditions.iter().all(holds) {
                    items.push(item);
                }
            }
        }
        let (page, _) = Query {
            conditions: Vec::new(),
            ..query
        }
        .page(items, |_, _| true);
        let Some(like) = recorded.or_else(|| self.of(LIST).find(|list| list.is_success())) else {
            return not_recorded();
        };
        let mut body = like.answer.body.clone().unwrap_or_else(|| json!({}));
        if let Some(body) = body.as_object_mut() {
            body.remove("@odata.nextLink");
            body.insert("value".to_owned(), page.into());
        }
        reply(&like.answer, Some(body), &Binding::none())
    }

    fn find(&mut self, request: &Request<'_>) -> Reply {
        let query = match Query::read(query_of(request.head), &["computerDnsName"]) {
            Ok(query) => query,
            Err(refusal) => return refusal.into_reply(&Switches::default()),
        };
        let form = form(&query);
        let found = self
            .of("find-machines")
            .find(|found| recorded_form(found).as_ref() == Some(&form));
        let Some(found) = found else {
            return not_recorded();
        };
        let Some(Condition::IsOneOf(_, values)) = query.conditions.first() else {
            return not_recorded();
        };
        let name = values
            .first()
            .map_or_else(String::new, |name| name.to_lowercase());
        let item = found.items().first();
        let text = |name: &str| {
            let text = item.and_then(|item| item.get(name)?.as_str());
            text.unwrap_or_default().to_owned()
        };
        let (recorded_id, recorded_name) = (text("id"), text("computerDnsName"));
        let id = self.names.get(&name).cloned().unwrap_or_else(|| {
            // The first one is the recorded device; each other name is another device.
            match self.names.is_empty() {
                true => recorded_id.clone(),
                false => {
                    let [a, b] = [Uuid::new_v4(), Uuid::new_v4()].map(|id| id.simple().to_string());
                    format!("{a}{}", &b[..8])
                }
            }
        });
        let binding = Binding {
            ids: vec![(recorded_id, id.clone())],
            texts: vec![(recorded_name, name.clone())],
            ..Binding::none()
        };
        let answer = reply(&found.answer, found.answer.body.clone(), &binding);
        if item.is_some() {
            self.names.insert(name, id);
        }
        answer
    }

    /// The recorded request that created an action.
    fn creation(&self, placed: &Placed) -> Option<&Answered> {
        self.of(placed.operation)
            .find(|post| post.action() == Some(&placed.like))
    }

    /// How old an action is, on the record's scale.
    fn age(&self, placed: &Placed, now: Moment) -> u64 {
        let began = self.creation(placed).map_or(0, Answered::ended_at);
        let age = now.since(placed.at.moment).as_millis();
        began.saturating_add(u64::try_from(age).unwrap_or(u64::MAX))
    }

    /// The recorded looks at an action: when, in which operation, and what it looked like.
    fn looks<'a>(&'a self, placed: &'a Placed) -> impl Iterator<Item = (&'a Answered, &'a Value)> {
        self.answered.iter().filter_map(|answered| {
            let is_it = |body: &&Value| {
                body.get("id").and_then(Value::as_str) == Some(placed.like.as_str())
            };
            let body = answered
                .answer
                .body
                .iter()
                .filter(|_| answered.is_success());
            let body = body.chain(answered.items()).find(is_it)?;
            Some((answered, body))
        })
    }

    /// How an action stands.
    fn state<'a>(&'a self, placed: &'a Placed, now: Moment) -> Option<&'a Value> {
        let age = self.age(placed, now);
        let looks = self.looks(placed);
        let seen = looks.filter(|(look, _)| look.at_ms <= age);
        seen.map(|(_, body)| body).last()
    }

    fn has_ended(&self, placed: &Placed, now: Moment) -> bool {
        let status = self
            .state(placed, now)
            .and_then(|body| body.get("status")?.as_str());
        matches!(
            status,
            Some("Succeeded" | "Failed" | "TimeOut" | "Cancelled")
        )
    }

    /// How an action stands in a list, if a list shows it yet.
    fn listed<'a>(&'a self, placed: &'a Placed, now: Moment) -> Option<&'a Value> {
        let age = self.age(placed, now);
        let is_list = |look: &Answered| !look.items().is_empty();
        let first = self.looks(placed).find(|(look, _)| is_list(look));
        // One that no list was asked for is in lists from the beginning.
        let is_there = first.is_none_or(|(look, _)| look.at_ms <= age);
        self.state(placed, now).filter(|_| is_there)
    }

    fn binding(&self, placed: &Placed) -> Binding {
        let Some(creation) = self.creation(placed) else {
            return Binding::none();
        };
        let comment = creation.asked.body.as_ref();
        let comment = comment.and_then(|body| body.get("Comment")?.as_str());
        let posted = EPOCH + Duration::from_millis(creation.ended_at());
        Binding {
            ids: vec![
                (placed.like.clone(), placed.id.to_string()),
                (id_of(creation), placed.machine.clone()),
            ],
            texts: vec![(
                comment.unwrap_or_default().to_owned(),
                placed.comment.clone(),
            )],
            shift: placed.at.wall.duration_since(posted),
        }
    }
}

impl Binding {
    const fn none() -> Self {
        Self {
            ids: Vec::new(),
            texts: Vec::new(),
            shift: SignedDuration::ZERO,
        }
    }

    fn bind(&self, value: Option<Value>) -> Value {
        match value {
            None => Value::Null,
            Some(Value::String(text)) => self.text(&text).into(),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| self.bind(Some(item)))
                .collect(),
            Some(Value::Object(properties)) => {
                let bound = properties
                    .into_iter()
                    .map(|(name, value)| (name, self.bind(Some(value))));
                Value::Object(bound.collect::<Map<_, _>>())
            }
            Some(other) => other,
        }
    }

    fn text(&self, text: &str) -> String {
        let whole = self
            .texts
            .iter()
            .find(|(from, _)| from == text && !from.is_empty());
        if let Some((_, to)) = whole {
            return to.clone();
        }
        if text.as_bytes().get(10) == Some(&b'T')
            && let Ok(time) = text.parse::<Timestamp>()
        {
            return time.saturating_add(self.shift).unwrap_or(time).to_string();
        }
        let mut bound = text.to_owned();
        for (from, to) in self.ids.iter().filter(|(from, _)| !from.is_empty()) {
            bound = bound.replace(from.as_str(), to);
            bound = bound.replace(&from.to_uppercase(), &to.to_uppercase());
        }
        bound
    }
}

fn id_of(answered: &Answered) -> String {
    answered.asked.id.clone().unwrap_or_default().to_lowercase()
}

/// A recorded answer, with what takes the place of placeholders.
fn reply(answer: &Answer, body: Option<Value>, binding: &Binding) -> Reply {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::NOT_FOUND);
    let mut reply = Reply::bare(status);
    for (name, value) in &answer.headers {
        let (Ok(name), Ok(value)) = (
            name.parse::<HeaderName>(),
            HeaderValue::try_from(binding.text(value)),
        ) else {
            continue;
        };
        if ![CONTENT_ENCODING, TRANSFER_ENCODING].contains(&name) {
            reply = reply.with(name, value);
        }
    }
    match body {
        Some(body) => reply.with_body(binding.bind(Some(body)).to_string().into()),
        None => reply,
    }
}

/// What no recorded request is like.
fn not_recorded() -> Reply {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "NotFound",
        "The record has no such request".to_owned(),
    )
    .into_reply(&Switches::default())
}

fn form(query: &Query) -> Form {
    let is_capital = |text: &String| {
        text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
    };
    let mut form: Form = query
        .conditions
        .iter()
        .map(|condition| match condition {
            Condition::IsOneOf(property, values) => {
                let in_capitals = !values.is_empty() && values.iter().all(is_capital);
                (property.clone(), values.len() > 1, in_capitals)
            }
            Condition::IsSince(property, _) => (property.clone(), false, false),
        })
        .collect();
    form.sort_unstable();
    form
}

fn recorded_form(list: &Answered) -> Option<Form> {
    let filter = list.asked.query.get("$filter");
    let query = filter.map_or_else(String::new, |filter| format!("$filter={filter}"));
    let properties = [&ACTION_PROPERTIES[..], &["computerDnsName"]].concat();
    Query::read(&query, &properties)
        .ok()
        .map(|query| form(&query))
}

/// Whether a condition holds for an action as it is listed.
fn holds(condition: &Condition, item: &Value, ignores_case: bool) -> bool {
    let text = |property: &str| item.get(property).and_then(Value::as_str);
    match condition {
        Condition::IsOneOf(property, values) => text(property).is_some_and(|text| {
            values.iter().any(|wanted| match ignores_case {
                true => wanted.eq_ignore_ascii_case(text),
                false => wanted == text,
            })
        }),
        Condition::IsSince(property, moment) => {
            let time = text(property).and_then(|text| text.parse::<Timestamp>().ok());
            time.is_some_and(|time| time >= *moment)
        }
    }
}
