//! `host-demo quota`, and where calls are counted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use host_demo::clock::{Clock, Moment, SystemClock};
use host_demo::limits::{
    Budget, Key, Ledger, LedgerName, Memory, NotUntil, Quota, Redis, RedisOptions, Sqlite, Why,
    boot_id,
};
pub(crate) use host_demo::report::roughly;
use host_demo::stray;
use serde_json::{Value, json};

use crate::args::{self, Output, QuotaCommand};
use crate::commands::{audit, config};
use crate::exit::Exit;
use crate::setup::host;
use crate::setup::interrupt::{self, Interrupt};
use crate::ui::{output, suggest};

/// What a forecast takes an answer to need. The service's are faster as a rule; what matters is the
/// quota.
pub(crate) const ANSWER: Duration = Duration::from_secs(1);

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
    let (named, settings) = config::counted(&args.counted)?;
    let clock = SystemClock::scaled(args.counted.time_scale);
    let ledger = ledger(&named, args.counted.time_scale)?;
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
        let mut budgets: Vec<(Option<&Key>, &Budget)> = (reading.budgets.iter())
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
    let (named, _) = config::counted(counted)?;
    ledger(&named, counted.time_scale)?.reopen().await?;
    told(
        format,
        "open",
        "opened: no calls are assumed lost, and a wait that the service asked for (429) is ignored",
    );
    Ok(Exit::Done)
}

fn renew(counted: &args::Counted, format: Output) -> anyhow::Result<Exit> {
    let (named, _) = config::counted(counted)?;
    let LedgerName::File(path) = name_of(&named)? else {
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

/// Who this is, for those who look at the ledger.
pub(crate) fn name() -> String {
    let user = whoami::username().unwrap_or_default();
    let machine = whoami::hostname().unwrap_or_default();
    format!("{user}@{machine}, process {}", std::process::id())
}

/// Where calls are counted.
pub(crate) fn ledger(args: &args::Ledger, time_scale: u32) -> anyhow::Result<Arc<dyn Ledger>> {
    let clock = Arc::new(SystemClock::scaled(time_scale));
    // What is played out faster is not counted with what is real.
    if args.at.is_none() && time_scale > 1 {
        return Ok(Arc::new(Memory::new(clock)));
    }
    Ok(match name_of(args)? {
        LedgerName::Memory => Arc::new(Memory::new(clock)),
        // What is played out faster is not counted with what is real.
        LedgerName::File(mut path) => {
            if time_scale > 1 {
                path.as_mut_os_string().push(format!(".x{time_scale}"));
            }
            Arc::new(Sqlite::open(&path, clock, &boot_id())?)
        }
        LedgerName::Redis(url) => {
            let password = match &args.password_file {
                Some(path) => Some(host::read_secret_text(path, "the ledger's password file")?),
                None => host::secret("HOST_DEMO_LEDGER_PASSWORD")?,
            };
            if password.as_deref().is_some_and(stray::is_quoted) {
                note!(
                    "warning: the ledger's password begins and ends with quotation marks, which are \
                     sent as part of it"
                );
            }
            let authorities = args.ca_file.as_deref();
            let authorities = authorities
                .map(|path| host::read(path, "the ledger's CA file"))
                .transpose()?;
            let time: Option<Arc<dyn Clock>> = match time_scale {
                0 | 1 => None,
                _ => Some(Arc::clone(&clock) as _),
            };
            let options = RedisOptions {
                password,
                authorities,
                time,
                ..RedisOptions::default()
            };
            Arc::new(Redis::open(&url, options, clock)?)
        }
    })
}

fn name_of(args: &args::Ledger) -> anyhow::Result<LedgerName> {
    match &args.at {
        Some(at) => at.parse().context("--ledger"),
        None => Ok(LedgerName::File(default()?)),
    }
}

fn default() -> anyhow::Result<PathBuf> {
    Ok(audit::private(audit::folder()?)?.join(LEDGER))
}

/// The ledger's file, where nobody says; it need not be there.
pub(crate) fn usual_file() -> anyhow::Result<PathBuf> {
    Ok(audit::folder()?.join(LEDGER))
}

const LEDGER: &str = "ledger.sqlite";

/// One key, as it is shown.
struct View<'a> {
    /// None for all of them, where no call was counted yet.
    key: Option<&'a Key>,
    budget: &'a Budget,
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
        let end = log.forecast(self.quotas, self.now, calls as usize, ANSWER);
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
            let window = window(quota.per);
            let bar = bar(used, calls as usize);
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
        output::moment(self.time(moment), self.wall)
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

/// A quota's window, for people.
pub(crate) fn window(per: Duration) -> String {
    match per.as_secs() {
        60 => "minute".to_owned(),
        3600 => "hour".to_owned(),
        seconds => format!("{seconds} s"),
    }
}

fn bar(used: usize, of: usize) -> String {
    const WIDTH: usize = 24;
    let full = match of {
        0 => WIDTH,
        // What is used at all is seen.
        of => (used * WIDTH).div_ceil(of).min(WIDTH),
    };
    format!("{}{}", "█".repeat(full), "░".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_what_is_used_and_no_more_than_all() {
        for (used, of, full) in [
            (0, 100, 0),
            (1, 100, 1),
            (50, 100, 12),
            (100, 100, 24),
            (7, 5, 24),
            (0, 0, 24),
        ] {
            let bar = bar(used, of);
            assert_eq!(
                bar.chars().filter(|c| *c == '█').count(),
                full,
                "{used} of {of}"
            );
            assert_eq!(bar.chars().count(), 24);
        }
    }
}
