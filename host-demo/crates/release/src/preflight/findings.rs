//! What the facts mean, and what to do about it.

use std::fmt;

use jiff::SignedDuration;

use super::{Ability, Bearer, Facts, Rights};
use defender_connect::cloud::Service;
use defender_connect::identity::{CredentialKind, IdentityError};
use defender_connect::proxy::Proxy;
use defender_connect::transport::TransportError;
use defender_core::operation::Operation;
use defender_host::CallError;
use defender_host::bindings::{MissingRoles, Reason};

/// Beyond this, a clock that is wrong begins to cost tokens: Entra dates a token back by five
/// minutes at most, and its assertions hold for as long.
const SKEW_MAX: SignedDuration = SignedDuration::from_secs(60);

/// A token that ends sooner will not see a release through.
const LIFETIME_MIN: SignedDuration = SignedDuration::from_mins(5);

/// A credential that expires sooner has to be renewed now.
const RENEWAL: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A federated token that was issued for so long at most is renewed by its issuer
/// (Kubernetes issues them for a day at most, and replaces them in time).
const SHORT_LIVED: SignedDuration = SignedDuration::from_hours(24);

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// The service's name and its addresses.
    Name,
    /// The way there.
    Connection,
    /// The two clocks.
    Clock,
    /// What proves who we are.
    Credential,
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
    /// Steps that help.
    pub hints: Vec<String>,
}

impl Facts {
    /// What the facts mean.
    pub fn judge(&self) -> Report {
        let rights = self.token.as_ref().ok().and_then(Rights::of);
        let mut findings = vec![self.name(), self.connection(), self.clock()];
        findings.extend(self.credential());
        findings.push(self.token());
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
        // What the service says is missing counts besides what the token lacks by the
        // documentation.
        let mut permissions = rights
            .as_ref()
            .map(|rights| to_grant(rights.bearer, &missing))
            .unwrap_or_default();
        let required = self.refused_roles().map(|roles| &roles.required_roles);
        let required: Vec<&str> = required.into_iter().flatten().map(String::as_str).collect();
        if !required.iter().any(|role| permissions.contains(role)) {
            permissions.extend(required.first());
        }
        let bearer = rights.as_ref().map_or(Bearer::Application, |r| r.bearer);
        let how_to_grant = (!permissions.is_empty()).then(|| how_to_grant(bearer, &permissions));
        Report {
            findings,
            verdict,
            rights,
            how_to_grant,
            hints: self.hints(),
        }
    }

    /// The roles that a refusal of the service's names.
    fn refused_roles(&self) -> Option<&MissingRoles> {
        match self.read.as_ref()?.as_ref().err()?.reason()? {
            Reason::Forbidden(roles) => Some(roles),
            _ => None,
        }
    }

    fn hints(&self) -> Vec<String> {
        let answers = self.proxy_answers.iter().flatten();
        let others_only = answers
            .filter(|answer| answer.offers_other_schemes_only())
            .map(|_| {
                "ask for Basic authentication or an exception at the proxy, or run a local proxy \
                 that authenticates there (such as px or cntlm) and name that"
                    .to_owned()
            });
        let mut hints: Vec<String> = others_only.take(1).collect();
        if let Some(odd) = self.service.network().proxy().and_then(Proxy::oddity)
            && self.proxy_answers.iter().any(Option::is_some)
        {
            hints.push(format!("the proxy's {odd}"));
        }
        hints
    }

    /// Whether the credential that tokens are obtained with is valid, and for how long.
    fn credential(&self) -> Option<Finding> {
        let credential = self.credential?;
        let kind = credential.kind.name();
        let found = |level, text: String| Some(Topic::Credential.found(level, text));
        let shown = |time: SignedDuration| {
            let unit = match time < SignedDuration::from_hours(48) {
                true => jiff::Unit::Second,
                false => jiff::Unit::Hour,
            };
            let time = time.round(unit).unwrap_or(time);
            let days = time.as_hours() / 24;
            if days >= 2 {
                format!("{days} days")
            } else {
                format!("{time:#}")
            }
        };
        if let Some(from) = credential.from.filter(|from| *from > self.now) {
            // An issuer's clock may be ahead of this one.
            let ahead = from.duration_since(self.now);
            if ahead > SKEW_MAX {
                let text = format!("the {kind} is not valid before {from}, in {}", shown(ahead));
                return found(Level::Warning, text);
            }
        }
        let Some(until) = credential.until else {
            return found(
                Level::Fine,
                match credential.kind {
                    CredentialKind::ClientSecret => {
                        "client secret; only the Entra admin center shows when it expires \
                         (Certificates & secrets)"
                            .to_owned()
                    }
                    _ => format!("{kind}; it does not say when it expires"),
                },
            );
        };
        let left = until.duration_since(self.now);
        if left <= SignedDuration::ZERO {
            let ago = shown(left.abs());
            let text = format!("the {kind} expired {ago} ago, at {until}; replace it");
            return found(Level::Warning, text);
        }
        let is_renewed_elsewhere = credential.kind == CredentialKind::FederatedToken
            && credential
                .from
                .is_some_and(|from| until.duration_since(from) <= SHORT_LIVED);
        let limit = if is_renewed_elsewhere {
            LIFETIME_MIN
        } else {
            RENEWAL
        };
        let text = format!("{kind}; expires in {}, at {until}", shown(left));
        if left <= limit {
            return found(Level::Warning, format!("{text}; replace it now"));
        }
        found(Level::Fine, text)
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

    pub(super) fn connection(&self) -> Finding {
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
                let error = self.why(error, 0);
                let text = format!("{error} ({protection}; {proxy})");
                Topic::Connection.found(Level::Fatal, text)
            }
        }
    }

    /// A failure, with the proxy's own reason where there is one: for the service, or for its
    /// authority.
    fn why(&self, error: &TransportError, which: usize) -> String {
        let origins = [self.service.origin(), self.service.authority()];
        match (&self.proxy_answers[which], &self.way.proxy) {
            (Some(answer), Some(proxy)) => {
                let origin = origins[which];
                format!("the proxy {proxy} made no tunnel to {origin}: {answer}")
            }
            _ => error.to_string(),
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
            Err(IdentityError::NoAnswer(error)) => {
                let text = format!("no token: {}", self.why(error, 1));
                return Topic::Token.found(Level::Fatal, text);
            }
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
                format!(
                    "reading an action is refused{unverifiable}{} ({error})",
                    self.required_and_held(rights)
                ),
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

impl Facts {
    /// The roles that the service requires, and those that the token has.
    fn required_and_held(&self, rights: Option<&Rights>) -> String {
        let Some(roles) = self
            .refused_roles()
            .filter(|roles| !roles.required_roles.is_empty())
        else {
            return String::new();
        };
        // Where the service does not say what the token has, the token does.
        let held = match roles.held_roles.as_slice() {
            [] => rights
                .map(|rights| rights.held.as_slice())
                .unwrap_or_default(),
            held => held,
        };
        let held = match held {
            [] => "none".to_owned(),
            held => held.join(", "),
        };
        let required = roles.required_roles.join(" or ");
        format!("; required: {required}; held: {held}")
    }
}

/// The audience that suggests itself on the newer host, and that the API does not take.
fn is_the_new_host(audience: &str) -> bool {
    let new = Service::commercial().origin().to_string();
    audience.trim_end_matches('/').eq_ignore_ascii_case(&new)
}

/// The permissions to ask for.
fn to_grant(bearer: Bearer, missing: &[Ability]) -> Vec<&'static str> {
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
    permissions
}

fn how_to_grant(bearer: Bearer, permissions: &[&str]) -> String {
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
            Self::Credential => "credential",
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
