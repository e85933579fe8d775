//! The rows that a benchmark prints, and the file that keeps them for a comparison of two commits.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::bare::Error;

/// The rows of one benchmark, printed as they come and written to a file at the end.
pub struct Report {
    file: PathBuf,
    kept: Kept,
}

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The benchmark's name.
    pub bench: String,
    /// Whether it took few rounds.
    pub quick: bool,
    /// Its rows, in the order in which they were printed.
    pub rows: Vec<Row>,
}

/// Which direction is an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// A time, a size.
    Lower,
    /// A rate.
    Higher,
    /// A number that is not compared: another program's, or a count that has to be exact.
    Neither,
}

/// One number, with its spread.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// The unit; empty for a ratio or a count.
    pub unit: String,
    /// Which direction is an improvement.
    pub better: Better,
    /// The median over the rounds.
    pub median: f64,
    /// The least of the rounds.
    pub least: f64,
    /// The most of the rounds.
    pub most: f64,
    #[serde(skip)]
    digits: usize,
    #[serde(skip)]
    bound: String,
}

impl Row {
    /// Takes the values of all rounds.
    ///
    /// # Panics
    ///
    /// Without a value.
    pub fn new(name: impl Into<String>, better: Better, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self {
            name: name.into(),
            unit: String::new(),
            better,
            median: values[values.len() / 2],
            least: values[0],
            most: values[values.len() - 1],
            digits: 0,
            bound: String::new(),
        }
    }

    /// Names the unit.
    #[must_use]
    pub fn unit(mut self, unit: &str) -> Self {
        unit.clone_into(&mut self.unit);
        self
    }

    /// Prints so many digits after the point.
    #[must_use]
    pub fn digits(mut self, digits: usize) -> Self {
        self.digits = digits;
        self
    }

    /// Prints a bound or a goal beside the number. Nothing fails for missing it.
    #[must_use]
    pub fn bound(mut self, bound: &str) -> Self {
        bound.clone_into(&mut self.bound);
        self
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, unit, .. } = self;
        let digits = self.digits;
        let space = if unit.is_empty() { "" } else { " " };
        let mut measured = format!("{:.digits$}{space}{unit}", self.median);
        if self.least < self.most {
            measured += &format!(" ({:.digits$} to {:.digits$})", self.least, self.most);
        }
        let line = format!("{name:<58} {measured:<30} {}", self.bound);
        f.write_str(line.trim_end())
    }
}

impl Report {
    /// Prints the head of the table. `--json FILE` among the arguments names the file; without it,
    /// `bench/NAME.json` lies in the target directory.
    pub fn new(bench: &str) -> Self {
        let arguments: Vec<String> = std::env::args().collect();
        let quick = arguments.iter().any(|argument| argument == "--quick");
        let named = arguments.iter().position(|argument| argument == "--json");
        let file = match named.and_then(|at| arguments.get(at + 1)) {
            Some(file) => PathBuf::from(file),
            // This program is target/<profile>/deps/<name>.
            None => std::env::current_exe()
                .ok()
                .and_then(|this| Some(this.ancestors().nth(3)?.to_owned()))
                .unwrap_or_default()
                .join(format!("bench/{bench}.json")),
        };
        let more = if quick { " -- --quick" } else { "" };
        println!("$ cargo bench -p tests --bench {bench}{more}");
        println!("{:<58} {:<30} bound", "", "median (least to most)");
        let bench = bench.to_owned();
        let rows = Vec::new();
        Self {
            file,
            kept: Kept { bench, quick, rows },
        }
    }

    /// Whether few rounds are wanted.
    pub fn is_quick(&self) -> bool {
        self.kept.quick
    }

    /// Prints a row, and keeps it.
    pub fn row(&mut self, row: Row) {
        println!("{row}");
        self.kept.rows.push(row);
    }

    /// Writes the file.
    pub fn write(self) -> Result<(), Error> {
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(&self.kept)?;
        std::fs::write(&self.file, text + "\n")?;
        Ok(())
    }
}

/// A row of two commits, measured in turn.
#[derive(Debug)]
pub struct Change {
    /// The benchmark, and the row.
    pub name: String,
    /// The median of the base's rounds.
    pub base: f64,
    /// The median of the other side's rounds.
    pub now: f64,
    /// By how much it is worse, as a part of the base; negative for an improvement.
    pub worse_by: f64,
    /// How far rounds of one side lie apart, as a part of their median: that of the less steady side.
    pub spread: f64,
}

impl Change {
    /// Whether it is worse by more than rounds of the same code differ.
    pub fn is_worse(&self) -> bool {
        self.worse_by > self.spread
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name: String = self.name.chars().take(58).collect();
        let [base, now] = [self.base, self.now].map(|number| match number.abs() {
            large if large >= 1000.0 => format!("{number:.0}"),
            _ => format!("{number:.3}"),
        });
        let (worse_by, spread) = (self.worse_by * 100.0, self.spread * 100.0);
        let verdict = match self.is_worse() {
            true => "worse",
            false => "",
        };
        let line =
            format!("{name:<58} {base:>9} {now:>9} {worse_by:>+7.1} {spread:>7.1}  {verdict}");
        f.write_str(line.trim_end())
    }
}

/// Compares the rows that both sides have and that have a better direction. Each side has one
/// [`Kept`] for a benchmark and a round.
pub fn compare(base: &[Kept], now: &[Kept]) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for kept in now {
        for row in &kept.rows {
            let name = format!("{}: {}", kept.bench, row.name.trim());
            if row.better == Better::Neither || changes.iter().any(|change| change.name == name) {
                continue;
            }
            let sides = [base, now].map(|side| rounds(side, &kept.bench, &row.name));
            let [Some((base, base_spread)), Some((now, now_spread))] = sides else {
                continue;
            };
            let growth = if base == 0.0 {
                now
            } else {
                (now - base) / base
            };
            changes.push(Change {
                name,
                base,
                now,
                worse_by: match row.better {
                    Better::Higher => -growth,
                    _ => growth,
                },
                spread: base_spread.max(now_spread),
            });
        }
    }
    changes
}

/// The median of a row over one side's rounds, and how far they lie apart.
fn rounds(side: &[Kept], bench: &str, name: &str) -> Option<(f64, f64)> {
    let of_bench = side.iter().filter(|kept| kept.bench == bench);
    let rows = of_bench.flat_map(|kept| kept.rows.iter().filter(|row| row.name == name));
    let mut medians: Vec<f64> = rows.map(|row| row.median).collect();
    medians.sort_by(f64::total_cmp);
    let (least, most) = (*medians.first()?, *medians.last()?);
    let median = medians[medians.len() / 2];
    let spread = if median == 0.0 {
        most - least
    } else {
        (most - least) / median.abs()
    };
    Some((median, spread))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(rows: &[(&str, Better, f64)]) -> Kept {
        let row = |(name, better, value): &(&str, Better, f64)| {
            Row::new(*name, *better, vec![*value]).unit("ms")
        };
        Kept {
            bench: "call".to_owned(),
            quick: true,
            rows: rows.iter().map(row).collect(),
        }
    }

    #[test]
    fn a_row_is_worse_beyond_the_spread_of_its_rounds() {
        let base = [100.0, 104.0, 98.0].map(|time| kept(&[("time", Better::Lower, time)]));
        for (times, worse) in [
            ([105.0, 104.0, 106.0], false),
            ([107.0, 108.0, 109.0], true),
            ([60.0, 61.0, 62.0], false),
            // Unsteady rounds prove nothing.
            ([107.0, 108.0, 180.0], false),
        ] {
            let now = times.map(|time| kept(&[("time", Better::Lower, time)]));
            let changes = compare(&base, &now);
            assert_eq!(changes.len(), 1);
            assert_eq!(changes[0].is_worse(), worse, "{changes:?}");
        }
    }

    #[test]
    fn a_lower_rate_is_worse() {
        let base = [kept(&[("rate", Better::Higher, 1000.0)])];
        for (rate, worse) in [(900.0, true), (1100.0, false)] {
            let now = [kept(&[("rate", Better::Higher, rate)])];
            assert_eq!(compare(&base, &now)[0].is_worse(), worse);
        }
    }

    #[test]
    fn rows_of_one_side_and_rows_without_direction_are_left_out() {
        let base = [kept(&[
            ("old", Better::Lower, 1.0),
            ("governor", Better::Neither, 1.0),
        ])];
        let now = [kept(&[
            ("new", Better::Lower, 1.0),
            ("governor", Better::Neither, 9.0),
        ])];
        assert!(compare(&base, &now).is_empty());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text =
            serde_json::to_string(&kept(&[("time", Better::Lower, 1.5)])).expect("it is JSON");
        let again: Kept = serde_json::from_str(&text).expect("it is read again");
        assert_eq!(
            (again.rows[0].median, again.rows[0].better),
            (1.5, Better::Lower)
        );
        assert_eq!(again.rows[0].unit, "ms");
    }
}
