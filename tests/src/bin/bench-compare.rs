//! Compares the benchmarks of two commits: `make bench BASE=COMMIT`.
//!
//! It builds COMMIT beside the working copy, in the target directory, and runs both sides' programs
//! in turn, so that what else the machine does meets both. A ratio is valid within one run only:
//! the same code differs by 10 to 20 % between two machines. COMMIT must be one whose benchmarks
//! write their rows to a file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::bare::Error;
use tests::report::{Kept, compare};

const USAGE: &str = "usage: bench-compare COMMIT [--quick] [--rounds N] [BENCH …]";
const ALL: [&str; 4] = ["call", "limits", "batch", "hosts"];

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let commit = arguments.next().ok_or(USAGE)?;
    let (mut quick, mut rounds, mut benches) = (false, 3, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => quick = true,
            "--rounds" => rounds = arguments.next().ok_or(USAGE)?.parse()?,
            name if ALL.contains(&name) => benches.push(name.to_owned()),
            _ => return Err(USAGE.into()),
        }
    }
    if benches.is_empty() {
        benches = ALL.map(str::to_owned).into();
    }

    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = target_directory()?.join("bench");
    let there = folder.join("base");
    check_out(&here, &there, &commit)?;
    let base = programs(&there)?;
    let now = programs(&here)?;

    let mut kept = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for bench in &benches {
            // The second to run finds warm caches: the sides take turns at that, too.
            for side in [round % 2, (round + 1) % 2] {
                let (programs, name) = [(&base, "base"), (&now, "now")][side];
                println!("\n== round {} of {rounds}, {bench}, {name}", round + 1);
                let file = folder.join(format!("{name}-{bench}-{round}.json"));
                kept[side].push(run(programs, bench, &file, quick)?);
            }
        }
    }

    let [base, now] = kept;
    let changes = compare(&base, &now);
    println!(
        "\n{:<58} {:>9} {:>9} {:>7} {:>7}",
        "", "base", "now", "worse %", "spread"
    );
    for change in &changes {
        println!("{change}");
    }
    let worse = changes.iter().filter(|change| change.is_worse()).count();
    println!(
        "{worse} of {} rows are worse than {commit} by more than their spread",
        changes.len()
    );
    Ok(())
}

/// This program is `target/<profile>/bench-compare`.
fn target_directory() -> Result<PathBuf, Error> {
    let this = std::env::current_exe()?;
    let target = this
        .ancestors()
        .nth(2)
        .ok_or("this program has no folder")?;
    Ok(target.to_owned())
}

/// Puts a commit of the repository into a clone of its own, which is kept for the next time.
fn check_out(here: &Path, there: &Path, commit: &str) -> Result<(), Error> {
    let spec = format!("{commit}^{{commit}}");
    let found = git(here, &["rev-parse", "--verify", "--quiet", &spec])
        .map_err(|_| format!("{commit} is not a commit of this repository"))?;
    if !there.join(".git").exists() {
        let (from, to) = (here.display().to_string(), there.display().to_string());
        git(here, &["clone", "--quiet", "--no-checkout", &from, &to])?;
    }
    git(there, &["fetch", "--quiet", "origin", found.trim()])?;
    git(there, &["checkout", "--quiet", "--force", found.trim()])?;
    Ok(())
}

fn git(folder: &Path, arguments: &[&str]) -> Result<String, Error> {
    let output = Command::new("git")
        .current_dir(folder)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("git {} failed", arguments.join(" ")).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Builds a checkout's benchmarks, and returns their programs.
fn programs(checkout: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    println!("building the benchmarks of {}", checkout.display());
    let output = Command::new("cargo")
        .current_dir(checkout)
        .args(["bench", "--locked", "--package", "tests", "--benches"])
        .args(["--no-run", "--message-format", "json"])
        .env_remove("CARGO_TARGET_DIR")
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("the benchmarks of {} do not build", checkout.display()).into());
    }
    let mut programs = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Value = serde_json::from_str(line)?;
        let is_bench = message["target"]["kind"][0] == "bench";
        if let (true, Some(program)) = (is_bench, message["executable"].as_str()) {
            let name = message["target"]["name"].as_str().unwrap_or_default();
            programs.push((name.to_owned(), program.into()));
        }
    }
    Ok(programs)
}

fn run(
    programs: &[(String, PathBuf)],
    bench: &str,
    file: &Path,
    quick: bool,
) -> Result<Kept, Error> {
    let mut of_name = programs.iter().filter(|(name, _)| name == bench);
    let (_, program) = of_name.next().ok_or(format!("there is no bench {bench}"))?;
    let _ = std::fs::remove_file(file);
    let mut command = Command::new(program);
    command.arg("--bench").arg("--json").arg(file);
    // It builds the command in its own checkout's target directory.
    command.env_remove("CARGO_TARGET_DIR");
    if quick {
        command.arg("--quick");
    }
    let status = command.status()?;
    if !status.success() {
        return Err(format!("{bench} ended with {status}").into());
    }
    let text = std::fs::read_to_string(file).map_err(|_| {
        format!("{bench} wrote no file: the commit is older than the files of the benchmarks")
    })?;
    Ok(serde_json::from_str(&text)?)
}
