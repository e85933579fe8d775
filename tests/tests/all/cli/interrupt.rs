//! Ctrl-C at any moment: from the first one on there is a defined exit code.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use super::*;

const INTERRUPT: i32 = 2;

fn send(signal: &str, process: &Child) {
    let id = process.id().to_string();
    let sent = Command::new("kill").args([signal, &id]).status();
    assert!(sent.unwrap().success());
}

/// Waits until the process has taken over SIGINT, or has ended.
fn wait_for_handler(process: &mut Child) {
    let status = format!("/proc/{}/status", process.id());
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        let is_caught = caught.is_some_and(|mask| mask & (1 << (INTERRUPT - 1)) != 0);
        if is_caught || process.try_wait().unwrap().is_some() {
            return;
        }
        std::thread::yield_now();
    }
}

/// A service that takes connections and says nothing.
struct Silent(TcpListener);

impl Silent {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    /// Whether a client has connected so far.
    fn is_reached(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        self.0.accept().is_ok()
    }

    /// The first connection; while it is kept it stays open.
    fn connection(&self) -> TcpStream {
        self.0.set_nonblocking(false).unwrap();
        self.0.accept().unwrap().0
    }
}

/// Every command that can wait or send, told of this service.
fn commands(stage: &Stage, service: &Silent, timeout: &str) -> Vec<Command> {
    let id = stage.id();
    std::fs::write(stage.folder.path().join("token"), "a-token").unwrap();
    std::fs::write(
        stage.folder.path().join("allow.toml"),
        "[policy]\nallow = [\"POST /api/machineactions/{action-id}/cancel\"]\n",
    )
    .unwrap();
    let action = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";
    let connected = [
        &["unrestrict", &id, "--comment", "x"][..],
        &["unrestrict", &id, "--comment", "x", "--dry-run"],
        &["unrestrict", "--by-name", "pc-1", "--comment", "x"],
        &["cancel", action, "--comment", "x", "--config", "allow.toml"],
        &["restricted"],
        &["status", &id],
        &["check"],
    ];
    let connected = connected.iter().map(|args| {
        stage
            .bare(*args)
            .with_args(["--base-url", &service.url(), "--authority", &service.url()])
            .with_args(["--scope", "https://x/.default", "--token-file", "token"])
            .with_args(["--tenant-id", stage.mock.tenant_id()])
            .with_args(["--client-id", stage.mock.client_id()])
            .with_args(["--timeout", timeout])
            .command
    });
    connected.collect()
}

#[test]
fn from_the_handler_on_an_interrupt_is_exit_code_130() {
    let stage = Stage::new();
    let service = Silent::new();
    // What is in flight by then has so long to finish.
    for mut command in commands(&stage, &service, "1s") {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for_handler(&mut child);
        send("-INT", &child);
        let output = child.wait_with_output().unwrap();
        let said = Said::new(&output);
        assert_eq!(output.status.code(), Some(130), "{command:?}\n{said}");
    }
}

#[test]
fn before_the_handler_nothing_was_sent_and_nothing_printed() {
    const TRIES: u32 = 60;
    const STEP: Duration = Duration::from_micros(250);

    let stage = Stage::new();
    let service = Silent::new();
    let mut command = stage
        .bare([
            "status",
            &stage.id(),
            "--token-file",
            "token",
            "--timeout",
            "10m",
        ])
        .with_args(["--base-url", &service.url(), "--authority", &service.url()])
        .with_args(["--scope", "https://x/.default"])
        .command;
    std::fs::write(stage.folder.path().join("token"), "a-token").unwrap();
    let mut codes = Vec::new();
    for n in 0..TRIES {
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while began.elapsed() < STEP * n {
            std::hint::spin_loop();
        }
        send("-INT", &child);
        let output = child.wait_with_output().unwrap();
        let said = Said::new(&output);
        match (output.status.code(), output.status.signal()) {
            (Some(130), None) => codes.push(true),
            (None, Some(INTERRUPT)) => {
                assert_eq!(said.both(), "", "{n}");
                assert!(!service.is_reached(), "{n}");
                codes.push(false);
            }
            _ => panic!("{n}: {:?}\n{said}", output.status),
        }
        while service.is_reached() {}
    }
    println!("{codes:?}");
}

#[test]
fn a_request_without_an_answer_is_given_up_with_the_first_interrupt_of_a_reading_command() {
    let stage = Stage::new();
    for signal in ["-INT", "-TERM", "-HUP"] {
        let service = Silent::new();
        for mut command in commands(&stage, &service, "10m").into_iter().skip(4) {
            let child = command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let _connection = service.connection();
            send(signal, &child);
            let output = child.wait_with_output().unwrap();
            let said = Said::new(&output);
            assert_eq!(output.status.code(), Some(130), "{command:?}\n{said}");
            said.mentions("host-demo: interrupted");
        }
    }
}

#[test]
fn the_second_interrupt_exits_while_a_request_is_in_flight() {
    let stage = Stage::new();
    let service = Silent::new();
    let mut commands = commands(&stage, &service, "10m");
    let mut child = commands[0]
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _connection = service.connection();
    send("-INT", &child);
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    lines
        .find(|line| line.contains("press Ctrl-C again to exit now"))
        .unwrap();
    send("-INT", &child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_list_that_does_not_end_and_a_pipe_are_waited_for_and_interrupted() {
    let stage = Stage::new();
    for args in [
        &["unrestrict", "--from", "-", "--comment", "x"][..],
        &["check", "--token-file", "/dev/stdin"],
    ] {
        let mut command = stage.run(args).command;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut list = child.stdin.take().unwrap();
        list.write_all(b"x").unwrap();
        wait_for_handler(&mut child);
        send("-INT", &child);
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(130), "{args:?}");
        drop(list);
    }
    assert!(stage.mock.requests().is_empty());
}

#[test]
fn an_interrupt_while_the_plugin_compiles_ends_a_reading_command() {
    let stage = Stage::new();
    for n in 4..7 {
        let service = Silent::new();
        let mut command = commands(&stage, &service, "10m").swap_remove(n);
        let cache = tempfile::tempdir().unwrap();
        let mut child = command
            .env("XDG_CACHE_HOME", cache.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It is made just before.
        let compiled = cache.path().join("host-demo/compiled");
        while !compiled.exists() {
            assert!(child.try_wait().unwrap().is_none(), "it has ended");
            std::thread::yield_now();
        }
        send("-INT", &child);
        let output = child.wait_with_output().unwrap();
        let said = Said::new(&output);
        assert_eq!(output.status.code(), Some(130), "{command:?}\n{said}");
        said.mentions("host-demo: interrupted");
        assert!(!service.is_reached(), "{command:?}");
    }
}

/// What runs until it is told to end has done all that was asked of it then.
#[test]
fn what_runs_until_it_is_ended_exits_with_0() {
    let stage = Stage::new();
    let ended = |mut command: Command, signal: &str| -> ExitStatus {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        send(signal, &child);
        child.wait().unwrap()
    };
    for signal in ["-INT", "-TERM", "-HUP"] {
        let commands = [
            stage.bare(["quota", "--watch", "--output", "json"]).command,
            stage.stand_in(["--plain-http", "--output", "json"]).command,
            stage.run(["gateway", "--output", "json"]).command,
        ];
        for command in commands {
            let shown = format!("{command:?}");
            assert_eq!(ended(command, signal).code(), Some(0), "{signal}: {shown}");
        }
    }
}

/// A question is asked on a terminal only. No shell stands between: it would get the signal, too.
#[test]
fn a_question_ends_with_an_interrupt() {
    let stage = Stage::new();
    let ids = (0..30).map(|n| format!("{n:040x}\n")).collect::<String>();
    std::fs::write(stage.folder.path().join("ids"), ids).unwrap();
    let command = stage
        .bare(["unrestrict", "--from", "ids", "--comment", "x"])
        .command;
    let (mut terminal, end) = pty_process::blocking::open().unwrap();
    let mut on_terminal = pty_process::blocking::Command::new(command.get_program())
        .args(command.get_args())
        .env_clear()
        .current_dir(stage.folder.path());
    for (name, value) in command.get_envs() {
        on_terminal = match value {
            Some(value) => on_terminal.env(name, value),
            None => on_terminal.env_remove(name),
        };
    }
    let mut child = on_terminal.spawn(end).unwrap();
    let mut told = Vec::new();
    let mut is_pressed = false;
    loop {
        let mut bytes = [0; 256];
        // Linux fails a read of a terminal that no process has open any more.
        let read = terminal.read(&mut bytes).unwrap_or(0);
        told.extend_from_slice(&bytes[..read]);
        if !is_pressed && String::from_utf8_lossy(&told).contains("[y/N]") {
            // Ctrl-C, as a terminal turns it into a signal.
            terminal.write_all(&[3]).unwrap();
            is_pressed = true;
        }
        if read == 0 {
            break;
        }
    }
    let code = child.wait().unwrap().code();
    assert_eq!(code, Some(130), "{}", String::from_utf8_lossy(&told));
    assert!(is_pressed);
    assert!(stage.mock.requests().is_empty());
}
