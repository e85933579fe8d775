//! `host-demo restricted`

use std::io::IsTerminal as _;

use console::{Term, measure_text_width, pad_str, truncate_str};
use host_demo::contract::MachineActionFilter;
use host_demo::harmless::row;
use host_demo::history::{Device, History, Standing, Step};
use host_demo::id::MachineId;
use host_demo::kind::ActionKind;
use host_demo::survey::{Bounds, Lister};
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::args::{Output, Restricted};
use crate::exit::Exit;
use crate::setup::{host, read_actions};
use crate::ui::action_text::{self, counted, done, pending, step_json};
use crate::ui::waits::Waits;
use crate::ui::{output, suggest, time_text, unrecorded};

const HEADER: [&str; 6] = [
    "machineId",
    "computerDnsName",
    "restrictedSince",
    "requestor",
    "comment",
    "pending",
];

pub(crate) async fn run(args: Restricted, format: Output) -> anyhow::Result<Exit> {
    let host = host::host(&args.connection)?;
    let waits = Waits::new(&host, format);
    let ago = SignedDuration::try_from(args.since).unwrap_or(SignedDuration::MAX);
    let since = host.clock().wall().saturating_sub(ago)?;
    let filter = MachineActionFilter {
        created_since: Some(since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        ..read_actions::filter()
    };
    let mut lister = Lister::default();
    let taken = read_actions::take(&host, &mut lister, &filter, Bounds::default(), &waits).await;
    let missing = unrecorded::missing(&host).await;
    let survey = taken?;
    read_actions::report_rejected(&lister, format);
    let history = History::of(&survey.actions);
    let found = Found::new(&history, &args.comment_contains.unwrap_or_default());

    match format {
        Output::Json => {
            found
                .rows
                .iter()
                .for_each(|row| output::json_line(&row.json()));
            output::json_line(&json!({
                "type": "summary",
                "restricted": found.rows.len(),
                "restricting": found.restricting,
                "unclear": found.unclear,
                "since": since.to_string(),
                "actions": survey.actions.len(),
                "reads": survey.reads,
                "cut": survey.is_cut,
                "oldest": survey.oldest.map(|time| time.to_string()),
                "newest": survey.newest.map(|time| time.to_string()),
                "recorded": missing.is_none(),
                "error": missing.as_ref().map(unrecorded::missing_json),
            }));
        }
        Output::Text if std::io::stdout().is_terminal() => {
            let width = usize::from(Term::stdout().size().1);
            table(&found.rows, width)
                .iter()
                .for_each(|line| output::line(line));
        }
        Output::Text => {
            output::line(&row(HEADER));
            found.rows.iter().for_each(|row| output::line(&row.csv()));
        }
    }
    note!(
        "host-demo: {} restricted, by {} restrictions and releases that were created since {} ({} \
         read)",
        counted(found.rows.len(), "device is", "devices are"),
        survey.actions.len(),
        time_text::utc(since),
        counted(survey.reads, "page", "pages"),
    );
    if found.restricting > 0 {
        let devices = counted(found.restricting, "device more has", "devices more have");
        note!(
            "host-demo: {devices} a restriction under way; see {}",
            status()
        );
    }
    if found.unclear > 0 {
        let devices = counted(found.unclear, "device", "devices");
        note!(
            "host-demo: of {devices} more it can't be told whether a restriction or a release was \
             last; see {}",
            status()
        );
    }
    if survey.is_cut {
        let cut = action_text::cut(survey.oldest, survey.newest);
        note!("host-demo: {cut}; a shorter time (--since) leaves less to read");
    }
    let exit = match survey.is_cut || found.unclear > 0 {
        true => Exit::Open,
        false => Exit::Done,
    };
    Ok(exit.failed_if(missing.is_some()))
}

/// The command that shows one device.
fn status() -> String {
    suggest::command(&["status", "MACHINE_ID"])
}

/// The devices that are looked for.
struct Found<'a> {
    /// Those that are restricted, the newest restriction first.
    rows: Vec<Row<'a>>,
    /// How many others have a restriction under way.
    restricting: usize,
    /// Of how many others it can't be told.
    unclear: usize,
}

/// A device, and the restriction that it is under.
struct Row<'a> {
    id: &'a MachineId,
    device: &'a Device,
    restriction: &'a Step,
}

impl<'a> Found<'a> {
    /// By their restriction's comment: this text, whatever the case of its letters.
    fn new(history: &'a History, text: &str) -> Self {
        let text = text.to_lowercase();
        let is_meant = |step: &Step| {
            let comment = step.comment.as_deref().unwrap_or_default();
            comment.to_lowercase().contains(&text)
        };
        let mut found = Self {
            rows: Vec::new(),
            restricting: 0,
            unclear: 0,
        };
        for (id, device) in history.devices() {
            let last = device
                .last_restriction
                .as_ref()
                .filter(|last| is_meant(last));
            match (device.standing(), last) {
                (Standing::Restricted, Some(restriction)) => found.rows.push(Row {
                    id,
                    device,
                    restriction,
                }),
                (Standing::Restricted, None) => {}
                (Standing::Unknown, Some(_)) => found.unclear += 1,
                _ if device.running(ActionKind::Restrict).is_some_and(is_meant) => {
                    found.restricting += 1;
                }
                _ => {}
            }
        }
        let since = |row: &Row<'_>| row.restriction.at();
        found
            .rows
            .sort_by(|a, b| since(b).cmp(&since(a)).then_with(|| a.id.cmp(b.id)));
        found
    }
}

impl Row<'_> {
    fn name(&self) -> &str {
        self.device.computer_dns_name.as_deref().unwrap_or_default()
    }

    fn requestor(&self) -> &str {
        self.restriction.requestor.as_deref().unwrap_or_default()
    }

    fn comment(&self) -> &str {
        self.restriction.comment.as_deref().unwrap_or_default()
    }

    fn csv(&self) -> String {
        let since = done(self.restriction).map(ToString::to_string);
        row([
            self.id.as_str(),
            self.name(),
            since.as_deref().unwrap_or_default(),
            self.requestor(),
            self.comment(),
            &pending(&self.device.pending),
        ])
    }

    fn json(&self) -> Value {
        json!({
            "type": "device",
            "machine_id": self.id.as_str(),
            "computer_dns_name": self.device.computer_dns_name,
            "restricted_since": done(self.restriction).map(ToString::to_string),
            "requestor": self.restriction.requestor,
            "comment": self.restriction.comment,
            "restriction": step_json(self.restriction),
            "pending": self.device.pending.iter().map(step_json).collect::<Vec<_>>(),
        })
    }

    /// For people, by columns; what is under way comes before the comment, which can be long.
    fn cells(&self) -> [String; 5] {
        let since = match self.restriction.at() {
            Some(at) => at.strftime("%Y-%m-%d %H:%M").to_string(),
            None => "unknown".to_owned(),
        };
        let mut why = self.comment().to_owned();
        if !self.device.pending.is_empty() {
            why = format!("[under way: {}] {why}", pending(&self.device.pending));
        }
        [
            self.id.as_str(),
            self.name(),
            &since,
            self.requestor(),
            &why,
        ]
        .map(output::clean)
    }
}

/// The lines for a terminal of this width: one for each device, or two where it is narrow. What
/// does not fit is cut, except for the id.
fn table(rows: &[Row<'_>], width: usize) -> Vec<String> {
    /// Below this, nothing would be left for the comment.
    const WIDE: usize = 110;
    const NAME_MAX: usize = 30;
    const REQUESTOR_MAX: usize = 20;

    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    let fit = |text: &str, width| truncate_str(text, width, "…").into_owned();
    if width < WIDE {
        let two = |[id, name, since, by, why]: &[String; 5]| {
            let first = format!("{id}  {}", fit(name, width.saturating_sub(42).max(8)));
            let second = format!("  {since}  {by}: {why}");
            [first.trim_end().to_owned(), fit(&second, width)]
        };
        return cells.iter().flat_map(two).collect();
    }
    let header = ["MACHINE ID", "NAME", "SINCE (UTC)", "BY", "COMMENT"].map(str::to_owned);
    let all = || std::iter::once(&header).chain(&cells);
    let widest = |column: usize, most: usize| {
        let widths = all().map(|row| measure_text_width(&row[column]));
        widths.max().unwrap_or_default().min(most)
    };
    let widths = [40, widest(1, NAME_MAX), 16, widest(3, REQUESTOR_MAX)];
    let line = |row: &[String; 5]| {
        let mut line = String::new();
        for (text, width) in row.iter().zip(widths) {
            line += &pad_str(&fit(text, width), width, console::Alignment::Left, None);
            line += "  ";
        }
        fit((line + &row[4]).trim_end(), width)
    };
    all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use host_demo::history::When;

    use super::*;

    #[test]
    fn a_table_is_no_wider_than_the_terminal_and_shows_every_id_whole() {
        let id: MachineId = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07"
            .parse()
            .expect("it is an id");
        let at = || Some(When::At(jiff::Timestamp::constant(1_769_807_482, 0)));
        let restriction = Step {
            id: "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a".to_owned(),
            kind: ActionKind::Restrict,
            status: host_demo::contract::ActionStatus::Succeeded,
            requestor: Some("ann@contoso.com, of a long name".to_owned()),
            comment: Some("東京\u{1b}[2J ".repeat(40)),
            created: at(),
            updated: at(),
            computer_dns_name: None,
        };
        let release = Step {
            kind: ActionKind::Release,
            status: host_demo::contract::ActionStatus::Pending,
            ..restriction.clone()
        };
        let device = Device {
            computer_dns_name: Some("pc-7.".repeat(20)),
            last_restriction: Some(restriction.clone()),
            pending: vec![release],
            ..Device::default()
        };
        let nameless = Device::default();
        let row = |device| Row {
            id: &id,
            device,
            restriction: &restriction,
        };
        let rows = [row(&device), row(&nameless)];
        for (width, lines) in [(50, 4), (80, 4), (109, 4), (110, 3), (200, 3)] {
            let table = table(&rows, width);
            assert_eq!(table.len(), lines, "{width}");
            for line in &table {
                assert!(measure_text_width(line) <= width, "{width}: {line}");
                assert!(!line.contains('\u{1b}'), "{line}");
            }
            let whole = table.iter().filter(|line| line.starts_with(id.as_str()));
            assert_eq!(whole.count(), 2);
            assert!(table.iter().any(|line| line.contains("2026-01-30 21:11")));
        }
        assert!(table(&rows, 200)[1].contains("[under way: release"));
    }
}
