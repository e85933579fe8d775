//! OData's system query options, as far as clients are known to send them to lists.
//!
//! Understood are `$filter` with conditions that all must hold, `$top` and `$skip`; anything else
//! gets the OData layer's error, so that a client that sends more is found out. Microsoft, "List
//! MachineActions API", "OData queries with Microsoft Defender for Endpoint".

use http::StatusCode;
use jiff::Timestamp;

use super::api_error::Refusal;
use super::machine_action::MachineAction;
use super::switches::{Case, ListFilter};
use super::wire::unescape;

/// The longest page, as documented. (`$stop` there is a typo for `$top`: microsoft-365-docs#12682.)
const PAGE_MAX: usize = 10_000;

/// What a list is asked for.
#[derive(Debug, PartialEq)]
pub(super) struct Query {
    pub(super) conditions: Vec<Condition>,
    pub(super) top: usize,
    pub(super) skip: usize,
}

/// A condition of a filter.
#[derive(Debug, PartialEq)]
pub(super) enum Condition {
    /// A property is one of these texts.
    IsOneOf(String, Vec<String>),
    /// A property is this moment or a later one.
    IsSince(String, Timestamp),
}

impl Query {
    /// Reads the query of a URL. `properties` are those that a filter may look at.
    pub(super) fn read(query: &str, properties: &[&str]) -> Result<Self, Refusal> {
        let mut read = Self {
            conditions: Vec::new(),
            top: PAGE_MAX,
            skip: 0,
        };
        let mut names = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (unescape(name, true), unescape(value, true));
            match name.as_str() {
                "$filter" => {
                    let conditions = value.split(" and ").map(|text| condition(text, properties));
                    let all: Option<_> = conditions.collect();
                    read.conditions = all.ok_or_else(|| invalid(&format!("filter '{value}'")))?;
                }
                "$top" => read.top = count(&value).ok_or_else(|| invalid("value for '$top'"))?,
                "$skip" => read.skip = count(&value).ok_or_else(|| invalid("value for '$skip'"))?,
                name if name.starts_with('$') => return Err(unsupported(name)),
                _ => {}
            }
            if name.starts_with('$') && names.contains(&name) {
                return Err(invalid(&format!("second '{name}'")));
            }
            names.push(name);
        }
        if read.top > PAGE_MAX {
            let message = format!(
                "The limit of '{PAGE_MAX}' for Top query has been exceeded. The value from the \
                 incoming request is '{}'.",
                read.top
            );
            return Err(refusal(&message));
        }
        Ok(read)
    }

    /// Whether a service that takes these filters takes this one.
    pub(super) fn fits(&self, filters: ListFilter) -> Result<(), Refusal> {
        let is_simple = |condition: &Condition| match condition {
            Condition::IsOneOf(property, values) => property != "id" && values.len() == 1,
            Condition::IsSince(..) => true,
        };
        let names_id = |condition: &Condition| match condition {
            Condition::IsOneOf(property, _) => property == "id",
            Condition::IsSince(..) => false,
        };
        let fits = match filters {
            ListFilter::Any => true,
            ListFilter::NoId => !self.conditions.iter().any(names_id),
            ListFilter::Simple => {
                self.conditions.len() < 2 && self.conditions.iter().all(is_simple)
            }
            ListFilter::Nothing => self.conditions.is_empty(),
        };
        match fits {
            true => Ok(()),
            false => Err(Refusal::bad_request(
                "BadRequest",
                "The filter is not supported.",
            )),
        }
    }

    /// The page of those that fulfil all conditions, and whether there are more.
    pub(super) fn page<T>(
        &self,
        all: impl IntoIterator<Item = T>,
        holds: impl Fn(&T, &Condition) -> bool,
    ) -> (Vec<T>, bool) {
        let mut rest = all
            .into_iter()
            .filter(|item| {
                self.conditions
                    .iter()
                    .all(|condition| holds(item, condition))
            })
            .skip(self.skip);
        let page = rest.by_ref().take(self.top).collect();
        (page, rest.next().is_some())
    }
}

impl Condition {
    /// Whether it holds for an action.
    pub(super) fn holds_for(&self, action: &MachineAction, case: Case) -> bool {
        match self {
            Self::IsSince(_, moment) => action.creation_date_time_utc >= *moment,
            Self::IsOneOf(property, values) => {
                let value = match property.as_str() {
                    "id" => action.id.to_string(),
                    "type" => format!("{:?}", action.r#type),
                    "status" => format!("{:?}", action.status),
                    "machineId" => action.machine_id.clone(),
                    _ => action.requestor.clone(),
                };
                values.iter().any(|wanted| match case {
                    Case::Sensitive => *wanted == value,
                    Case::Insensitive => wanted.eq_ignore_ascii_case(&value),
                })
            }
        }
    }
}

/// `name eq 'a'`, `name in ('a','b')` or `name ge 2026-01-30T21:11:22Z`.
fn condition(text: &str, properties: &[&str]) -> Option<Condition> {
    let (property, rest) = text.split_once(' ')?;
    let (operator, value) = rest.split_once(' ')?;
    if !properties.contains(&property) {
        return None;
    }
    let is_moment = property == "creationDateTimeUtc";
    let property = property.to_owned();
    match operator {
        "ge" if is_moment => Some(Condition::IsSince(property, value.parse().ok()?)),
        "eq" if !is_moment => Some(Condition::IsOneOf(property, vec![literal(value)?])),
        "in" if !is_moment => {
            let list = value.strip_prefix('(')?.strip_suffix(')')?;
            let values = list.split(',').map(|text| literal(text.trim()));
            Some(Condition::IsOneOf(property, values.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

/// A text in apostrophes. (One in it would be doubled; nobody sends such.)
fn literal(text: &str) -> Option<String> {
    let text = text.strip_prefix('\'')?.strip_suffix('\'')?;
    (!text.contains('\'')).then(|| text.to_owned())
}

fn count(text: &str) -> Option<usize> {
    text.parse().ok()
}

fn invalid(what: &str) -> Refusal {
    refusal(&format!("Invalid {what}."))
}

/// `$stop` gets this, too (microsoft-365-docs#12682).
pub(super) fn unsupported(name: &str) -> Refusal {
    refusal(&format!("The query parameter '{name}' is not supported."))
}

/// The OData layer's error has an empty code, and no target.
fn refusal(why: &str) -> Refusal {
    let message = format!("The query specified in the URI is not valid. {why}");
    Refusal::new(StatusCode::BAD_REQUEST, "", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROPERTIES: [&str; 3] = ["id", "type", "creationDateTimeUtc"];

    #[test]
    fn the_forms_that_are_sent_are_understood() {
        let one_of = |property: &str, values: &[&str]| {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            Condition::IsOneOf(property.to_owned(), values)
        };
        let since = "2026-01-30T21:11:22.8419303Z";
        let text = format!(
            "$filter=id%20in%20(%27a%27,%27b%27)%20and+type eq 'Isolate' and creationDateTimeUtc \
             ge {since}&$top=5&$skip=10&x=1"
        );
        let query = Query::read(&text, &PROPERTIES).unwrap();
        let expected = Query {
            conditions: vec![
                one_of("id", &["a", "b"]),
                one_of("type", &["Isolate"]),
                Condition::IsSince("creationDateTimeUtc".to_owned(), since.parse().unwrap()),
            ],
            top: 5,
            skip: 10,
        };
        assert_eq!(query, expected);
        assert_eq!(Query::read("", &PROPERTIES).unwrap().top, 10_000);
    }

    #[test]
    fn everything_else_gets_the_odata_error() {
        for text in [
            "$stop=2",
            "$orderby=id",
            "$count=true",
            "$expand=x",
            "$top=10001",
            "$top=-1",
            "$top=1&$top=2",
            "$skip=x",
            "$filter=",
            "$filter=id eq a",
            "$filter=id ne 'a'",
            "$filter=id eq 'a' or id eq 'b'",
            "$filter=id eq 'a' and ",
            "$filter=status eq 'Pending'",
            "$filter=contains(id,'a')",
            "$filter=creationDateTimeUtc eq '2026-01-30T21:11:22Z'",
            "$filter=creationDateTimeUtc ge yesterday",
            "$filter=id in 'a'",
            "$filter=id in ('a''b')",
        ] {
            let refusal = Query::read(text, &PROPERTIES).unwrap_err();
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST, "{text}");
            let words = "The query specified in the URI is not valid.";
            assert!(refusal.message.starts_with(words), "{}", refusal.message);
        }
    }

    #[test]
    fn a_page_is_a_part_of_what_fulfils_the_filter() {
        let query = |top, skip| Query {
            conditions: vec![Condition::IsOneOf(String::new(), Vec::new())],
            top,
            skip,
        };
        let even = |n: &i32, _: &Condition| n % 2 == 0;
        for (top, skip, page, more) in [
            (3, 0, vec![0, 2, 4], true),
            (2, 3, vec![6, 8], false),
            (9, 4, vec![8], false),
            (9, 9, vec![], false),
            (0, 0, vec![], true),
        ] {
            assert_eq!(query(top, skip).page(0..10, even), (page, more));
        }
    }
}
