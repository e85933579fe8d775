//! What a record says of the questions that the documentation leaves open.

use serde::Serialize;
use serde_json::Value;

use super::Step;
use super::record::{Record, Recorded, Response};

/// An answer to an open question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The question.
    pub question: &'static str,
    /// The answer, or why there is none.
    pub answer: String,
    /// The exchanges that say so, by their numbers in the record, from 1.
    pub evidence: Vec<usize>,
    /// The switch of the stand-in that makes it answer so, as `--set` takes it.
    pub switch: Option<String>,
    /// What it means for this program.
    pub meaning: &'static str,
}

/// Reads the answers off a record. A question that the record does not answer has no evidence.
pub fn findings(record: &Record) -> Vec<Finding> {
    let all = All(record);
    vec![
        all.status(),
        all.headers(),
        all.requestor(),
        all.visible("visible by GET", "get-machine-action"),
        all.visible("visible in a list", "list-machine-actions"),
        all.end("restriction ends", Step::Restrict),
        all.duplicate(),
        all.filter("filter by id (eq)", Step::FilterById),
        all.filter("filter by ids (in)", Step::FilterByIds),
        all.id_case(),
        all.name_case(),
        all.missing(),
        all.end("release ends", Step::Release),
        all.quota(),
    ]
}

struct All<'a>(&'a Record);

/// An exchange that was answered, with its number.
struct Answered<'a> {
    number: usize,
    exchange: &'a Recorded,
    response: &'a Response,
}

impl Answered<'_> {
    const fn is_success(&self) -> bool {
        matches!(self.response.status, 200..300)
    }

    const fn answered_at(&self) -> u64 {
        self.exchange.at_ms + self.response.after_ms
    }

    fn property(&self, name: &str) -> Option<&str> {
        self.response.body.as_ref()?.get(name)?.as_str()
    }

    /// The ids in a list.
    fn items(&self) -> Vec<&str> {
        let value = self
            .response
            .body
            .as_ref()
            .and_then(|body| body.get("value"));
        let items = value.and_then(Value::as_array).into_iter().flatten();
        items.filter_map(|item| item.get("id")?.as_str()).collect()
    }

    fn shows(&self, action: &str) -> bool {
        self.is_success() && (self.property("id") == Some(action) || self.items().contains(&action))
    }

    /// The status, and the code of an error.
    fn outcome(&self) -> String {
        let error = self
            .response
            .body
            .as_ref()
            .and_then(|body| body.get("error"));
        match error.and_then(|error| error.get("code")?.as_str()) {
            Some(code) => format!("{} {code:?}", self.response.status),
            None => self.response.status.to_string(),
        }
    }
}

impl<'a> All<'a> {
    fn answered(&self) -> impl Iterator<Item = Answered<'a>> {
        (1..)
            .zip(&self.0.exchanges)
            .filter_map(|(number, exchange)| {
                let response = exchange.response.as_ref()?;
                Some(Answered {
                    number,
                    exchange,
                    response,
                })
            })
    }

    /// The answers of a step, without those that only say to come back later.
    fn of(&self, step: Step) -> impl Iterator<Item = Answered<'a>> {
        self.answered().filter(move |answered| {
            let is_of_step = answered.exchange.step == step.name();
            is_of_step && answered.response.status != 429 && answered.response.status < 500
        })
    }

    /// The success of a step that creates an action.
    fn created(&self, step: Step) -> Option<(Answered<'a>, &'a str)> {
        let created = self.of(step).filter(Answered::is_success);
        created
            .filter_map(|answered| {
                let id = answered.response.body.as_ref()?.get("id")?.as_str()?;
                Some((answered, id))
            })
            .next()
    }

    fn status(&self) -> Finding {
        let first = self.of(Step::Restrict).next();
        finding(
            "status of a POST",
            first.map(|first| (first.outcome(), vec![first.number])),
            None,
            "any 2xx with an action is accepted",
        )
    }

    fn headers(&self) -> Finding {
        let first = self.created(Step::Restrict).map(|(first, _)| first);
        let has = |name| {
            let first = first.as_ref();
            first.is_some_and(|first| first.response.headers.contains_key(name))
        };
        let said = |name: &'static str| match has(name) {
            true => name.to_owned(),
            false => format!("no {name}"),
        };
        let answer = first.as_ref().map(|first| {
            let said = [said("location"), said("content-encoding")];
            (said.join(", "), vec![first.number])
        });
        let location = match has("location") {
            true => "location=present",
            false => "location=absent",
        };
        let switch = first.is_some().then(|| location.to_owned());
        finding("headers of a POST", answer, switch, "neither is used")
    }

    fn requestor(&self) -> Finding {
        let first = self.created(Step::Restrict).map(|(first, _)| first);
        let answer = first.and_then(|first| {
            let requestor = first.property("requestor")?;
            let is_id = requestor.parse::<defender_core::id::ActionId>().is_ok();
            Some((if is_id { "id" } else { "name" }, first.number))
        });
        finding(
            "requestor of an action",
            answer.map(|(what, number)| (format!("the application's {what}"), vec![number])),
            answer.map(|(what, _)| format!("requestor={what}")),
            "shown, and not compared",
        )
    }

    /// How long after its answer an action can be read.
    fn visible(&self, question: &'static str, operation: &str) -> Finding {
        let mut slowest: Option<(u64, Vec<usize>, Option<u64>)> = None;
        for (creates, looks) in [
            (Step::Restrict, Step::RestrictShows),
            (Step::Release, Step::ReleaseShows),
        ] {
            let Some((created, id)) = self.created(creates) else {
                continue;
            };
            let mut missed = None;
            for look in self.of(looks) {
                let since = look.exchange.at_ms.saturating_sub(created.answered_at());
                if look.exchange.request.operation != operation {
                    continue;
                }
                if !look.shows(id) {
                    missed = Some((since, look.number));
                    continue;
                }
                if slowest.as_ref().is_none_or(|(time, ..)| *time < since) {
                    let numbers = missed.map(|(_, number)| number).into_iter();
                    let numbers = numbers.chain([look.number]).collect();
                    slowest = Some((since, numbers, missed.map(|(since, _)| since)));
                }
                break;
            }
        }
        let switch = slowest
            .as_ref()
            .map(|(time, ..)| format!("visible-after={}s", time.div_ceil(1000)));
        let answer = slowest.map(|(time, numbers, missed)| {
            let answer = match missed {
                Some(missed) => format!("between {} and {}", seconds(missed), seconds(time)),
                None => format!("within {}", seconds(time)),
            };
            (answer, numbers)
        });
        let meaning = "a run looks for a minute before it takes an action for missing";
        finding(question, answer, switch, meaning)
    }

    fn end(&self, question: &'static str, creates: Step) -> Finding {
        let created = self.created(creates);
        let last = created.as_ref().and_then(|(_, id)| {
            let shows = |answered: &Answered<'_>| {
                answered.exchange.request.operation == "get-machine-action" && answered.shows(id)
            };
            // The first that shows how it stands at last.
            let looks: Vec<_> = self.answered().filter(shows).collect();
            let status = looks.last()?.property("status")?.to_owned();
            let mut looks = looks.into_iter();
            looks.find(|look| look.property("status") == Some(&status))
        });
        let answer = created.zip(last).and_then(|((created, _), last)| {
            let since = last.exchange.at_ms.saturating_sub(created.answered_at());
            let status = last.property("status")?;
            let answer = format!("{status}, seen after {}", seconds(since));
            Some((answer, vec![created.number, last.number]))
        });
        finding(question, answer, None, "only Succeeded is a success")
    }

    fn duplicate(&self) -> Finding {
        let first = self.created(Step::Release);
        let again = self.of(Step::Duplicate).next();
        let Some(((first, id), again)) = first.zip(again) else {
            return finding("a second release", None, None, DUPLICATE);
        };
        let (answer, switch) = match again.property("id") {
            Some(same) if again.is_success() && same == id => {
                let status = again.response.status;
                let answer = format!("{status}, the action under way");
                (answer, Some("duplicate=return".to_owned()))
            }
            Some(_) if again.is_success() => {
                let answer = format!("{}, another action", again.response.status);
                (answer, Some("duplicate=create".to_owned()))
            }
            _ => {
                let is_400 = again.response.status == 400;
                (
                    again.outcome(),
                    is_400.then(|| "duplicate=reject".to_owned()),
                )
            }
        };
        let evidence = vec![first.number, again.number];
        finding(
            "a second release",
            Some((answer, evidence)),
            switch,
            DUPLICATE,
        )
    }

    fn filter(&self, question: &'static str, step: Step) -> Finding {
        let answered = self.of(step).next();
        let release = self.created(Step::Release);
        let answer = answered.as_ref().zip(release).map(|(answered, (_, id))| {
            let answer = match (answered.is_success(), answered.shows(id)) {
                (true, true) => "works".to_owned(),
                (true, false) => "finds nothing".to_owned(),
                (false, _) => format!("refused: {}", answered.outcome()),
            };
            (answer, vec![answered.number])
        });
        let switch = answered.map(|answered| match answered.is_success() {
            true => "list-filter=any".to_owned(),
            false => "list-filter=no-id".to_owned(),
        });
        let meaning = "a run follows up to a hundred actions with one list by ids";
        finding(question, answer, switch, meaning)
    }

    fn id_case(&self) -> Finding {
        let answered = self.of(Step::IdCase).next();
        let answer = answered.as_ref().map(|answered| {
            let answer = match (answered.is_success(), answered.items().is_empty()) {
                (true, true) => "compared with regard to case".to_owned(),
                (true, false) => "compared without regard to case".to_owned(),
                (false, _) => format!("refused: {}", answered.outcome()),
            };
            (answer, vec![answered.number])
        });
        let switch = answered
            .filter(Answered::is_success)
            .map(|answered| format!("filter-case={}", case(answered.items().is_empty())));
        let meaning = "ids are sent in lower case";
        finding("machineId eq, in capitals", answer, switch, meaning)
    }

    fn name_case(&self) -> Finding {
        let question = "computerDnsName eq, in capitals";
        let meaning = "a name in another letter case may not be found";
        let in_lower_case = self.of(Step::Name).next();
        let Some(plain) = in_lower_case.filter(|plain| !plain.items().is_empty()) else {
            return finding(question, None, None, meaning);
        };
        let Some(answered) = self.of(Step::NameCase).next() else {
            return finding(question, None, None, meaning);
        };
        let filter =
            |answered: &Answered<'_>| answered.exchange.request.query.get("$filter").cloned();
        let evidence = vec![plain.number, answered.number];
        if filter(&plain) == filter(&answered) {
            let answer = "not asked: the name has no letters".to_owned();
            return finding(question, Some((answer, evidence)), None, meaning);
        }
        // Documented is a 404 where there are none.
        let is_empty = answered.items().is_empty();
        let (answer, switch) = match answered.is_success() || answered.response.status == 404 {
            true if is_empty => ("compared with regard to case".to_owned(), true),
            true => ("compared without regard to case".to_owned(), true),
            false => (format!("refused: {}", answered.outcome()), false),
        };
        let switch = switch.then(|| format!("name-case={}", case(is_empty)));
        finding(question, Some((answer, evidence)), switch, meaning)
    }

    fn missing(&self) -> Finding {
        let answered = self.of(Step::MissingAction).next();
        let answer = answered.as_ref().map(|answered| {
            let error = answered
                .response
                .body
                .as_ref()
                .and_then(|body| body.get("error"));
            let message = error.and_then(|error| error.get("message")?.as_str());
            let message =
                message.map_or_else(|| "no message".to_owned(), |text| format!("{text:?}"));
            (
                format!("{}, {message}", answered.outcome()),
                vec![answered.number],
            )
        });
        let switch = answered.map(|answered| {
            let error = answered
                .response
                .body
                .as_ref()
                .and_then(|body| body.get("error"));
            match error.and_then(|error| error.get("target")?.as_str()) {
                Some(target) if target.starts_with('|') => "target=hierarchical".to_owned(),
                Some(_) => "target=guid".to_owned(),
                None => "target=absent".to_owned(),
            }
        });
        let meaning = "404 right after a POST means: not visible yet";
        finding("an action that does not exist", answer, switch, meaning)
    }

    fn quota(&self) -> Finding {
        let met = self
            .answered()
            .find(|answered| answered.response.status == 429);
        let answer = met.as_ref().map(|met| {
            let error = met
                .response
                .body
                .as_ref()
                .and_then(|body| body.get("error"));
            let message = error.and_then(|error| error.get("message")?.as_str());
            let wait = met.response.headers.get("retry-after");
            let wait = wait.map_or_else(
                || "no retry-after".to_owned(),
                |wait| format!("retry-after {wait}"),
            );
            let answer = format!(
                "{}, {wait}, {:?}",
                met.outcome(),
                message.unwrap_or_default()
            );
            (answer, vec![met.number])
        });
        let switch = met.map(|met| match met.response.headers.get("retry-after") {
            Some(value) if value.contains('T') => "retry-after=date".to_owned(),
            Some(_) => "retry-after=seconds".to_owned(),
            None => "retry-after=absent".to_owned(),
        });
        let meaning = "without a header, the wait is read from the message";
        let answer = answer.or_else(|| Some(("none was met".to_owned(), Vec::new())));
        finding("what a 429 contains", answer, switch, meaning)
    }
}

const DUPLICATE: &str = "the action under way is followed";

const fn case(is_sensitive: bool) -> &'static str {
    match is_sensitive {
        true => "sensitive",
        false => "insensitive",
    }
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100)
}

fn finding(
    question: &'static str,
    answer: Option<(String, Vec<usize>)>,
    switch: Option<String>,
    meaning: &'static str,
) -> Finding {
    let (answer, evidence) = answer.unwrap_or_else(|| ("not answered".to_owned(), Vec::new()));
    Finding {
        question,
        answer,
        evidence,
        switch,
        meaning,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(exchanges: &[(&str, &str, u16, Value)]) -> Record {
        let exchanges = exchanges.iter().map(|(step, filter, status, body)| {
            json!({
                "step": step, "at_ms": 0,
                "request": {
                    "operation": "find-machines", "method": "GET", "path": "/api/machines",
                    "query": { "$filter": filter }
                },
                "response": { "after_ms": 1, "status": status, "headers": {}, "body": body, "bytes": 1 }
            })
        });
        let exchanges: Vec<Value> = exchanges.collect();
        let record = json!({
            "format": super::super::FORMAT, "host_demo": "0", "service": "https://name-1.example.test",
            "exchanges": exchanges
        });
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn the_case_of_names_is_judged_only_if_both_were_asked_for() {
        let found = json!({ "value": [{ "id": "a" }] });
        let nothing = json!({ "value": [] });
        let missing = json!({ "error": { "code": "ResourceNotFound" } });
        let invalid = json!({ "error": { "code": "" } });
        for (plain, filter, status, body, answer, switch) in [
            (
                &found,
                "N",
                200,
                &found,
                "compared without",
                Some("name-case=insensitive"),
            ),
            (
                &found,
                "N",
                200,
                &nothing,
                "compared with regard",
                Some("name-case=sensitive"),
            ),
            (
                &found,
                "N",
                404,
                &missing,
                "compared with regard",
                Some("name-case=sensitive"),
            ),
            (&found, "N", 400, &invalid, "refused: 400", None),
            (&found, "n", 200, &found, "not asked", None),
            (&nothing, "N", 200, &nothing, "not answered", None),
        ] {
            let record = record(&[
                ("name", "n", 200, plain.clone()),
                ("name-case", filter, status, body.clone()),
            ]);
            let finding = All(&record).name_case();
            assert!(finding.answer.starts_with(answer), "{finding:?}");
            assert_eq!(finding.switch.as_deref(), switch);
        }
    }

    #[test]
    fn a_record_without_answers_answers_nothing() {
        for finding in findings(&record(&[])) {
            assert_eq!((finding.evidence, finding.switch), (vec![], None));
        }
    }
}
