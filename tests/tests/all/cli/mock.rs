//! What the stand-in prints, pasted.

use std::io::{BufRead as _, BufReader};
use std::process::Child;

use super::*;

/// A stand-in as a process of its own. It is ended when this is dropped.
struct StandIn {
    child: Child,
    printed: String,
}

impl StandIn {
    fn start(stage: &Stage, args: &[&str]) -> Self {
        let mut command = stage.stand_in(args).command;
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut printed = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        while !printed.contains("# The devices it knows:") {
            let read = out.read_line(&mut printed).unwrap();
            assert_ne!(read, 0, "it ended after: {printed}");
        }
        Self { child, printed }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let id = self.child.id().to_string();
        let _ = Command::new("kill").args(["-INT", &id]).status();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "Ctrl-C ends it in good order");
    }
}

/// In another folder, with what the user has in the environment.
fn paste(stage: &Stage, printed: &str, path: &str) -> Output {
    Command::new("sh")
        .args(["-e", "-c", printed])
        .env_clear()
        .env("PATH", path)
        .env("HOME", stage.folder.path())
        .env("XDG_CACHE_HOME", cache())
        .current_dir("/")
        .output()
        .unwrap()
}

#[test]
fn what_the_stand_in_prints_can_be_pasted_in_each_mode() {
    let stage = Stage::new();
    let folder = stage.folder.path().join("it's a folder; $HOME");
    std::fs::create_dir(&folder).unwrap();
    let inside = |name: &str| folder.join(name).display().to_string();
    let (ca, token) = (inside("my ca.pem"), inside("my token"));
    let id = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
    let scale = SCALE.to_string();
    for args in [
        &["--ca-out", "ca-out.pem"][..],
        &["--ca-out", &ca],
        &["--ca-out", &ca, "--token-out", &token],
        &["--ca-out", &ca, "--machine", id, "--machines", "0"],
        &[
            "--ca-out",
            &ca,
            "--set",
            "duplicate=return",
            "--set",
            "lock=per-device",
        ],
        &["--plain-http"],
        &["--plain-http", "--token-out", &token],
        &["--plain-http", "--token-out", "token-out", "--machine", id],
        &["--plain-http", "--set", "retry-after=date"],
    ] {
        let args = [args, &["--time-scale", &scale]].concat();
        let stand_in = StandIn::start(&stage, &args);
        // Where the search path leads to the command, and where it does not.
        let plain = std::env::var("PATH").unwrap();
        for path in [&plain, &path_with_the_command()] {
            let output = paste(&stage, &stand_in.printed, path);
            let said = Said::new(&output);
            assert!(output.status.success(), "{}\n{said}", stand_in.printed);
            said.mentions("released ");
        }
    }
    let state = stage.folder.path().join(".local/state/host-demo");
    let left = std::fs::read_dir(state).unwrap();
    let mut left = left.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(
        !left.any(|name| name.ends_with(".token")),
        "a token is left behind"
    );
}

/// A credential of the user's own, in the configuration or the environment, is not used there.
#[test]
fn what_is_pasted_signs_in_as_it_says() {
    let stage = Stage::new();
    let folder = stage.folder.path().join(".config/host-demo");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(
        folder.join("config.toml"),
        "[identity]\nauth = \"azure-cli\"\n",
    )
    .unwrap();
    for mode in [&["--ca-out", "paste.pem"][..], &["--plain-http"]] {
        let scale = SCALE.to_string();
        let args = [mode, &["--time-scale", &scale]].concat();
        let stand_in = StandIn::start(&stage, &args);
        let printed = format!(
            "export AZURE_CLIENT_SECRET=x AZURE_FEDERATED_TOKEN_FILE=/none\n{}",
            stand_in.printed
        );
        let output = paste(&stage, &printed, &path_with_the_command());
        let said = Said::new(&output);
        assert!(output.status.success(), "{printed}\n{said}");
    }
}

#[test]
fn without_tls_there_is_no_certificate_to_write() {
    let stage = Stage::new();
    stage
        .stand_in(["--plain-http", "--ca-out", "x.pem"])
        .exits(2)
        .mentions("cannot be used with");
    assert!(!stage.folder.path().join("x.pem").exists());
}
