//! Whose certificates count, and where: the system's everywhere, and those that are named at the
//! origin that they are named for.

use defender_mock::Mock;
use serde_json::Value;

use crate::check::{Run, Stage};

/// A check of the stand-in, whose authority is the same one by another URL: another origin.
fn check(stage: &Stage) -> Run {
    let base = stage.mock.base_url();
    let authority = base.replace("localhost", "127.0.0.1");
    stage
        .bare(["check", "--output", "json", "--base-url", base])
        .args(["--authority", &authority, "--scope", &stage.mock.scope()])
        .env("AZURE_TENANT_ID", stage.mock.tenant_id())
        .env("AZURE_CLIENT_ID", stage.mock.client_id())
        .env("AZURE_CLIENT_SECRET", stage.mock.client_secret())
}

/// What is said of the connection and of the token.
#[track_caller]
fn said(run: Run, code: i32) -> [String; 2] {
    let (out, _) = run.exits(code);
    let report: Value = serde_json::from_str(&out).unwrap();
    ["connection", "token"].map(|topic| {
        let findings = report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["topic"] == topic);
        found.unwrap()["text"].as_str().unwrap().to_owned()
    })
}

const UNTRUSTED: &str = "is not trusted";

/// Somebody else's certificate authority.
fn stranger(stage: &Stage) -> String {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let other = runtime.block_on(Mock::start()).unwrap();
    let path = stage.home().join("stranger.pem");
    std::fs::write(&path, other.ca_pem().unwrap()).unwrap();
    path.display().to_string()
}

#[test]
fn a_named_authority_of_certificates_counts_at_the_origin_that_it_is_named_for() {
    let stage = Stage::new();
    let service = ["--ca-file", "ca.pem"];
    let authority = ["--authority-ca-file", "ca.pem"];
    let [connection, token] = said(check(&stage).args(service), 2);
    assert!(!connection.contains(UNTRUSTED), "{connection}");
    assert!(
        token.contains("127.0.0.1") && token.contains(UNTRUSTED),
        "{token}"
    );
    let [connection, token] = said(check(&stage).args(authority), 2);
    assert!(connection.contains(UNTRUSTED), "{connection}");
    assert!(!token.contains(UNTRUSTED), "{token}");
    let _ = said(check(&stage).args(service).args(authority), 0);
}

#[cfg(not(target_vendor = "apple"))]
#[test]
fn the_systems_authorities_of_certificates_count_besides_one_that_is_named() {
    let stage = Stage::new();
    let stranger = stranger(&stage);
    // The system's, as far as the command can tell.
    let system = stage.home().join("ca.pem").display().to_string();
    let run = check(&stage).env("SSL_CERT_FILE", &system);
    let [connection, _] = said(run.args(["--ca-file", &stranger]), 0);
    let store = format!("those of SSL_CERT_FILE ({system}), in the place of");
    assert!(connection.contains(&store), "{connection}");
}

#[cfg(not(target_vendor = "apple"))]
#[test]
fn where_the_system_has_no_authorities_of_certificates_those_that_are_named_are_enough() {
    let stage = Stage::new();
    let bare = || check(&stage).env("SSL_CERT_FILE", "/nowhere");
    let ca = ["--ca-file", "ca.pem"];
    let _ = said(bare().args(ca).args(["--authority-ca-file", "ca.pem"]), 0);
    // A token that is at hand needs no authority.
    let grant = defender_mock::Grant::new();
    std::fs::write(stage.home().join("token"), stage.mock.token(grant)).unwrap();
    let _ = said(bare().args(ca).args(["--token-file", "token"]), 0);

    let (_, said) = bare().exits(2);
    assert!(
        said.contains("SSL_CERT_FILE") && said.contains("name a CA file"),
        "{said}"
    );
}
