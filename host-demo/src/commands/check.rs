//! `host-demo check`

mod pilot;

use host_demo::check::{self, Facts, Level, Report, Topic, Verdict, Way};
use host_demo::egress::Tape;
use host_demo::identity::IdentityError;
use serde_json::{Value, json};

use crate::args::{self, Output};
use crate::exit::Exit;
use crate::setup::host::{self, Recording};
use crate::setup::{read_actions, settings};
use crate::ui::waits::Waits;
use crate::ui::{hint, output};

pub(crate) async fn run(args: args::Check, format: Output) -> anyhow::Result<Exit> {
    let (connection, settings) = settings::settle(&args.connection)?;
    let tape = Tape::new();
    let recording = Recording {
        run: None,
        tape: args.pilot.is_some().then(|| tape.clone()),
    };
    let (host, service) = host::settled(&connection, &settings, recording)?;
    if args.pilot.is_some() {
        pilot::granted(&host)?;
    }
    let way = Way {
        ca_file: connection.ca_file.map(|path| path.display().to_string()),
        store: store(),
        proxy: connection.proxy.clone(),
    };
    let waits = Waits::new(&host, format);
    let patience = read_actions::patience(&waits);
    let facts = waits
        .watch(check::look(&host, &service, way, &patience))
        .await;
    let mut report = facts.judge();
    let failures = [
        facts.connection.as_ref().err().and_then(hint::of_transport),
        facts.addresses.as_ref().and_then(|found| {
            let failed = found.is_err();
            failed.then(hint::unused_proxy).flatten()
        }),
        match &facts.token {
            Err(IdentityError::NoAnswer(failure)) => hint::of_transport(failure),
            _ => None,
        },
    ];
    // One is enough.
    report.hints.extend(failures.into_iter().flatten().next());
    match format {
        Output::Json => output::json_line(&to_json(&facts, &report)),
        Output::Text => print(&facts, &report),
    }
    let exit = match report.verdict {
        Verdict::Ready => Exit::Done,
        Verdict::Limited => Exit::Failed,
        Verdict::Unusable => Exit::CouldNotRun,
    };
    match (args.pilot, args.record) {
        (Some(device), Some(record)) if exit != Exit::CouldNotRun => {
            let wanted = pilot::Wanted {
                device,
                record,
                yes: args.yes,
            };
            let piloted = pilot::run(&host, &service, &tape, wanted, format).await?;
            Ok(piloted.failed_if(exit == Exit::Failed))
        }
        _ => Ok(exit),
    }
}

/// What the environment names as the system's certificate authorities, for OpenSSL and for us. It
/// replaces them, also where it names nothing that is there. (On macOS the keychain is asked.)
fn store() -> Option<String> {
    if cfg!(target_vendor = "apple") {
        return None;
    }
    let named: Vec<String> = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
        .iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
        .filter(|(name, value)| **name == "SSL_CERT_FILE" || !value.is_empty())
        .map(|(name, value)| format!("{name} ({})", value.display()))
        .collect();
    (!named.is_empty()).then(|| named.join(" and "))
}

fn print(facts: &Facts, report: &Report) {
    output::line(&format!("{}", facts.service.origin()));
    for finding in &report.findings {
        output::line(&format!(
            "  {:<8} {:<14} {}",
            finding.level.name(),
            finding.topic,
            output::clean(&finding.text)
        ));
    }
    if let Some(how) = &report.how_to_grant {
        output::line(how);
    }
    for hint in &report.hints {
        output::line(&format!("hint: {}", output::clean(hint)));
    }
    if facts.read.is_some() {
        output::line("It cost one call of the quota for reading, and changed nothing.");
    }
    output::line(match report.verdict {
        Verdict::Ready => "Ready.",
        Verdict::Limited => "It works, with the limits above.",
        Verdict::Unusable => "It does not work like this.",
    });
}

fn to_json(facts: &Facts, report: &Report) -> Value {
    let claims = facts.token.as_ref().ok();
    let addresses = facts
        .addresses
        .as_ref()
        .and_then(|found| found.as_ref().ok());
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            json!({
                "topic": finding.topic.to_string(),
                "level": finding.level.name(),
                "text": finding.text,
            })
        })
        .collect();
    let right = |topic| {
        let found = report.findings.iter().find(|f| f.topic == topic)?;
        (found.level != Level::Unknown).then_some(found.level == Level::Fine)
    };
    let rights = check::Ability::ALL.map(|ability| {
        let topic = Topic::Right(ability);
        (topic.to_string().replace(' ', "_"), json!(right(topic)))
    });
    json!({
        "type": "check",
        "verdict": report.verdict.name(),
        "origin": facts.service.origin().to_string(),
        "authority": facts.service.authority().to_string(),
        "scope": facts.service.scope(),
        "ca_file": facts.way.ca_file,
        "trust_store": facts.way.store,
        "proxy": facts.way.proxy,
        "addresses": addresses,
        "clock_skew_seconds": facts.skew.map(|skew| skew.as_secs()),
        "tenant": claims.and_then(|c| c.tenant.as_ref()),
        "application": claims.and_then(|c| c.application.as_ref()),
        "audience": claims.map(|c| c.audiences.join(", ")).filter(|all| !all.is_empty()),
        "expires": claims.and_then(|c| c.expires).map(|end| end.as_second()),
        "credential": facts.credential.map(|credential| json!({
            "kind": credential.kind.name(),
            "valid_from": credential.from.map(|from| from.as_second()),
            "expires": credential.until.map(|until| until.as_second()),
        })),
        "permissions": report.rights.as_ref().map(|rights| &rights.held),
        "rights": Value::Object(rights.into_iter().collect()),
        "following": right(Topic::Following),
        "how_to_grant": report.how_to_grant,
        "hints": report.hints,
        "read_calls": u8::from(facts.read.is_some()),
        "findings": findings,
    })
}
