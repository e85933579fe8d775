//! Reads the arguments, runs the subcommand that they name, and reports what kept it from running.

use clap::{CommandFactory as _, FromArgMatches as _};
use host_demo::host::CallError;
use host_demo::kind::ActionKind;
use rustix::fs::Mode;

use crate::args::{self, Cli, Command};
use crate::commands::{
    audit, cancel, check, config, dry_run, gateway, inspect, quota, report, restricted, run, runs,
    status,
};
use crate::exit::Exit;
use crate::setup::interrupt;
use crate::ui::{error_text, output, suggest};

/// Reads the arguments, runs the command, and reports what kept it from running.
pub(crate) fn run() -> Exit {
    // Files and folders get their permissions as they are created, except those that wasmtime creates
    // for compiled code: nothing is for other users.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    if let Err(error) = interrupt::install() {
        note!("host-demo: Ctrl-C can't be handled: {error}");
        return Exit::CouldNotRun;
    }
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        suggest::remember(&matches);
        Cli::from_arg_matches(&matches)
    });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let format = match args::ask_for_json(std::env::args_os()) {
                true => args::Output::Json,
                false => args::Output::Text,
            };
            return match error_text::misused(format, &error) {
                true => Exit::CouldNotRun,
                false => Exit::Done,
            };
        }
    };
    diagnose(cli.verbose);
    let format = cli.output;
    let result = match cli.command {
        Command::Completion { shell } => completion(shell),
        command => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| runtime.block_on(dispatch(command, format))),
    };
    let exit = result.unwrap_or_else(|error| {
        error_text::could_not_run(format, &error);
        match error.downcast_ref() {
            Some(CallError::Stopped) => Exit::Interrupted,
            _ => Exit::CouldNotRun,
        }
    });
    match output::lost() {
        Some(why) => {
            note!("host-demo: some of the output could not be written: {why}");
            exit.failed_if(true)
        }
        None => exit,
    }
}

async fn dispatch(command: Command, format: args::Output) -> anyhow::Result<Exit> {
    match command {
        Command::Unrestrict(args) if args.dry_run => {
            dry_run::run(ActionKind::Release, *args, format).await
        }
        Command::Restrict(args) if args.dry_run => {
            dry_run::run(ActionKind::Restrict, *args, format).await
        }
        Command::Unrestrict(args) => run::begin(ActionKind::Release, *args, format).await,
        Command::Restrict(args) => run::begin(ActionKind::Restrict, *args, format).await,
        Command::Resume(args) => run::resume(*args, format).await,
        Command::Restricted(args) => interrupt::stoppable(restricted::run(args, format)).await,
        Command::Cancel(args) => cancel::run(*args, format).await,
        Command::Status(args) => interrupt::stoppable(status::run(args, format)).await,
        // A pilot must not stop between restricting a device and releasing it.
        Command::Check(args) if args.pilot.is_some() => check::run(args, format).await,
        Command::Check(args) => interrupt::stoppable(check::run(args, format)).await,
        Command::Config(args) => config::run(&args, format),
        Command::Inspect(args) => inspect::run(&args, format),
        Command::Quota(args) => quota::run(args, format).await,
        Command::Runs(args) => runs::run(args, format),
        Command::Report(args) => report::run(&args, format),
        Command::Audit {
            command: args::Audit::Verify(args),
        } => audit::run(args, format),
        Command::Gateway(args) => gateway::run(*args, format).await,
        Command::Completion { shell } => completion(shell),
    }
}

fn completion(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "host-demo", &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end());
    Ok(Exit::Done)
}

/// Diagnosis goes to standard error: this program's, and in the end also what the libraries below
/// say of connections and frames. At their own lowest level are their authors' notes, and not ours.
fn diagnose(verbose: u8) {
    let filter = match verbose {
        0 => return,
        // Who runs a gateway sees each call that comes through it.
        1 => "host_demo=warn,defender=warn,defender_gateway=info",
        2 => "host_demo=debug,defender=debug",
        _ => "debug,host_demo=trace,defender=trace",
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}
