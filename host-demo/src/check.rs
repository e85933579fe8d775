//! Whether releases would work: what is found out about it, and what that means.
//!
//! [`look`] asks and changes nothing: it resolves the service's name, connects without a token,
//! fetches a token, and makes one call of the plugin's that reads an action that does not exist.
//! [`Facts::judge`] is pure.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::DATE;
use jiff::{SignedDuration, Timestamp};

use crate::clock::Moment;
use crate::cloud::Service;
use crate::contract::Reason;
use crate::grant::Operation;
use crate::host::{CallError, Host, Patience};
use crate::identity::{Claims, IdentityError};
use crate::policy::Policy;
use crate::transport::{TransportError, TransportErrorKind};

/// What is read: no action has this id.
const NO_ACTION: &str = "00000000-0000-0000-0000-000000000000";

/// How long the name and the connection may take, each, unless a call may take less.
const PATIENCE: Duration = Duration::from_secs(15);

/// Beyond this, a clock that is wrong begins to cost tokens: Entra dates a token back by five
/// minutes at most, and its assertions hold for as long.
const SKEW_MAX: SignedDuration = SignedDuration::from_secs(60);

/// A token that ends sooner will not see a release through.
const LIFETIME_MIN: SignedDuration = SignedDuration::from_mins(5);

/// Something that a caller of the API may want to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Lift a restriction.
    Release,
    /// Impose one.
    Restrict,
    /// Follow what was asked for.
    ReadActions,
    /// Find a device by its name.
    FindMachines,
}

/// Whose token it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bearer {
    /// An application's: its rights are in `roles`.
    Application,
    /// A user's, by way of an application: its rights are in `scp`.
    User,
}

/// What a token may do, by its own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Whose they are.
    pub bearer: Bearer,
    /// The permissions in the token.
    pub held: Vec<String>,
}

impl Ability {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Release,
        Self::Restrict,
        Self::ReadActions,
        Self::FindMachines,
    ];

    /// The permissions any one of which gives it, the one to ask for first (Microsoft, "Remove app
    /// restriction API", "Restrict app execution API", "Get machineAction API" and "List machines
    /// API", Permissions).
    ///
    /// For reading actions, newer pages give the first only.
    pub const fn permissions(self, bearer: Bearer) -> &'static [&'static str] {
        match (self, bearer) {
            (Self::Release | Self::Restrict, _) => &["Machine.RestrictExecution"],
            (Self::ReadActions, Bearer::Application) => {
                &["Machine.ReadWrite.All", "Machine.Read.All"]
            }
            (Self::ReadActions, Bearer::User) => &["Machine.ReadWrite", "Machine.Read"],
            (Self::FindMachines, Bearer::Application) => {
                &["Machine.Read.All", "Machine.ReadWrite.All"]
            }
            (Self::FindMachines, Bearer::User) => &["Machine.Read", "Machine.ReadWrite"],
        }
    }
}

impl Rights {
    /// What the token says. One that says nothing of itself, because it is no JSON Web Token, has
    /// no known rights.
    pub fn of(claims: &Claims) -> Option<Self> {
        // Every token of Entra's names its audience, also one without a right.
        claims.audiences.first()?;
        Some(if claims.scopes.is_empty() {
            Self {
                bearer: Bearer::Application,
                held: claims.roles.clone(),
            }
        } else {
            Self {
                bearer: Bearer::User,
                held: claims.scopes.clone(),
            }
        })
    }

    /// The permission that gives an ability, if one does.
    pub fn gives(&self, ability: Ability) -> Option<&'static str> {
        let held = |permission: &&&str| self.held.iter().any(|held| held == **permission);
        ability.permissions(self.bearer).iter().find(held).copied()
    }

    /// What it lacks.
    pub fn missing(&self) -> Vec<Ability> {
        let mut missing = Ability::ALL.to_vec();
        missing.retain(|ability| self.gives(*ability).is_none());
        missing
    }
}

/// How the service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The file of the certificate authorities that are trusted besides the operating system's.
    pub ca_file: Option<String>,
    /// What the environment names in the place of the operating system's.
    pub store: Option<String>,
    /// The proxy in between.
    pub proxy: Option<String>,
}

/// What was found out.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Which service it is about.
    pub service: Service,
    /// How it was reached.
    pub way: Way,
    /// What this host lets out.
    pub policy: Policy,
    /// The addresses of its name, or why there are none. Absent behind a proxy, which looks for
    /// itself.
    pub addresses: Option<Result<Vec<IpAddr>, String>>,
    /// Whether a connection came about.
    pub connection: Result<(), TransportError>,
    /// How far the service's clock is ahead of ours, to the second.
    pub skew: Option<SignedDuration>,
    /// When it was looked.
    pub now: Timestamp,
    /// What the token says.
    pub token: Result<Claims, IdentityError>,
    /// How the reading ended: well, if the service said that there is no such action. Absent where
    /// it was of no use to try.
    pub read: Option<Result<(), CallError>>,
}

/// Finds out. Costs one call of the quota for reading, if there is a connection and a token.
pub async fn look(host: &Host, service: &Service, way: Way) -> Facts {
    let addresses = match way.proxy {
        Some(_) => None,
        None => Some(resolve(host, service).await),
    };
    let (connection, skew) = match connect(host, service).await {
        Ok(date) => (Ok(()), date),
        Err(error) => (Err(error), None),
    };
    let egress = host.egress();
    let token = egress.token().await.map(|token| token.claims().clone());
    let now = host.clock().wall();
    let read = if connection.is_ok() && token.is_ok() {
        let no_waiting = Patience {
            until: Some(host.clock().now()),
            ..Patience::default()
        };
        Some(match host.get_machine_action(NO_ACTION, no_waiting).await {
            Err(error) if matches!(error.reason(), Some(Reason::NotFound)) => Ok(()),
            other => other.map(|_| ()),
        })
    } else {
        None
    };
    Facts {
        service: service.clone(),
        way,
        policy: host.policy().clone(),
        addresses,
        connection,
        skew,
        now,
        token,
        read,
    }
}

/// How long a step may take.
fn patience(host: &Host) -> Duration {
    PATIENCE.min(host.call_timeout())
}

async fn resolve(host: &Host, service: &Service) -> Result<Vec<IpAddr>, String> {
    let origin = service.origin();
    let name = origin.host().trim_matches(['[', ']']);
    let deadline = host.clock().now() + patience(host);
    let found = tokio::select! {
        found = tokio::net::lookup_host((name, origin.port())) => found,
        () = host.clock().sleep_until(deadline) => return Err("no answer in time".to_owned()),
    };
    let mut addresses: Vec<IpAddr> = found
        .map_err(|error| error.to_string())?
        .map(|socket| socket.ip())
        .collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err("it has no address".to_owned());
    }
    Ok(addresses)
}

/// Asks for the origin's first page, without a token. Whatever the answer, it is one, and dated.
async fn connect(host: &Host, service: &Service) -> Result<Option<SignedDuration>, TransportError> {
    let origin = service.origin();
    let unusable = |_| TransportError {
        kind: TransportErrorKind::NotARequest,
        detail: format!("the request to {origin} could not be made"),
    };
    let request = http::Request::get(format!("{origin}/"));
    let (head, ()) = request.body(()).map_err(unusable)?.into_parts();
    let clock = host.clock();
    let patience = patience(host);
    let deadline: Moment = clock.now() + patience;
    let transport = &host.egress().transport;
    let sending = transport.send(head, Bytes::new(), std::sync::Arc::clone(clock), deadline);
    let answer = tokio::select! {
        answer = sending => answer?,
        () = clock.sleep_until(deadline) => return Err(TransportError {
            kind: TransportErrorKind::ConnectTimeout,
            detail: format!("no answer from {origin} within {} s", patience.as_secs_f64()),
        }),
    };
    let now = clock.wall();
    let date = answer
        .headers()
        .get(DATE)
        .and_then(|date| date.to_str().ok())
        .and_then(|date| {
            jiff::fmt::rfc2822::DateTimeParser::new()
                .parse_timestamp(date)
                .ok()
        });
    // The header names the second that has begun: on the average it is half a second behind.
    let half = SignedDuration::from_millis(500);
    Ok(date.map(|date| {
        let ahead = date.duration_since(now) + half;
        ahead.round(jiff::Unit::Second).unwrap_or(ahead)
    }))
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// The service's name and its addresses.
    Name,
    /// The way there.
    Connection,
    /// The two clocks.
    Clock,
    /// Who we are.
    Token,
    /// Whom the token is for.
    Audience,
    /// One of the rights.
    Right(Ability),
    /// Whether an action can be followed to its end.
    Following,
}

/// How good or bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Fine,
    /// Not known, because something before it is wrong.
    Unknown,
    /// It limits what can be done.
    Warning,
    /// Nothing works with it.
    Fatal,
}

/// One thing that was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub topic: Topic,
    /// How it is.
    pub level: Level,
    /// What it is, for people.
    pub text: String,
}

/// What it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Ready,
    /// It works, but not all of it, or perhaps not for long.
    Limited,
    /// It does not work.
    Unusable,
}

/// All that was found, in the order of the way there, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What was found.
    pub findings: Vec<Finding>,
    /// What it comes to.
    pub verdict: Verdict,
    /// What the token may do, where it says so.
    pub rights: Option<Rights>,
    /// How the missing rights are granted, where some are.
    pub how_to_grant: Option<String>,
}

impl Facts {
    /// What the facts mean.
    pub fn judge(&self) -> Report {
        let rights = self.token.as_ref().ok().and_then(Rights::of);
        let mut findings = vec![self.name(), self.connection(), self.clock(), self.token()];
        if self.token.is_ok() {
            findings.push(self.audience());
            let found = Ability::ALL.map(|ability| self.right(ability, rights.as_ref()));
            findings.extend(found);
        }
        findings.push(self.following(rights.as_ref()));
        let worst = findings.iter().map(|finding| finding.level).max();
        let missing = rights.as_ref().map(Rights::missing).unwrap_or_default();
        let verdict = match worst {
            Some(Level::Fatal) => Verdict::Unusable,
            Some(Level::Fine) => Verdict::Ready,
            _ => Verdict::Limited,
        };
        let how_to_grant = rights
            .as_ref()
            .filter(|_| !missing.is_empty())
            .map(|rights| how_to_grant(rights.bearer, &missing));
        Report {
            findings,
            verdict,
            rights,
            how_to_grant,
        }
    }

    fn name(&self) -> Finding {
        let host = self.service.origin().host();
        let (level, text) = match &self.addresses {
            Some(Ok(addresses)) => {
                let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                (Level::Fine, format!("{host} is {}", list.join(", ")))
            }
            Some(Err(error)) => (Level::Fatal, format!("{host} can't be resolved: {error}")),
            None => (Level::Fine, format!("{host} is resolved by the proxy")),
        };
        Topic::Name.found(level, text)
    }

    fn connection(&self) -> Finding {
        let system = match &self.way.store {
            Some(store) => format!("those of {store}, in the place of the operating system's"),
            None => "the operating system's".to_owned(),
        };
        let trust = match &self.way.ca_file {
            Some(file) => format!("trusting the certificate authorities in {file} and {system}"),
            None => format!("trusting the certificate authorities: {system}"),
        };
        let protection = if self.service.origin().is_secure() {
            format!("TLS, {trust}")
        } else {
            "without TLS, on loopback".to_owned()
        };
        let proxy = match &self.way.proxy {
            Some(proxy) => format!("by the proxy {proxy}"),
            None => "no proxy".to_owned(),
        };
        if let Some(Err(_)) = self.addresses {
            let text = format!("not without an address ({protection}; {proxy})");
            return Topic::Connection.found(Level::Unknown, text);
        }
        match &self.connection {
            Ok(()) => Topic::Connection.found(Level::Fine, format!("{protection}; {proxy}")),
            Err(error) => {
                let text = format!("{error} ({protection}; {proxy})");
                Topic::Connection.found(Level::Fatal, text)
            }
        }
    }

    fn clock(&self) -> Finding {
        let Some(skew) = self.skew else {
            return Topic::Clock.found(Level::Unknown, "the service's clock was not seen");
        };
        let by = format!("{:#}", skew.abs());
        let (level, text) = if skew.abs() > SKEW_MAX {
            let how = if skew.is_negative() {
                "ahead of"
            } else {
                "behind"
            };
            let text = format!(
                "this machine's clock is {by} {how} the service's: tokens may be refused as not \
                 yet valid or as expired; have it set by NTP"
            );
            (Level::Warning, text)
        } else {
            (Level::Fine, format!("{by} apart from the service's"))
        };
        Topic::Clock.found(level, text)
    }

    fn token(&self) -> Finding {
        let claims = match &self.token {
            Ok(claims) => claims,
            Err(error) => return Topic::Token.found(Level::Fatal, error.to_string()),
        };
        let unsaid = "(not said)";
        let mut text = format!(
            "{} {} in tenant {}",
            if claims.scopes.is_empty() {
                "application"
            } else {
                "a user, by application"
            },
            claims.application.as_deref().unwrap_or(unsaid),
            claims.tenant.as_deref().unwrap_or(unsaid),
        );
        let mut level = Level::Fine;
        if claims.audiences.is_empty() {
            level = Level::Unknown;
            text = "the token is none that tells what it is".to_owned();
        }
        if let Some(end) = claims.expires {
            let left = end.duration_since(self.now);
            if left <= SignedDuration::ZERO {
                level = Level::Fatal;
                text += &format!("; it has expired, at {end}");
            } else {
                let shown = left.round(jiff::Unit::Second).unwrap_or(left);
                text += &format!("; holds for {shown:#}, until {end}");
                if left < LIFETIME_MIN {
                    level = Level::Warning;
                }
            }
        }
        // The service has the last word.
        if let Some(Err(CallError::Answered { error, .. })) = &self.read
            && matches!(error.reason, Reason::Unauthorized)
        {
            level = Level::Fatal;
            text += &format!("; the service does not accept it: {}", error.message);
        }
        Topic::Token.found(level, text)
    }

    fn audience(&self) -> Finding {
        let audiences = match &self.token {
            Ok(claims) if !claims.audiences.is_empty() => &claims.audiences,
            _ => {
                let unsaid = "the token does not say whom it is for";
                return Topic::Audience.found(Level::Unknown, unsaid);
            }
        };
        let Some(audience) = audiences.iter().find(|audience| !self.is_ours(audience)) else {
            return Topic::Audience.found(Level::Fine, audiences.join(", "));
        };
        let refused = matches!(
            &self.read,
            Some(Err(error)) if matches!(error.reason(), Some(Reason::Forbidden(_)))
        );
        let level = if refused {
            Level::Fatal
        } else {
            Level::Warning
        };
        let wanted = Service::commercial();
        let remedy = if is_the_new_host(audience) {
            format!(
                "the API takes tokens of the older resource, on its newer host too: ask for {}",
                wanted.scope()
            )
        } else {
            format!("ask for {}", self.service.scope())
        };
        let refused = if refused {
            ", and refused with 403"
        } else {
            ""
        };
        let text = format!("the token is for {audience}{refused}; {remedy}");
        Topic::Audience.found(level, text)
    }

    /// Whether a token of this audience is one for this service, as far as it is known.
    fn is_ours(&self, audience: &str) -> bool {
        self.service.is_named_by(audience) && !is_the_new_host(audience)
    }

    fn right(&self, ability: Ability, rights: Option<&Rights>) -> Finding {
        let topic = Topic::Right(ability);
        // What the policy says of reading shows when it is tried.
        if ability == Ability::Release
            && let Err(denial) = self.policy.allows(Operation::UnrestrictCodeExecution)
        {
            return topic.found(Level::Fatal, denial.to_string());
        }
        let Some(rights) = rights else {
            return topic.found(Level::Unknown, "the token does not say what it may do");
        };
        let wanted = ability.permissions(rights.bearer);
        match rights.gives(ability) {
            // Whether the service still takes the older permission shows when it is tried.
            Some(held) if ability == Ability::ReadActions && held != wanted[0] => topic.found(
                Level::Fine,
                format!("{held}; newer pages of Microsoft's ask for {}", wanted[0]),
            ),
            Some(held) => topic.found(Level::Fine, held),
            None => {
                // Without the others there is less to see; without this one there is no release.
                let level = match ability {
                    Ability::Release => Level::Fatal,
                    _ => Level::Warning,
                };
                topic.found(level, format!("missing: {}", wanted.join(" or ")))
            }
        }
    }

    fn following(&self, rights: Option<&Rights>) -> Finding {
        // Of a release that can't be there is nothing to say.
        let can_release = rights.is_none_or(|rights| rights.gives(Ability::Release).is_some())
            && self
                .policy
                .allows(Operation::UnrestrictCodeExecution)
                .is_ok();
        let so = |what: &str| {
            if can_release {
                format!(": a release {what}")
            } else {
                String::new()
            }
        };
        let error = match &self.read {
            Some(Ok(())) => {
                let text = format!(
                    "reading an action works{}",
                    so("can be followed to its end")
                );
                return Topic::Following.found(Level::Fine, text);
            }
            None => return Topic::Following.found(Level::Unknown, "not tried"),
            Some(Err(error)) => error,
        };
        let unverifiable = so("would be accepted and not verifiable");
        let (level, text) = match (error, error.reason()) {
            (_, Some(Reason::Forbidden(_))) => (
                Level::Warning,
                format!("reading an action is refused{unverifiable} ({error})"),
            ),
            (_, Some(Reason::Denied)) => (
                Level::Warning,
                format!("this host's policy forbids to read an action{unverifiable} ({error})"),
            ),
            (CallError::Quota { .. } | CallError::Stopped, _)
            | (_, Some(Reason::RateLimited(_) | Reason::ServiceFailure(_))) => {
                (Level::Warning, format!("it can't be told now: {error}"))
            }
            _ => (Level::Fatal, error.to_string()),
        };
        Topic::Following.found(level, text)
    }
}

/// The audience that suggests itself on the newer host, and that the API does not take.
fn is_the_new_host(audience: &str) -> bool {
    let new = Service::commercial().origin().to_string();
    audience.trim_end_matches('/').eq_ignore_ascii_case(&new)
}

fn how_to_grant(bearer: Bearer, missing: &[Ability]) -> String {
    let mut permissions: Vec<&str> = Vec::new();
    for ability in missing {
        // One of them is enough, and reading actions comes first with the one that gives both.
        let first = ability.permissions(bearer)[0];
        let covered = ability
            .permissions(bearer)
            .iter()
            .any(|p| permissions.contains(p));
        if !covered {
            permissions.push(first);
        }
    }
    let (kind, more) = match bearer {
        Bearer::Application => ("application", ""),
        Bearer::User => (
            "delegated",
            " The user needs, in Defender, the permission for active remediation actions (to read: \
             for viewing data) and access to the devices' group.",
        ),
    };
    format!(
        "In the Entra admin center, under App registrations, the application, API permissions: add \
         the {kind} permissions {} of WindowsDefenderATP (under \"APIs my organization uses\"), \
         and grant admin consent. Tokens issued before do not have them.{more}",
        permissions.join(", ")
    )
}

impl Topic {
    fn found(self, level: Level, text: impl Into<String>) -> Finding {
        Finding {
            topic: self,
            level,
            text: text.into(),
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Name => "name",
            Self::Connection => "connection",
            Self::Clock => "clock",
            Self::Token => "token",
            Self::Audience => "audience",
            Self::Right(Ability::Release) => "release",
            Self::Right(Ability::Restrict) => "restrict",
            Self::Right(Ability::ReadActions) => "read actions",
            Self::Right(Ability::FindMachines) => "find machines",
            Self::Following => "following",
        })
    }
}

impl Level {
    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Fatal => "error",
        }
    }
}

impl Verdict {
    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Limited => "limited",
            Self::Unusable => "unusable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "https://api.securitycenter.microsoft.com";

    fn claims(roles: &[&str]) -> Claims {
        Claims {
            roles: roles.iter().map(ToString::to_string).collect(),
            audiences: vec![OLD.to_owned()],
            expires: Timestamp::from_second(1_769_807_482 + 3600).ok(),
            ..Claims::default()
        }
    }

    /// All as it should be.
    fn facts() -> Facts {
        Facts {
            service: Service::commercial(),
            policy: Policy::release_and_read(Service::commercial().origin().clone()),
            way: Way {
                ca_file: None,
                store: None,
                proxy: None,
            },
            addresses: Some(Ok(vec![IpAddr::from([192, 0, 2, 1])])),
            connection: Ok(()),
            skew: Some(SignedDuration::from_secs(1)),
            now: Timestamp::constant(1_769_807_482, 0),
            token: Ok(claims(&[
                "Machine.RestrictExecution",
                "Machine.ReadWrite.All",
            ])),
            read: Some(Ok(())),
        }
    }

    fn level(report: &Report, topic: Topic) -> Level {
        let found = report.findings.iter().find(|f| f.topic == topic);
        found
            .unwrap_or_else(|| panic!("{topic} in {report:#?}"))
            .level
    }

    #[test]
    fn rights_are_read_from_roles_for_applications_and_from_scp_for_users() {
        use Ability::{FindMachines, ReadActions, Release, Restrict};

        let user = |scopes: &str| Claims {
            scopes: scopes.split(' ').map(str::to_owned).collect(),
            ..claims(&["Machine.RestrictExecution"])
        };
        for (claims, missing) in [
            (
                claims(&[]),
                vec![Release, Restrict, ReadActions, FindMachines],
            ),
            (
                claims(&["Machine.RestrictExecution"]),
                vec![ReadActions, FindMachines],
            ),
            (claims(&["Machine.Read.All"]), vec![Release, Restrict]),
            (
                claims(&["Machine.Read"]),
                vec![Release, Restrict, ReadActions, FindMachines],
            ),
            (
                claims(&["machine.restrictexecution"]),
                Ability::ALL.to_vec(),
            ),
            (
                claims(&["Machine.ReadWrite.All", "Machine.RestrictExecution"]),
                vec![],
            ),
            (user("Machine.Read"), vec![Release, Restrict]),
            (user("Machine.RestrictExecution Machine.ReadWrite"), vec![]),
            (user(""), Ability::ALL.to_vec()),
        ] {
            let rights = Rights::of(&claims).unwrap();
            assert_eq!(rights.missing(), missing, "{claims:?}");
        }
        assert_eq!(Rights::of(&Claims::default()), None);
    }

    #[test]
    fn all_well_is_ready() {
        let report = facts().judge();
        assert_eq!(report.verdict, Verdict::Ready, "{report:#?}");
        assert_eq!(report.how_to_grant, None);
    }

    #[test]
    fn a_missing_right_limits_and_without_that_to_release_it_is_of_no_use() {
        let with = |roles: &[&str]| {
            let facts = Facts {
                token: Ok(claims(roles)),
                ..facts()
            };
            facts.judge()
        };
        let report = with(&["Machine.RestrictExecution"]);
        assert_eq!(report.verdict, Verdict::Limited);
        assert_eq!(
            level(&report, Topic::Right(Ability::ReadActions)),
            Level::Warning
        );
        let how = report.how_to_grant.unwrap();
        assert!(
            how.contains("permissions Machine.ReadWrite.All of"),
            "{how}"
        );
        for without in [&[][..], &["Machine.ReadWrite.All"]] {
            let report = with(without);
            assert_eq!(report.verdict, Verdict::Unusable, "{without:?}");
            let release = Topic::Right(Ability::Release);
            assert_eq!(level(&report, release), Level::Fatal, "{without:?}");
        }
    }

    #[test]
    fn of_following_a_release_nothing_is_said_where_there_can_be_none() {
        let said = |facts: Facts| {
            let report = facts.judge();
            let found = report
                .findings
                .into_iter()
                .rfind(|f| f.topic == Topic::Following);
            found.unwrap().text
        };
        let reading = "Machine.ReadWrite.All";
        let release = "Machine.RestrictExecution";
        let with = |roles: &[&str], read| Facts {
            token: Ok(claims(roles)),
            read: Some(read),
            ..facts()
        };
        let works = "reading an action works";
        assert_eq!(said(with(&[reading], Ok(()))), works);
        let followed = format!("{works}: a release can be followed to its end");
        assert_eq!(said(with(&[reading, release], Ok(()))), followed);
        let mut denied = with(&[reading, release], Ok(()));
        denied.policy = Policy::deny_all(denied.service.origin().clone());
        assert_eq!(said(denied), works);
    }

    #[test]
    fn whose_certificates_are_trusted_is_said() {
        let said = |ca_file: Option<&str>, store: Option<&str>| {
            let mut facts = facts();
            facts.way.ca_file = ca_file.map(str::to_owned);
            facts.way.store = store.map(str::to_owned);
            facts.connection().text
        };
        for (ca_file, store, expected) in [
            (
                None,
                None,
                "trusting the certificate authorities: the operating system's",
            ),
            (
                Some("ca.pem"),
                None,
                "trusting the certificate authorities in ca.pem and the operating system's",
            ),
            (
                Some("ca.pem"),
                Some("SSL_CERT_FILE (/x)"),
                "trusting the certificate authorities in ca.pem and those of SSL_CERT_FILE (/x), \
                 in the place of the operating system's",
            ),
        ] {
            assert_eq!(said(ca_file, store), format!("TLS, {expected}; no proxy"));
        }
    }

    #[test]
    fn a_clock_is_wrong_from_the_second_after_a_minute() {
        for (seconds, expected) in [
            (60, Level::Fine),
            (-60, Level::Fine),
            (61, Level::Warning),
            (-61, Level::Warning),
        ] {
            let skew = Some(SignedDuration::from_secs(seconds));
            let report = Facts { skew, ..facts() }.judge();
            assert_eq!(level(&report, Topic::Clock), expected, "{seconds} s");
        }
    }

    #[test]
    fn a_token_is_judged_by_its_end() {
        for (left, expected) in [
            (0, Level::Fatal),
            (1, Level::Warning),
            (299, Level::Warning),
            (300, Level::Fine),
        ] {
            let mut facts = facts();
            if let Ok(claims) = &mut facts.token {
                claims.expires = Timestamp::from_second(1_769_807_482 + left).ok();
            }
            assert_eq!(
                level(&facts.judge(), Topic::Token),
                expected,
                "{left} s left"
            );
        }
    }

    #[test]
    fn the_newer_host_as_an_audience_is_told_from_the_older_one() {
        for (audience, expected) in [
            (OLD, Level::Fine),
            ("https://api.securitycenter.microsoft.com/", Level::Fine),
            ("https://api.security.microsoft.com", Level::Warning),
            ("https://graph.microsoft.com", Level::Warning),
        ] {
            let mut facts = facts();
            if let Ok(claims) = &mut facts.token {
                claims.audiences = vec![audience.to_owned()];
            }
            let report = facts.judge();
            assert_eq!(level(&report, Topic::Audience), expected, "{audience}");
        }
    }

    #[test]
    fn nothing_is_ready_without_a_connection_or_a_token() {
        let no_way = Facts {
            addresses: Some(Err("no such name".to_owned())),
            connection: Err(TransportError {
                kind: TransportErrorKind::Dns,
                detail: "no".to_owned(),
            }),
            skew: None,
            read: None,
            ..facts()
        };
        let no_token = Facts {
            token: Err(IdentityError::Malformed),
            read: None,
            ..facts()
        };
        for facts in [no_way, no_token] {
            let report = facts.judge();
            assert_eq!(report.verdict, Verdict::Unusable, "{report:#?}");
            assert_eq!(level(&report, Topic::Following), Level::Unknown);
        }
    }
}
