//! What is printed, for people and for programs.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

pub(crate) use host_demo::harmless::clean;
use host_demo::harmless::is_harmful;
use serde_json::Value;

/// Whether something that was to be printed is lost, other than by a reader who went away.
static LOST: Mutex<Option<String>> = Mutex::new(None);

/// Whether a line could not be printed, for whatever reason.
static IS_CUT: AtomicBool = AtomicBool::new(false);

/// Returns whether standard output still has a reader, as far as the last write showed.
pub(crate) fn is_read() -> bool {
    !IS_CUT.load(Ordering::Relaxed)
}

/// Why some of the output is lost, if it is.
pub(crate) fn lost() -> Option<String> {
    LOST.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// One line on standard error, if it can be written.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints one line, whole or not at all. A reader that went away ends the output, not the work; a
/// line that can't be written for another reason is told of in the end.
pub(crate) fn line(text: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bytes = Vec::with_capacity(text.len() + 1);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(&bytes).and_then(|()| stdout.flush());
    if let Err(error) = written {
        IS_CUT.store(true, Ordering::Relaxed);
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            *LOST.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        }
    }
}

/// Prints one line of JSON.
///
/// What JSON lets stand as it is and a terminal may not (DEL, C1, changes of direction) is escaped.
pub(crate) fn json_line(value: &Value) {
    let mut text = String::new();
    for c in value.to_string().chars() {
        if is_harmful(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                text += &format!("\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
    }
    line(&text);
}
