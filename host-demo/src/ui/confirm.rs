//! Confirmation prompts on a terminal.

use std::io::{IsTerminal as _, Write as _};

use anyhow::bail;
use host_demo::harmless::clean;
use host_demo::kind::ActionKind;

/// What is to be done with them, in the words for it.
#[derive(Clone, Copy)]
pub(crate) struct Verb {
    pub(crate) plain: &'static str,
    pub(crate) past: &'static str,
}

/// The words for a kind of action.
pub(crate) const fn verb(kind: ActionKind) -> Verb {
    match kind {
        ActionKind::Release => Verb {
            plain: "release",
            past: "released",
        },
        ActionKind::Restrict => Verb {
            plain: "restrict",
            past: "restricted",
        },
    }
}

/// Whether standard input and standard error are a terminal, so that a person can answer.
pub(crate) fn is_possible() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks, and returns whether the answer is yes.
pub(crate) fn ask(question: &str) -> std::io::Result<bool> {
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Whether so many are meant.
pub(crate) fn confirmed(
    confirm_above: usize,
    yes: bool,
    many: usize,
    what: &str,
    verb: Verb,
) -> anyhow::Result<()> {
    if yes || many <= confirm_above {
        return Ok(());
    }
    if !is_possible() {
        bail!(
            "{many} {what} are more than {confirm_above}, and there is nobody to ask: --yes goes on \
             all the same, and --confirm-above sets another number"
        );
    }
    let mut question = format!("{} {many} {what}?", verb.plain);
    question[..1].make_ascii_uppercase();
    match ask(&question)? {
        true => Ok(()),
        false => bail!("nothing was sent"),
    }
}

/// Asks whether to remove these runs; an error if not.
pub(crate) fn removal(names: &[String]) -> anyhow::Result<()> {
    if !is_possible() {
        bail!(
            "nothing was removed, because there is nobody to ask: --yes removes without a question"
        );
    }
    for name in names {
        note!("  {}", clean(name));
    }
    let runs = if names.len() == 1 {
        "this run"
    } else {
        "these runs"
    };
    match ask(&format!("Remove {runs}?"))? {
        true => Ok(()),
        false => bail!("nothing was removed"),
    }
}
