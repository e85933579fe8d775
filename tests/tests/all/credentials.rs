//! Credentials as people have them, through the command: what clings to them, when they expire, and
//! what is said of each that is rejected.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use defender_mock::{Api, Fault, Grant, Mock};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};

use super::check::{Run, Stage};

/// Of no application anywhere; whoever reads it has it.
const KEY: &str = include_str!("../../../host-demo/crates/connect/src/identity/tests/key.pem");

/// A certificate of version 1 for this key, as `openssl x509 -req -signkey` makes it.
const VERSION_1: &str =
    include_str!("../../../host-demo/crates/connect/src/identity/tests/version-1.pem");

/// Runs it, and returns its report and what it says on standard error.
#[track_caller]
fn checked(run: Run, code: i32) -> (Value, String) {
    let (out, err) = run.args(["--output", "json"]).exits(code);
    let report = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}:\n{out}{err}"));
    (report, err)
}

/// What a report says of a topic: how bad it is, and the text.
#[track_caller]
fn finding<'a>(report: &'a Value, topic: &str) -> (&'a str, &'a str) {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["topic"] == topic);
    let found = found.unwrap_or_else(|| panic!("nothing about {topic} in {report:#}"));
    (
        found["level"].as_str().unwrap(),
        found["text"].as_str().unwrap(),
    )
}

#[test]
fn stray_characters_around_a_secret_are_removed() {
    let stage = Stage::new();
    let secret = stage.mock.client_secret();
    for around in [
        format!("{secret}\n"),
        format!("{secret}\r\n"),
        format!(" {secret}\t"),
        format!("\u{FEFF}{secret}"),
        format!("{secret}\u{200B}"),
    ] {
        let run = stage.run(["check"]).env("AZURE_CLIENT_SECRET", &around);
        let _ = checked(run, 0);
        std::fs::write(stage.home().join("secret"), &around).unwrap();
        let run = stage.run(["check", "--client-secret-file", "secret"]);
        let _ = checked(run, 0);
    }
    let text = format!("\u{FEFF}{secret}\r\n");
    let utf_16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(stage.home().join("secret"), utf_16).unwrap();
    let _ = checked(stage.run(["check", "--client-secret-file", "secret"]), 0);
}

#[test]
fn quotation_marks_around_a_secret_are_reported() {
    let stage = Stage::new();
    let secret = stage.mock.client_secret();
    for quoted in [format!("\"{secret}\""), format!("'{secret}'")] {
        let run = stage.run(["check"]).env("AZURE_CLIENT_SECRET", &quoted);
        let (report, err) = checked(run, 2);
        let (level, text) = finding(&report, "token");
        assert_eq!(level, "error");
        let told = "begins and ends with quotation marks";
        assert!(
            text.contains("AADSTS7000215") && text.contains(told),
            "{text}"
        );
        assert!(!format!("{report}{err}").contains(secret), "{report:#}");
    }
}

#[test]
fn a_token_file_is_read_in_each_form_that_tools_write() {
    let stage = Stage::new();
    let token = stage.mock.token(Grant::new());
    let check = |content: &[u8]| {
        std::fs::write(stage.home().join("token"), content).unwrap();
        stage.run(["check", "--token-file", "token"])
    };
    let azure = json!({ "accessToken": token, "expiresOn": "2026-11-29 00:01:59.000000" });
    for content in [
        format!("{token}\n"),
        format!("{token}\r\n"),
        format!("Bearer {token}"),
        format!("\"{token}\""),
        format!("{azure:#}\n"),
        format!("\u{FEFF}{token}"),
    ] {
        let _ = checked(check(content.as_bytes()), 0);
    }
    let (half, rest) = token.split_at(60);
    for (content, found) in [
        (
            format!("{half}\n{rest}"),
            "there are 2 lines, and a token is one",
        ),
        (format!("{half} {rest}"), "there are 2 words with blanks"),
        (
            "{\"tokenType\": \"Bearer\"}".to_owned(),
            "JSON without an accessToken",
        ),
        (String::new(), "there is nothing"),
    ] {
        let (_, err) = check(content.as_bytes()).exits(2);
        assert!(err.contains("token file token is not usable"), "{err}");
        assert!(err.contains(found), "{content:?}: {err}");
        assert!(!err.contains(half), "{err}");
    }
    let (_, err) = check(b"\xFF\xFE\x00").exits(2);
    assert!(err.contains("it is not text"), "{err}");
}

#[test]
fn an_authority_host_without_a_scheme_is_taken_as_https() {
    let stage = Stage::new();
    let show = |host: &str| {
        stage
            .bare(["config", "show"])
            .env("AZURE_AUTHORITY_HOST", host)
    };
    let (out, _) = show("login.microsoftonline.com").exits(0);
    let line = "service.authority            https://login.microsoftonline.com  \
                (environment AZURE_AUTHORITY_HOST)";
    assert!(out.contains(line), "{out}");
    let (_, err) = show("login.microsoftonline.com/common").exits(2);
    assert!(err.contains("https://login.microsoftonline.com:"), "{err}");
    assert!(!err.contains("api.security"), "{err}");
}

#[test]
fn a_tenant_id_is_trimmed_or_shown() {
    let stage = Stage::new();
    let id = stage.mock.tenant_id();
    for around in ["ID ", "ID\n", "\"ID\"", "'ID'", "{ID}"] {
        let run = stage.run(["check"]);
        let run = run.env("AZURE_TENANT_ID", &around.replace("ID", id));
        let (report, _) = checked(run, 0);
        assert_eq!(report["tenant"], id);
    }
    let run = stage.run(["check"]).env("AZURE_TENANT_ID", "contoso com");
    let (_, err) = run.exits(2);
    let expected = "AZURE_TENANT_ID is not a tenant ID (GUID) or domain: \"contoso com\"";
    assert!(err.contains(expected), "{err}");
}

// Certificates.

/// A stand-in whose application has this certificate, and the file of both.
fn with_certificate(certificate: &rcgen::Certificate) -> Stage {
    let der = certificate.der().to_vec();
    let stage = Stage::of(Mock::builder().certificate(der));
    let pem = format!("{KEY}{}", certificate.pem());
    closed(&stage.home().join("application.pem"), pem.as_bytes());
    stage
}

/// Writes a file that nobody else can read.
fn closed(path: &std::path::Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

fn valid_until(days: i64) -> rcgen::Certificate {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(days * 24);
    // A second more than whole days: less than one passes until it is looked at.
    let until = until + jiff::SignedDuration::from_mins(10);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1)
        + std::time::Duration::from_secs(until.as_second().try_into().unwrap());
    params
        .self_signed(&KeyPair::from_pem(KEY).unwrap())
        .unwrap()
}

fn by_certificate(stage: &Stage) -> Run {
    stage
        .run(["check", "--auth", "client-certificate"])
        .env("AZURE_CLIENT_CERTIFICATE_PATH", "application.pem")
}

#[test]
fn a_certificate_that_expires_within_30_days_is_exit_code_1() {
    for (days, code, level, text) in [
        (2, 1, "warning", "certificate; expires in 2 days, at "),
        (29, 1, "warning", "certificate; expires in 29 days, at "),
        (
            -30,
            1,
            "warning",
            "the certificate expired 30 days ago, at ",
        ),
        (60, 0, "ok", "certificate; expires in 60 days, at "),
    ] {
        let stage = with_certificate(&valid_until(days));
        let (report, _) = checked(by_certificate(&stage), code);
        let found = finding(&report, "credential");
        assert_eq!(found.0, level, "{report:#}");
        assert!(found.1.starts_with(text), "{report:#}");
        assert_eq!(report["credential"]["kind"], "certificate");
    }
    // A secret does not say when it expires, and that is no warning.
    let stage = Stage::new();
    let (report, _) = checked(stage.run(["check"]), 0);
    let (level, text) = finding(&report, "credential");
    assert_eq!(level, "ok");
    assert!(text.contains("only the Entra admin center shows"), "{text}");
    assert_eq!(report["credential"]["expires"], Value::Null);
}

#[test]
fn a_certificate_of_version_1_is_used() {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    let der = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).unwrap();
    let stage = Stage::of(Mock::builder().certificate(der.to_vec()));
    let pem = format!("{KEY}{VERSION_1}");
    closed(&stage.home().join("application.pem"), pem.as_bytes());
    let _ = checked(by_certificate(&stage), 0);
}

#[test]
fn an_unusable_certificate_comes_with_a_command() {
    let stage = with_certificate(&valid_until(60));
    let file = stage.home().join("application.pem");
    std::fs::write(
        &file,
        [&[0x30, 0x82, 9, 0x5F, 2, 1, 3][..], &[0; 99]].concat(),
    )
    .unwrap();
    let (_, err) = by_certificate(&stage).exits(2);
    assert_eq!(
        err,
        "host-demo: the certificate file application.pem is not usable: the file is PKCS#12 \
         (PFX), and PEM is expected\n\
         hint: convert it: openssl pkcs12 -in FILE -nodes -out application.pem\n"
    );
}

// Azure CLI.

#[cfg(unix)]
#[test]
fn azure_cli_before_2_54_is_understood() {
    use std::os::unix::fs::PermissionsExt as _;

    let stage = Stage::new();
    let grant = Grant::new().delegated(["Machine.RestrictExecution", "Machine.ReadWrite"]);
    let answer = json!({
        "accessToken": stage.mock.token(grant),
        "expiresOn": "2099-11-29 00:01:59.000000",
        "subscription": "s",
        "tenant": stage.mock.tenant_id(),
        "tokenType": "Bearer",
    });
    let folder = stage.home().join("bin");
    std::fs::create_dir(&folder).unwrap();
    let az = folder.join("az");
    std::fs::write(&az, format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
    std::fs::set_permissions(&az, std::fs::Permissions::from_mode(0o755)).unwrap();
    let run = stage.run(["check", "--auth", "azure-cli"]);
    let _ = checked(run.env("PATH", folder.to_str().unwrap()), 0);
}

#[cfg(unix)]
fn run_with_az(stage: &Stage, script: &str) -> Run {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = stage.home().join("bin");
    std::fs::create_dir_all(&folder).unwrap();
    let az = folder.join("az");
    std::fs::write(&az, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&az, std::fs::Permissions::from_mode(0o755)).unwrap();
    let run = stage.run(["check", "--auth", "azure-cli"]);
    run.env("PATH", &format!("{}:/usr/bin:/bin", folder.display()))
}

#[cfg(unix)]
#[test]
fn an_expired_token_of_azure_cli_is_reported() {
    let stage = Stage::new();
    let answer =
        json!({ "accessToken": stage.mock.token(Grant::new()), "expires_on": 1_700_000_000 });
    let (report, _) = checked(run_with_az(&stage, &format!("echo '{answer}'")), 2);
    let (level, text) = finding(&report, "token");
    let told = "az returned a token that expired at 2023-11-14T22:13:20Z";
    assert!(level == "error" && text.contains(told), "{text}");
}

#[cfg(unix)]
#[test]
fn a_401_is_reported_though_another_token_takes_time() {
    let stage = Stage::new();
    let body = json!({ "error": { "code": "Unauthorized", "message": "no", "target": "x" } });
    let fault = Fault::answer(401, body.to_string()).on(Api::GetMachineAction);
    let fault = fault.header("content-type", "application/json");
    stage.mock.inject(fault.always());
    let is_reported = |run: Run| {
        let (report, _) = checked(run, 2);
        let (level, text) = finding(&report, "following");
        assert!(level == "error" && text.contains("401"), "{text}");
        assert!(!text.contains("in time"), "{text}");
    };
    is_reported(stage.run(["check"]));
    let answer = json!({
        "accessToken": stage.mock.token(Grant::new()),
        "expires_on": 4_000_000_000_i64,
    });
    is_reported(run_with_az(&stage, &format!("sleep 0.2; echo '{answer}'")));
}

// Which method.

#[test]
fn a_configured_method_goes_before_a_secret_in_the_environment() {
    let stage = with_certificate(&valid_until(60));
    let path = stage
        .configure("[identity]\nauth = \"client-certificate\"\ncertificate-file = \"c.pem\"\n");
    std::fs::copy(
        stage.home().join("application.pem"),
        path.with_file_name("c.pem"),
    )
    .unwrap();
    let run = stage
        .run(["check"])
        .env("AZURE_CLIENT_SECRET", "of-another-tool");
    let (report, err) = checked(run, 0);
    assert_eq!(report["credential"]["kind"], "certificate");
    assert_eq!(err, "");

    // Without it, the variable counts, and the advice leads there.
    stage.configure("[identity]\ncertificate-file = \"c.pem\"\n");
    let run = stage
        .run(["check"])
        .env("AZURE_CLIENT_SECRET", "of-another-tool");
    let (_, err) = checked(run, 2);
    let advice = "hint: unset AZURE_CLIENT_SECRET, or set auth = \"client-certificate\" under \
                  [identity]";
    assert!(err.contains(advice), "{err}");
}

#[test]
fn a_configured_secret_file_goes_before_a_secret_in_the_environment() {
    let stage = Stage::new();
    let path =
        stage.configure("[identity]\nauth = \"client-secret\"\nclient-secret-file = \"secret\"\n");
    closed(
        &path.with_file_name("secret"),
        stage.mock.client_secret().as_bytes(),
    );
    let run = stage.run(["check"]);
    let (_, err) = checked(run.env("AZURE_CLIENT_SECRET", "of-another-tool"), 0);
    assert_eq!(err, "");
}

// What is missing.

#[test]
fn a_secret_that_is_there_and_empty_is_not_called_missing() {
    use std::os::unix::ffi::OsStrExt as _;

    let stage = Stage::new();
    closed(&stage.home().join("empty"), b"\r\n");
    let says = |run: Run, told: &str| {
        let (_, err) = run.exits(2);
        assert!(err.contains(told) && !err.contains("not set"), "{err}");
    };
    let run = stage.run(["check", "--client-secret-file", "empty"]);
    says(run, "the client secret file empty is empty");
    let run = stage.run(["check"]);
    says(
        run.env("AZURE_CLIENT_CERTIFICATE_PATH", "empty")
            .args(["--auth", "client-certificate"]),
        "the certificate file empty is empty",
    );
    let ledger = [
        "--ledger",
        "rediss://localhost:1/0",
        "--ledger-password-file",
        "empty",
    ];
    says(
        stage.run(["check"]).args(ledger),
        "the ledger's password file empty is empty",
    );
    let latin_1 = std::ffi::OsStr::from_bytes(b"s\xE4cret");
    for auth in [&[] as &[&str], &["--auth", "client-secret"]] {
        for name in ["AZURE_CLIENT_SECRET", "AZURE_CLIENT_ID", "AZURE_TENANT_ID"] {
            let run = stage.run(["check"]).args(auth).env(name, " \n");
            says(run, &format!("{name} is blank"));
            let run = stage.run(["check"]).args(auth).env_os(name, latin_1);
            says(run, &format!("{name} is not text (UTF-8)"));
        }
    }
    for (auth, name) in [
        ("client-certificate", "AZURE_CLIENT_CERTIFICATE_PATH"),
        ("workload-identity", "AZURE_FEDERATED_TOKEN_FILE"),
    ] {
        let run = stage.run(["check", "--auth", auth]).env(name, " ");
        says(run, &format!("{name} is blank"));
        let run = stage.run(["check", "--auth", auth]).env_os(name, latin_1);
        says(run, &format!("{name} is not text (UTF-8)"));
    }
}

#[test]
fn what_a_method_lacks_is_named_as_it_is_set() {
    let stage = Stage::new();
    for (auth, told) in [
        (
            "client-secret",
            "(AZURE_CLIENT_SECRET or identity.client-secret-file) is not set",
        ),
        (
            "client-certificate",
            "(AZURE_CLIENT_CERTIFICATE_PATH or identity.certificate-file) is not set",
        ),
        (
            "workload-identity",
            "(AZURE_FEDERATED_TOKEN_FILE or identity.federated-token-file) is not set",
        ),
    ] {
        let run = stage.run(["check", "--auth", auth]);
        let (_, err) = run.env("AZURE_CLIENT_SECRET", "").exits(2);
        assert!(err.contains(told), "{err}");
    }
}

#[test]
fn a_secret_in_place_of_the_client_id_is_rejected_and_not_shown() {
    const SECRET: &str = "abc8Q~dEfGhIjKlMnOpQrStUvWxYz0123456789a";

    let stage = Stage::new();
    let run = stage.run(["check"]).env("AZURE_CLIENT_ID", SECRET);
    let (out, err) = run.exits(2);
    let told = "AZURE_CLIENT_ID is not an application (client) ID: (a value of 40 characters";
    assert!(err.contains(told), "{err}");
    assert!(
        err.contains("the client secret seems to be in its place"),
        "{err}"
    );
    assert!(!format!("{out}{err}").contains(SECRET), "{out}{err}");
    assert_eq!(stage.mock.requests().len(), 0);
}

// Rights.

#[test]
fn after_a_403_the_roles_are_those_of_the_answer() {
    let stage = Stage::new();
    let refusal = json!({ "error": {
        "code": "Forbidden",
        "message": "Missing application roles. API required roles: Machine.ReadWrite.All, \
                    application roles: Machine.RestrictExecution,Machine.Read.All.",
        "target": "x",
    } });
    let refuse = |status: u16| {
        for api in [Api::GetMachineAction, Api::ListMachineActions] {
            let fault = Fault::answer(status, refusal.to_string());
            let fault = fault.header("content-type", "application/json").on(api);
            stage.mock.inject(fault.always());
        }
    };
    refuse(403);
    let (report, _) = checked(stage.run(["check"]), 1);
    let (_, text) = finding(&report, "following");
    let roles =
        "required: Machine.ReadWrite.All; held: Machine.RestrictExecution, Machine.Read.All";
    assert!(text.contains(roles), "{text}");
    let how = report["how_to_grant"].as_str().unwrap();
    assert!(
        how.contains("permissions Machine.ReadWrite.All of"),
        "{how}"
    );

    let id = "00000000-0000-0000-0000-000000000000";
    let (_, err) = stage.run(["status", id]).exits(1);
    let hint = "hint: grant the application Machine.ReadWrite.All, with admin consent; the token has \
                Machine.RestrictExecution, Machine.Read.All\n";
    assert!(err.ends_with(hint), "{err}");
    let (_, err) = stage.run(["restricted"]).exits(2);
    assert!(err.ends_with(hint), "{err}");
}

#[test]
fn after_a_401_or_a_503_nothing_is_said_of_roles() {
    for status in [401, 503] {
        let stage = Stage::new();
        for api in [Api::GetMachineAction, Api::ListMachineActions] {
            let body = json!({ "error": { "code": "X", "message": "no", "target": "x" } });
            let fault = Fault::answer(status, body.to_string()).on(api);
            stage
                .mock
                .inject(fault.header("content-type", "application/json").always());
        }
        let run = stage.run(["check", "--output", "json"]);
        let (out, err) = run.exits(if status == 401 { 2 } else { 1 });
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(report["how_to_grant"], Value::Null, "{report:#}");
        let (_, text) = finding(&report, "following");
        assert!(!format!("{text}{err}").contains("Machine."), "{text}{err}");
    }
}

// TLS.

/// A server with TLS that has nothing, with this certificate.
fn tls_server(certificate: &rcgen::Certificate, key: &KeyPair) -> String {
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut tcp, _)) = listener.accept() {
            let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = rustls::Stream::new(&mut tls, &mut tcp);
            let mut head = [0; 4096];
            if tls.read(&mut head).is_ok() {
                let _ = tls.write_all(b"HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n");
                let _ = tls.flush();
            }
        }
    });
    format!("https://localhost:{port}")
}

#[test]
fn a_self_signed_certificate_that_is_named_is_trusted() {
    let stage = Stage::new();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    // As OpenSSL makes it by default.
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let url = tls_server(&certificate, &key);
    std::fs::write(stage.home().join("c.pem"), certificate.pem()).unwrap();
    std::fs::write(stage.home().join("token"), "opaque").unwrap();
    let check = |ca: &str| {
        let run = stage.bare([
            "check",
            "--base-url",
            &url,
            "--authority",
            &url,
            "--ca-file",
            ca,
        ]);
        let run = run.args(["--scope", "https://x/.default", "--token-file", "token"]);
        let (out, err) = run
            .args(["--output", "json"])
            .exits(if ca == "c.pem" { 1 } else { 2 });
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
        let (level, text) = finding(&report, "connection");
        (level.to_owned(), text.to_owned())
    };
    assert_eq!(check("c.pem").0, "ok");
    let (level, text) = check("ca.pem");
    assert_eq!(level, "error");
    assert!(
        text.contains("it is a certificate authority's own (CA:TRUE), used as a server's"),
        "{text}"
    );
}

// Proxies.

/// A proxy that answers every request so, and keeps them.
fn proxy(answer: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&requests);
    let serve = move |mut tcp: TcpStream| {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && tcp.read_exact(&mut byte).is_ok() {
            request.push(byte[0]);
        }
        kept.lock()
            .unwrap()
            .push(String::from_utf8(request).unwrap());
        let _ = tcp.write_all(answer.as_bytes());
    };
    std::thread::spawn(move || {
        while let Ok((tcp, _)) = listener.accept() {
            serve(tcp);
        }
    });
    (url, requests)
}

#[test]
fn a_proxys_refusal_is_told_in_its_own_words() {
    let stage = Stage::new();
    std::fs::write(
        stage.home().join("credentials"),
        "corp\\svc user:p@ss#w:rd%40/ü\n",
    )
    .unwrap();
    std::fs::write(stage.home().join("quoted"), "\"user:hunter2\"\n").unwrap();
    for (answer, credentials, told) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Negotiate\r\n\
             Proxy-Authenticate: NTLM\r\nConnection: close\r\n\r\n",
            Some("credentials"),
            "it requires authentication (407) and offers Negotiate, NTLM; only Basic is supported",
        ),
        (
            "HTTP/1.1 407 X\r\nProxy-Authenticate: Basic realm=\"corp\"\r\n\r\n",
            Some("credentials"),
            "it does not accept the credentials (407; it offers Basic)",
        ),
        (
            "HTTP/1.1 407 X\r\nProxy-Authenticate: Basic realm=\"corp\"\r\n\r\n",
            None,
            "it requires credentials (407; it offers Basic)",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\n\r\n",
            None,
            "it does not allow this destination (403)",
        ),
        (
            "HTTP/1.1 503 X\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\n\r\n",
            None,
            "it can't reach the destination, or is overloaded (503) (ERR_DNS_FAIL)",
        ),
        ("220 smtp\r\n\r\n", None, "its answer is not HTTP"),
        ("", None, "it closed the connection without an answer"),
    ] {
        let (url, requests) = proxy(answer);
        let mut run = stage.run(["check", "--proxy", &url]);
        if let Some(file) = credentials {
            run = run.args(["--proxy-credentials-file", file]);
        }
        let (report, _) = checked(run, 2);
        for topic in ["connection", "token"] {
            let (level, text) = finding(&report, topic);
            assert_eq!(level, "error");
            assert!(text.contains(told), "{text}");
        }
        // Credentials that were rejected are sent no second time: two requests have them, for the
        // service and its authority.
        let requests = requests.lock().unwrap();
        let with = requests
            .iter()
            .filter(|r| r.to_lowercase().contains("proxy-authorization"));
        let expected = if credentials.is_some() { 2 } else { 0 };
        assert_eq!(with.count(), expected, "{requests:?}");
        let hints = report["hints"].to_string();
        assert_eq!(
            hints.contains("px or cntlm"),
            told.contains("NTLM"),
            "{hints}"
        );
    }
    let (url, _) = proxy("HTTP/1.1 407 X\r\nProxy-Authenticate: Basic realm=\"corp\"\r\n\r\n");
    let run = stage.run(["check", "--proxy", &url]);
    let (report, _) = checked(run.args(["--proxy-credentials-file", "quoted"]), 2);
    let hints = report["hints"].to_string();
    assert!(
        hints.contains("credentials are in quotation marks"),
        "{hints}"
    );
    assert!(!report.to_string().contains("hunter2"), "{report:#}");
}

#[test]
fn a_proxy_of_another_kind_is_named() {
    let stage = Stage::new();
    let (_, err) = stage
        .run(["check", "--proxy", "socks5://proxy.corp:1080"])
        .exits(2);
    assert!(
        err.contains("it is a socks5 proxy, and only HTTP proxies are supported"),
        "{err}"
    );
}

#[test]
fn a_proxy_variable_that_is_not_used_is_hinted_at() {
    let stage = Stage::new();
    let hint =
        |name: &str| format!("hint: {name} is set but not used; name the proxy with --proxy");
    let nobody = "https://localhost:1";
    std::fs::write(stage.home().join("token"), "opaque").unwrap();
    for url in [nobody, "https://no-such-host.invalid"] {
        let run = || {
            stage
                .bare(["check", "--base-url", url, "--authority", url])
                .args(["--scope", &format!("{url}/.default")])
                .args(["--token-file", "token"])
        };
        for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
            let (out, _) = run().env(name, "http://proxy.corp:3128").exits(2);
            assert!(out.contains(&hint(name)), "{out}");
        }
        let (out, _) = run().exits(2);
        assert!(!out.contains("hint:"), "{out}");
    }
    let (out, _) = stage
        .run(["check"])
        .env("HTTPS_PROXY", "http://proxy.corp:3128")
        .exits(0);
    assert!(!out.contains("hint:"), "{out}");

    // A single command, too.
    let args = [
        "status",
        "00000000-0000-0000-0000-000000000000",
        "--base-url",
        nobody,
    ];
    let run = stage.bare(args).args(["--authority", nobody]);
    let run = run.args(["--scope", "https://x/.default", "--token-file", "token"]);
    let (_, err) = run.env("HTTPS_PROXY", "http://proxy.corp:3128").exits(2);
    assert!(err.contains(&hint("HTTPS_PROXY")), "{err}");
    // And a run, once.
    let id = stage.mock.machine_ids().swap_remove(0);
    let run = stage.bare(["unrestrict", &id, "--comment", "x", "--base-url", nobody]);
    let run = run.args(["--authority", nobody, "--scope", "https://x/.default"]);
    // Two minutes of waiting for a token.
    let run = run.args(["--tenant-id", "t", "--client-id", "c", "--time-scale", "50"]);
    let run = run.env("AZURE_CLIENT_SECRET", "x");
    let (_, err) = run.env("HTTPS_PROXY", "http://proxy.corp:3128").exits(2);
    assert_eq!(err.matches(&hint("HTTPS_PROXY")).count(), 1, "{err}");
}
