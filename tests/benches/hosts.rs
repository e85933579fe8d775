//! What the components cost on the hosts of the conformance test: `cargo bench -p tests --bench
//! hosts`.
//!
//! The table has the components' sizes and imports, then for each host the time of a fresh instance
//! and of a call against one stand-in, without TLS, in this process. The hosts take turns. Each
//! number is the median over the rounds, of a round's own median; a ratio is that of the same
//! round's calls. `-- --quick` takes fewer rounds.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use defender_mock::{Duplicate, Grant, Mock, Switches};
use host_demo::cloud::Service;
use host_demo::host::{Host, Setup, WaitOptions};
use host_demo::identity::FixedToken;
use host_demo::limits::Quota;
use host_demo::plugin::{self, Plugin};
use tests::bare::{COMMENT, Error};
use tests::foreign::{Asked, CommandLine, Driver, Flavour, Foreign};
use tests::instances::instances;
use tests::report::{Better, Report, Row};
use tokio::runtime::Runtime;
use wasmtime::component::Component;

/// Instances and calls of one round. Of the command line, whose calls are processes, a quarter.
const CALLS: usize = 20;

/// Which line of the table is ours: the others are compared with it.
const OURS: usize = 0;

fn main() -> Result<(), Error> {
    let mut report = Report::new("hosts");
    let rounds = if report.is_quick() { 3 } else { 9 };
    let runtime = Runtime::new()?;
    let mock = runtime.block_on(stand_in())?;
    // Without the other hosts' tools, it says what is missing and measures our own host alone.
    let foreign = Foreign::install(Path::new(env!("CARGO_TARGET_TMPDIR"))).ok();
    let asked = asked(&mock);
    let mut hosts = vec![("host-demo", Measured::Ours(Box::new(ours(&mock)?)))];
    hosts.extend(foreign.iter().flat_map(others));

    for (name, flavour) in [
        ("defender-endpoint.wasm", Flavour::Plain),
        ("defender-endpoint-env.wasm", Flavour::Environment),
    ] {
        let size = vec![flavour.bytes().len() as f64];
        report.row(Row::new(name, Better::Lower, size).unit("bytes"));
        println!("  imports {}", imports(flavour)?.join(" "));
    }
    let mut measured = vec![[const { Vec::new() }; 3]; hosts.len()];
    // The first round warms up.
    for round in 0..=rounds {
        let mut of_this_round = Vec::new();
        for (_, host) in &mut hosts {
            of_this_round.push(host.round(&runtime, &asked)?);
        }
        let ours = of_this_round[OURS][1];
        for (times, [instance, call]) in measured.iter_mut().zip(of_this_round) {
            if round > 0 {
                times[0].push(instance * 1e3);
                times[1].push(call * 1e3);
                times[2].push(call / ours);
            }
        }
    }
    for ((name, _), [instance, call, ratio]) in hosts.iter().zip(measured) {
        if instance.iter().all(|time| time.is_finite()) {
            let row = Row::new(format!("{name}: instance"), Better::Lower, instance);
            report.row(row.unit("ms").digits(3));
        }
        let row = Row::new(format!("{name}: call"), Better::Lower, call);
        report.row(row.unit("ms").digits(3));
        let row = Row::new(
            format!("{name}: call / host-demo's"),
            Better::Neither,
            ratio,
        );
        report.row(row.digits(1));
    }
    report.write()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn imports(flavour: Flavour) -> Result<Vec<String>, Error> {
    let engine = wasmtime::Engine::default();
    let component = Component::from_binary(&engine, flavour.bytes())?;
    let kind = component.component_type();
    let names = kind.imports(&engine);
    Ok(names
        .map(|(name, _)| name.split('@').next().unwrap_or(name).to_owned())
        .collect())
}

/// Without a quota, and a device can be released over and over.
async fn stand_in() -> Result<Mock, Error> {
    let switches = Switches {
        per_minute: None,
        per_hour: None,
        duplicate: Duplicate::Return,
        ..Switches::default()
    };
    let mock = Mock::builder().switches(switches).plain_http(true);
    Ok(mock.start().await?)
}

fn asked(mock: &Mock) -> Asked {
    let environment = [
        ("DEFENDER_BASE_URL", mock.base_url().to_owned()),
        ("DEFENDER_TOKEN", mock.token(Grant::new())),
    ];
    Asked {
        machine_id: mock.machine_ids().swap_remove(0),
        comment: COMMENT.to_owned(),
        environment: environment
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        ..Asked::default()
    }
}

fn ours(mock: &Mock) -> Result<Host, Error> {
    let service = Service::custom(mock.base_url(), mock.authority(), &mock.scope())?;
    let token = FixedToken::new(&mock.token(Grant::new()))?;
    let plugin = Plugin::bundled(&plugin::engine(None)?)?;
    let mut setup = Setup::new(service, Arc::new(token));
    setup.quotas = Quota::DOCUMENTED
        .map(|quota| Quota {
            calls: u32::MAX,
            ..quota
        })
        .to_vec();
    Ok(Host::new(plugin, &setup.build()?))
}

/// Whoever is measured.
enum Measured {
    Ours(Box<Host>),
    CommandLine(CommandLine),
    Driver(Driver),
}

fn others(foreign: &Foreign) -> Vec<(&'static str, Measured)> {
    let [plain, env] = [Flavour::Plain, Flavour::Environment].map(|f| foreign.component(f));
    vec![
        (
            "wasmtime, environment (process)",
            Measured::CommandLine(foreign.command_line(Flavour::Environment)),
        ),
        ("node", Measured::Driver(foreign.node_driver(&plain))),
        (
            "node, environment",
            Measured::Driver(foreign.node_driver(&env)),
        ),
        ("python", Measured::Driver(foreign.python_driver(&plain))),
        (
            "python, environment",
            Measured::Driver(foreign.python_driver(&env)),
        ),
    ]
}

impl Measured {
    /// The median seconds of an instance, where that can be told apart, and of a call.
    fn round(&mut self, runtime: &Runtime, asked: &Asked) -> Result<[f64; 2], Error> {
        match self {
            Self::Ours(host) => {
                let instances = instances(CALLS)?;
                let mut calls = Vec::new();
                for _ in 0..CALLS {
                    let call = host.unrestrict_code_execution(
                        &asked.machine_id,
                        &asked.comment,
                        WaitOptions::default(),
                    );
                    let start = Instant::now();
                    runtime.block_on(call)?;
                    calls.push(start.elapsed().as_secs_f64());
                }
                Ok([median(instances), median(calls)])
            }
            Self::CommandLine(command_line) => {
                let mut calls = Vec::new();
                for _ in 0..CALLS / 4 {
                    let start = Instant::now();
                    let output = command_line.run(asked);
                    calls.push(start.elapsed().as_secs_f64());
                    if !output.stdout.starts_with(b"ok(") {
                        return Err(format!("no release: {output:?}").into());
                    }
                }
                Ok([f64::NAN, median(calls)])
            }
            Self::Driver(driver) => {
                let told = driver.call(asked);
                if told.get("ok").is_none() {
                    return Err(format!("no release: {told}").into());
                }
                Ok(driver.time(asked, CALLS).map(median))
            }
        }
    }
}
