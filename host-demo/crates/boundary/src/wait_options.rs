//! How long a caller waits before its call begins.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::waiting::OnWait;
use defender_core::clock::Moment;

/// How long a single call asks for a token again after failures that may pass: a person waits for it,
/// and can repeat the command.
pub const TOKEN_RETRY_CALL: Duration = Duration::from_secs(20);

/// How long a run does, if it has no deadline. Longer than the outages of Microsoft Entra on record
/// (some hours); a failure that only looks as if it would pass ends the run all the same, and
/// resuming it goes on from there.
pub const TOKEN_RETRY_RUN: Duration = Duration::from_secs(4 * 3600);

/// How long anyone does at most while there has been no token yet and nobody has answered: probably
/// an address is wrong. Azure's metadata service comes back within 70 s.
pub const TOKEN_RETRY_FIRST: Duration = Duration::from_secs(120);

/// How long a caller is ready to wait for the quota, and for a token to call with, before anything
/// is sent.
#[derive(Clone)]
pub struct WaitOptions {
    /// Until then. Without it, as long as it takes. What is there without waiting is taken later,
    /// too.
    pub until: Option<Moment>,
    /// The moment until which it waits for the quota alone, if that is sooner than `until`.
    pub quota_until: Option<Moment>,
    /// Until this becomes true. What has been sent by then is not affected.
    pub stop: Option<watch::Receiver<bool>>,
    /// Is told when it has to wait, and when what it waits for changes.
    pub on_wait: Option<OnWait>,
    /// How long it asks for a token again after failures that may pass:
    /// [`TOKEN_RETRY_CALL`]. Without it, until `until`. Both bound it, where both are there.
    pub token_retry: Option<Duration>,
    /// Is asked each time the quota has room, right before the call is begun: a caller who keeps a
    /// journal writes down here that a request may leave. Where it says no, none does.
    pub consent: Option<BeforeSend>,
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self {
            until: None,
            quota_until: None,
            stop: None,
            on_wait: None,
            token_retry: Some(TOKEN_RETRY_CALL),
            consent: None,
        }
    }
}

/// Whether a call may be begun now, or why not.
pub type BeforeSend = Arc<dyn Fn() -> MaySend + Send + Sync>;

/// The answer of a [`BeforeSend`], which may take its time.
pub type MaySend = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

impl fmt::Debug for WaitOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitOptions")
            .field("until", &self.until)
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

/// Completes when it becomes true; without a sender, never.
pub async fn stopped(stop: Option<watch::Receiver<bool>>) {
    if let Some(mut stop) = stop
        && stop.wait_for(|stop| *stop).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
