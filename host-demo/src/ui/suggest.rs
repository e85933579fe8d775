//! The commands that messages suggest. One is built from the invocation that suggests it, so that it
//! reads the same configuration, reaches the same service and counts in the same ledger.

use std::any::TypeId;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory as _};
use host_demo::journal::Run;
use host_demo::limits::LedgerName;
use host_demo::shell::Shell;

use crate::args::Cli;
use crate::args::help::CONTEXT_HEADINGS;

/// The flags outside of [`CONTEXT_HEADINGS`] that another command needs as well.
const CONTEXT_FLAGS: [&str; 5] = ["config", "plugin", "plugin-sha256", "timeout", "time-scale"];

/// A flag of this invocation that another command may need as well.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    /// Its name, without the hyphens.
    long: String,
    value: String,
    is_path: bool,
}

static GIVEN: OnceLock<Vec<Given>> = OnceLock::new();

/// Keeps the flags of this invocation for [`command`].
pub(crate) fn remember(matches: &ArgMatches) {
    let _ = GIVEN.set(given(matches));
}

fn given(matches: &ArgMatches) -> Vec<Given> {
    let mut root = Cli::command();
    root.build();
    let (mut command, mut matches) = (&root, matches);
    let mut given = Vec::new();
    loop {
        for arg in command.get_arguments().filter(|arg| is_context(arg)) {
            let id = arg.get_id().as_str();
            let is_given = matches.try_contains_id(id).is_ok()
                && matches.value_source(id) == Some(ValueSource::CommandLine);
            let Some(long) = arg.get_long().filter(|_| is_given) else {
                continue;
            };
            given.retain(|other: &Given| other.long != long);
            let values = matches.get_raw(id).into_iter().flatten();
            given.extend(values.map(|value| Given {
                long: long.to_owned(),
                value: value.to_string_lossy().into_owned(),
                is_path: is_path(arg, value),
            }));
        }
        let Some((name, inner)) = matches.subcommand() else {
            return given;
        };
        let Some(subcommand) = command.find_subcommand(name) else {
            return given;
        };
        (command, matches) = (subcommand, inner);
    }
}

fn is_context(arg: &Arg) -> bool {
    let is_listed = |long: &str| CONTEXT_FLAGS.contains(&long);
    let in_heading = |heading: &str| CONTEXT_HEADINGS.contains(&heading);
    arg.get_long().is_some_and(is_listed) || arg.get_help_heading().is_some_and(in_heading)
}

fn is_path(arg: &Arg, value: &OsStr) -> bool {
    let is_ledger_file = || {
        let name = value.to_str().and_then(|text| text.parse().ok());
        matches!(name, Some(LedgerName::File(_)))
    };
    match arg.get_long() {
        Some("ledger") => is_ledger_file(),
        _ => arg.get_value_parser().type_id() == TypeId::of::<PathBuf>(),
    }
}

/// The command of these words, with every flag of this invocation that it needs.
pub(crate) fn command(words: &[&str]) -> String {
    with_flags(words, current())
}

/// The command that goes on with a run: with the flags of this invocation, and with those that the
/// run was begun with where this invocation does not name them.
pub(crate) fn resume(run: &Run) -> String {
    with_flags(&["resume", &run.id], &of_run(run))
}

/// The command that checks the audit log, at the place where this invocation writes it.
pub(crate) fn verify() -> String {
    verify_with(None, current())
}

/// The command that checks the audit log that a run's calls are in.
pub(crate) fn verify_of(run: &Run) -> Option<String> {
    Some(verify_with(Some(run.audit.as_deref()?), &of_run(run)))
}

/// The flags of this invocation for [`Run::flags`], as they are needed in any folder.
pub(crate) fn flags() -> Vec<(String, String)> {
    let flags = current().iter().filter_map(|flag| {
        // The folder of the runs is where the run is found.
        if flag.long == "runs" || is_handed_over(&flag.value) {
            return None;
        }
        let value = match flag.is_path {
            true => std::path::absolute(&flag.value).ok()?.display().to_string(),
            false => flag.value.clone(),
        };
        Some((flag.long.clone(), value))
    });
    flags.collect()
}

fn current() -> &'static [Given] {
    GIVEN.get().map_or(&[], Vec::as_slice)
}

fn of_run(run: &Run) -> Vec<Given> {
    let mut flags = current().to_vec();
    let earlier = run.flags.iter();
    let earlier = earlier.filter(|(long, _)| current().iter().all(|flag| flag.long != *long));
    flags.extend(earlier.map(|(long, value)| Given {
        long: long.clone(),
        value: value.clone(),
        is_path: false,
    }));
    flags
}

fn with_flags(words: &[&str], given: &[Given]) -> String {
    let mut root = Cli::command();
    root.build();
    let mut target: &Command = &root;
    let mut text = "host-demo".to_owned();
    for word in words {
        if let Some(subcommand) = target.find_subcommand(word) {
            target = subcommand;
        }
        text.push(' ');
        // A word in capitals stands for what the user fills in.
        text += &Shell::HERE.quote(word);
    }
    let takes = |flag: &&Given| {
        let mut flags = target.get_arguments();
        flags.any(|arg| arg.get_long() == Some(&flag.long))
    };
    given
        .iter()
        .filter(takes)
        .for_each(|flag| push_flag(&mut text, &flag.long, &flag.value));
    text
}

/// `audit verify` names the log and its key in a way of its own.
fn verify_with(file: Option<&str>, given: &[Given]) -> String {
    let value = |long: &str| {
        let flag = given.iter().find(|flag| flag.long == long);
        flag.map(|flag| flag.value.as_str())
    };
    let mut words = vec!["audit", "verify"];
    words.extend(file.or_else(|| value("audit")));
    let mut text = with_flags(&words, given);
    if let Some(key) = value("audit-key") {
        push_flag(&mut text, "key", key);
    }
    text
}

fn push_flag(text: &mut String, long: &str, value: &str) {
    *text += &format!(" --{long} ");
    match is_handed_over(value) {
        // It is gone when the command that got it ends.
        true => *text += "<(COMMAND)",
        false => *text += &Shell::HERE.quote(value),
    }
}

/// Whether a path is a descriptor of this process, as a shell writes for `<(COMMAND)`.
fn is_handed_over(path: &str) -> bool {
    ["/dev/fd", "/proc/self/fd"]
        .iter()
        .any(|folder| Path::new(path).parent() == Some(Path::new(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggested(args: &[&str], words: &[&str]) -> String {
        let matches = Cli::command().try_get_matches_from(args).unwrap();
        with_flags(words, &given(&matches))
    }

    #[test]
    fn a_suggestion_has_the_flags_that_its_command_takes() {
        let id = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
        let args = [
            "host-demo",
            "--config",
            "my config.toml",
            "unrestrict",
            id,
            "--comment",
            "INC-42",
            "--no-wait",
            "--base-url",
            "https://localhost:1",
            "--authority=https://localhost:1",
            "--scope",
            "https://x/.default",
            "--allow-address",
            "10.1.0.0/16",
            "--allow-address",
            "10.2.0.0/16",
            "--runs",
            "it's here",
            "--ledger",
            "memory",
            "--output",
            "json",
            "-v",
        ];
        let service = "--base-url https://localhost:1 --authority https://localhost:1 --scope \
                       https://x/.default --allow-address 10.1.0.0/16 --allow-address 10.2.0.0/16";
        assert_eq!(
            suggested(&args, &["status", "MACHINE_ID"]),
            format!(
                "host-demo status MACHINE_ID --config 'my config.toml' {service} --ledger memory"
            )
        );
        assert_eq!(
            suggested(&args, &["runs", "show", "last"]),
            r"host-demo runs show last --runs 'it'\''s here' --config 'my config.toml'"
        );
        assert_eq!(
            suggested(&args, &["quota", "open"]),
            "host-demo quota open --config 'my config.toml' --ledger memory"
        );
        assert_eq!(
            suggested(&["host-demo", "quota"], &["quota", "open"]),
            "host-demo quota open"
        );
    }

    #[test]
    fn the_audit_log_and_its_key_are_named_as_verify_takes_them() {
        let args = [
            "host-demo",
            "check",
            "--audit",
            "a log",
            "--audit-key",
            "key",
        ];
        let matches = Cli::command().try_get_matches_from(args).unwrap();
        let given = given(&matches);
        assert_eq!(
            verify_with(None, &given),
            "host-demo audit verify 'a log' --key key"
        );
        assert_eq!(
            verify_with(Some("of-the-run"), &given),
            "host-demo audit verify of-the-run --key key"
        );
    }

    #[test]
    fn what_a_shell_handed_over_is_asked_for_again() {
        let args = ["host-demo", "check", "--token-file", "/dev/fd/63"];
        assert_eq!(
            suggested(&args, &["check"]),
            "host-demo check --token-file <(COMMAND)"
        );
    }

    /// A new flag needs a decision: does a suggested command need it?
    #[test]
    fn every_flag_of_a_connection_is_kept() {
        let mut root = Cli::command();
        root.build();
        let check = root.find_subcommand("check").unwrap();
        let status = root.find_subcommand("status").unwrap();
        let shared = check.get_arguments().filter(|arg| {
            let long = arg.get_long();
            long.is_some() && status.get_arguments().any(|other| other.get_long() == long)
        });
        for arg in shared {
            let long = arg.get_long().unwrap();
            let is_kept = is_context(arg);
            let is_general = ["help", "output", "verbose"].contains(&long);
            assert_ne!(is_kept, is_general, "--{long}");
        }
    }
}
