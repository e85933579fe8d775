//! The command line: subcommands, flags and their help.

pub(crate) mod dashes;
pub(crate) mod help;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::settings::duration;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use host_demo::cloud::{Cloud, Region};
use host_demo::plugin::Digest;

use self::help::{
    CANCEL_HELP, CHECK_HELP, EXAMPLES, GATEWAY_HELP, PLAIN_EXIT_CODES, PURGE_HELP, QUOTA_HELP,
    REPORT_HELP, RESTRICT_HELP, RESTRICTED_HELP, RESUME_HELP, RUNS_HELP, SHOW_HELP, STATUS_HELP,
    UNRESTRICT_HELP, VERIFY_HELP,
};

/// Releases devices from an app-execution restriction in Microsoft Defender for Endpoint.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    // It is shown where it is read: by the subcommands that have an argument of the same name.
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// What to print: text for people, or JSON Lines for programs.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) output: Output,

    /// Say more on standard error: -v what was refused or failed, -vv each call, -vvv also what
    /// connections do. Never a token or a secret.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Release devices, and follow each release to its end.
    #[command(after_help = UNRESTRICT_HELP)]
    Unrestrict(Box<Batch>),

    /// Restrict devices: let them run Microsoft-signed programs only. The configuration must allow
    /// it.
    #[command(after_help = RESTRICT_HELP)]
    Restrict(Box<Batch>),

    /// Go on with a run that was interrupted, or look again how its actions end.
    #[command(after_help = RESUME_HELP)]
    Resume(Box<Resume>),

    /// Take actions back before their devices have done them. The configuration must allow it.
    #[command(after_help = CANCEL_HELP)]
    Cancel(Box<Cancel>),

    /// List the devices that are restricted, since when, by whom and why.
    #[command(after_help = RESTRICTED_HELP)]
    Restricted(Restricted),

    /// Show a machine action as it stands now, or whether a device is restricted.
    #[command(after_help = STATUS_HELP)]
    Status(Status),

    /// Find out whether releases would work, without changing anything; or try it on one test device.
    #[command(after_help = CHECK_HELP)]
    Check(Check),

    /// Show the configuration, or an example of one.
    #[command(subcommand)]
    Config(Config),

    /// Show what the plugin is and what it may do, without running it.
    #[command(after_help = PLAIN_EXIT_CODES)]
    Inspect(Inspect),

    /// Show what is used of the quotas, and what is left.
    #[command(after_help = QUOTA_HELP)]
    Quota(Quota),

    /// List the runs there are, show one of them, or remove old ones.
    #[command(after_help = RUNS_HELP)]
    Runs(Listed),

    /// Say what became of a run: as text, as a page, or as a table.
    #[command(after_help = REPORT_HELP)]
    Report(Report),

    /// Look after the record of what was done.
    Audit {
        #[command(subcommand)]
        command: Audit,
    },

    /// Let engines on this machine make calls that they can't see to themselves: by capabilities,
    /// each for one request, for one operation on one device.
    #[command(after_help = GATEWAY_HELP)]
    Gateway(Box<Gateway>),

    /// Print a completion script for a shell.
    ///
    /// For bash: source <(host-demo completion bash)
    #[command(after_help = PLAIN_EXIT_CODES)]
    Completion { shell: Shell },
}

#[derive(Debug, Args)]
pub(crate) struct Batch {
    #[command(flatten)]
    pub(crate) devices: Devices,

    /// Why, for the record of each action. A reference of 12 letters and digits is added to it, by
    /// which a run finds its own actions again.
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment: String,

    /// Send it even where the opposite action is under way for a device. The service does not say
    /// which of the two is done last.
    #[arg(long)]
    pub(crate) override_pending: bool,

    /// Say what would happen to each device, and why, and send nothing but reads. Exits with 3
    /// where not all of it could be read.
    #[arg(long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) pace: Pace,

    #[command(flatten)]
    pub(crate) runs: Runs,

    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// The run: its name, the beginning of it, or `last`.
    #[arg(value_parser = dashes::text)]
    pub(crate) run: String,

    /// Try those once more that were refused, or whose action failed.
    #[arg(long)]
    pub(crate) retry: bool,

    #[command(flatten)]
    pub(crate) pace: Pace,

    #[command(flatten)]
    pub(crate) runs: Runs,

    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// How far a run goes, and how fast.
#[derive(Clone, Debug, Args)]
pub(crate) struct Pace {
    /// Be done when the service has accepted it; don't follow it to its end.
    #[arg(long)]
    pub(crate) no_wait: bool,

    /// How long all of it may take, such as 90s or 2h: what the quota puts off until after that is
    /// not sent, and nothing is followed any longer. Without it, one device is followed for 10m,
    /// and several to their end, which for devices that are offline can take days.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) deadline: Option<Duration>,

    /// Send nothing for a while where more of the last 20 answers than this went wrong. 100: never.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = host_demo::batch::PAUSE_ABOVE,
        value_parser = clap::value_parser!(u8).range(1..=100),
    )]
    pub(crate) pause_above: u8,

    /// How many requests may be under way at one time.
    #[arg(
        long,
        value_name = "N",
        hide = true,
        default_value_t = host_demo::batch::AT_ONCE,
    )]
    pub(crate) at_once: usize,
}

/// Where runs are kept.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Runs {
    /// Keep runs in this folder, instead of host-demo/runs in the user's state directory.
    #[arg(
        id = "runs",
        long = "runs",
        value_name = "DIR",
        help_heading = "Journal"
    )]
    pub(crate) folder: Option<PathBuf>,
}

/// Which devices, and how sure that is.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("looked_up").args(["from", "by_name"]).multiple(true))]
pub(crate) struct Devices {
    /// Defender's ids of the devices: 40 hexadecimal digits each. With --by-name: their names.
    #[arg(
        required_unless_present = "from",
        value_name = "MACHINE_ID",
        value_parser = dashes::text
    )]
    pub(crate) machine_ids: Vec<String>,

    /// Take the devices in this file as well, or in standard input (-): one id (with --by-name: one
    /// name) a line, a table with a header (CSV), or JSON. An address of a device page in the portal
    /// is an id, too.
    #[arg(long, value_name = "FILE", help_heading = "Devices")]
    pub(crate) from: Option<PathBuf>,

    /// The table's column that has the ids [default: machineId, Device ID or id] or the names
    /// [default: computerDnsName, Device name, dnsName, hostname or name].
    #[arg(long, value_name = "NAME", requires = "from", help_heading = "Devices")]
    pub(crate) column: Option<String>,

    /// Skip lines of the file that are reported as wrong, and names that do not lead to one device,
    /// instead of sending nothing.
    #[arg(long, requires = "looked_up", help_heading = "Devices")]
    pub(crate) skip_invalid: bool,

    /// Devices are named by their names, as Defender has them: pc-1.contoso.com. Each is looked for
    /// first, with one call, or two where it is not found as it is written, but in lower case. Names
    /// that match no device, or several, are reported, and nothing is sent. An id is still an id.
    #[arg(long, help_heading = "Devices")]
    pub(crate) by_name: bool,

    /// Ask before it goes on with more devices than this.
    #[arg(long, value_name = "N", default_value_t = 25, help_heading = "Devices")]
    pub(crate) confirm_above: usize,

    /// Don't ask.
    #[arg(long, short = 'y', help_heading = "Devices")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restricted {
    /// Look at restrictions and releases that were created since then, such as 12h, 7d or 2w.
    #[arg(long, value_name = "TIME", value_parser = ago, default_value = "30d")]
    pub(crate) since: Duration,

    /// Only those whose restriction has this text in its comment, in either case of letters.
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment_contains: Option<String>,

    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The actions' ids, GUIDs.
    #[arg(required = true, value_name = "ACTION_ID", value_parser = dashes::text)]
    pub(crate) action_ids: Vec<String>,

    /// Why, for the record of each action.
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment: String,

    /// Ask before more actions than this are cancelled.
    #[arg(long, value_name = "N", default_value_t = 25)]
    pub(crate) confirm_above: usize,

    /// Don't ask.
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,

    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// An action's id, which is a GUID, or a device's, which has 40 hexadecimal digits.
    #[arg(value_name = "ID", value_parser = dashes::text)]
    pub(crate) id: String,

    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Restrict this test device and release it again, to learn how the service answers. Its machine
    /// id or its name. Asks first. The configuration must allow restricting.
    #[arg(
        long,
        value_name = "DEVICE",
        requires = "record",
        help_heading = "Pilot"
    )]
    pub(crate) pilot: Option<String>,

    /// Write the redacted exchange to this new file (JSON), for `defender-mock --replay`.
    #[arg(long, value_name = "FILE", requires = "pilot", help_heading = "Pilot")]
    pub(crate) record: Option<PathBuf>,

    /// Restrict and release the device without asking.
    #[arg(long, short = 'y', requires = "pilot", help_heading = "Pilot")]
    pub(crate) yes: bool,

    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print what holds, and where each value came from; or all that is wrong with it.
    #[command(after_help = SHOW_HELP)]
    Show(Box<Show>),

    /// Print a commented configuration with every key.
    #[command(after_help = PLAIN_EXIT_CODES)]
    Example,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) plugin: Plugin,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Plugin {
    /// Run this component instead of the one that is built in.
    #[arg(long = "plugin", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Read this configuration instead of host-demo/config.toml in the user's configuration
    /// directory.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Run it only if this is its SHA-256, as `inspect` prints it.
    #[arg(long = "plugin-sha256", value_name = "HEX")]
    pub(crate) sha256: Option<Digest>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Check that the record is as it was written, and name the first line that is not.
    ///
    /// Calls whose outcome is not on record are listed: they were cut short, by a crash or a second
    /// Ctrl-C, and may have arrived.
    ///
    /// Keep the hash it prints in another place: with --head it shows later that nothing was cut
    /// off.
    #[command(after_help = VERIFY_HELP)]
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The record. By default host-demo/audit.jsonl in the user's state directory.
    #[arg(value_parser = dashes::path())]
    pub(crate) file: Option<PathBuf>,

    /// The key that it was made with. By default host-demo/keys/audit.key in the user's data
    /// directory.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,

    /// The configuration that says where they are, unless they are named here.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// A hash that was noted earlier, which must be in it.
    #[arg(long, value_name = "HASH", value_parser = hash)]
    pub(crate) head: Option<String>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Listed {
    #[command(subcommand)]
    pub(crate) command: Option<RunsCommand>,

    #[command(flatten)]
    pub(crate) runs: Runs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// Show a run and every device of it.
    #[command(after_help = PLAIN_EXIT_CODES)]
    Show(ShowRun),

    /// Remove runs: their journals, and nothing else. One that is driven is left alone.
    #[command(after_help = PURGE_HELP)]
    Purge(Purge),
}

#[derive(Debug, Args)]
pub(crate) struct ShowRun {
    /// The run: its name, the beginning of it, or `last`.
    #[arg(value_parser = dashes::text)]
    pub(crate) run: String,

    #[command(flatten)]
    pub(crate) runs: Runs,
}

#[derive(Debug, Args)]
pub(crate) struct Purge {
    /// These: each by its name, the beginning of it, or as `last`.
    #[arg(
        value_name = "RUN",
        required_unless_present = "older_than",
        value_parser = dashes::text
    )]
    pub(crate) named: Vec<String>,

    /// All in which nothing has happened for so long, such as 12h, 90d or 4w.
    #[arg(long, value_name = "TIME", value_parser = ago, conflicts_with = "named")]
    pub(crate) older_than: Option<Duration>,

    /// Don't ask, and remove those with open devices too.
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,

    #[command(flatten)]
    pub(crate) runs: Runs,
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// The run: its name, the beginning of it, or `last`.
    #[arg(value_parser = dashes::text)]
    pub(crate) run: String,

    /// Write a page to this file, which appears whole or not at all.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,

    /// Write a table with a row for each device to this file, or to standard output (-).
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) runs: Runs,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Quota {
    #[command(subcommand)]
    pub(crate) command: Option<QuotaCommand>,

    /// Show it again each second, until Ctrl-C.
    #[arg(long)]
    pub(crate) watch: bool,

    /// Say as well how long so many calls would take from now on.
    #[arg(long, value_name = "CALLS")]
    pub(crate) forecast: Option<u32>,

    #[command(flatten)]
    pub(crate) counted: Counted,
}

/// Which ledger, where nothing else is needed.
#[derive(Clone, Debug, Args)]
pub(crate) struct Counted {
    #[command(flatten)]
    pub(crate) ledger: Ledger,

    /// The configuration that says where calls are counted, unless it is said here.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Let time run so many times as fast, as those do whose calls are shown.
    #[arg(long, value_name = "N", hide = true, default_value_t = 1)]
    pub(crate) time_scale: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// Open what is closed because a ledger was lost, or because the service answered 429.
    ///
    /// Do it if you know that no call was made in the last hour (a new ledger in the place of one that
    /// was never used, say), or that the service asked for too long a wait. If you are wrong, the
    /// service answers 429, and the quota is closed again.
    #[command(after_help = PLAIN_EXIT_CODES)]
    Open(Counted),

    /// Put a damaged ledger (a file) aside, and begin a new one, closed for an hour.
    #[command(after_help = PLAIN_EXIT_CODES)]
    Renew(Counted),
}

/// Where calls are counted.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Ledger {
    /// Count calls here, together with all who do: a file on this machine, redis://HOST for a
    /// fleet, or `memory` for this run alone [default: host-demo/ledger.sqlite in the user's state
    /// directory].
    #[arg(
        id = "ledger",
        long = "ledger",
        value_name = "WHERE",
        help_heading = "Quotas"
    )]
    pub(crate) at: Option<String>,

    /// A file with the server's password, instead of HOST_DEMO_LEDGER_PASSWORD.
    #[arg(
        id = "ledger_password_file",
        long = "ledger-password-file",
        value_name = "FILE",
        help_heading = "Quotas"
    )]
    pub(crate) password_file: Option<PathBuf>,

    /// Trust the certificate authorities in this file (PEM) at the server, instead of the system's.
    #[arg(
        id = "ledger_ca_file",
        long = "ledger-ca-file",
        value_name = "FILE",
        help_heading = "Quotas"
    )]
    pub(crate) ca_file: Option<PathBuf>,
}

/// Which service, who we are there, and how long a call may take.
#[derive(Clone, Debug, Args)]
pub(crate) struct Connection {
    #[command(flatten)]
    pub(crate) plugin: Plugin,

    /// How long one call may take [default: 30s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// Which of Microsoft's clouds [default: commercial].
    #[arg(
        long,
        value_name = "NAME",
        value_parser = one_of::<Cloud>(Cloud::NAMES),
        help_heading = "Service"
    )]
    pub(crate) cloud: Option<Cloud>,

    /// A part of the commercial cloud that is nearer.
    #[arg(
        long,
        value_name = "NAME",
        value_parser = one_of::<Region>(Region::NAMES),
        help_heading = "Service"
    )]
    pub(crate) region: Option<Region>,

    /// Another service than a cloud of Microsoft's. Name its authority and scope with it.
    #[arg(
        long,
        value_name = "URL",
        requires = "scope",
        conflicts_with_all = ["cloud", "region"],
        help_heading = "Service"
    )]
    pub(crate) base_url: Option<String>,

    /// Who issues tokens for it [env: AZURE_AUTHORITY_HOST].
    #[arg(long, value_name = "URL", help_heading = "Service")]
    pub(crate) authority: Option<String>,

    /// What to ask a token for: the service's resource, followed by /.default.
    #[arg(
        long,
        value_name = "SCOPE",
        requires = "base_url",
        // Where a cloud is named, clap does not ask for what conflicts with it.
        conflicts_with_all = ["cloud", "region"],
        help_heading = "Service"
    )]
    pub(crate) scope: Option<String>,

    /// Trust the certificate authorities in this file (PEM) at the service too, besides the
    /// system's; at its authority only if that has the same URL.
    #[arg(long, value_name = "FILE", help_heading = "Service")]
    pub(crate) ca_file: Option<PathBuf>,

    /// The same for its authority.
    #[arg(long, value_name = "FILE", help_heading = "Service")]
    pub(crate) authority_ca_file: Option<PathBuf>,

    /// Reach the service and its authority through this HTTP proxy. None is taken from the
    /// environment.
    #[arg(long, value_name = "URL", help_heading = "Network")]
    pub(crate) proxy: Option<String>,

    /// A file with the proxy's credentials, as user:password.
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    pub(crate) proxy_credentials_file: Option<PathBuf>,

    /// Let the names of another service lead to this private network or address too, such as
    /// 10.1.0.0/16.
    #[arg(long = "allow-address", value_name = "CIDR", help_heading = "Network")]
    pub(crate) allow_addresses: Vec<String>,

    /// The tenant [env: AZURE_TENANT_ID].
    #[arg(long, value_name = "ID", help_heading = "Identity")]
    pub(crate) tenant_id: Option<String>,

    /// The application [env: AZURE_CLIENT_ID].
    #[arg(long, value_name = "ID", help_heading = "Identity")]
    pub(crate) client_id: Option<String>,

    /// How to sign in; the methods are explained below.
    #[arg(
        long,
        value_name = "METHOD",
        value_parser = PossibleValuesParser::new(crate::settings::auth_names()),
        help_heading = "Identity"
    )]
    pub(crate) auth: Option<String>,

    /// A file with the application's secret, instead of AZURE_CLIENT_SECRET.
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub(crate) client_secret_file: Option<PathBuf>,

    /// A file with a bearer token, used as it is for as long as it holds.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "client_secret_file",
        help_heading = "Identity"
    )]
    pub(crate) token_file: Option<PathBuf>,

    /// Record every call in this file, instead of host-demo/audit.jsonl in the user's state
    /// directory.
    #[arg(long, value_name = "FILE", help_heading = "Audit")]
    pub(crate) audit: Option<PathBuf>,

    /// Chain the record with the key in this file, instead of host-demo/keys/audit.key in the
    /// user's data directory. It is made if nothing is recorded yet.
    #[arg(long, value_name = "FILE", help_heading = "Audit")]
    pub(crate) audit_key: Option<PathBuf>,

    /// What it is done for, for the record: a ticket's number, say.
    #[arg(long, value_name = "REF", help_heading = "Audit")]
    pub(crate) ticket: Option<String>,

    #[command(flatten)]
    pub(crate) ledger: Ledger,

    /// Let time run so many times as fast. On loopback only, together with a stand-in at the same
    /// scale.
    #[arg(long, value_name = "N", hide = true, default_value_t = 1)]
    pub(crate) time_scale: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Gateway {
    /// Where to listen: a loopback address, and a port. 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub(crate) listen: std::net::SocketAddr,

    /// Write the key that engines have to show to this file, for you alone; it is removed in the
    /// end [default: host-demo/gateway-PORT.key in the user's state directory].
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// One of these names, which the help lists and a completion offers.
fn one_of<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>
        + Clone
        + Send
        + Sync
        + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse())
}

/// Whether JSON was asked for, by arguments that may be wrong in other places.
pub(crate) fn ask_for_json(args: impl IntoIterator<Item = OsString>) -> bool {
    let options = args.into_iter().take_while(|arg| arg != "--");
    let options: Vec<OsString> = options.collect();
    options.iter().any(|arg| arg == "--output=json")
        || options
            .windows(2)
            .any(|pair| pair[0] == "--output" && pair[1] == "json")
}

/// How long ago, as people write it: in days and weeks as well.
fn ago(text: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const LONGEST: Duration = DAY.saturating_mul(3650);

    let days = [('d', 1), ('w', 7)].into_iter().find_map(|(unit, days)| {
        let n: u32 = text.strip_suffix(unit)?.parse().ok()?;
        n.checked_mul(days)
    });
    let ago = match days {
        Some(days) => DAY.saturating_mul(days),
        None => duration(text).map_err(|_| "expected a time such as 12h, 7d or 2w".to_owned())?,
    };
    match ago {
        Duration::ZERO => Err("must be longer than nothing".to_owned()),
        ago if ago > LONGEST => Err("ten years (3650d) are the most".to_owned()),
        ago => Ok(ago),
    }
}

/// A record's hash.
fn hash(text: &str) -> Result<String, String> {
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("expected the 64 hexadecimal digits that `audit verify` printed".to_owned())
    }
}
