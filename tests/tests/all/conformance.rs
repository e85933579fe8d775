//! The components on hosts that nobody here wrote, and on our own: one table of cases, each with
//! one result, the same for all, and with the same requests to the service. The hosts that others
//! wrote run them a second time, with the gateway before the service.
//!
//! Where a host gives another one, and rightly, that stands beside the case with the reason. What
//! came of it all is printed.

mod cases;
mod gateway;
mod hosts;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defender_mock::{Grant, Mock, Switches};
use host_demo::clock::ManualClock;
use serde_json::{Value, json};
use tests::foreign::{Asked, Foreign};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

use crate::hostile_servers::server::{MACHINE, Met, TOKEN, read_request};
use cases::{Case, Expected, Service, cases};
use gateway::Gate;
use hosts::{ActionKind, HOSTS};

/// A service, for one case and one host.
struct Stage {
    asked: Asked,
    /// The service's own.
    token: String,
    mock: Option<Mock>,
    /// What arrived, where it is no stand-in.
    sent: Arc<Mutex<Vec<Sent>>>,
    server: Option<JoinHandle<()>>,
    /// A port that nobody listens on, and nobody else gets.
    taken: Option<TcpSocket>,
}

/// A request, as it arrived.
#[derive(Clone)]
struct Sent {
    /// Method, path and body.
    what: String,
    /// The status of its answer, if it had one.
    answered: Option<u16>,
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
            token: TOKEN.to_owned(),
            mock: None,
            sent: Arc::default(),
            server: None,
            taken: None,
        };
        let base_url = match &case.service {
            Service::StandIn(bend) => {
                let mut switches = Switches::default();
                bend(&mut switches);
                let mock = Mock::builder()
                    .clock(Arc::new(ManualClock::new()))
                    .switches(switches)
                    .plain_http(true);
                let mock = mock.start().await.unwrap();
                stage.token = mock.token((case.grant)(Grant::new()));
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
        let environment = [
            ("DEFENDER_BASE_URL", base_url),
            ("DEFENDER_TOKEN", stage.token.clone()),
        ];
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
        let sent = Arc::clone(&self.sent);
        let answered = std::str::from_utf8(&bytes[..bytes.len().min(12)])
            .ok()
            .and_then(|start| start.strip_prefix("HTTP/1.1 ")?.parse().ok());
        let bytes: Arc<[u8]> = bytes.into();
        self.server = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let (sent, bytes) = (Arc::clone(&sent), Arc::clone(&bytes));
                connections.spawn(async move {
                    while let Some(request) = read_request(&mut tcp, &Met::default()).await {
                        let (head, body) = request.split_once("\r\n\r\n").unwrap();
                        let (what, _) = head.split_once(" HTTP/1.1").unwrap();
                        let what = format!("{what} {body}");
                        sent.lock().unwrap().push(Sent { what, answered });
                        if tcp.write_all(&bytes).await.is_err() || !goes_on {
                            return;
                        }
                    }
                });
            }
        }));
        origin
    }

    /// What has arrived.
    fn sent(&self) -> Vec<Sent> {
        let Some(mock) = &self.mock else {
            return self.sent.lock().unwrap().clone();
        };
        let arrivals = mock.requests().into_iter();
        arrivals
            .map(|arrival| {
                let body = String::from_utf8_lossy(&arrival.body);
                Sent {
                    what: format!("{} {} {body}", arrival.method, arrival.path_and_query),
                    answered: arrival.status,
                }
            })
            .collect()
    }

    /// What each call of the case sends, on every host, with a gateway or without.
    fn request(&self) -> String {
        let Asked {
            machine_id,
            comment,
            ..
        } = &self.asked;
        let body = json!({ "Comment": comment });
        format!("POST /api/machines/{machine_id}/unrestrictCodeExecution {body}")
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
        Expected::Fault(names) | Expected::FaultOnAnswer(names) => {
            told["fault"].as_str().is_some_and(|f| f.contains(names))
        }
        Expected::DidNotRun => unreachable!("it was not run"),
    };
    let shows_token = told.to_string().contains(&stage.token[..8]);
    let sent = stage.sent();
    let what: Vec<_> = sent.iter().map(|sent| sent.what.as_str()).collect();
    let arrives = expected.was_sent() && !matches!(case.service, Service::Nobody);
    let wanted = vec![stage.request(); if arrives { case.calls } else { 0 }];
    // Nothing came of the last call for certain: it was not sent, or the service refused it.
    let did_nothing = sent.get(case.calls - 1).is_none_or(|last| {
        last.answered
            .is_some_and(|status| (300..500).contains(&status))
    });
    if !agrees {
        let told = told.to_string();
        let told: String = told.chars().take(1000).collect();
        Cell::Wrong(format!("gave {told}\n  instead of {expected:?}"))
    } else if shows_token {
        Cell::Wrong(format!("shows the token: {told}"))
    } else if what != wanted {
        Cell::Wrong(format!("sent {what:?}, and not {wanted:?}"))
    } else if told["err"]["effect"] == "none" && !did_nothing {
        Cell::Wrong("says that nothing was created, which is not certain".to_owned())
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
        let gate = match HOSTS[host].is_through_gateway {
            true => Some(Gate::before(&stage.asked).await),
            false => None,
        };
        let mut told = Value::Null;
        for _ in 0..case.calls {
            told = match &gate {
                Some(gate) => gate.call(&mut host_at_work, &stage.asked).await,
                None => host_at_work.call(&stage.asked).await,
            };
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
    let width = |host: &ActionKind| host.name.len().max(10) + 3;
    let _ = write!(table, "\n{:<40}", "conformance");
    for host in &HOSTS {
        let _ = write!(table, "{:>1$}", host.name, width(host));
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
            let _ = write!(table, "{cell:>0$}", width(host));
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
