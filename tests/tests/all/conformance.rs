//! The components on hosts that nobody here wrote, and on our own: one table of cases, each with
//! one result, the same for all.
//!
//! Where a host gives another one, and rightly, that stands beside the case with the reason. What
//! came of it all is printed.

mod cases;
mod hosts;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use host_demo::clock::ManualClock;
use host_demo::mock::{Grant, Mock, Switches};
use serde_json::Value;
use tests::foreign::{Asked, Foreign};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

use crate::hostile_servers::server::{MACHINE, Met, TOKEN, count, read_request};
use cases::{Case, Expected, Service, cases};
use hosts::HOSTS;

/// A service, for one case and one host.
struct Stage {
    asked: Asked,
    mock: Option<Mock>,
    met: Met,
    server: Option<JoinHandle<()>>,
    /// A port that nobody listens on, and nobody else gets.
    taken: Option<TcpSocket>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

impl Stage {
    async fn of(case: &Case) -> Self {
        let mut stage = Self {
            asked: Asked {
                machine_id: MACHINE.to_owned(),
                comment: case.comment.to_owned(),
                refusal: case.refusal.clone(),
                no_connection: case.no_connection,
                environment: BTreeMap::new(),
            },
            mock: None,
            met: Met::default(),
            server: None,
            taken: None,
        };
        let mut token = TOKEN.to_owned();
        let base_url = match &case.service {
            Service::StandIn(bend) => {
                let mut switches = Switches::default();
                bend(&mut switches);
                let mock = Mock::builder()
                    .clock(Arc::new(ManualClock::new()))
                    .switches(switches)
                    .plain_http(true);
                let mock = mock.start().await.unwrap();
                token = mock.token((case.grant)(Grant::new()));
                stage.asked.machine_id = mock.machine_ids().swap_remove(0);
                let base_url = mock.base_url().to_owned();
                stage.mock = Some(mock);
                base_url
            }
            Service::Answers { bytes, goes_on } => stage.serve(bytes.clone(), *goes_on).await,
            Service::Nobody => {
                let taken = TcpSocket::new_v4().unwrap();
                taken.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
                let origin = format!("http://{}", taken.local_addr().unwrap());
                stage.taken = Some(taken);
                origin
            }
        };
        let environment = [("DEFENDER_BASE_URL", base_url), ("DEFENDER_TOKEN", token)];
        stage.asked.environment = environment
            .map(|(name, value)| (name.to_owned(), value))
            .into();
        (case.bend)(&mut stage.asked);
        stage
    }

    /// A server that answers each request with these bytes, and closes the connection or not.
    async fn serve(&mut self, bytes: Vec<u8>, goes_on: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let met = self.met.clone();
        let bytes: Arc<[u8]> = bytes.into();
        self.server = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let (met, bytes) = (met.clone(), Arc::clone(&bytes));
                connections.spawn(async move {
                    while read_request(&mut tcp, &met).await.is_some() {
                        if tcp.write_all(&bytes).await.is_err() || !goes_on {
                            return;
                        }
                    }
                });
            }
        }));
        origin
    }

    /// How many requests have arrived.
    fn requests(&self) -> usize {
        match &self.mock {
            Some(mock) => mock.requests().len(),
            None => count(&self.met.requests),
        }
    }
}

/// All that a caller can rely on: what is absent is left out, and so are a message for people and a
/// number for Microsoft's support, which are never the same.
fn essence(told: &Value) -> Value {
    match told {
        Value::Object(object) => object
            .iter()
            .filter(|(_, value)| !value.is_null())
            .filter(|(name, _)| *name != "correlation-id")
            .map(|(name, value)| match name.as_str() {
                "err" => {
                    let mut error = value.clone();
                    error.as_object_mut().unwrap().remove("message");
                    (name.clone(), essence(&error))
                }
                _ => (name.clone(), essence(value)),
            })
            .collect(),
        Value::Array(list) => list.iter().map(essence).collect(),
        other => other.clone(),
    }
}

/// What stands in the table for one case and one host.
enum Cell {
    Agrees,
    /// It gives what it is said to give, for a reason.
    Differs(&'static str),
    DidNotRun(String),
    Wrong(String),
}

fn judge(case: &Case, host: usize, told: &Value, stage: &Stage) -> Cell {
    let except = case
        .except
        .iter()
        .find(|except| except.hosts.contains(&HOSTS[host].name));
    let expected = except.map_or(&case.expected, |except| &except.expected);
    let agrees = match expected {
        Expected::Told(expected) => cases::is_like(&essence(expected), &essence(told)),
        Expected::Fault(names) => told["fault"].as_str().is_some_and(|f| f.contains(names)),
        Expected::DidNotRun => unreachable!("it was not run"),
    };
    let token = &stage.asked.environment.get("DEFENDER_TOKEN");
    let shows_token = token.is_some_and(|t| t.len() > 8 && told.to_string().contains(&t[..8]));
    let sent = stage.requests();
    let may_be_sent = if expected.was_sent() { case.calls } else { 0 };
    if !agrees {
        let told = told.to_string();
        let told: String = told.chars().take(1000).collect();
        Cell::Wrong(format!("gave {told}\n  instead of {expected:?}"))
    } else if shows_token {
        Cell::Wrong(format!("shows the token: {told}"))
    } else if sent != may_be_sent {
        Cell::Wrong(format!("sent {sent} requests, and not {may_be_sent}"))
    } else {
        except.map_or(Cell::Agrees, |except| Cell::Differs(except.why))
    }
}

/// What came of each case on a host.
async fn column(host: usize, foreign: &Arc<Result<Foreign, String>>) -> Vec<Cell> {
    let mut host_at_work = match hosts::start(host, Arc::clone(foreign)).await {
        Ok(host) => host,
        Err(missing) => {
            let missing = format!("{missing} is missing");
            return cases()
                .iter()
                .map(|_| Cell::DidNotRun(missing.clone()))
                .collect();
        }
    };
    let mut cells = Vec::new();
    for case in cases() {
        if let Some(why) = case.is_not_for(HOSTS[host].name) {
            cells.push(Cell::DidNotRun(why.to_owned()));
            continue;
        }
        let stage = Stage::of(&case).await;
        let mut told = Value::Null;
        for _ in 0..case.calls {
            told = host_at_work.call(&stage.asked).await;
        }
        cells.push(judge(&case, host, &told, &stage));
    }
    cells
}

/// The table, its notes, and what is wrong.
fn table(columns: &[Vec<Cell>]) -> (String, Vec<String>) {
    let (mut table, mut notes, mut wrong) = (String::new(), Vec::new(), Vec::new());
    let mut note = |why: &str| {
        let at = notes
            .iter()
            .position(|note| note == why)
            .unwrap_or_else(|| {
                notes.push(why.to_owned());
                notes.len() - 1
            });
        at + 1
    };
    let _ = write!(table, "\n{:<40}", "conformance");
    for host in &HOSTS {
        let _ = write!(table, "{:>13}", host.name);
    }
    for (row, case) in cases().iter().enumerate() {
        let _ = write!(table, "\n{:<40}", case.name);
        for (host, column) in HOSTS.iter().zip(columns) {
            let cell = match &column[row] {
                Cell::Agrees => "ok".to_owned(),
                Cell::Differs(why) => format!("differs ({})", note(why)),
                Cell::DidNotRun(why) => format!("- ({})", note(why)),
                Cell::Wrong(what) => {
                    wrong.push(format!("{}, {}: {what}", case.name, host.name));
                    "WRONG".to_owned()
                }
            };
            let _ = write!(table, "{cell:>13}");
        }
    }
    for (at, note) in notes.iter().enumerate() {
        let _ = write!(table, "\n({}) {note}", at + 1);
    }
    table.push('\n');
    (table, wrong)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_host_tells_its_caller_the_same() {
    let install = || Foreign::install(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let foreign = tokio::task::spawn_blocking(install).await.unwrap();
    let foreign = Arc::new(foreign);
    let columns: Vec<_> = (0..HOSTS.len())
        .map(|host| {
            let foreign = Arc::clone(&foreign);
            tokio::spawn(async move { column(host, &foreign).await })
        })
        .collect();
    let mut cells = Vec::new();
    for column in columns {
        let column = tokio::time::timeout(Duration::from_secs(300), column).await;
        cells.push(column.expect("the hosts come to an end").unwrap());
    }
    let (table, wrong) = table(&cells);
    // Whoever looks at the tests' output is to see it, passed or not: what is printed by macros,
    // and that alone, is kept from them.
    std::io::stderr().write_all(table.as_bytes()).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
