//! A report's page, in a browser.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use host_demo::batch::{Action, Entry, Problem, State};
use host_demo::host::CallError;
use host_demo::journal::{Record, Run, Standing};
use host_demo::kind::ActionKind;
use host_demo::report::Report;
use tests::browser::{Browser, Shown};

/// A page of six devices, in a folder of its own. One of them, and all that can be said of a run,
/// would have the browser ask a server of ours for something, if it could.
struct Page {
    folder: tempfile::TempDir,
    html: String,
    server: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Page {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        // Whoever comes is counted and sent away: a browser would wait for an answer for ever.
        std::thread::spawn(move || {
            for _ in listener.incoming() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        let leak = format!("http://{server}/leak");
        let hostile = format!(
            "</td></script><img src={leak}><script>document.title='hostile'</script>\
             <link rel=stylesheet href={leak}>"
        );
        let record = record(&hostile);
        let at = record.run.created;
        let html = Report::new(&record, Standing::Ended, at).html();
        Self {
            folder: tempfile::tempdir().unwrap(),
            html,
            server,
            asked,
        }
    }

    fn file(&self, html: &str) -> PathBuf {
        let file = self.folder.path().join("report.html");
        std::fs::write(&file, html).unwrap();
        file
    }

    #[track_caller]
    fn asks_for_nothing(&self) {
        let asked = self.asked.load(Ordering::SeqCst);
        assert_eq!(asked, 0, "requests have left");
    }
}

fn record(hostile: &str) -> Record {
    let entry = |n: u32, name: Option<&str>, state, status: Option<&str>| Entry {
        name: name.map(str::to_owned),
        state,
        action: status.map(|status| action(n, status)),
        sends: n % 3,
        ..Entry::new(format!("{n:040x}").parse().unwrap(), None)
    };
    let mut refused = entry(4, Some(hostile), State::Refused, None);
    let error = CallError::Aborted(hostile.to_owned());
    refused.problem = Some(Problem::new(&error, None));
    Record {
        run: Run {
            id: "20260130-211122-abcd".to_owned(),
            kind: ActionKind::Release,
            comment: hostile.to_owned(),
            nonce: [7; 16],
            service: hostile.to_owned(),
            tenant: Some(hostile.to_owned()),
            application: Some(hostile.to_owned()),
            who: hostile.to_owned(),
            audit: Some(hostile.to_owned()),
            override_pending: false,
            follows: true,
            created: "2026-01-30T21:11:22Z".parse().unwrap(),
            ended: Some("2026-01-30T21:12:22Z".parse().unwrap()),
            ending: Some(hostile.to_owned()),
            flags: Vec::new(),
        },
        entries: vec![
            entry(1, Some("pc-10"), State::Done, Some("Succeeded")),
            entry(2, Some("pc-2"), State::Failed, Some("Failed")),
            entry(3, None, State::Waiting, None),
            refused,
            entry(5, Some("PC-1"), State::Accepted, Some("Pending")),
            entry(6, Some("pc-3"), State::Done, Some("Succeeded")),
        ],
        calls: Vec::new(),
    }
}

fn action(n: u32, status: &str) -> Action {
    Action {
        id: format!("8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69{n}"),
        type_: "UnrestrictCodeExecution".to_owned(),
        status: status.to_owned(),
        requestor: None,
        requestor_comment: None,
        computer_dns_name: None,
        creation_date_time_utc: None,
        last_update_date_time_utc: None,
        error_h_result: None,
    }
}

/// The devices that can be seen, in their order.
fn devices(shown: &Shown) -> Vec<u32> {
    let (_, table) = shown.dom.split_once("<table id=\"devices\"").unwrap();
    let rows = table.split("<tr ").skip(2);
    rows.filter_map(|row| {
        let (attributes, _) = row.split_once('>')?;
        let (_, number) = attributes.split_once("id=\"d")?;
        let number = number.split_once('"')?.0.parse().ok()?;
        (!attributes.contains("hidden")).then_some(number)
    })
    .collect()
}

#[test]
fn a_page_shows_its_devices_as_its_address_says_and_asks_for_nothing() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let page = Page::new();
    let file = page.file(&page.html);
    for (fragment, expected, sorted_by) in [
        ("", &[1, 2, 3, 4, 5, 6][..], "n\" aria-sort=\"ascending"),
        // Numbers by their size, in either case of letters, and what has no name last.
        (
            "#sort=device&dir=down",
            &[1, 6, 2, 5, 4, 3],
            "device\" aria-sort=\"descending",
        ),
        (
            "#sort=outcome&dir=down",
            &[3, 4, 2, 5, 1, 6],
            "outcome\" aria-sort=\"descending",
        ),
        (
            "#q=PC-1&sort=device",
            &[5, 1],
            "device\" aria-sort=\"ascending",
        ),
        ("#outcome=released", &[1, 6], "n\" aria-sort=\"ascending"),
        ("#error=2", &[4], "n\" aria-sort=\"ascending"),
        (
            "#outcome=%3Cimg&sort=%3Cimg",
            &[1, 2, 3, 4, 5, 6],
            "n\" aria-sort=\"ascending",
        ),
        ("#d4", &[1, 2, 3, 4, 5, 6], "n\" aria-sort=\"ascending"),
    ] {
        let shown = browser.open(&file, fragment);
        assert_eq!(devices(&shown), expected, "{fragment}");
        assert!(
            shown.dom.contains(&format!("data-key=\"{sorted_by}\"")),
            "{fragment}"
        );
        assert_eq!(shown.complaints, [""; 0], "{fragment}");
        assert!(
            shown
                .dom
                .contains("<title>Release of 6 devices: &lt;/td&gt;"),
            "{fragment}"
        );
    }
    page.asks_for_nothing();
}

/// As somebody does it who clicks and types. The page's own policy would keep this script from
/// running, so it is taken away.
#[test]
fn what_is_clicked_and_typed_is_shown_and_stands_in_the_address() {
    const DRIVER: &str = "<script>
        const seen = [];
        const look = () => {
            const rows = document.querySelectorAll('#devices tbody tr:not([hidden])');
            seen.push(`${Array.from(rows, (row) => row.id.slice(1)).join('.')}${location.hash}`);
        };
        const form = document.getElementById('show').elements;
        const heads = document.querySelectorAll('#devices thead button');
        const set = (control, value, event) => {
            control.value = value;
            control.dispatchEvent(new Event(event, { bubbles: true }));
        };
        heads[1].click(); look();
        heads[1].click(); look();
        heads[0].click(); look();
        set(form.sort, 'outcome down', 'change'); look();
        set(form.sort, 'n up', 'change');
        set(form.outcome, 'released', 'change'); look();
        form.everything.click(); look();
        set(form.q, 'pc-1', 'input');
        setTimeout(() => {
            look();
            document.querySelector('.tiles a').click();
            setTimeout(() => { look(); document.title = `saw ${seen.join(' ')} end`; }, 100);
        }, 1000);
    </script>";

    let Some(browser) = Browser::find() else {
        return;
    };
    let page = Page::new();
    let (before, rest) = page.html.split_once("<meta http-equiv=").unwrap();
    let (_, after) = rest.split_once('>').unwrap();
    let shown = browser.open(&page.file(&format!("{before}{after}{DRIVER}")), "");
    let (_, seen) = shown.dom.split_once("<title>saw ").unwrap();
    let seen: Vec<&str> = seen.split_once(" end").unwrap().0.split(' ').collect();
    assert_eq!(
        seen,
        [
            "4.5.2.6.1.3#sort=device",
            "1.6.2.5.4.3#sort=device&amp;dir=down",
            "1.2.3.4.5.6",
            "3.4.2.5.1.6#sort=outcome&amp;dir=down",
            "1.6#outcome=released",
            "1.2.3.4.5.6",
            "1.5#q=pc-1",
            "1.6#outcome=released",
        ]
    );
    assert_eq!(shown.complaints, [""; 0]);
    page.asks_for_nothing();
}

#[test]
fn by_a_pages_policy_nothing_is_run_or_loaded_that_is_not_its_own() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let page = Page::new();
    let leak = format!("http://{}/leak", page.server);
    let foreign = format!(
        "<img src={leak}><link rel=stylesheet href={leak}><script src={leak}></script>\
         <script>document.title = 'foreign'</script>"
    );
    let shown = browser.open(&page.file(&format!("{}{foreign}", page.html)), "");
    assert!(shown.dom.contains("<title>Release of 6 devices"));
    assert!(shown.complaints.len() >= 4, "{:?}", shown.complaints);
    page.asks_for_nothing();
}
