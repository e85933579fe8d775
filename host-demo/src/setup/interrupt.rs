//! Ctrl-C, and the signals that a service manager or a closing terminal sends in its place.
//!
//! [`install`] takes over the signals before the command reads its arguments, and a thread of its
//! own waits for them: nothing that a command does, or waits for, delays the answer to Ctrl-C.

use std::io::IsTerminal as _;
use std::mem::MaybeUninit;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::exit::Exit;
use crate::ui::suggest;

/// What the first signal does. The second one always ends the process at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    /// It ends the process at once: nothing is in flight.
    Exits,
    /// It stops the work that [`Interrupt::unless_pressed`] waits for.
    Stops,
    /// It ends the process at once, with the message of a stopped command: see [`uninterrupted`].
    Cuts,
    /// It stops what has not begun; requests in flight finish. The user is told so.
    Finishes,
}

struct State {
    first: First,
    /// Whether a signal has come.
    pressed: bool,
}

static STATE: Mutex<State> = Mutex::new(State {
    first: First::Exits,
    pressed: false,
});

static STOP: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes over the signals: from here on each has a defined result. Call it before anything that can
/// wait, print or send, and before there is another thread.
///
/// The signals are blocked, and a thread of its own asks the system for them. Handlers would lose what
/// arrives while they are being registered; what is blocked stays pending. Programs that are started
/// from here get an empty mask from the standard library.
#[expect(unsafe_code, reason = "the standard library has no signal masks")]
pub(crate) fn install() -> std::io::Result<()> {
    let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initializes the set before the other calls read it.
    let (signals, blocked) = unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(signals.as_mut_ptr(), signal);
        }
        let blocked =
            libc::pthread_sigmask(libc::SIG_BLOCK, signals.as_ptr(), std::ptr::null_mut());
        (signals.assume_init(), blocked)
    };
    if blocked != 0 {
        return Err(std::io::Error::from_raw_os_error(blocked));
    }
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut received = 0;
            // SAFETY: both point to values of this thread; the set is initialized.
            while unsafe { libc::sigwait(&signals, &mut received) } == 0 {
                received_one();
            }
        })?;
    Ok(())
}

fn received_one() {
    let mut state = state();
    let first = match state.pressed {
        false => state.first,
        true => First::Exits,
    };
    match first {
        First::Exits | First::Cuts => {
            if state.first == First::Cuts {
                note!("{INTERRUPTED}");
            } else if state.first == First::Finishes {
                note!(
                    "host-demo: exited; to list the calls that were cut short: {}",
                    suggest::verify()
                );
            } else if std::io::stderr().is_terminal() {
                // The shell's prompt is not to stand behind a question or a progress bar.
                note!("");
            }
            // Nobody changes the state any more.
            std::process::exit(Exit::Interrupted as i32);
        }
        First::Stops => {}
        First::Finishes => note!(
            "\nhost-demo: stopping after requests in flight finish; press Ctrl-C again to exit \
             now"
        ),
    }
    state.pressed = true;
    STOP.send_replace(true);
}

const INTERRUPTED: &str = "host-demo: interrupted";

/// Runs a step that sends nothing and cannot be stopped, such as compiling. Where a signal would stop
/// the command, it ends the process at once meanwhile.
pub(crate) fn uninterrupted<T>(step: impl FnOnce() -> T) -> T {
    let swap = |from: First, to: First| {
        let mut state = state();
        if state.first == from {
            state.first = to;
        }
    };
    swap(First::Stops, First::Cuts);
    let done = step();
    swap(First::Cuts, First::Stops);
    done
}

/// While it exists, the first signal stops the work in good order instead of ending the process.
pub(crate) struct Interrupt {
    /// Becomes true with the first signal.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Interrupt {
    /// For work with requests that must not be cut short: the user is told that they finish.
    pub(crate) fn finishes() -> Self {
        Self::with(First::Finishes)
    }

    /// For work that can be stopped at any time.
    pub(crate) fn stops() -> Self {
        Self::with(First::Stops)
    }

    fn with(first: First) -> Self {
        let mut state = state();
        state.first = first;
        Self {
            stop: STOP.subscribe(),
        }
    }

    /// Completes with the first signal.
    pub(crate) async fn pressed(&self) {
        pressed(Some(self.stop.clone())).await;
    }

    /// Whether a signal has come.
    pub(crate) fn is_pressed(&self) -> bool {
        *self.stop.borrow()
    }

    /// The result of the work, or `None` if a signal comes first; the work is dropped then.
    pub(crate) async fn unless_pressed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.pressed() => None,
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        state().first = First::Exits;
    }
}

/// Runs a command that can be stopped at any time, because it only reads: a signal ends it.
pub(crate) async fn stoppable(
    command: impl Future<Output = anyhow::Result<Exit>>,
) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::stops();
    match interrupt.unless_pressed(command).await {
        Some(result) => result,
        None => {
            note!("{INTERRUPTED}");
            Ok(Exit::Interrupted)
        }
    }
}

/// Completes with the first signal; without a receiver, never.
pub(crate) async fn pressed(stop: Option<watch::Receiver<bool>>) {
    if let Some(mut stop) = stop
        && stop.wait_for(|stop| *stop).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
