//! `host-demo quota`

use std::time::Duration;

use anyhow::bail;
use host_demo::clock::{Clock, Moment, SystemClock};
use host_demo::limits::{Key, KeyState, LedgerName, NotUntil, Quota, Sqlite, Why};
use host_demo::report::roughly;
use serde_json::{Value, json};

use crate::args::{self, Output, QuotaCommand};
use crate::exit::Exit;
use crate::setup::interrupt::{self, Interrupt};
use crate::setup::{forecast, ledger, settings};
use crate::ui::{output, quota_text, suggest, time_text};

/// From one look to the next, by the machine's own time, however fast the one runs that is shown: a
/// person looks.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) async fn run(args: args::Quota, format: Output) -> anyhow::Result<Exit> {
    match &args.command {
        Some(QuotaCommand::Open(counted)) => interrupt::stoppable(open(counted, format)).await,
        Some(QuotaCommand::Renew(counted)) => renew(counted, format),
        None => show(&args, format).await,
    }
}

async fn show(args: &args::Quota, format: Output) -> anyhow::Result<Exit> {
    let (named, settings) = settings::counted(&args.counted)?;
    let clock = SystemClock::scaled(args.counted.time_scale);
    let ledger = ledger::open(&named, args.counted.time_scale)?;
    let mut drawn = 0;
    let interrupt = Interrupt::stops();
    loop {
        let Some(reading) = interrupt.unless_pressed(ledger.read()).await else {
            return Ok(match args.watch {
                true => Exit::Done,
                false => Exit::Interrupted,
            });
        };
        let reading = reading?;
        let unused = reading.unused();
        let mut budgets: Vec<(Option<&Key>, &KeyState)> = (reading.budgets.iter())
            .map(|(key, budget)| (Some(key), budget))
            .collect();
        if budgets.is_empty() {
            budgets.push((None, &unused));
        }
        let views = budgets.into_iter().map(|(key, budget)| View {
            key,
            budget,
            now: reading.now,
            wall: clock.wall(),
            quotas: settings.quotas(),
            forecast: args.forecast,
        });
        match format {
            Output::Json => views.for_each(|view| output::json_line(&view.json())),
            Output::Text => drawn = draw(views.flat_map(|view| view.lines()).collect(), drawn),
        }
        if !args.watch || !output::is_read() {
            return Ok(Exit::Done);
        }
        let rest = tokio::time::sleep(LOOK);
        if interrupt.unless_pressed(rest).await.is_none() {
            return Ok(Exit::Done);
        }
    }
}

/// Shows these lines, and says how many they are: on a terminal the next ones take their place.
fn draw(mut lines: Vec<String>, before: usize) -> usize {
    if before > 0 && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        // Back to where the last picture began.
        lines[0] = format!("\u{1b}[{before}A\u{1b}[J{}", lines[0]);
    }
    for line in &lines {
        output::line(line);
    }
    lines.len()
}

async fn open(counted: &args::Counted, format: Output) -> anyhow::Result<Exit> {
    let (named, _) = settings::counted(counted)?;
    ledger::open(&named, counted.time_scale)?.reopen().await?;
    told(
        format,
        "open",
        "opened: no calls are assumed lost, and a wait that the service asked for (429) is ignored",
    );
    Ok(Exit::Done)
}

fn renew(counted: &args::Counted, format: Output) -> anyhow::Result<Exit> {
    let (named, _) = settings::counted(counted)?;
    let LedgerName::File(path) = ledger::name_of(&named)? else {
        bail!("only a ledger in a file can be put aside: a server is emptied by its own means");
    };
    let aside = Sqlite::renew(&path)?;
    let text = format!(
        "{} is put aside as {}. The new one is closed for an hour; if no call was made in the last \
         one: {}",
        path.display(),
        aside.display(),
        suggest::command(&["quota", "open"])
    );
    told(format, "renewed", &text);
    Ok(Exit::Done)
}

fn told(format: Output, what: &str, text: &str) {
    match format {
        Output::Json => output::json_line(&json!({ "type": "quota", "done": what })),
        Output::Text => output::line(&output::clean(text)),
    }
}

/// One key, as it is shown.
struct View<'a> {
    /// None for all of them, where no call was counted yet.
    key: Option<&'a Key>,
    budget: &'a KeyState,
    /// On the ledger's scale, and on the calendar.
    now: Moment,
    wall: jiff::Timestamp,
    quotas: &'a [Quota],
    forecast: Option<u32>,
}

impl View<'_> {
    /// When a caller that comes now gets its turn, if it has to wait.
    fn next(&self) -> Option<NotUntil> {
        let log = self.budget.log();
        let waiting = self.budget.waiting();
        let free = log.free(self.quotas, waiting);
        (!log.has_room(self.quotas, waiting, self.now)).then_some(free)
    }

    fn used(&self, quota: Quota) -> usize {
        self.budget.log().used(quota, self.now)
    }

    /// Of what was lost nothing is known.
    fn left(&self, quota: Quota) -> usize {
        match self.budget.log().lost_until() > self.now {
            true => 0,
            false => (quota.calls as usize).saturating_sub(self.used(quota)),
        }
    }

    /// How long so many more calls take, if they are ever possible.
    fn takes(&self, calls: u32) -> Option<Duration> {
        let log = self.budget.log();
        let end = log.forecast(self.quotas, self.now, calls as usize, forecast::ANSWER);
        end.map(|end| end.since(self.now))
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![match self.key {
            Some(key) => output::clean(&format!(
                "{}  (tenant {}, application {})",
                key.operation, key.tenant, key.application
            )),
            None => "no call was counted yet".to_owned(),
        }];
        for quota in self.quotas {
            let used = self.used(*quota);
            let (calls, left) = (quota.calls, self.left(*quota));
            let window = quota_text::window(quota.per);
            let bar = quota_text::bar(used, calls as usize);
            lines.push(format!(
                "  {window:<8} {bar}  {used:>5} of {calls}, {left} left"
            ));
        }
        lines.push(match self.next() {
            None => "  next     now".to_owned(),
            Some(wait) => format!("  next     {}", self.until(wait)),
        });
        for (name, slots, latest) in self.budget.holders() {
            let name = output::clean(name);
            let latest = self.at(latest);
            let calls = if slots == 1 { "call" } else { "calls" };
            lines.push(format!("  held     {slots} {calls} under way by {name}, counted until {latest} at the latest"));
        }
        if self.budget.waiting() > 0 {
            lines.push(format!("  waiting  {}", self.budget.waiting()));
        }
        lines.extend(self.forecast.map(|calls| match self.takes(calls) {
            Some(time) => {
                let time = roughly(time);
                format!("  forecast {calls} more calls take {time}, if nobody else calls")
            }
            None => format!("  forecast {calls} more calls are never possible"),
        }));
        lines
    }

    /// A moment, on the calendar.
    fn at(&self, moment: Moment) -> String {
        time_text::moment(self.time(moment), self.wall)
    }

    fn time(&self, moment: Moment) -> jiff::Timestamp {
        moment.on_calendar(self.now, self.wall)
    }

    fn until(&self, wait: NotUntil) -> String {
        if wait.at.as_nanos() == u64::MAX {
            return "never: a quota of no calls".to_owned();
        }
        let left = wait.at.since(self.now);
        let left = match left.as_secs() {
            0..600 => format!("{} s", left.as_secs_f64().ceil()),
            _ => roughly(left),
        };
        let why = match wait.why {
            Why::Quota => "as many were made as it allows".to_owned(),
            Why::Service => format!(
                "the service said to wait (429); to call sooner: {}",
                suggest::command(&["quota", "open"])
            ),
            Why::Lost => format!(
                "the earlier count is lost, so the quota is assumed used up; if no call was made in \
                 the last hour: {}",
                suggest::command(&["quota", "open"])
            ),
        };
        format!("at {} (in {left}): {why}", self.at(wait.at))
    }

    fn json(&self) -> Value {
        let quotas = self.quotas.iter().map(|quota| {
            let used = self.used(*quota);
            json!({
                "calls": quota.calls,
                "per_seconds": quota.per.as_secs(),
                "used": used,
                "left": self.left(*quota),
            })
        });
        let next = self.next();
        let holders = self.budget.holders().into_iter().map(|(name, slots, latest)| {
            json!({ "name": name, "slots": slots, "counted_until": self.time(latest).to_string() })
        });
        let forecast = self.forecast.map(|calls| {
            let seconds = self.takes(calls).map(|time| time.as_secs_f64().ceil());
            json!({ "calls": calls, "seconds": seconds })
        });
        json!({
            "type": "quota",
            "tenant": self.key.map(|key| &key.tenant),
            "application": self.key.map(|key| &key.application),
            "operation": self.key.map(|key| key.operation.to_string()),
            "quotas": quotas.collect::<Vec<_>>(),
            "next_at": next.map(|wait| self.time(wait.at).to_string()),
            "why": next.map(|wait| match wait.why {
                Why::Quota => "quota",
                Why::Service => "service",
                Why::Lost => "lost",
            }),
            "waiting": self.budget.waiting(),
            "holders": holders.collect::<Vec<_>>(),
            "forecast": forecast,
        })
    }
}
