//! From the bytes of a file to its text: encodings, ends of lines, and what is not a text at all.

use super::InputError;

/// Reads a text in UTF-8 or UTF-16, with a byte order mark or without. Every line of the result ends
/// in a line feed alone, and none begins with a byte order mark (as they do where files were put
/// together).
///
/// Bytes that are not of the encoding become U+FFFD: it depends on where they stand whether they
/// matter.
pub(super) fn decode(bytes: &[u8]) -> Result<String, InputError> {
    if let Some(not_text) = other_format(bytes) {
        return Err(not_text);
    }
    let mut text = match bytes {
        [0xff, 0xfe, rest @ ..] => utf_16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf_16(rest, u16::from_be_bytes),
        _ => match unmarked_utf_16(bytes) {
            Some(text) => text,
            None => String::from_utf8_lossy(bytes).into_owned(),
        },
    };
    if is_binary(&text) {
        return Err(NOT_TEXT);
    }
    // A list can be large, and most need neither.
    if text.contains('\r') {
        text = text.replace("\r\n", "\n").replace('\r', "\n");
    }
    if text.contains('\u{feff}') {
        let unmarked = text.trim_start_matches('\u{feff}');
        text = unmarked.replace("\n\u{feff}", "\n");
    }
    // The end of a file, as DOS marks it.
    text.truncate(text.trim_end_matches('\u{1a}').len());
    let start = text.trim_start().as_bytes();
    let begins = |with: &str| {
        let start = start.get(..with.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
    };
    if begins("<!doctype html") || begins("<html") {
        return Err(InputError::NotAList {
            what: "a web page",
            instead: "export the devices as CSV",
        });
    }
    if begins("<?xml") {
        return Err(InputError::NotAList {
            what: "an XML file",
            instead: SAVE_AS_CSV,
        });
    }
    if begins("{\\rtf") {
        return Err(InputError::NotAList {
            what: "a text with formatting (RTF)",
            instead: "save it as plain text",
        });
    }
    Ok(text)
}

fn utf_16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let mut pairs = bytes.chunks_exact(2);
    let units = pairs.by_ref().map(|pair| unit([pair[0], pair[1]]));
    let mut text: String = char::decode_utf16(units)
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    if !pairs.remainder().is_empty() {
        text.push(char::REPLACEMENT_CHARACTER);
    }
    text
}

/// The text, if it is UTF-16 without a byte order mark: separators, ids and ends of lines are of
/// ASCII in any list, so that every second byte of these is zero.
fn unmarked_utf_16(bytes: &[u8]) -> Option<String> {
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    let zeros = |from: usize| {
        bytes
            .iter()
            .skip(from)
            .step_by(2)
            .filter(|b| **b == 0)
            .count()
    };
    let (even, odd) = (zeros(0), zeros(1));
    let unit: fn([u8; 2]) -> u16 = match () {
        () if odd * 8 > bytes.len() && odd > 4 * even => u16::from_le_bytes,
        () if even * 8 > bytes.len() && even > 4 * odd => u16::from_be_bytes,
        () => return None,
    };
    let text = utf_16(bytes, unit);
    (!text.contains(['\0', char::REPLACEMENT_CHARACTER])).then_some(text)
}

/// Whether a text has more control characters than a text has.
fn is_binary(text: &str) -> bool {
    const LOOKED_AT: usize = 8192;
    let is_control = |c: &char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{c}');
    let controls = text.chars().take(LOOKED_AT).filter(is_control).count();
    let all = text.chars().take(LOOKED_AT).count();
    controls >= 4 && controls * 20 > all
}

const SAVE_AS_CSV: &str = "save it as CSV";

const NOT_TEXT: InputError = InputError::NotAList {
    what: "a binary file",
    instead: SAVE_AS_CSV,
};

/// What a file is that begins like this, if it is of a known format that is no text.
fn other_format(bytes: &[u8]) -> Option<InputError> {
    let (what, instead) = match bytes {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => return Some(zip(bytes)),
        [0xd0, 0xcf, 0x11, 0xe0, ..] if has(bytes, &wide("Workbook")) => {
            ("an Excel workbook", SAVE_AS_CSV)
        }
        [0xd0, 0xcf, 0x11, 0xe0, ..] => ("an Office document", SAVE_AS_CSV),
        [b'%', b'P', b'D', b'F', ..] => ("a PDF", "export the devices as CSV"),
        [0x1f, 0x8b, ..]
        | [b'B', b'Z', b'h', ..]
        | [0xfd, b'7', b'z', ..]
        | [0x28, 0xb5, 0x2f, 0xfd, ..] => ("a compressed file", "decompress it first"),
        [b'7', b'z', 0xbc, 0xaf, ..] | [b'R', b'a', b'r', b'!', ..] => {
            ("an archive", "extract the list from it first")
        }
        [0x89, b'P', b'N', b'G', ..]
        | [0xff, 0xd8, 0xff, ..]
        | [b'G', b'I', b'F', b'8', ..]
        | [b'I', b'I', b'*', 0, ..]
        | [b'M', b'M', 0, b'*', ..] => ("an image", "export the devices as CSV"),
        [b'P', b'A', b'R', b'1', ..] => ("a Parquet file", SAVE_AS_CSV),
        _ if bytes.starts_with(b"SQLite format 3\0") => ("a database", "export it as CSV"),
        _ => return None,
    };
    Some(InputError::NotAList { what, instead })
}

/// What a ZIP archive is, by the names of the files in it.
fn zip(bytes: &[u8]) -> InputError {
    let (what, instead) = if has(bytes, b"xl/") {
        ("an Excel workbook", SAVE_AS_CSV)
    } else if has(bytes, b"opendocument.spreadsheet") {
        ("an OpenDocument spreadsheet", SAVE_AS_CSV)
    } else if has(bytes, b"Index/Document.iwa") {
        ("a Numbers spreadsheet", SAVE_AS_CSV)
    } else if has(bytes, b"word/document") {
        ("a Word document", "save it as plain text")
    } else {
        ("a ZIP archive", "extract the list from it first")
    };
    InputError::NotAList { what, instead }
}

/// Whether the beginning or the end of a file, where archives have their directories, has this.
fn has(bytes: &[u8], part: &[u8]) -> bool {
    const LOOKED_AT: usize = 1 << 16;
    let start = &bytes[..bytes.len().min(LOOKED_AT)];
    let end = &bytes[bytes.len().saturating_sub(LOOKED_AT)..];
    [start, end]
        .into_iter()
        .any(|bytes| bytes.windows(part.len()).any(|found| found == part))
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
