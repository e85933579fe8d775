//! A browser that opens a page: headless Chromium.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose browser does not do what it is told has failed"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// What is installed.
pub struct Browser {
    program: PathBuf,
}

/// A page as it stands once its script has run.
pub struct Shown {
    /// Its elements, as HTML.
    pub dom: String,
    /// What the browser complains of: errors of the script, and what the page's policy forbids.
    pub complaints: Vec<String>,
}

impl Browser {
    /// `None` where there is none, which is said aloud; in CI there must be one.
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let found = ["chromium", "chromium-browser", "google-chrome"]
            .iter()
            .flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)))
            .find(|program| program.is_file());
        if found.is_none() {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "no chromium: run .ci/setup test"
            );
            eprintln!("skipped: no chromium is installed");
        }
        found.map(|program| Self { program })
    }

    /// Opens a file, at this fragment of it, and waits until its timers are through.
    pub fn open(&self, page: &Path, fragment: &str) -> Shown {
        let profile = tempfile::tempdir().unwrap();
        let output = Command::new(&self.program)
            // Where the tests run as root or in a container, its own sandbox can't be set up.
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .args([
                "--no-first-run",
                "--disable-dev-shm-usage",
                "--no-proxy-server",
            ])
            .args(["--virtual-time-budget=5000", "--enable-logging=stderr"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("--dump-dom")
            .arg(format!("file://{}{fragment}", page.display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let complaints = said.lines().filter(|line| line.contains("CONSOLE"));
        Shown {
            dom: String::from_utf8(output.stdout).unwrap(),
            complaints: complaints.map(str::to_owned).collect(),
        }
    }
}
