//! What one text names: a device, by its id or its name, or none, and why.

use std::fmt;

use defender_core::escape::is_harmful;
use defender_core::id::{ActionId, DnsName, MachineId};

/// How a device is named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Named {
    /// By Defender's id.
    Id(MachineId),
    /// By its name, which other devices can have too.
    Name(DnsName),
}

impl Named {
    /// Returns the same without case, for comparing.
    pub fn folded(&self) -> Self {
        match self {
            Self::Id(id) => Self::Id(id.clone()),
            Self::Name(name) => Self::Name(name.folded()),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// What devices are expected to be named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Defender's ids, or addresses of device pages, which have them.
    Ids,
    /// Names. An id is taken as an id all the same, because it needs no search.
    Names,
}

impl Wanted {
    /// Returns the device that a text names, or what is wrong with the text.
    pub fn read(self, text: &str) -> Result<Named, Problem> {
        if is_rounded(text) {
            return Err(Problem::Number(shown(text)));
        }
        if let Ok(id) = text.parse() {
            return Ok(Named::Id(id));
        }
        if let Some(page) = page(text) {
            return page.map(Named::Id);
        }
        // It has the characters of a name, too.
        if text.parse::<ActionId>().is_ok() {
            return Err(Problem::Guid(text.to_owned()));
        }
        let name = text.parse::<DnsName>();
        let is_hex = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
        // A word or a number rather than a part of an id.
        let is_short = is_hex && text.len() < 20;
        match self {
            Self::Names => name.map(Named::Name).map_err(|_| self.misses(text)),
            Self::Ids if is_hex && !is_short => Err(Problem::Digits {
                text: shown(text),
                digits: text.len(),
            }),
            Self::Ids if is_short => Err(Problem::Name(shown(text))),
            Self::Ids if name.is_ok() && text.contains(char::is_alphabetic) => {
                Err(Problem::Name(shown(text)))
            }
            Self::Ids => Err(self.misses(text)),
        }
    }

    /// What is wrong with a text that is neither an id nor a name.
    pub(super) fn misses(self, text: &str) -> Problem {
        if text.contains('\u{fffd}') {
            return Problem::Encoding(shown(text));
        }
        if let Some(hidden) = text.chars().find(|c| is_harmful(*c)) {
            return Problem::Hidden {
                text: shown(text),
                code: u32::from(hidden),
            };
        }
        match self {
            Self::Ids => Problem::NoId(shown(text)),
            Self::Names => Problem::NoName(shown(text)),
        }
    }

    /// The columns that have it, the surest first, in the form that [`super::plain`] makes.
    ///
    /// Ids: of this program's own output and the API's actions, of the portal's export, of the
    /// API's machines. Names: of the API, of the portal's export, of other tools.
    pub(super) const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Ids => &["machineid", "deviceid", "id"],
            Self::Names => &[
                "computerdnsname",
                "devicename",
                "dnsname",
                "hostname",
                "name",
            ],
        }
    }

    /// The column that people know.
    pub(super) const fn column(self) -> &'static str {
        match self {
            Self::Ids => "Device ID",
            Self::Names => "Device name",
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ids => "id",
            Self::Names => "name",
        })
    }
}

/// What is wrong with a line, or with a text that should name a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Another kind of id.
    #[error("{0:?} is a GUID, as Entra's device ids are, not a machine id (40 hexadecimal digits)")]
    Guid(String),
    /// Hexadecimal digits, and not 40.
    #[error("{text:?} has {digits} hexadecimal digits; a machine id has 40")]
    Digits {
        /// The text, or its beginning.
        text: String,
        /// How many it has.
        digits: usize,
    },
    /// A number that a spreadsheet made of an id.
    #[error("{0:?} is a number that a spreadsheet made of an id; its digits are lost")]
    Number(String),
    /// An address that leads to no device's page.
    #[error(
        "{0:?} is not the address of a device page, .../machines/v2/ and 40 hexadecimal digits"
    )]
    Address(String),
    /// What may be a name, where an id is wanted.
    #[error("{0:?} is not a machine id (40 hexadecimal digits)")]
    Name(String),
    /// Something else, where an id is wanted.
    #[error("{0:?} is not a machine id (40 hexadecimal digits)")]
    NoId(String),
    /// Something else, where a name is wanted.
    #[error(
        "{0:?} is not a device name, which has letters, digits, hyphens, underscores and full stops"
    )]
    NoName(String),
    /// A character that cannot be seen.
    #[error("{text:?} has the invisible character U+{code:04X}")]
    Hidden {
        /// The text, or its beginning.
        text: String,
        /// The character.
        code: u32,
    },
    /// Letters in the encoding of an old code page.
    #[error("{0:?} has letters that are not UTF-8")]
    Encoding(String),
    /// Nothing, where an id or a name should be.
    #[error("has no {wanted} in the column {column:?}")]
    Empty {
        /// What should be there.
        wanted: Wanted,
        /// Where.
        column: String,
    },
    /// More or fewer fields than the header.
    #[error("has {found} {}, the header has {header}", if *found == 1 { "field" } else { "fields" })]
    Fields {
        /// How many it has.
        found: usize,
        /// How many it should have.
        header: usize,
    },
    /// A header that no row fits.
    #[error("is a header with {0} fields, but no row has as many")]
    NoRowFits(usize),
    /// A quotation mark is opened, and the list ends before it is closed.
    #[error("opens a quotation mark that is never closed")]
    OpenQuote,
    /// What is between two quotation marks looks like rows.
    #[error("opens a quotation mark that is closed on a later line, with rows in between")]
    QuotedRows,
    /// Text between a closing quotation mark and the next separator.
    #[error("has text after a closing quotation mark")]
    AfterQuote,
    /// A quotation mark without its second.
    #[error("has an unbalanced quotation mark")]
    StrayQuote,
    /// A NUL byte.
    #[error("has a NUL byte")]
    Nul,
    /// What looks like a row stands above the header.
    #[error("looks like a row, but stands above the header (line {header})")]
    AboveHeader {
        /// The header's line.
        header: usize,
    },
    /// A second header, with other columns.
    #[error("is a second header, with other columns")]
    OtherHeader,
    /// Not JSON.
    #[error("is not JSON: {0}")]
    Json(String),
    /// JSON that ends too early.
    #[error("begins a JSON value that is cut off")]
    CutOff,
    /// A JSON object that has a member twice, with different values.
    #[error("has {0:?} twice, with different values")]
    Twice(String),
    /// Ids of two devices, each in a column that has ids.
    #[error("has different ids in the columns {0:?} and {1:?}")]
    Different(String, String),
    /// A JSON object that has several lists, or a device and a list.
    #[error("has several lists of devices in one object")]
    SeveralLists,
    /// JSON that is nested too deeply to be a list of devices.
    #[error("is nested too deeply")]
    TooDeep,
    /// A page of a list, and not the last one.
    #[error("has a link to a next page ({0}) that is not in the list")]
    NotTheLastPage(String),
    /// A list with fewer items than its pages state.
    #[error("states that the list has {count} items (@odata.count), but it has {items}")]
    ItemsMissing {
        /// How many there should be.
        count: u64,
        /// How many there are.
        items: u64,
    },
}

impl Problem {
    /// Whether it is worded as a statement on a line, as in "line 7 has 3 fields".
    const fn is_statement(&self) -> bool {
        !matches!(
            self,
            Self::Guid(_)
                | Self::Digits { .. }
                | Self::Number(_)
                | Self::Address(_)
                | Self::Name(_)
                | Self::NoId(_)
                | Self::NoName(_)
                | Self::Hidden { .. }
                | Self::Encoding(_)
        )
    }

    /// Writes the line and what is wrong with it.
    pub(super) fn on_line(&self, line: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_statement() {
            true => write!(f, "line {line} {self}"),
            false => write!(f, "line {line}: {self}"),
        }
    }
}

/// So much of a text that it can be shown, with the whole of an address that has an id.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 120;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Whether a spreadsheet made a number of it: `1.23457E+39`, or the same in full, of which only the
/// first 15 digits count.
fn is_rounded(text: &str) -> bool {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if text.len() >= 36 && is_digits(text) {
        return !text.starts_with('0') && text.ends_with(&"0".repeat(20));
    }
    let Some((number, exponent)) = text.split_once(['e', 'E']) else {
        return false;
    };
    let digits = exponent.strip_prefix('+').unwrap_or(exponent);
    let parts: Vec<&str> = number.split(['.', ',']).collect();
    let is_written_so = parts.len() == 2 || exponent.starts_with('+');
    is_written_so && parts.len() <= 2 && parts.into_iter().all(is_digits) && is_digits(digits)
}

/// Where Microsoft's portals are: the present one, those of the United States' government, and
/// those that lead to them.
const PORTALS: [&str; 5] = [
    "security.microsoft.com",
    "security.microsoft.us",
    "security.apps.mil",
    "securitycenter.microsoft.com",
    "securitycenter.windows.com",
];

/// The id in the address of a device's page, if the text is an address.
fn page(text: &str) -> Option<Result<MachineId, Problem>> {
    let is_portals = |host: &str| PORTALS.iter().any(|p| p.eq_ignore_ascii_case(host));
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme, rest),
        None => ("https", text),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if rest.len() == text.len() && !is_portals(host) {
        return None;
    }
    let id = || {
        if !scheme.eq_ignore_ascii_case("https") || !is_portals(host) {
            return None;
        }
        let page = path.strip_prefix("machines/")?;
        let page = page.strip_prefix("v2/").unwrap_or(page);
        page.split(['/', '?', '#']).next()?.parse().ok()
    };
    Some(id().ok_or_else(|| Problem::Address(shown(text))))
}
