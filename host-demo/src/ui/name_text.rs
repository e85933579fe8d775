//! Words and JSON for a name that matches no device or several.

use host_demo::contract::Machine;
use host_demo::id::DnsName;
use host_demo::names::NameError;
use serde_json::{Value, json};

use super::output;
use crate::args::Output;

/// Says why a name is no device, and which it may be.
pub(crate) fn tell(name: &DnsName, place: Option<(&str, usize)>, why: &NameError, format: Output) {
    let at = place.map_or(String::new(), |(list, line)| {
        format!("{list}, line {line}: ")
    });
    let said = output::clean(&why.to_string());
    note!("host-demo: {at}{name}: {said}");
    for machine in why.candidates() {
        note!("  {}", candidate(machine));
    }
    if format == Output::Json {
        let candidates = why.candidates().iter().map(candidate_json);
        output::json_line(&json!({
            "type": "name",
            "name": name.as_str(),
            "line": place.map(|(_, line)| line),
            "problem": why.name(),
            "candidates": candidates.collect::<Vec<_>>(),
            "error": { "message": why.to_string(), "advice": null },
        }));
    }
}

/// A device in one line, by what it is told from others.
fn candidate(machine: &Machine) -> String {
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
    let mut line = format!(
        "{}  {:<8}  {:<9}  last seen {}  {}",
        machine.id,
        known(&machine.health_status),
        known(&machine.onboarding_status),
        known(&machine.last_seen),
        known(&machine.os_platform),
    );
    if let Some(into) = &machine.merged_into_machine_id {
        line += &format!("  merged into {into}");
    }
    output::clean(&line)
}

fn candidate_json(machine: &Machine) -> Value {
    json!({
        "machine_id": machine.id,
        "health_status": machine.health_status,
        "onboarding_status": machine.onboarding_status,
        "last_seen": machine.last_seen,
        "os_platform": machine.os_platform,
        "merged_into_machine_id": machine.merged_into_machine_id,
    })
}
