//! What the API answers: its checks, in their order, and what it does then.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    CONTENT_TYPE, HeaderName, LOCATION,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::action::Now;
use super::api_error::Refusal;
use super::defender::{Cancelling, Order, Service, Submission};
use super::entra::Directory;
use super::machine_action::ActionType;
use super::odata::{self, Condition, Query};
use super::route::Call;
use super::switches::{
    CheckOrder, ContentType, Doubtful, EndedCancel, Header, MissingComment, NoMachines, ReadRole,
    Requestor, ReturnedStatus, Switches,
};
use super::token::{Claims, Permission, Tokens};
use super::wire::{self, Page, Reply, header_text, unescape};

/// What a list of actions can be filtered by (Microsoft, "List MachineActions API").
pub(super) const ACTION_PROPERTIES: [&str; 6] = [
    "id",
    "status",
    "machineId",
    "type",
    "requestor",
    "creationDateTimeUtc",
];

/// The headers that let a browser's page read an answer, where the switch says so.
pub(super) fn with_cors(reply: Reply, switches: &Switches) -> Reply {
    if switches.cors == Header::Absent {
        return reply;
    }
    let any =
        |reply: Reply, name: HeaderName, value| reply.with(name, HeaderValue::from_static(value));
    let reply = any(reply, ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    let reply = any(reply, ACCESS_CONTROL_ALLOW_METHODS, "GET, POST");
    any(
        reply,
        ACCESS_CONTROL_ALLOW_HEADERS,
        "authorization, content-type",
    )
}

/// A request that has been read.
pub(super) struct Request<'a> {
    pub(super) call: Call,
    /// The id in the path; of a list, nothing.
    pub(super) name: &'a str,
    pub(super) head: &'a Parts,
    pub(super) body: &'a [u8],
}

pub(super) struct Front<'a> {
    pub(super) service: &'a mut Service,
    pub(super) tokens: &'a Tokens,
    pub(super) directory: &'a Directory,
    pub(super) switches: &'a Switches,
}

impl Front<'_> {
    pub(super) fn answer(&mut self, request: &Request<'_>, now: Now) -> Reply {
        let switches = self.switches;
        self.checked(request, now)
            .unwrap_or_else(|refusal| refusal.into_reply(switches))
    }

    /// In this order: the token, the role, the request, the machine. The quota was looked at
    /// before. Where it is not known to matter, the order is a choice.
    fn checked(&mut self, request: &Request<'_>, now: Now) -> Result<Reply, Refusal> {
        let claims = self
            .tokens
            .accept(&request.head.headers, self.switches, now.wall)?;
        match request.call {
            Call::Act(r#type) => self.act(r#type, request, claims, now),
            Call::ReadAction => {
                self.may_read_actions(claims)?;
                odata_query(request.head)?;
                let id = request.name.parse().ok().filter(|_| self.is_ours(claims));
                let action = id.and_then(|id| self.service.read(id, now.moment));
                // The words for an unknown action are not recorded; these follow the machine's.
                let action =
                    action.ok_or_else(|| Refusal::not_found("Machine action", request.name))?;
                Ok(wire::action(
                    StatusCode::OK,
                    &self.switches.context_host,
                    &action,
                ))
            }
            Call::ListActions => {
                self.may_read_actions(claims)?;
                let query = Query::read(query_of(request.head), &ACTION_PROPERTIES)?;
                query.fits(self.switches.list_filter)?;
                let all = match self.is_ours(claims) {
                    true => self.service.list(now.moment),
                    false => Vec::new(),
                };
                let case = self.switches.filter_case;
                let holds = |action: &_, condition: &Condition| condition.holds_for(action, case);
                let (items, has_more) = query.page(all, holds);
                let next_link = self.next_link(request.head, &query, has_more);
                let page = Page { items, next_link };
                Ok(wire::actions(&self.switches.context_host, page))
            }
            Call::CancelAction => self.cancel(request, claims, now),
            Call::ListMachines => self.list_machines(request, claims, now),
            Call::ReadMachine => {
                let find = |name| {
                    self.service
                        .find(name)
                        .or_else(|| self.service.find_by_name(name))
                };
                let machine = find(request.name).filter(|_| self.is_ours(claims));
                let not_found = || Refusal::not_found("Machine", request.name);
                self.machine_first(machine, not_found)?;
                self.may_read_machines(claims)?;
                odata_query(request.head)?;
                let machine = self.service.machine(machine.ok_or_else(not_found)?);
                Ok(wire::machine(
                    &self.switches.context_host,
                    machine,
                    now.wall,
                ))
            }
        }
    }

    fn may_read_actions(&self, claims: &Claims) -> Result<(), Refusal> {
        match self.switches.read_role {
            ReadRole::Either => self.may_read_machines(claims),
            ReadRole::ReadWrite => Permission {
                roles: &["Machine.ReadWrite.All"],
                scopes: &["Machine.ReadWrite"],
            }
            .check(claims, self.switches),
        }
    }

    fn may_read_machines(&self, claims: &Claims) -> Result<(), Refusal> {
        let permission = Permission {
            roles: &["Machine.Read.All", "Machine.ReadWrite.All"],
            scopes: &["Machine.Read", "Machine.ReadWrite"],
        };
        permission.check(claims, self.switches)
    }

    /// Where the rest of a list is.
    fn next_link(&self, head: &Parts, query: &Query, has_more: bool) -> Option<String> {
        let is_there = has_more && self.switches.next_link == Header::Present;
        is_there.then(|| {
            let skip = query.skip + query.top;
            let host = &self.switches.context_host;
            format!("https://{host}{}?$skip={skip}", head.uri.path())
        })
    }

    /// Any of the permissions for actions will do (Microsoft, "Cancel machine action API").
    fn cancel(
        &mut self,
        request: &Request<'_>,
        claims: &Claims,
        now: Now,
    ) -> Result<Reply, Refusal> {
        const NAMES: [&str; 7] = [
            "Machine.CollectForensics",
            "Machine.Isolate",
            "Machine.RestrictExecution",
            "Machine.Scan",
            "Machine.Offboard",
            "Machine.StopAndQuarantine",
            "Machine.LiveResponse",
        ];
        let permission = Permission {
            roles: &NAMES,
            scopes: &NAMES,
        };
        permission.check(claims, self.switches)?;
        let comment = self.comment(&request.head.headers, request.body)?;
        let id = request.name.parse().ok().filter(|_| self.is_ours(claims));
        let requestor = self.requestor(claims);
        let cancelling = id.map_or(Cancelling::NotFound, |id| {
            self.service.cancel(id, requestor, &comment, now.moment)
        });
        let host = &self.switches.context_host;
        match cancelling {
            Cancelling::Cancelled(action) => Ok(wire::action(StatusCode::OK, host, &action)),
            Cancelling::NotFound => Err(Refusal::not_found("Machine action", request.name)),
            Cancelling::HasEnded(action) => match self.switches.ended_cancel {
                EndedCancel::Return => Ok(wire::action(StatusCode::OK, host, &action)),
                // Made up: no error for this is documented or reported.
                EndedCancel::Reject => Err(Refusal::bad_request(
                    "BadRequest",
                    "Machine action has already ended",
                )),
            },
        }
    }

    fn list_machines(
        &self,
        request: &Request<'_>,
        claims: &Claims,
        now: Now,
    ) -> Result<Reply, Refusal> {
        self.may_read_machines(claims)?;
        let query = Query::read(query_of(request.head), &["computerDnsName"])?;
        let all: Vec<_> = match &query.conditions[..] {
            _ if !self.is_ours(claims) => Vec::new(),
            [] => self.service.machines().collect(),
            [Condition::IsOneOf(_, names), ..] => {
                let of_name = |name: &String| self.service.all_by_name(name);
                names.iter().flat_map(of_name).collect()
            }
            [Condition::IsSince(..), ..] => Vec::new(),
        };
        if all.is_empty() && self.switches.no_machines == NoMachines::NotFound {
            let message = "No machines were found".to_owned();
            return Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "ResourceNotFound",
                message,
            ));
        }
        // The one condition that there can be is fulfilled.
        let (items, has_more) = query.page(all, |_, _| true);
        let next_link = self.next_link(request.head, &query, has_more);
        let page = Page { items, next_link };
        Ok(wire::machines(&self.switches.context_host, page, now.wall))
    }

    fn requestor<'c>(&self, claims: &'c Claims) -> &'c str {
        match (&claims.upn, self.switches.requestor) {
            (Some(user), _) => user,
            (None, Requestor::Name) => "Defender for Endpoint API",
            (None, Requestor::Id) => &claims.appid,
        }
    }

    fn act(
        &mut self,
        r#type: ActionType,
        request: &Request<'_>,
        claims: &Claims,
        now: Now,
    ) -> Result<Reply, Refusal> {
        let machine = self
            .service
            .find(request.name)
            .filter(|_| self.is_ours(claims));
        let not_found = || Refusal::not_found("Machine", request.name);
        self.machine_first(machine, not_found)?;
        let permission = Permission {
            roles: &["Machine.RestrictExecution"],
            scopes: &["Machine.RestrictExecution"],
        };
        permission.check(claims, self.switches)?;
        let comment = self.comment(&request.head.headers, request.body)?;
        let machine = machine.ok_or_else(not_found)?;
        let requestor = self.requestor(claims);
        let order = Order {
            r#type,
            machine,
            comment: &comment,
            requestor,
        };
        let host = &self.switches.context_host;
        match self.service.submit(&order, now) {
            Submission::Created(action) => {
                let reply = wire::action(StatusCode::CREATED, host, &action);
                Ok(match self.switches.location {
                    Header::Present => {
                        let location = format!("https://{host}/api/machineactions/{}", action.id);
                        reply.with(LOCATION, header_text(location))
                    }
                    Header::Absent => reply,
                })
            }
            Submission::Running(action) => {
                let status = match self.switches.returned_status {
                    ReturnedStatus::Ok => StatusCode::OK,
                    ReturnedStatus::Created => StatusCode::CREATED,
                };
                Ok(wire::action(status, host, &action))
            }
            // The code is not in Microsoft's table, but named under "Run live response commands";
            // the sentence is the one that users report (microsoft-365-docs#5906).
            Submission::AlreadyInProgress => {
                let message = "Action is already in progress";
                Err(Refusal::bad_request("ActiveRequestAlreadyExists", message))
            }
            // Made up: no error for this is documented or reported.
            Submission::Unneeded => Err(Refusal::bad_request(
                "BadRequest",
                match r#type {
                    ActionType::RestrictCodeExecution => "Machine is already restricted",
                    ActionType::UnrestrictCodeExecution => "Machine is not restricted",
                },
            )),
        }
    }

    fn machine_first(
        &self,
        machine: Option<usize>,
        not_found: impl Fn() -> Refusal,
    ) -> Result<(), Refusal> {
        match self.switches.check_order {
            CheckOrder::MachineFirst if machine.is_none() => Err(not_found()),
            _ => Ok(()),
        }
    }

    /// Machines and actions are those of one tenant; another one's token finds nothing.
    fn is_ours(&self, claims: &Claims) -> bool {
        claims.tid.eq_ignore_ascii_case(&self.directory.tenant_id)
    }

    /// The comment of a request for an action. Keys are case-sensitive (Microsoft, "Common REST
    /// API error codes").
    fn comment(&self, headers: &HeaderMap, body: &[u8]) -> Result<String, Refusal> {
        let invalid = || Refusal::bad_request("InvalidRequestBody", "Request body is incorrect");
        let missing = || match self.switches.missing_comment {
            MissingComment::MissingParameter => {
                Refusal::bad_request("MissingRequiredParameter", "Parameter Comment is missing")
            }
            MissingComment::InvalidBody => invalid(),
        };
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let essence = content_type
            .and_then(|value| value.split(';').next())
            .unwrap_or("")
            .trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            match self.switches.content_type {
                ContentType::Accept => {}
                ContentType::BadRequest => return Err(invalid()),
                // Bare in ASP.NET; here it has the envelope that every error has.
                ContentType::Unsupported => {
                    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                    let message = format!("Unsupported media type {essence:?}");
                    return Err(Refusal::new(status, "UnsupportedMediaType", message));
                }
            }
        }
        if body.is_empty() {
            return Err(missing());
        }
        let body: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(body).map_err(|_| invalid())?;
        let known = |key: &String| key == "Comment";
        if self.switches.unknown_property == Doubtful::Reject && !body.keys().all(known) {
            return Err(invalid());
        }
        let comment = match body.get("Comment") {
            Some(serde_json::Value::String(comment)) => comment,
            Some(serde_json::Value::Null) | None => return Err(missing()),
            Some(_) => return Err(invalid()),
        };
        if self.switches.blank_comment == Doubtful::Reject && comment.trim().is_empty() {
            return Err(missing());
        }
        if self
            .switches
            .max_comment
            .is_some_and(|max| comment.chars().count() > max as usize)
        {
            let message = "Invalid input: Comment is too long";
            return Err(Refusal::bad_request("InvalidInput", message));
        }
        Ok(comment.clone())
    }
}

pub(super) fn query_of(head: &Parts) -> &str {
    head.uri.query().unwrap_or("")
}

/// Refuses system query options other than those of a single entity.
fn odata_query(head: &Parts) -> Result<(), Refusal> {
    let names = query_of(head)
        .split('&')
        .map(|pair| unescape(pair.split('=').next().unwrap_or(""), true));
    match names
        .filter(|name| name.starts_with('$'))
        .find(|n| n != "$select" && n != "$expand")
    {
        None => Ok(()),
        Some(name) => Err(odata::unsupported(&name)),
    }
}
