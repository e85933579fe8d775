//! A Redis server of a test's own.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose server does not do what it is told has failed"
)]

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A server (Redis or Valkey) on a loopback port, with its files in a folder of its own, until it is
/// dropped.
pub struct RedisServer {
    process: Option<Child>,
    folder: TempDir,
    /// Without TLS and with it.
    ports: [u16; 2],
    settings: Vec<String>,
}

impl RedisServer {
    /// Starts one that writes an append-only file and nothing else. `None` where no such program is
    /// installed, which is said aloud; in CI there must be one.
    pub fn start() -> Option<Self> {
        Self::with(&["--appendonly", "yes"])
    }

    /// Starts one that speaks TLS on a second port.
    pub fn with_tls(settings: &[&str]) -> Option<Self> {
        let mut all = vec!["--tls-port", TLS_PORT];
        all.extend(settings);
        Self::with(&all)
    }

    /// Starts one with these settings.
    pub fn with(settings: &[&str]) -> Option<Self> {
        if program().is_none() {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "no redis-server or valkey-server: run .ci/setup test"
            );
            eprintln!("skipped: no redis-server or valkey-server is installed");
            return None;
        }
        let mut server = Self {
            process: None,
            folder: tempfile::tempdir().unwrap(),
            ports: [0, 0],
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
        };
        // Ports are looked for first, and another program may have them by the time they are used.
        for _ in 0..5 {
            let listeners = server
                .ports
                .map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
            server.ports = listeners.map(|listener| listener.local_addr().unwrap().port());
            if server.has_started() {
                return Some(server);
            }
        }
        panic!("no server was started: {}", server.said());
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.ports[0])
    }

    /// Its port with TLS, where it has one.
    pub const fn tls_port(&self) -> u16 {
        self.ports[1]
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills it, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again, with what is in its files.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.has_started(), "{}", self.said());
    }

    /// Stops it in its tracks, or lets it go on.
    pub fn halt(&self, is_halted: bool) {
        let signal = if is_halted { "-STOP" } else { "-CONT" };
        let id = self.process.as_ref().unwrap().id().to_string();
        let status = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(status.success());
    }

    /// Has it do something, from without.
    pub fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command
            .query(&mut client.get_connection().unwrap())
            .unwrap()
    }

    fn has_started(&mut self) -> bool {
        let [plain, tls] = self.ports.map(|port| port.to_string());
        let settings = self.settings.iter().map(|setting| match setting.as_str() {
            TLS_PORT => &tls,
            _ => setting,
        });
        let mut process = Command::new(program().unwrap())
            .args(["--bind", "127.0.0.1", "--port", &plain])
            .args(["--save", "", "--daemonize", "no", "--dir"])
            .arg(self.folder.path())
            .args(settings)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = process.stdout.take().unwrap();
        self.process = Some(process);
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let mut log = Vec::new();
        let is_ready = lines.by_ref().any(|line| {
            let is_ready = line.contains("Ready to accept connections");
            log.push(line);
            is_ready
        });
        if is_ready {
            // Whoever writes to a pipe that is full or closed is held up.
            std::thread::spawn(move || lines.for_each(drop));
        } else {
            std::fs::write(self.folder.path().join("log"), log.join("\n")).unwrap();
            self.kill();
        }
        is_ready
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// Stands for the port that is found.
const TLS_PORT: &str = "the port for TLS";

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    ["redis-server", "valkey-server"]
        .iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)))
        .find(|program| program.is_file())
}
