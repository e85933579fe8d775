//! Azure CLI's signed-in user: `az account get-access-token`, in an environment of its own.
//!
//! `azure_identity` reads the output of Azure CLI 2.54 and later only; Debian 12 and Ubuntu 22.04
//! ship older releases.

use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
#[cfg(unix)]
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::error::{first_sentence, refusal_in};
use super::fetch::{Fetch, Fetched};
use super::{BearerToken, IdentityError, Method};
use crate::cloud::Service;
use defender_core::clock::Clock;

/// How long the tool may take: it starts a Python, and may have to renew its own token.
const TIMEOUT: Duration = Duration::from_secs(30);

/// More than the tool prints in any case.
const OUTPUT_MAX: u64 = 1 << 20;

#[cfg(windows)]
const PROGRAM: &str = "az.cmd";
#[cfg(not(windows))]
const PROGRAM: &str = "az";

/// What the tool gets to see of the environment: where it is, where its sign-in is, the language
/// that its output is read in, the time zone of its times, and the way through the enterprise's
/// proxy. Not this program's own secrets.
const ENVIRONMENT: [&str; 12] = [
    "PATH",
    "HOME",
    "AZURE_CONFIG_DIR",
    "LANG",
    "LC_ALL",
    "TZ",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
];

/// What a program on Windows needs besides. The names of variables have no case there.
#[cfg(windows)]
const OF_WINDOWS: [&str; 9] = [
    "APPDATA",
    "COMSPEC",
    "LOCALAPPDATA",
    "PATHEXT",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "USERPROFILE",
    "WINDIR",
];
#[cfg(not(windows))]
const OF_WINDOWS: [&str; 0] = [];

pub(super) struct AzureCli {
    tenant: Option<String>,
    environment: Vec<(OsString, OsString)>,
    service: Service,
    clock: Arc<dyn Clock>,
}

impl AzureCli {
    /// Of `environment`, the tool sees what is on a short list.
    pub(super) fn new(
        tenant: Option<String>,
        environment: &[(OsString, OsString)],
        service: Service,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let is = |name: &OsStr, known: &str| match cfg!(windows) {
            true => name.eq_ignore_ascii_case(known),
            false => name == known,
        };
        let mut environment = environment.to_vec();
        environment.retain(|(name, _)| {
            let mut known = ENVIRONMENT.iter().chain(&OF_WINDOWS);
            known.any(|known| is(name, known))
        });
        // Its questions would wait for an answer that nobody can give.
        environment.push(("AZURE_CORE_DISABLE_CONFIRM_PROMPT".into(), "true".into()));
        Self {
            tenant,
            environment,
            service,
            clock,
        }
    }

    /// The time zone in which the tool prints times.
    fn zone(&self) -> TimeZone {
        let named = self.environment.iter().find(|(name, _)| name == "TZ");
        match named.and_then(|(_, value)| value.to_str()) {
            Some(name) => TimeZone::get(name)
                .or_else(|_| TimeZone::posix(name))
                .unwrap_or_else(|_| TimeZone::system()),
            None => TimeZone::system(),
        }
    }
}

#[async_trait]
impl Fetch for AzureCli {
    async fn fetch(&self) -> Result<Fetched, IdentityError> {
        let mut arguments = vec!["account", "get-access-token", "-o", "json"];
        arguments.extend(["--scope", self.service.scope()]);
        if let Some(tenant) = &self.tenant {
            arguments.extend(["--tenant", tenant]);
        }
        let (asked, wall) = (self.clock.now(), self.clock.wall());
        let output = tokio::time::timeout(TIMEOUT, run(&arguments, &self.environment))
            .await
            .map_err(|_| busy(format!("az did not end within {} s", TIMEOUT.as_secs())))?
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => not_available(NOT_INSTALLED.to_owned()),
                _ => not_available(format!("az can't be run: {error}")),
            })?;
        if !output.status.success() {
            return Err(explain(&output));
        }
        let answer = Answer::read(&output.stdout, || self.zone())?;
        answer.expect_tenant(self.tenant.as_deref())?;
        let left = answer.left(wall)?;
        Ok(Fetched {
            token: answer.token,
            expires: asked + left,
        })
    }
}

const NAME: &str = "Azure CLI";
const NOT_INSTALLED: &str = "az is not installed, or not on the PATH";

/// What the tool prints where it has a token.
struct Answer {
    token: BearerToken,
    expires: Timestamp,
    tenant: Option<String>,
}

impl Answer {
    /// Since 2.54 the tool says when the token ends in seconds (`expires_on`). Before that it says
    /// so in local time alone (`expiresOn`), which newer ones print as well.
    fn read(printed: &[u8], zone: impl FnOnce() -> TimeZone) -> Result<Self, IdentityError> {
        // Before the JSON there can be a byte order mark, or a warning of an extension.
        let begin = printed.iter().position(|byte| *byte == b'{');
        let json = begin.and_then(|at| printed.get(at..)).unwrap_or(printed);
        let answer: Value = serde_json::from_slice(json)
            .map_err(|_| not_an_answer("az printed something else than JSON".to_owned()))?;
        let token = answer["accessToken"]
            .as_str()
            .ok_or_else(|| not_an_answer("az printed JSON without an accessToken".to_owned()))?;
        let token = BearerToken::new(token)?;
        let seconds = match &answer["expires_on"] {
            Value::String(text) => text.parse().ok(),
            number => number.as_i64(),
        };
        let expires = seconds
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .or_else(|| local(answer["expiresOn"].as_str()?, zone()))
            .ok_or_else(|| {
                let unknown =
                    "az printed neither expires_on nor an expiresOn that is a time; update it";
                not_an_answer(unknown.to_owned())
            })?;
        let tenant = answer["tenant"].as_str().map(str::to_owned);
        Ok(Self {
            token,
            expires,
            tenant,
        })
    }

    /// Returns how long the token is still valid, and an error if it has expired.
    fn left(&self, now: Timestamp) -> Result<Duration, IdentityError> {
        let left = self.expires.as_second() - now.as_second();
        match left.try_into() {
            Ok(left @ 1..) => Ok(Duration::from_secs(left)),
            _ => Err(not_an_answer(format!(
                "az returned a token that expired at {:.0}; check this machine's clock and time \
                 zone, then run az login",
                self.expires
            ))),
        }
    }

    /// Rejects a token for another tenant than the one that was asked for, as far as both are IDs.
    fn expect_tenant(&self, wanted: Option<&str>) -> Result<(), IdentityError> {
        let id = |text: &str| uuid::Uuid::try_parse(text).ok();
        let (Some(wanted), Some(got)) = (wanted, self.tenant.as_deref()) else {
            return Ok(());
        };
        match (id(wanted), id(got)) {
            (Some(a), Some(b)) if a != b => Err(IdentityError::OtherTenant {
                wanted: wanted.to_owned(),
                got: got.to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// A time such as `2024-01-01 12:00:00.000000`. One that is there twice, as clocks go back, is the
/// earlier one: a token is renewed too early rather than too late.
fn local(text: &str, zone: TimeZone) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    let time: DateTime = text.parse().ok()?;
    Some(zone.to_ambiguous_zoned(time).earlier().ok()?.timestamp())
}

struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// The tool and all that it starts, ended where nobody waits for it any more: it is a script, and
/// what does its work would outlive it.
#[cfg(unix)]
struct Group(Option<u32>);

#[cfg(unix)]
impl Drop for Group {
    fn drop(&mut self) {
        let group = self.0.and_then(|id| i32::try_from(id).ok());
        if let Some(group) = group.and_then(Pid::from_raw) {
            // There may be none left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs the tool itself, without a shell in between, and away from the folder of the user: there
/// could be another `az`.
async fn run(arguments: &[&str], environment: &[(OsString, OsString)]) -> io::Result<Output> {
    let mut command = tokio::process::Command::new(PROGRAM);
    command
        .args(arguments)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    #[cfg(unix)]
    command.current_dir("/").process_group(0);
    let mut child = command.spawn()?;
    // Dropped before the child: until that is waited for, nobody else can have its number.
    #[cfg(unix)]
    let mut group = Group(child.id());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = tokio::try_join!(bounded(stdout), bounded(stderr))?;
    let status = child.wait().await?;
    #[cfg(unix)]
    {
        group.0 = None;
    }
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

async fn bounded(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let mut pipe = pipe.take(OUTPUT_MAX + 1);
        pipe.read_to_end(&mut bytes).await?;
    }
    if bytes.len() as u64 > OUTPUT_MAX {
        return Err(io::Error::other("it prints more than 1 MiB"));
    }
    Ok(bytes)
}

fn not_available(why: String) -> IdentityError {
    IdentityError::NotAvailable {
        method: Method::AzureCli,
        why,
    }
}

fn not_an_answer(detail: String) -> IdentityError {
    IdentityError::NotAnAnswer {
        authority: NAME.to_owned(),
        detail,
    }
}

/// What a tool that failed says.
fn explain(output: &Output) -> IdentityError {
    let said = String::from_utf8_lossy(&output.stderr);
    // A shell's code for a command that it does not find: the tool is a script.
    if output.status.code() == Some(127) {
        return not_available(NOT_INSTALLED.to_owned());
    }
    if let Some(refusal) = refusal_in(&said) {
        return refusal.into_error(NAME);
    }
    if said.contains("az login") {
        return not_available("nobody is signed in: run az login".to_owned());
    }
    let detail = match first_sentence(&said) {
        empty if empty.is_empty() => format!("az failed: {}", output.status),
        sentence => sentence,
    };
    if NO_CONNECTION.iter().any(|text| said.contains(text)) {
        return busy(detail);
    }
    not_an_answer(detail)
}

/// What the tool's HTTP library (urllib3) says where no answer came.
const NO_CONNECTION: [&str; 3] = [
    "Max retries exceeded",
    "Connection aborted",
    "Read timed out",
];

/// A failure that may pass.
fn busy(error: String) -> IdentityError {
    IdentityError::Busy {
        authority: NAME.to_owned(),
        error,
        status: None,
        retry_after: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expires(printed: &str, zone: &str) -> i64 {
        let zone = TimeZone::get(zone)
            .or_else(|_| TimeZone::posix(zone))
            .unwrap();
        let Ok(answer) = Answer::read(printed.as_bytes(), || zone) else {
            panic!("{printed}")
        };
        answer.expires.as_second()
    }

    #[test]
    fn an_older_tool_gives_the_time_in_its_zone() {
        let old = |time: &str| {
            format!(r#"{{"accessToken":"x","expiresOn":"{time}","tokenType":"Bearer"}}"#)
        };
        for (time, zone, utc) in [
            ("2026-11-29 00:01:59.000000", "UTC0", "2026-11-29T00:01:59Z"),
            (
                "2026-07-01 12:00:00.000000",
                "CET-1CEST,M3.5.0,M10.5.0/3",
                "2026-07-01T10:00:00Z",
            ),
            (
                "2026-01-01 12:00:00",
                "CET-1CEST,M3.5.0,M10.5.0/3",
                "2026-01-01T11:00:00Z",
            ),
            // There twice, as clocks go back.
            (
                "2026-10-25 02:30:00.000000",
                "CET-1CEST,M3.5.0,M10.5.0/3",
                "2026-10-25T00:30:00Z",
            ),
            ("2026-07-01T12:00:00+00:00", "EST5", "2026-07-01T12:00:00Z"),
        ] {
            let utc: Timestamp = utc.parse().unwrap();
            assert_eq!(
                expires(&old(time), zone),
                utc.as_second(),
                "{time} in {zone}"
            );
        }
    }

    #[test]
    fn the_time_in_seconds_comes_first() {
        for seconds in ["1700000000", "\"1700000000\""] {
            let printed = format!(
                r#"{{"accessToken":"x","expires_on":{seconds},"expiresOn":"2024-01-01 12:00:00.000000"}}"#
            );
            assert_eq!(expires(&printed, "EST5"), 1_700_000_000);
        }
    }

    #[test]
    fn an_expired_token_is_an_error_with_its_time() {
        let printed = br#"{"accessToken":"x","expires_on":1700000000}"#;
        let answer = Answer::read(printed, || TimeZone::UTC).ok().unwrap();
        let now = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(answer.left(now(1_699_999_990)), Ok(Duration::from_secs(10)));
        for late in [1_700_000_000, 1_800_000_000] {
            let error = answer.left(now(late)).unwrap_err().to_string();
            let told = "az returned a token that expired at 2023-11-14T22:13:20Z;";
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn what_stands_before_the_json_is_skipped() {
        for before in ["\u{FEFF}", "WARNING: an extension is old.\n"] {
            let printed = format!(r#"{before}{{"accessToken":"x","expires_on":1700000000}}"#);
            assert_eq!(expires(&printed, "UTC0"), 1_700_000_000);
        }
    }

    #[test]
    fn output_without_a_token_or_its_end_is_an_error() {
        for printed in [
            "",
            "null",
            "{}",
            r#"{"accessToken":"x"}"#,
            r#"{"accessToken":"x","expiresOn":"soon"}"#,
            r#"{"expires_on":1700000000}"#,
        ] {
            let error = Answer::read(printed.as_bytes(), || TimeZone::UTC)
                .err()
                .unwrap();
            assert!(
                matches!(error, IdentityError::NotAnAnswer { .. }),
                "{error:?}"
            );
        }
    }
}
