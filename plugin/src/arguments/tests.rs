use std::format;
use std::string::String;

use super::*;

const MACHINE: &str = "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9";
const ACTION: &str = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";

#[test]
fn a_machine_id_is_lower_cased_at_the_door() {
    let mixed = "49E96a8dd67ac4f1ce9952ccedcde711f0ce28E9";
    assert_eq!(
        mixed.parse::<MachineId>().expect("accepted").as_str(),
        MACHINE
    );
    assert_eq!(
        MACHINE
            .to_uppercase()
            .parse::<MachineId>()
            .expect("accepted")
            .as_str(),
        MACHINE
    );
}

#[test]
fn an_action_id_is_lower_cased_at_the_door() {
    assert_eq!(
        ACTION
            .to_uppercase()
            .parse::<ActionId>()
            .expect("accepted")
            .as_str(),
        ACTION
    );
}

#[test]
fn what_is_no_machine_id_is_refused_with_what_is_wrong() {
    let long = format!("{MACHINE}0");
    let surrounded = format!(" {MACHINE}");
    let ended = format!("{MACHINE}\n");
    let nul = MACHINE.replacen('4', "\0", 1);
    let full_width = MACHINE.replacen('4', "\u{ff14}", 1);
    let arabic = MACHINE.replacen('4', "\u{664}", 1);
    let multi_byte_of_40_bytes = "é".repeat(20);
    for (text, problem) in [
        ("", "it is empty"),
        (&MACHINE[1..], "it has 39 digits"),
        (&long, "it has 41 digits"),
        (ACTION, "this looks like a GUID"),
        ("abc/offboard?", "character 4 is punctuation"),
        ("../x", "character 1 is punctuation"),
        ("%2e%2e", "character 1 is punctuation"),
        (
            "johns-work-computer",
            "character 1 is a letter, not a hexadecimal digit (a computer's name",
        ),
        ("pc.contoso.test", "(a computer's name is not accepted)"),
        (&surrounded, "character 1 is white space"),
        (&ended, "character 41 is a control character"),
        (&nul, "character 1 is a control character"),
        (&full_width, "character 1 is outside ASCII"),
        (&arabic, "character 1 is outside ASCII"),
        (&multi_byte_of_40_bytes, "character 1 is outside ASCII"),
    ] {
        let refused = text.parse::<MachineId>().expect_err("a refusal");
        assert_eq!(refused.parameter, "machine-id");
        assert!(
            refused.problem.contains(problem),
            "{text:?}: {}",
            refused.problem
        );
        assert!(
            refused.problem.contains("40 hexadecimal digits"),
            "{text:?}: {}",
            refused.problem
        );
        assert!(
            text.is_empty() || !refused.problem.contains(text),
            "{text:?} is repeated"
        );
    }
}

#[test]
fn what_is_no_action_id_is_refused_with_what_is_wrong() {
    let braced = format!("{{{ACTION}}}");
    let ended = format!("{ACTION}\n");
    for (text, problem) in [
        ("", "it is empty"),
        (MACHINE, "this looks like a machine's id"),
        (&braced, "character 1 is punctuation"),
        (&ended, "character 37 is a control character"),
        (&ACTION[1..], "its 35 characters"),
        ("8a5c34dc9ca94be4b3c24c70e4bfb69a", "its 32 characters"),
        ("8a5c34dc-9ca9-4be4-b3c24-c70e4bfb69a", "its 36 characters"),
        ("../../machines/8a5c34dc", "character 1 is punctuation"),
        (
            "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69g",
            "character 36 is a letter",
        ),
        (
            "８a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a",
            "character 1 is outside ASCII",
        ),
    ] {
        let refused = text.parse::<ActionId>().expect_err("a refusal");
        assert_eq!(refused.parameter, "action-id");
        assert!(
            refused.problem.contains(problem),
            "{text:?}: {}",
            refused.problem
        );
        assert!(
            text.is_empty() || !refused.problem.contains(text),
            "{text:?} is repeated"
        );
    }
}

#[test]
fn a_comment_is_kept_as_it_is() {
    let longest = "x".repeat(4096);
    let longest_in_emoji = "🦀".repeat(4096);
    for text in [
        "Device cleared, removing app restriction",
        "x",
        "  spaces around  ",
        "line one\r\nline two\n\tindented",
        "\"quoted\" \\ and </script>",
        "Gerät geprüft 🦀 \u{202e}\u{200b}",
        "\u{feff}\u{200b}.",
        "\u{600}\u{2800}",
        &longest,
        &longest_in_emoji,
    ] {
        assert_eq!(text.parse::<Comment>().expect("accepted").as_str(), text);
    }
}

#[test]
fn a_comment_that_is_empty_blank_too_long_or_has_control_characters_is_refused() {
    let too_long = "x".repeat(4097);
    let too_long_in_emoji = "🦀".repeat(4097);
    for (text, problem) in [
        ("", "it is empty"),
        (" ", "it is blank"),
        ("\t\r\n", "it is blank"),
        ("\u{a0}\u{2003}\u{3000}\u{2028}", "it is blank"),
        ("\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}", "it is blank"),
        (" \u{2060}\n\u{feff}", "it is blank"),
        ("\u{ad}\u{61c}\u{202e}\u{fe0f}\u{e0041}", "it is blank"),
        (&too_long, "it has 4097 characters"),
        (&too_long_in_emoji, "it has 4097 characters"),
        ("a\0", "character 2 is the control character U+0000"),
        (
            "\u{1b}[31mred",
            "character 1 is the control character U+001B",
        ),
        ("é\u{b}", "character 2 is the control character U+000B"),
        ("a\u{7f}", "character 2 is the control character U+007F"),
        ("a\u{85}b", "character 2 is the control character U+0085"),
        ("a\u{9b}31m", "character 2 is the control character U+009B"),
    ] {
        let refused = text.parse::<Comment>().expect_err("a refusal");
        assert_eq!(refused.parameter, "comment");
        assert!(
            refused.problem.contains(problem),
            "{:?}: {}",
            text.get(..20),
            refused.problem
        );
    }
}

proptest::proptest! {
    #[test]
    fn a_parsed_id_can_stand_in_a_path(
        text in "[0-9a-fA-F]{40}|\\PC*",
        guid in "[0-9a-f]{8}(-[0-9A-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F-]{36}|\\PC*",
    ) {
        if let Ok(id) = text.parse::<MachineId>() {
            assert!(id.as_str().bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
            assert_eq!(id.as_str().len(), 40);
        }
        if let Ok(id) = guid.parse::<ActionId>() {
            let parts: std::vec::Vec<usize> = id.as_str().split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12]);
            assert_eq!(id.as_str(), guid.to_lowercase());
        }
    }

    #[test]
    fn any_comment_is_an_answer_and_never_a_panic(text in proptest::prelude::any::<String>()) {
        let accepted = !text.chars().all(is_blank)
            && text.chars().count() <= 4096
            && text.chars().all(|c| matches!(c, '\t' | '\n' | '\r') || !c.is_control());
        assert_eq!(text.parse::<Comment>().is_ok(), accepted);
    }
}
