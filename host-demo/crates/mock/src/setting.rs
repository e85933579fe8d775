//! How values are written on a command line.

use std::time::Duration;

/// How a switch reads and writes its value as text.
pub(super) trait Setting: Sized {
    /// The possible values, for people.
    fn values() -> String;
    fn read(text: &str) -> Option<Self>;
    fn show(&self) -> String;
}

impl Setting for bool {
    fn values() -> String {
        "yes | no".to_owned()
    }
    fn read(text: &str) -> Option<Self> {
        match text {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        }
    }
    fn show(&self) -> String {
        if *self { "yes" } else { "no" }.to_owned()
    }
}

impl Setting for u32 {
    fn values() -> String {
        "a number".to_owned()
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Duration {
    fn values() -> String {
        "a time such as 20s or 72h".to_owned()
    }
    fn read(text: &str) -> Option<Self> {
        text.parse::<jiff::SignedDuration>().ok()?.try_into().ok()
    }
    fn show(&self) -> String {
        jiff::SignedDuration::try_from(*self)
            .map_or_else(|_| "forever".to_owned(), |d| format!("{d:#}"))
    }
}

impl Setting for String {
    fn values() -> String {
        "a text".to_owned()
    }
    fn read(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
    fn show(&self) -> String {
        self.clone()
    }
}

impl Setting for Vec<String> {
    fn values() -> String {
        "texts, separated by commas".to_owned()
    }
    fn read(text: &str) -> Option<Self> {
        Some(
            text.split(',')
                .map(str::trim)
                .filter(|t| !t.is_empty())
                .map(str::to_owned)
                .collect(),
        )
    }
    fn show(&self) -> String {
        self.join(",")
    }
}

impl<T: Setting> Setting for Option<T> {
    fn values() -> String {
        format!("{} | none", T::values())
    }
    fn read(text: &str) -> Option<Self> {
        if text == "none" {
            Some(None)
        } else {
            T::read(text).map(Some)
        }
    }
    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), T::show)
    }
}
