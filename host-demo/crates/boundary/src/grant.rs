//! What one call may do: one operation, on one target, with one comment, by one request.

use serde::Deserialize;

use crate::policy::Denial;
use defender_core::escape::shown;

pub use defender_core::operation::{Operation, Target};

/// The right to one request. Made for one call, by whoever makes the call; the plugin has no say in
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    operation: Operation,
    target: Option<Target>,
    comment: Option<String>,
}

/// The body of a request that has one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(rename = "Comment")]
    comment: String,
}

impl Grant {
    /// For an operation on a target. Without a target it covers nothing: the argument that should
    /// have named one was no id, and no request can follow.
    pub const fn new(operation: Operation, target: Option<Target>) -> Self {
        Self {
            operation,
            target,
            comment: None,
        }
    }

    /// The same grant for a request with this comment in its body. An operation that changes
    /// something needs one; without it no body is allowed.
    #[must_use]
    pub fn with_comment(mut self, comment: &str) -> Self {
        self.comment = Some(comment.to_owned());
        self
    }

    /// The operation.
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// The target, where there is one.
    pub const fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// The comment that the request's body must contain.
    pub fn comment(&self) -> Option<&str> {
        self.comment.as_deref()
    }

    /// Decides whether the call was made for this, as far as `connection.open` says what it is.
    pub fn opens(&self, operation: Operation, target: Option<&str>) -> Result<(), Denial> {
        let granted = self.target.as_ref();
        if self.operation == operation && granted.is_some_and(|t| t.named() == target) {
            return Ok(());
        }
        Err(self.denial(operation, target))
    }

    /// Decides whether the call was made for this request.
    pub fn covers(&self, operation: Operation, target: &Target) -> Result<(), Denial> {
        if self.operation == operation && self.target.as_ref() == Some(target) {
            return Ok(());
        }
        Err(self.denial(operation, Some(&target.to_string())))
    }

    /// Decides whether the call was made for a request with this body: one JSON object with the
    /// member `Comment` and no other, whose decoded text is the caller's comment; or nothing, for
    /// an operation that only reads.
    pub fn allows_body(&self, body: &[u8]) -> Result<(), Denial> {
        if !self.operation.changes_something() {
            return match body {
                [] => Ok(()),
                _ => Err(Denial::Body("is not empty, and this operation has none")),
            };
        }
        // An array of one text would be read as the object's members in order.
        let is_object = body.trim_ascii_start().starts_with(b"{");
        let read = serde_json::from_slice::<Body>(body).ok();
        match read.filter(|_| is_object) {
            None => Err(Denial::Body(
                "is not one JSON object with exactly one member \"Comment\"",
            )),
            Some(read) if self.comment.as_ref() == Some(&read.comment) => Ok(()),
            Some(_) => Err(Denial::OtherComment),
        }
    }

    fn denial(&self, operation: Operation, target: Option<&str>) -> Denial {
        let name = |operation: Operation, target: Option<&str>| {
            format!(
                "{operation} of {}",
                target.map_or("nothing in particular".to_owned(), shown)
            )
        };
        let granted = self.target.as_ref().map(Target::to_string);
        Denial::NotThisCall {
            granted: name(self.operation, granted.as_deref()),
            asked: name(operation, target),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use defender_core::query::ActionQuery;

    const A: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
    const B: &str = "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9";

    const RELEASE: Operation = Operation::UnrestrictCodeExecution;

    fn machine(id: &str) -> Target {
        Target::Machine(id.parse().unwrap())
    }

    fn assert_denied(decision: Result<(), Denial>) {
        assert!(
            matches!(decision, Err(Denial::NotThisCall { .. })),
            "{decision:?}"
        );
    }

    #[test]
    fn a_grant_covers_its_operation_on_its_target_and_nothing_else() {
        let grant = Grant::new(RELEASE, Some(machine(A)));
        assert_eq!(grant.opens(RELEASE, Some(A)), Ok(()));
        assert_eq!(grant.covers(RELEASE, &machine(A)), Ok(()));
        for (operation, target) in [
            (RELEASE, Some(B)),
            (RELEASE, None),
            (RELEASE, Some("")),
            (Operation::RestrictCodeExecution, Some(A)),
            (Operation::GetMachineAction, Some(A)),
        ] {
            assert_denied(grant.opens(operation, target));
        }
        assert_denied(grant.covers(RELEASE, &machine(B)));
        assert_denied(grant.covers(Operation::RestrictCodeExecution, &machine(A)));
        assert_denied(grant.covers(RELEASE, &Target::Name(A.parse().unwrap())));
    }

    #[test]
    fn a_grant_for_a_page_covers_that_page_of_that_list() {
        let list = Operation::ListMachineActions;
        let page = |query: &str| Target::Actions(ActionQuery::parse(query).unwrap());
        let of_a = format!("$filter=machineId%20eq%20%27{A}%27&$top=10");
        let grant = Grant::new(list, Some(page(&of_a)));
        assert_eq!(grant.opens(list, Some(A)), Ok(()));
        assert_eq!(grant.covers(list, &page(&of_a)), Ok(()));
        for other in [
            "$top=10",
            &of_a.replace(A, B),
            &(of_a.clone() + "&$skip=10"),
        ] {
            assert_denied(grant.covers(list, &page(other)));
        }
        assert_denied(grant.opens(list, Some(B)));
        assert_denied(grant.opens(list, None));
        let everything = Grant::new(list, Some(page("$top=10")));
        assert_eq!(everything.opens(list, None), Ok(()));
        assert_denied(everything.opens(list, Some(A)));
    }

    #[test]
    fn the_body_contains_the_callers_comment_and_nothing_else() {
        let comment = "INC-42: \"cleaned\"\nä";
        let grant = Grant::new(RELEASE, Some(machine(A))).with_comment(comment);
        for same in [
            r#"{"Comment":"INC-42: \"cleaned\"\nä"}"#,
            " {\t\"Comment\" : \"\\u0049NC-42: \\u0022cleaned\\u0022\\n\\u00e4\" }\r\n",
        ] {
            assert_eq!(grant.allows_body(same.as_bytes()), Ok(()), "{same}");
        }
        for other in [
            r#"{"Comment":"INC-42: cleaned"}"#,
            r#"{"Comment":""}"#,
            r#"{"Comment":"INC-42: \"cleaned\"\nA\u0308"}"#,
        ] {
            let decision = grant.allows_body(other.as_bytes());
            assert_eq!(decision, Err(Denial::OtherComment), "{other}");
        }
        let text = r#""INC-42: \"cleaned\"\nä""#;
        for bad in [
            String::new(),
            "{}".to_owned(),
            text.to_owned(),
            format!("[{text}]"),
            format!(r#"{{"comment":{text}}}"#),
            format!(r#"{{"Comment":{text},"IsolationType":"Full"}}"#),
            format!(r#"{{"Comment":{text},"Comment":{text}}}"#),
            format!(r#"{{"Comment":"x","\u0043omment":{text}}}"#),
            format!(r#"{{"Comment":[{text}]}}"#),
            format!(r#"{{"Comment":{text}}}{{}}"#),
            format!(r#"{{"Comment":{text}"#),
            format!("\u{feff}{{\"Comment\":{text}}}"),
            r#"{"Comment":null}"#.to_owned(),
        ] {
            let decision = grant.allows_body(bad.as_bytes());
            assert!(matches!(decision, Err(Denial::Body(_))), "{bad}");
        }
        let without = Grant::new(RELEASE, Some(machine(A)));
        let decision = without.allows_body(br#"{"Comment":""}"#);
        assert_eq!(decision, Err(Denial::OtherComment));
        let read = Grant::new(Operation::GetMachineAction, None);
        assert_eq!(read.allows_body(b""), Ok(()));
        assert!(read.allows_body(b"{}").is_err());
    }

    #[test]
    fn a_grant_without_a_target_covers_nothing() {
        let grant = Grant::new(RELEASE, None);
        assert_denied(grant.opens(RELEASE, None));
        assert_denied(grant.opens(RELEASE, Some(A)));
        assert_denied(grant.covers(RELEASE, &machine(A)));
    }
}
