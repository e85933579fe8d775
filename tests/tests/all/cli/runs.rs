//! Runs that are over, or were cut short, and what is reported of them.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Child;

use super::*;

impl Stage {
    fn runs_folder(&self) -> PathBuf {
        self.folder.path().join(".local/state/host-demo/runs")
    }

    /// Releases all devices, and returns the run's name.
    fn a_run(&self, more: &[&str]) -> String {
        let args = ["unrestrict", "--output", "json"];
        let ids = self.mock.machine_ids();
        let output = self.run(args).with_args(&ids).with_args(more);
        let output = output.with_args(["--comment", "INC-42: =1+1 <b>\u{202e}"]);
        let lines = output.exits(0).json();
        lines[0]["run"].as_str().unwrap().to_owned()
    }

    /// A run that goes on until it is killed: its devices are offline.
    fn an_endless_run(&self) -> (String, Child) {
        let ids = self.mock.machine_ids();
        for id in &ids {
            self.mock.set_device(id, DeviceBehaviour::Offline);
        }
        let mut run = self
            .run(["unrestrict", "--comment", "INC-42", "--deadline", "9h"])
            .with_args(&ids);
        let command = run.command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        while self.mock.arrivals(RELEASE) < ids.len() {
            std::thread::yield_now();
        }
        let name = loop {
            let runs = self.bare(["runs", "--output", "json"]).exits(0).json();
            if runs[0]["outcomes"]["pending"] == 3 {
                break runs[0]["run"].as_str().unwrap().to_owned();
            }
        };
        (name, child)
    }

    fn write_runs(&self, file: &str, bytes: &[u8]) {
        std::fs::write(self.runs_folder().join(file), bytes).unwrap();
    }
}

#[test]
fn a_run_is_listed_shown_and_reported() {
    let stage = Stage::new();
    stage
        .bare(["runs"])
        .exits(0)
        .mentions("there is no run yet");
    stage
        .bare(["report", "last"])
        .exits(2)
        .mentions("there is no run \"last\"");
    let run = stage.a_run(&[]);
    let ids = stage.mock.machine_ids();

    let listed = stage.bare(["runs"]).exits(0);
    listed
        .mentions(&run)
        .mentions("release   ended: 3 released")
        .hides("\u{202e}");
    let listed = stage.bare(["runs", "--output", "json"]).exits(0).json();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["state"], "ended");
    assert_eq!(listed[0]["outcomes"]["released"], 3);

    let shown = stage.bare(["runs", "show", "last"]).exits(0);
    let json = stage.bare(["runs", "show", &run[..8], "--output", "json"]);
    let json = json.exits(0).json();
    assert_eq!(json.len(), 4);
    for (id, line) in ids.iter().zip(&json[1..]) {
        shown.mentions(&format!("released             {id}"));
        assert_eq!(line["machine_id"], id.as_str());
        assert_eq!(line["outcome"], "released");
    }

    let report = stage.bare(["report", &run]).exits(0);
    report
        .mentions("      3  released")
        .mentions("unrestrict-code-execution")
        .mentions("host-demo audit verify")
        .hides("\u{202e}");
    let report = stage.bare(["report", "last", "--output", "json"]).exits(0);
    let report = &report.json()[0];
    assert_eq!(report["type"], "report");
    assert_eq!(report["calls"][0]["calls"], 3);
    assert_eq!(report["calls"][0]["quotas"][0]["most"], 3);
}

#[test]
fn a_report_is_written_whole_for_its_owner_and_its_table_is_a_list_of_devices() {
    let stage = Stage::new();
    let run = stage.a_run(&["--no-wait"]);
    let said = stage
        .bare([
            "report",
            "last",
            "--html",
            "report.html",
            "--csv",
            "report.csv",
        ])
        .exits(0);
    assert_eq!(said.out, "", "what was asked for is in the files");
    let page = stage.folder.path().join("report.html");
    assert_eq!(page.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let html = std::fs::read_to_string(page).unwrap();
    assert!(html.contains(&format!("<dd>{run}</dd>")), "{html}");
    assert!(html.contains("INC-42: =1+1 &lt;b&gt;\\u{202e}"), "{html}");
    assert!(html.ends_with("</script>\n"), "it is whole");

    let csv = stage.bare(["report", "last", "--csv", "-"]).exits(0);
    let file = std::fs::read_to_string(stage.folder.path().join("report.csv")).unwrap();
    assert_eq!(csv.out, file);
    stage
        .run([
            "unrestrict",
            "--from",
            "report.csv",
            "--comment",
            "x",
            "--no-wait",
        ])
        .exits(0)
        .mentions("3 devices:");

    for (args, problem) in [
        (&["--csv", "-", "--output", "json"][..], "a table or JSON"),
        (&["--html", "/dev/null"], "a link, a pipe or a device"),
        (&["--html", "none/report.html"], "can't be written"),
    ] {
        let said = stage.bare(["report", "last"]).with_args(args).exits(2);
        said.mentions(problem);
    }
    let run = stage.bare(["report", "last", "--csv", "-", "--html", "again.html"]);
    assert_eq!(run.exits(0).out.lines().count(), 4);
}

#[test]
fn a_run_that_is_driven_says_by_whom_and_one_that_was_killed_is_interrupted_until_it_is_removed() {
    let stage = Stage::new();
    let (run, mut child) = stage.an_endless_run();
    let by = format!("driven by process {}", child.id());
    stage.bare(["runs"]).exits(0).mentions(&by);
    stage.bare(["report", "last"]).exits(0).mentions(&by);
    let purge = ["runs", "purge", "last", "--yes"];
    stage.bare(purge).exits(1).mentions(&by);

    child.kill().unwrap();
    child.wait().unwrap();
    stage
        .bare(["runs"])
        .exits(0)
        .mentions("interrupted: 3 pending");
    let shown = stage.bare(["runs", "show", "last"]).exits(0);
    shown.mentions(&format!("host-demo resume {run}"));
    let kept = stage.bare(["runs", "purge", &run]).exits(1);
    kept.mentions("3 of its devices are open").mentions("--yes");
    stage
        .bare(purge)
        .exits(0)
        .mentions(&format!("removed {run}"));
    assert_eq!(std::fs::read_dir(stage.runs_folder()).unwrap().count(), 0);
    let audit = stage
        .folder
        .path()
        .join(".local/state/host-demo/audit.jsonl");
    assert!(audit.exists(), "what was done stays on record");
}

#[test]
fn what_is_old_enough_is_removed_where_somebody_says_yes() {
    let stage = Stage::new();
    let (old, new) = (stage.a_run(&[]), stage.a_run(&["--no-wait"]));
    let older = ["runs", "purge", "--older-than", "90d"];
    stage.bare(older).exits(0).mentions("no run is that old");

    let file = rusqlite::Connection::open(stage.runs_folder().join(format!("{old}.sqlite")));
    let aged = "UPDATE run SET created = 0, ended = 1; UPDATE device SET updated = 1;
                UPDATE call SET began = 0, ended = 1;";
    file.unwrap().execute_batch(aged).unwrap();
    let said = stage.bare(older).exits(2);
    said.mentions("nobody to ask").mentions("--yes");
    let removed = stage
        .bare(older)
        .with_args(["--yes", "--output", "json"])
        .exits(0)
        .json();
    assert_eq!(removed.len(), 1);
    assert_eq!(
        (removed[0]["run"].as_str(), &removed[0]["removed"]),
        (Some(&*old), &true.into())
    );
    let left = stage.bare(["runs", "--output", "json"]).exits(0).json();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["run"], new.as_str());

    for args in [
        &["runs", "purge"][..],
        &["runs", "purge", "last", "--older-than", "1d"],
    ] {
        let _ = stage.bare(args).exits(2);
    }
    stage
        .bare(["runs", "purge", &new, "nothing", "--yes"])
        .exits(2)
        .mentions("no run");
    assert!(
        stage.runs_folder().join(format!("{new}.sqlite")).exists(),
        "all or none"
    );
}

#[test]
fn a_damaged_run_is_told_of_and_does_not_hide_the_others() {
    let stage = Stage::new();
    let run = stage.a_run(&["--no-wait"]);
    stage.write_runs("20250101-000000-aaaa.sqlite", &[0x55; 4096]);
    let listed = stage.bare(["runs"]).exits(1);
    listed
        .mentions(&run)
        .mentions("20250101-000000-aaaa")
        .mentions("is damaged");
    let json = stage.bare(["runs", "--output", "json"]).exits(1).json();
    assert_eq!(json.len(), 2);
    assert!(
        json[0]["error"]["message"]
            .as_str()
            .unwrap()
            .contains("is damaged")
    );
    stage
        .bare(["report", "2025"])
        .exits(2)
        .mentions("is damaged");
    stage
        .bare(["runs", "purge", "2025"])
        .exits(1)
        .mentions("--yes");
    let _ = stage.bare(["runs", "purge", "2025", "--yes"]).exits(0);
    let _ = stage.bare(["runs"]).exits(0);
}
