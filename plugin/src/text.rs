//! Text from outside: searched, and made fit to stand in a message.

use alloc::string::String;

/// How much of a text from outside a message quotes, in characters.
pub(crate) const MAX_QUOTE: usize = 1000;

/// The start of a text that is long enough for what is searched in it. The service's messages have
/// some hundred bytes, and one of a mebibyte should cost no more than those.
pub(crate) fn head(text: &str) -> &str {
    text.get(..text.floor_char_boundary(4096)).unwrap_or(text)
}

/// What follows the first occurrence of an ASCII phrase, in any case of letters.
pub(crate) fn after<'a>(text: &'a str, phrase: &str) -> Option<&'a str> {
    let at = text
        .as_bytes()
        .windows(phrase.len())
        .position(|window| window.eq_ignore_ascii_case(phrase.as_bytes()))?;
    text.get(at + phrase.len()..)
}

/// A text from outside, ready to stand at a sentence's end.
pub(crate) fn sentence(text: &str) -> String {
    let mut sentence = legible(text, MAX_QUOTE);
    if !sentence.ends_with(['.', '!', '?', '…']) {
        sentence.push('.');
    }
    sentence
}

/// A text from outside on one line: at most so many characters, with white space and control
/// characters as single spaces.
pub(crate) fn legible(text: &str, limit: usize) -> String {
    let mut legible = String::new();
    let mut length = 0;
    for word in text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|w| !w.is_empty())
    {
        if length > 0 {
            legible.push(' ');
            length += 1;
        }
        for c in word.chars() {
            if length == limit {
                legible.push('…');
                return legible;
            }
            legible.push(c);
            length += 1;
        }
    }
    legible
}
