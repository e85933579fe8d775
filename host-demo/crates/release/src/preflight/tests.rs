//! What is made of the facts, each of them bent in turn.

use super::*;
use defender_connect::identity::CredentialKind;

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
        credential: None,
        proxy_answers: [None, None],
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

fn answered(reason: Reason) -> CallError {
    CallError::Answered {
        error: defender_host::bindings::Error {
            effect: defender_host::bindings::Effect::None,
            reason,
            message: "no".to_owned(),
            service: None,
        },
        detail: None,
    }
}

#[test]
fn a_credential_that_expires_within_30_days_is_a_warning() {
    use CredentialKind::{Certificate, ClientSecret, FederatedToken};

    let day = SignedDuration::from_hours(24);
    let hour = SignedDuration::from_hours(1);
    let minute = SignedDuration::from_mins(1);
    let past = Some(-day);
    for (kind, from, until, expected, words) in [
        (
            Certificate,
            past,
            Some(day * 31),
            Level::Fine,
            "expires in 31 days",
        ),
        (
            Certificate,
            past,
            Some(day * 30),
            Level::Warning,
            "expires in 30 days",
        ),
        (
            Certificate,
            past,
            Some(day * 2),
            Level::Warning,
            "expires in 2 days",
        ),
        (
            Certificate,
            past,
            Some(hour),
            Level::Warning,
            "expires in 1h",
        ),
        (
            Certificate,
            Some(day * -400),
            Some(day * -30),
            Level::Warning,
            "expired 30 days ago",
        ),
        (
            Certificate,
            Some(day * 3),
            Some(day * 400),
            Level::Warning,
            "not valid before",
        ),
        (
            ClientSecret,
            None,
            None,
            Level::Fine,
            "only the Entra admin center shows",
        ),
        (
            FederatedToken,
            None,
            Some(day * 2),
            Level::Warning,
            "expires in 2 days",
        ),
        (
            FederatedToken,
            past,
            Some(day * 2),
            Level::Warning,
            "expires in 2 days",
        ),
        (
            FederatedToken,
            None,
            Some(hour),
            Level::Warning,
            "expires in 1h",
        ),
        // One that Kubernetes has put there and will replace.
        (
            FederatedToken,
            Some(-minute),
            Some(hour - minute),
            Level::Fine,
            "expires in 59m",
        ),
        (
            FederatedToken,
            Some(-hour),
            Some(minute),
            Level::Warning,
            "expires in 1m",
        ),
        (
            FederatedToken,
            Some(-hour),
            Some(-minute),
            Level::Warning,
            "expired 1m ago",
        ),
        (
            FederatedToken,
            None,
            None,
            Level::Fine,
            "does not say when it expires",
        ),
    ] {
        let mut facts = facts();
        let time = |offset: SignedDuration| facts.now + offset;
        facts.credential = Some(Credential {
            kind,
            from: from.map(time),
            until: until.map(time),
        });
        let report = facts.judge();
        assert_eq!(level(&report, Topic::Credential), expected, "{report:#?}");
        let verdict = match expected {
            Level::Fine => Verdict::Ready,
            _ => Verdict::Limited,
        };
        assert_eq!(report.verdict, verdict, "{report:#?}");
        let mut found = report.findings.iter();
        let found = found
            .find(|found| found.topic == Topic::Credential)
            .unwrap();
        assert!(found.text.contains(words), "{}", found.text);
    }
    let report = facts().judge();
    assert!(
        report
            .findings
            .iter()
            .all(|found| found.topic != Topic::Credential)
    );
}

#[test]
fn the_roles_to_grant_are_those_that_the_service_names() {
    let refused = |required: &[&str], held: &[&str]| {
        let texts = |all: &[&str]| all.iter().map(ToString::to_string).collect();
        let roles = defender_host::bindings::MissingRoles {
            required_roles: texts(required),
            held_roles: texts(held),
        };
        let mut facts = facts();
        facts.token = Ok(claims(&["Machine.RestrictExecution", "Machine.Read.All"]));
        facts.read = Some(Err(answered(Reason::Forbidden(roles))));
        facts.judge()
    };
    let held = ["Machine.RestrictExecution", "Machine.Read.All"];
    let report = refused(&["Machine.ReadWrite.All"], &held);
    let how = report.how_to_grant.as_deref().unwrap();
    assert!(
        how.contains("permissions Machine.ReadWrite.All of"),
        "{how}"
    );
    let said = &report.findings.last().unwrap().text;
    let roles =
        "required: Machine.ReadWrite.All; held: Machine.RestrictExecution, Machine.Read.All";
    assert!(said.contains(roles), "{said}");
    // The token says what it has, where the service does not.
    let report = refused(&["Machine.ReadWrite.All"], &[]);
    let said = &report.findings.last().unwrap().text;
    assert!(said.contains(roles), "{said}");
    assert_eq!(refused(&[], &[]).how_to_grant, None);

    for reason in [
        Reason::Unauthorized,
        Reason::ServiceFailure(defender_host::bindings::Failure {
            retry_after_seconds: None,
        }),
    ] {
        let mut facts = facts();
        facts.token = Ok(claims(&held));
        facts.read = Some(Err(answered(reason)));
        let report = facts.judge();
        assert_eq!(report.how_to_grant, None);
        assert!(!report.findings.last().unwrap().text.contains("Machine."));
    }
}
