//! `--auth`: each way to a token, through the command.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, LazyLock};

use defender_mock::{Api, Mock, Switches, UserSignIn};
use host_demo::clock::SystemClock;
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

/// Of no application anywhere; whoever reads it has it.
const KEY: &str = include_str!("../../../host-demo/crates/connect/src/identity/tests/key.pem");

/// The story's clock: polls of a sign-in are five seconds apart.
const SCALE: u32 = 200;

static BINARY: LazyLock<PathBuf> = LazyLock::new(tests::binary::host_demo_binary);

struct Stage {
    mock: Mock,
    folder: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let certificate = CertificateParams::default()
            .self_signed(&KeyPair::from_pem(KEY).unwrap())
            .unwrap();
        let mock = Mock::builder()
            .clock(Arc::new(SystemClock::scaled(SCALE)))
            .certificate(certificate.der().to_vec())
            .start()
            .await
            .unwrap();
        let folder = TempDir::new().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("ca.pem", mock.ca_pem().unwrap());
        write("application.pem", &format!("{KEY}{}", certificate.pem()));
        Self { mock, folder }
    }

    /// Releases a device, with this way to a token and these variables.
    async fn release(&self, method: &str, variables: &[(&str, &str)]) -> Output {
        let mock = &self.mock;
        let mut command = Command::new(&*BINARY);
        command
            .args([
                "unrestrict",
                &mock.machine_ids()[0],
                "--comment",
                "cleaned",
                "--no-wait",
            ])
            // Eighteen seconds, on the machine's own clock.
            .args(["--timeout", "1h"])
            .args([
                "--base-url",
                mock.base_url(),
                "--authority",
                mock.authority(),
            ])
            .args([
                "--scope",
                &mock.scope(),
                "--ca-file",
                "ca.pem",
                "--auth",
                method,
            ])
            .args(["--time-scale", &SCALE.to_string()])
            .env_clear()
            .env("HOME", self.folder.path())
            .env("XDG_CACHE_HOME", BINARY.with_file_name("host-demo-cache"))
            .env("AZURE_TENANT_ID", mock.tenant_id())
            .env("AZURE_CLIENT_ID", mock.client_id())
            .envs(variables.iter().copied())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        let run = tokio::task::spawn_blocking(move || command.output().unwrap());
        run.await.unwrap()
    }
}

fn text(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    format!(
        "{}\n{out}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_works_with_each_way_that_the_command_is_told() {
    for (method, variables) in [
        (
            "client-certificate",
            ("AZURE_CLIENT_CERTIFICATE_PATH", "application.pem"),
        ),
        (
            "default",
            ("AZURE_CLIENT_CERTIFICATE_PATH", "application.pem"),
        ),
        ("device-code", ("LANG", "C")),
    ] {
        let stage = Stage::new().await;
        let output = stage.release(method, &[variables]).await;
        let said = text(&output);
        assert_eq!(output.status.code(), Some(0), "{method}: {said}");
        assert_eq!(
            stage.mock.arrivals(Api::UnrestrictCodeExecution),
            1,
            "{method}: {said}"
        );
        let asks = said.contains("open https://microsoft.com/devicelogin and enter the code");
        assert_eq!(asks, method == "device-code", "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_is_not_there_or_unknown_is_said_before_anything_is_sent() {
    let stage = Stage::new().await;
    for (method, why) in [
        (
            "client-secret",
            "client-secret can't be used here: the client secret (AZURE_CLIENT_SECRET or \
             identity.client-secret-file) is not set",
        ),
        (
            "workload-identity",
            "the federated token's file (AZURE_FEDERATED_TOKEN_FILE",
        ),
        (
            "azure-cli",
            "azure-cli can't be used here: az is not installed",
        ),
        (
            "password",
            "client-secret, client-certificate, workload-identity",
        ),
    ] {
        let output = stage.release(method, &[("PATH", "/nowhere")]).await;
        let said = text(&output);
        assert_eq!(output.status.code(), Some(2), "{method}: {said}");
        assert!(said.contains(why), "{method}: {said}");
    }
    assert_eq!(stage.mock.requests().len(), 0);
}

#[test]
fn nobody_waits_for_a_sign_in_beyond_the_deadline() {
    let switches = Switches {
        user_sign_in: UserSignIn::Nothing,
        ..Switches::default()
    };
    let stage = super::check::Stage::with(switches, Box::new(SystemClock::scaled(SCALE)));
    let machine = stage.mock.machine_ids().swap_remove(0);
    let scale = SCALE.to_string();
    let (_, said) = stage
        .run(["unrestrict", &machine, "--comment", "x", "--deadline", "1m"])
        .args(["--auth", "device-code", "--time-scale", &scale])
        .exits(2);
    assert!(said.contains("no token came in time"), "{said}");
}
