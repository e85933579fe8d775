//! What becomes of a call that the plugin, or the engine, could not bring to its end.

use std::fmt::Write as _;
use std::num::NonZeroUsize;

use wasmtime::{Trap, WasmBacktrace};

/// Frames of a trap's backtrace.
pub(super) const FRAMES_MAX: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// Characters of a function's name in it.
const FUNCTION_NAME_MAX: usize = 200;

/// What the plugin did that no plugin may do, or what the engine could not do for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It used up what one call may compute.
    #[error("the plugin computed without end and was stopped")]
    OutOfFuel,
    /// It stopped itself, or did what WebAssembly does not allow.
    #[error("the plugin trapped: {message}")]
    Trap {
        /// What it did.
        message: String,
        /// Where: a line for each frame, the innermost first. Functions have names where the build
        /// kept them. The names are the component's own words, with control characters escaped.
        backtrace: String,
    },
    /// The engine refused it something, memory or resources.
    #[error("the plugin was stopped by the engine: {0}")]
    Engine(String),
    /// Its result is another one than the host reads in the same response, or there was no
    /// response. Everything is compared but an error's message.
    #[error("the plugin contradicted the service: {0}")]
    Contradiction(String),
}

impl Fault {
    /// Where the plugin was, if it trapped.
    pub fn backtrace(&self) -> Option<&str> {
        match self {
            Self::Trap { backtrace, .. } => Some(backtrace),
            _ => None,
        }
    }
}

impl From<wasmtime::Error> for Fault {
    fn from(error: wasmtime::Error) -> Self {
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => Self::OutOfFuel,
            Some(trap) => Self::Trap {
                message: trap.to_string(),
                backtrace: error
                    .downcast_ref::<WasmBacktrace>()
                    .map_or_else(String::new, frames),
            },
            None => Self::Engine(format!("{error:#}")),
        }
    }
}

/// A line for each frame. The names come from the component, so they are made harmless, and there
/// is an end to them.
fn frames(backtrace: &WasmBacktrace) -> String {
    let mut text = String::new();
    for (at, frame) in backtrace.frames().iter().enumerate() {
        let _ = write!(text, "{at:>4}: ");
        match frame.func_name() {
            Some(name) => {
                for c in name.chars().take(FUNCTION_NAME_MAX) {
                    match c.is_ascii_graphic() || c == ' ' {
                        true => text.push(c),
                        false => text.extend(c.escape_default()),
                    }
                }
            }
            None => {
                let _ = write!(text, "function {}", frame.func_index());
            }
        }
        if let Some(offset) = frame.module_offset() {
            let _ = write!(text, " at {offset:#x}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use wasmtime::Store;
    use wasmtime::component::{Component, Linker};

    use super::super::{FUEL_SLICE, engine};
    use super::*;

    /// What becomes of a call of a component whose one function has this name and body.
    async fn run(name: &str, body: &str) -> Fault {
        let engine = engine(None).unwrap();
        let text = format!(
            r#"(component
                (core module $m (func ${name} (export "f") {body}))
                (core instance $i (instantiate $m))
                (func (export "f") (canon lift (core func $i "f"))))"#
        );
        let component = Component::from_binary(&engine, &wat::parse_str(text).unwrap()).unwrap();
        let mut store = Store::new(&engine, ());
        store.set_fuel(FUEL_SLICE).unwrap();
        store.set_epoch_deadline(1);
        let linker = Linker::<()>::new(&engine);
        let instance = linker
            .instantiate_async(&mut store, &component)
            .await
            .unwrap();
        let f = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
        f.call_async(&mut store, ()).await.unwrap_err().into()
    }

    #[tokio::test]
    async fn a_trap_says_where_the_guest_was_by_the_names_that_the_build_kept() {
        let fault = run("the_function", "unreachable").await;
        let backtrace = fault.backtrace().unwrap();
        assert!(backtrace.contains("0: the_function at 0x"), "{backtrace}");
        assert_eq!(fault.to_string().lines().count(), 1, "{fault}");
        assert!(!fault.to_string().contains("the_function"), "{fault}");
    }

    #[tokio::test]
    async fn a_trace_without_end_is_cut_and_a_name_cannot_drive_the_terminal() {
        let fault = run("f", "call $f").await;
        let Fault::Trap { message, backtrace } = &fault else {
            panic!("{fault:?}")
        };
        assert!(message.contains("stack"), "{message}");
        assert_eq!(backtrace.lines().count(), FRAMES_MAX.get());
        assert_eq!(run("f", "(loop br 0)").await, Fault::OutOfFuel);

        let fault = run(r#""\1b[2J\0a\u{202e}""#, "unreachable").await;
        let backtrace = fault.backtrace().unwrap();
        assert!(backtrace.contains(r"\u{1b}[2J\n\u{202e}"), "{backtrace:?}");
        assert!(!backtrace.contains('\u{1b}'), "{backtrace:?}");
    }
}
