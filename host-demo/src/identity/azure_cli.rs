//! Azure CLI's signed-in user: `az account get-access-token`, in an environment of its own.

use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential as _;
use azure_identity::{AzureCliCredential, AzureCliCredentialOptions, Executor};
use rustix::process::{Pid, Signal, kill_process_group};

use super::application::bearer;
use super::cache::{Fetch, Fetched};
use super::error::{first_sentence, librarys, refusal_in};
use super::{IdentityError, Method};
use crate::clock::Clock;
use crate::cloud::Service;

/// How long the tool may take: it starts a Python, and may have to renew its own token.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What the tool gets to see of the environment: where it is, where its sign-in is, the language
/// that its output is read in, and the way through the enterprise's proxy. Not this program's own
/// secrets.
const ENVIRONMENT: [&str; 11] = [
    "PATH",
    "HOME",
    "AZURE_CONFIG_DIR",
    "LANG",
    "LC_ALL",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
];

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
        let mut environment = environment.to_vec();
        environment.retain(|(name, _)| ENVIRONMENT.iter().any(|known| name == known));
        // Its questions would wait for an answer that nobody can give.
        environment.push(("AZURE_CORE_DISABLE_CONFIRM_PROMPT".into(), "true".into()));
        Self {
            tenant,
            environment,
            service,
            clock,
        }
    }
}

#[async_trait]
impl Fetch for AzureCli {
    async fn fetch(&self) -> Result<Fetched, IdentityError> {
        let scrubbed = Arc::new(Scrubbed {
            environment: self.environment.clone(),
            failure: Mutex::new(None),
        });
        let options = AzureCliCredentialOptions {
            tenant_id: self.tenant.clone(),
            executor: Some(Arc::clone(&scrubbed) as Arc<dyn Executor>),
            ..AzureCliCredentialOptions::default()
        };
        let credential = AzureCliCredential::new(Some(options))
            .map_err(|error| IdentityError::Unusable(error.to_string()))?;
        let (asked, wall) = (self.clock.now(), self.clock.wall());
        let token = match credential.get_token(&[self.service.scope()], None).await {
            Ok(token) => token,
            Err(error) => {
                let noted = scrubbed
                    .failure
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                return Err(noted.unwrap_or_else(|| IdentityError::NotAnAnswer {
                    authority: NAME.to_owned(),
                    detail: librarys(&error),
                }));
            }
        };
        let seconds = token.expires_on.unix_timestamp() - wall.as_second();
        let lifetime = Duration::from_secs(seconds.try_into().unwrap_or_default());
        Ok(Fetched {
            token: bearer(&token)?,
            expires: asked + lifetime,
        })
    }
}

const NAME: &str = "Azure CLI";

/// Runs the tool without this program's environment, and notes why it failed.
#[derive(Debug)]
struct Scrubbed {
    environment: Vec<(OsString, OsString)>,
    failure: Mutex<Option<IdentityError>>,
}

#[async_trait]
impl Executor for Scrubbed {
    async fn run(&self, program: &OsStr, args: &[&OsStr]) -> io::Result<Output> {
        let ended = self.wait(program, args).await;
        let failure = match &ended {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(explain(output)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Some(busy(format!(
                "az did not end within {} s",
                TIMEOUT.as_secs()
            ))),
            Err(error) => Some(not_available(format!("az can't be run: {error}"))),
        };
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        ended
    }
}

/// The tool and all that it starts, ended where nobody waits for it any more: it is a script, and
/// what does its work would outlive it.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let group = self.0.and_then(|id| i32::try_from(id).ok());
        if let Some(group) = group.and_then(Pid::from_raw) {
            // There may be none left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Scrubbed {
    async fn wait(&self, program: &OsStr, args: &[&OsStr]) -> io::Result<Output> {
        let child = tokio::process::Command::new(program)
            .args(args)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let id = child.id();
        let mut output = Box::pin(child.wait_with_output());
        // Dropped before the child: until that is waited for, nobody else can have its number.
        let mut group = Group(id);
        let ended = tokio::time::timeout(TIMEOUT, &mut output).await?;
        group.0 = None;
        ended
    }
}

fn not_available(why: String) -> IdentityError {
    IdentityError::NotAvailable {
        method: Method::AzureCli,
        why,
    }
}

/// What a tool that failed says.
fn explain(output: &Output) -> IdentityError {
    let said = String::from_utf8_lossy(&output.stderr);
    // The shell's code for a command that it does not find.
    if output.status.code() == Some(127) {
        return not_available("az is not installed, or not on the PATH".to_owned());
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
    IdentityError::NotAnAnswer {
        authority: NAME.to_owned(),
        detail,
    }
}

/// What the tool's HTTP library (urllib3) says where no answer came.
const NO_CONNECTION: [&str; 3] = [
    "Max retries exceeded",
    "Connection aborted",
    "Read timed out",
];

fn busy(error: String) -> IdentityError {
    IdentityError::Busy {
        authority: NAME.to_owned(),
        error,
        status: None,
        retry_after: None,
    }
}
