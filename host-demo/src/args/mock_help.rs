//! The part of `host-demo mock --help` that is made from the stand-in's switches.

use std::fmt::Write as _;
use std::sync::LazyLock;

use defender_mock::Switches;

use super::help;

/// What `--set` can be given, from the switches themselves.
pub(crate) static SWITCHES_HELP: LazyLock<String> = LazyLock::new(|| {
    let mut text = String::from(
        "It listens on loopback only. Press Ctrl-C to stop it.\n\nWhat --set can be given:\n",
    );
    for switch in Switches::describe() {
        let _ = writeln!(text, "  {}={}", switch.name, switch.default);
        let _ = writeln!(text, "      {}", switch.question);
        let _ = writeln!(text, "      One of: {}", switch.values);
    }
    let _ = write!(text, "\n{}", help::PLAIN_EXIT_CODES);
    text
});
