//! What Ctrl-C does to a run: it ends in good order, and the second time at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Exit;

/// The first Ctrl-C stops what has not begun; the second ends the program.
pub(super) async fn listen(interrupt: watch::Sender<bool>) {
    if interrupted().await.is_err() {
        return std::future::pending().await;
    }
    note!("\nhost-demo: stopping; what was sent is brought to its answer. Once more ends at once.");
    let _ = interrupt.send(true);
    if interrupted().await.is_ok() {
        note!("host-demo: ended; `host-demo audit verify` lists the calls that were cut short");
        std::process::exit(Exit::Interrupted as i32);
    }
}

/// Completes when it is pressed for the first time; where nobody listens, never.
pub(super) async fn pressed(stop: Option<watch::Receiver<bool>>) {
    if let Some(mut stop) = stop
        && stop.wait_for(|stop| *stop).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Ctrl-C, or what a service manager or a terminal that closes sends in its place.
async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed,
        _ = terminate.recv() => Ok(()),
        _ = hang_up.recv() => Ok(()),
    }
}
