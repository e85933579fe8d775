//! The identity against an OAuth server that nobody here wrote: npm's `oidc-provider`.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use host_demo::clock::{Clock as _, SystemClock};
use host_demo::cloud::Service;
use host_demo::identity::{Identity, IdentityError, Method, Settings, TokenSource as _};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;

/// Of no application anywhere; whoever reads it has it.
const KEY: &str = include_str!("../../../host-demo/crates/connect/src/identity/tests/key.pem");

/// The server's secret of the application `with-secret`: it wants escaping.
const SECRET: &str = "s+e cret/=~& of a client";

/// Where Node's packages for the tests are.
const FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/oidc");

/// The server, while this lives.
struct Foreign {
    server: Child,
    /// It ends when this does.
    _standard_input: Option<ChildStdin>,
    service: Service,
    tenant: String,
    certificate: String,
}

impl Foreign {
    fn start() -> Self {
        install();
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        write("key.pem", &key.serialize_pem());
        write("cert.pem", &leaf.signed_by(&key, &ca).unwrap().pem());
        let client = CertificateParams::default()
            .self_signed(&KeyPair::from_pem(KEY).unwrap())
            .unwrap();
        write("client.pem", &client.pem());

        let mut server = Command::new("node")
            .arg("server.mjs")
            .arg(folder.path())
            .current_dir(FOLDER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(Path::new(FOLDER).join("server.log")).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let ready = lines.next().unwrap_or_else(|| {
            let log = std::fs::read_to_string(Path::new(FOLDER).join("server.log"));
            panic!("the server did not start: {}", log.unwrap_or_default())
        });
        let ready = ready.unwrap();
        let ready: Value = serde_json::from_str(&ready).expect(&ready);
        let said = |name: &str| ready[name].as_str().unwrap().to_owned();
        let origin = said("origin");
        let service = Service::custom(&origin, &origin, &said("scope")).unwrap();
        Self {
            _standard_input: server.stdin.take(),
            server,
            service: service.with_ca(ca.pem().into()),
            tenant: said("tenant"),
            certificate: client.pem(),
        }
    }

    fn identity(&self, method: Method, client_id: &str, bend: impl Fn(&mut Settings)) -> Identity {
        let mut settings = Settings {
            tenant_id: Some(self.tenant.clone()),
            client_id: Some(client_id.to_owned()),
            client_secret: Some(SECRET.to_owned()),
            certificate: Some(format!("{KEY}{}", self.certificate).into()),
            ..Settings::default()
        };
        bend(&mut settings);
        let clock = Arc::new(SystemClock::new());
        Identity::new(method, settings, &self.service, clock).unwrap()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The server's packages, as the lock file has them, in a folder of the build's.
fn install() {
    let (from, to) = (source(), Path::new(FOLDER));
    let read = |path: PathBuf| std::fs::read(path).unwrap_or_default();
    let files = ["package.json", "server.mjs", "package-lock.json"];
    let is_current = to.join("node_modules/oidc-provider").is_dir()
        && files
            .iter()
            .all(|file| read(from.join(file)) == read(to.join(file)));
    if is_current {
        return;
    }
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for file in files {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let npm = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(to)
        .output()
        .unwrap();
    assert!(
        npm.status.success(),
        "npm ci failed, in {FOLDER}:\n{}",
        String::from_utf8_lossy(&npm.stderr)
    );
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign/oidc")
}

/// Whether there is a Node that the server runs on. In CI there must be.
fn has_node() -> bool {
    let version = Command::new("node").arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let major = version.as_deref().unwrap_or_default();
    let major = major.trim_start_matches('v').split('.').next();
    let has = major
        .and_then(|n| n.parse().ok())
        .is_some_and(|n: u32| n >= 20);
    let missing = "Node 20 or newer is missing: the identity is not tested against oidc-provider";
    assert!(
        has || std::env::var("CI").as_deref() != Ok("true"),
        "{missing}"
    );
    if !has {
        eprintln!("skipped: {missing}");
    }
    has
}

#[tokio::test]
async fn a_foreign_authority_takes_our_secret_and_our_signed_assertion_and_refuses_others() {
    if !has_node() {
        return;
    }
    let foreign = Foreign::start();
    for (method, client_id) in [
        (Method::ClientSecret, "with-secret"),
        (Method::ClientCertificate, "with-certificate"),
    ] {
        let identity = foreign.identity(method, client_id, |_| ());
        let token = identity
            .token()
            .await
            .unwrap_or_else(|e| panic!("{method}: {e}"));
        let claims = token.claims();
        let audience = "https://api.securitycenter.microsoft.com";
        assert_eq!(claims.audiences, [audience], "{claims:?}");
        let left = claims
            .expires
            .unwrap()
            .duration_since(SystemClock::new().wall());
        let left = Duration::try_from(left).unwrap();
        assert!(left > Duration::from_secs(1000), "{left:?}");
        assert!(
            identity.renew(&token).await.unwrap(),
            "a new assertion is taken, too"
        );
    }

    let wrong = foreign.identity(Method::ClientSecret, "with-secret", |settings| {
        settings.client_secret = Some("s3cret".to_owned());
    });
    let refused = wrong.token().await.unwrap_err();
    assert!(
        matches!(refused, IdentityError::Refused { .. }),
        "{refused:?}"
    );
    let text = refused.to_string();
    assert!(
        text.contains("invalid_client") && !text.contains("s3cret"),
        "{text}"
    );

    // The same certificate, in the name of an application that has another way.
    let other = foreign.identity(Method::ClientCertificate, "with-secret", |_| ());
    let refused = other.token().await.unwrap_err();
    assert!(refused.to_string().contains("invalid_client"), "{refused}");
}
