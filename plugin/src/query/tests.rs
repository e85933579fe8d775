use std::collections::BTreeMap;
use std::format;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::types::{ActionStatus, ActionType};

const MACHINE: &str = "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9";
const ACTION: &str = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";
const OTHER: &str = "9e253ed9-1daf-4a6b-8c50-d8bfc285e015";

fn everything() -> MachineActionFilter {
    MachineActionFilter {
        ids: Vec::new(),
        machine_id: None,
        types: Vec::new(),
        statuses: Vec::new(),
        created_since: None,
    }
}

fn query(filter: &MachineActionFilter, top: u32, skip: u32) -> ActionQuery {
    ActionQuery::new(filter, top, skip).unwrap_or_else(|refused| panic!("{refused:?}"))
}

#[test]
fn a_query_says_what_was_asked_for_and_nothing_else() {
    let since = || Some("2026-01-30T21:11:22.8419303Z".to_string());
    for (filter, top, skip, text) in [
        (everything(), 1000, 0, "$top=1000".to_string()),
        (everything(), 1, 1000, "$top=1&$skip=1000".to_string()),
        (
            MachineActionFilter {
                ids: vec![ACTION.to_uppercase()],
                ..everything()
            },
            5,
            0,
            format!("$filter=id%20eq%20%27{ACTION}%27&$top=5"),
        ),
        (
            MachineActionFilter {
                ids: vec![ACTION.into(), OTHER.into(), ACTION.to_uppercase()],
                ..everything()
            },
            5,
            0,
            format!("$filter=id%20in%20(%27{ACTION}%27,%27{OTHER}%27)&$top=5"),
        ),
        (
            MachineActionFilter {
                machine_id: Some(MACHINE.to_uppercase()),
                types: vec![
                    ActionType::RestrictCodeExecution,
                    ActionType::UnrestrictCodeExecution,
                ],
                statuses: vec![ActionStatus::Other("Waiting".into())],
                created_since: since(),
                ..everything()
            },
            100,
            200,
            format!(
                "$filter=machineId%20eq%20%27{MACHINE}%27%20and%20type%20in%20\
                 (%27RestrictCodeExecution%27,%27UnrestrictCodeExecution%27)%20and%20status%20eq\
                 %20%27Waiting%27%20and%20creationDateTimeUtc%20ge%202026-01-30T21:11:22.8419303Z\
                 &$top=100&$skip=200"
            ),
        ),
    ] {
        assert_eq!(query(&filter, top, skip).text(), text);
    }
}

#[test]
fn a_name_is_asked_for_as_it_was_written() {
    for (name, asked) in [
        (
            "Johns_Work-Computer.contoso.com",
            "Johns_Work-Computer.contoso.com",
        ),
        ("pc-1.contoso.com.", "pc-1.contoso.com"),
        ("b\u{fc}ro-pc01", "b%C3%BCro-pc01"),
        ("\u{7535}\u{8111}-1", "%E7%94%B5%E8%84%91-1"),
        ("\u{e19}\u{e49}\u{e33}", "%E0%B8%99%E0%B9%89%E0%B8%B3"),
        ("\u{1d7d8}", "%F0%9D%9F%98"),
    ] {
        let query = name.parse::<MachineQuery>().expect(name);
        let text = format!("$filter=computerDnsName%20eq%20%27{asked}%27&$top=100");
        assert_eq!(query.text(), text);
    }
}

#[test]
fn what_does_not_fit_is_refused_by_the_name_of_its_field() {
    let guids = |n: u32| (0..n).map(|n| format!("{n:08x}{}", &ACTION[8..])).collect();
    let many = MachineActionFilter {
        ids: guids(100),
        ..everything()
    };
    assert!(ActionQuery::new(&many, 1000, 0).is_ok());
    let long = "x".repeat(65);
    let mut cases = vec![
        (everything(), 0, "top"),
        (everything(), 1001, "top"),
        (
            MachineActionFilter {
                ids: guids(101),
                ..everything()
            },
            1,
            "filter.ids",
        ),
        (
            MachineActionFilter {
                ids: vec![ACTION.into(), MACHINE.into()],
                ..everything()
            },
            1,
            "filter.ids",
        ),
        (
            MachineActionFilter {
                machine_id: Some(ACTION.into()),
                ..everything()
            },
            1,
            "filter.machine-id",
        ),
        (
            MachineActionFilter {
                types: vec![ActionType::Isolate; 21],
                ..everything()
            },
            1,
            "filter.types",
        ),
    ];
    for name in ["", "a b", "a'", "a%27", "é", long.as_str()] {
        let types = vec![ActionType::Other(name.into())];
        let statuses = vec![ActionStatus::Other(name.into())];
        let types = MachineActionFilter {
            types,
            ..everything()
        };
        let statuses = MachineActionFilter {
            statuses,
            ..everything()
        };
        cases.push((types, 1, "filter.types"));
        cases.push((statuses, 1, "filter.statuses"));
    }
    for since in [
        "",
        "2026-01-30",
        "2026-01-30T21:11:22",
        "2026-01-30t21:11:22z",
        "2026-01-30 21:11:22Z",
        "2026-01-30T21:11:22+00:00",
        "2026-01-30T21:11:22.Z",
        "2026-01-30T21:11:22.12345678Z",
        "+026-01-30T23:59:00Z",
        "２026-01-30T21:11:22Z",
        "2026-01-30T21:11:22Z or true",
    ] {
        let filter = MachineActionFilter {
            created_since: Some(since.into()),
            ..everything()
        };
        cases.push((filter, 1, "filter.created-since"));
    }
    for (filter, top, parameter) in cases {
        let refused = ActionQuery::new(&filter, top, 0).expect_err("a refusal");
        assert_eq!(refused.parameter, parameter, "{filter:?}: {refused:?}");
    }
    for since in [
        "2024-02-29T00:00:00Z",
        "2000-02-29T23:59:59.1Z",
        "2000-02-29T23:59:59.1234567Z",
    ] {
        let filter = MachineActionFilter {
            created_since: Some(since.into()),
            ..everything()
        };
        assert!(ActionQuery::new(&filter, 1, 0).is_ok(), "{since}");
    }
}

#[test]
fn what_is_no_name_of_a_device_is_refused_with_what_is_wrong() {
    let long = "x".repeat(256);
    for (name, problem) in [
        ("", "it is empty"),
        ("pc'", "character 3 is punctuation"),
        ("pc' or '1' eq '1", "character 3 is punctuation"),
        ("pc%27", "character 3 is punctuation"),
        ("pc&$top=1", "character 3 is punctuation"),
        ("pc 1", "character 3 is white space"),
        ("pc\n", "character 3 is a control character"),
        (".", "it is empty"),
        ("pc..", "nothing stands before or between"),
        (".pc", "nothing stands before or between"),
        ("pc..contoso", "nothing stands before or between"),
        ("pc\u{2bc}", "character 3 is outside ASCII"),
        ("pc\u{ff07}", "character 3 is outside ASCII"),
        ("pc\u{2019}", "character 3 is outside ASCII"),
        ("pc\u{200b}", "character 3 is outside ASCII"),
        ("pc\u{feff}", "character 3 is outside ASCII"),
        ("pc\u{a0}", "character 3 is white space"),
        ("pc\u{85}", "character 3 is a control character"),
        (long.as_str(), "it has 256 bytes"),
        (&"\u{fc}".repeat(128), "it has 256 bytes"),
    ] {
        let refused = name.parse::<MachineQuery>().expect_err("a refusal");
        assert_eq!(refused.parameter, "computer-dns-name");
        assert!(refused.problem.contains(problem), "{refused:?}");
    }
    assert!("x".repeat(255).parse::<MachineQuery>().is_ok());
}

fn action(id: &str) -> Value {
    json!({"id": id, "type": "Isolate", "status": "Pending", "machineId": MACHINE})
}

fn page(top: u32, body: &str) -> Result<MachineActionPage, &'static str> {
    query(&everything(), top, 0).page_in(body.as_bytes())
}

#[test]
fn a_page_has_its_actions_in_their_order_and_says_whether_there_may_be_more() {
    let body = |n: usize, link: Value| {
        let value: Vec<_> = (0..n).map(|n| action(&n.to_string())).collect();
        json!({"@odata.context": "x", "value": value, "@odata.nextLink": link}).to_string()
    };
    let link = || json!("https://api-us3.securitycenter.microsoft.com/api/machineactions?$skip=2");
    for (n, link, truncated) in [
        (0, Value::Null, false),
        (2, Value::Null, false),
        (3, Value::Null, true),
        (2, link(), true),
        (0, link(), true),
        (2, json!(5), true),
    ] {
        let page = page(3, &body(n, link)).expect("a page");
        let ids: Vec<_> = page.items.iter().map(|action| action.id.clone()).collect();
        let expected: Vec<_> = (0..n).map(|n| n.to_string()).collect();
        assert_eq!((ids, page.truncated), (expected, truncated));
    }
    assert!(
        page(3, &body(4, Value::Null)).is_err(),
        "more than asked for"
    );
}

#[test]
fn a_list_that_is_none_or_lacks_an_entry_is_no_page() {
    let crowded: BTreeMap<String, u32> = (0..98).map(|n| (format!("p{n}"), n)).collect();
    let with = |mut action: Value, crowd: &BTreeMap<String, u32>| {
        for (name, value) in crowd {
            action[name] = json!(value);
        }
        json!({ "value": [action] }).to_string()
    };
    let mut fits = crowded.clone();
    fits.pop_first();
    fits.pop_first();
    assert!(page(5, &with(action("1"), &fits)).is_ok());
    for body in [
        with(action("1"), &crowded),
        String::new(),
        "[]".to_string(),
        "{}".to_string(),
        r#"{"value":null}"#.to_string(),
        r#"{"value":{}}"#.to_string(),
        r#"{"Value":[]}"#.to_string(),
        r#"{"value":[],"value":5}"#.to_string(),
        r#"{"value":[null]}"#.to_string(),
        r#"{"value":[{"id":"1","type":"Isolate"}]}"#.to_string(),
        json!({"value": [action("1"), action("")]}).to_string(),
        action("1").to_string(),
        format!("{{\"value\":[{}0]}}", "0,".repeat(5000)),
    ] {
        assert!(
            page(5, &body).is_err(),
            "{}",
            body.get(..80).unwrap_or(&body)
        );
    }
}

#[test]
fn actions_that_were_not_asked_for_are_no_page() {
    let filter = MachineActionFilter {
        ids: vec![ACTION.into()],
        machine_id: Some(MACHINE.into()),
        types: vec![ActionType::Isolate],
        ..everything()
    };
    let query = query(&filter, 5, 0);
    let good = action(&ACTION.to_uppercase());
    let mut anonymous = good.clone();
    anonymous["machineId"] = Value::Null;
    let bent = |name: &str, value: &str| {
        let mut action = good.clone();
        action[name] = json!(value);
        action
    };
    for (entry, fits) in [
        (good.clone(), true),
        (anonymous, true),
        (bent("machineId", &MACHINE.to_uppercase()), true),
        (bent("status", "Failed"), true),
        (bent("id", OTHER), false),
        (bent("type", "Offboard"), false),
        (bent("machineId", &"0".repeat(40)), false),
    ] {
        let body = json!({"value": [good, entry]}).to_string();
        assert_eq!(query.page_in(body.as_bytes()).is_ok(), fits, "{body}");
    }
}

/// The properties of a record of January 2026, as Ping Identity lists them for their "Microsoft
/// Defender for Endpoint Connector", revision of 2026-02-05.
const MACHINE_PROPERTIES: &str = r#"{"id":"49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9",
 "mergedIntoMachineId":"m","isPotentialDuplication":true,"isExcluded":false,"exclusionReason":"r",
 "computerDnsName":"Johns-Work-Computer","firstSeen":"f","lastSeen":"2026-01-30T21:11:22.8419303Z",
 "osPlatform":"Windows11","osProcessor":"x64","version":"24H2","lastIpAddress":"a",
 "lastExternalIpAddress":"b","agentVersion":"10","osBuild":26100,"healthStatus":"Active",
 "deviceValue":"Normal","rbacGroupId":-1,"rbacGroupName":"g","riskScore":"None",
 "exposureLevel":"Low","isAadJoined":true,"aadDeviceId":"d","machineTags":["t"],
 "onboardingStatus":"Onboarded","osArchitecture":"64-bit","managedBy":"u","managedByStatus":"s",
 "ipAddresses":[{"ipAddress":"a"}],"vmMetadata":{"vmId":"v"},"isNew":[1e3]}"#;

fn machines(value: &str) -> Result<FoundMachines, &'static str> {
    let name: MachineQuery = "johns-work-computer".parse().expect("a name");
    name.machines_in(format!(r#"{{"value":[{value}]}}"#).as_bytes())
}

#[test]
fn a_machine_is_read_whole() {
    let found = machines(MACHINE_PROPERTIES).expect("a machine");
    assert!(!found.truncated);
    let [machine] = &found.items[..] else {
        panic!("one machine")
    };
    let text = |text: &str| Some(text.to_string());
    assert_eq!(machine.id, MACHINE);
    assert_eq!(machine.merged_into_machine_id, text("m"));
    assert_eq!(machine.is_potential_duplication, Some(true));
    assert_eq!(machine.computer_dns_name, text("Johns-Work-Computer"));
    assert_eq!(machine.last_seen, text("2026-01-30T21:11:22.8419303Z"));
    assert_eq!(machine.rbac_group_name, text("g"));
    assert_eq!(machine.health_status, text("Active"));
    assert_eq!(machine.onboarding_status, text("Onboarded"));
    assert_eq!(machine.machine_tags, text(r#"["t"]"#));
    let rest: Vec<_> = machine
        .additional_properties
        .iter()
        .map(|property| (property.name.as_str(), property.json.as_str()))
        .collect();
    assert_eq!(rest.len(), 18);
    assert_eq!(rest[0], ("isExcluded", "false"));
    assert_eq!(rest[17], ("isNew", "[1e3]"));
}

#[test]
fn machines_of_another_name_or_of_none_are_no_answer() {
    let entry = |name: &str| format!(r#"{{"id":"1","computerDnsName":{name}}}"#);
    for (value, fits) in [
        (String::new(), true),
        (entry(r#""johns-work-computer""#), true),
        (entry(r#""JOHNS-work-computer""#), true),
        (entry(r#""johns-work-computer.contoso.com""#), false),
        (entry("null"), false),
        (entry("5"), false),
        (
            r#"{"computerDnsName":"johns-work-computer"}"#.to_string(),
            false,
        ),
        (
            format!(
                "{}0",
                format!("{},", entry(r#""johns-work-computer""#)).repeat(2)
            ),
            false,
        ),
    ] {
        assert_eq!(machines(&value).is_ok(), fits, "{value}");
    }
    for (asked, answered, fits) in [
        ("B\u{dc}RO-PC01", "b\u{fc}ro-pc01", true),
        ("pc-1.", "PC-1", true),
        // Upper-cased, both sigmas are one.
        (
            "\u{3c0}\u{3c5}\u{3c1}\u{3b3}\u{3bf}\u{3c2}",
            "\u{3a0}\u{3a5}\u{3a1}\u{393}\u{39f}\u{3a3}",
            true,
        ),
        ("stra\u{df}e", "STRASSE", false),
        ("pc-\u{131}", "pc-i", false),
        ("b\u{fc}ro", "buro", false),
    ] {
        let query = asked.parse::<MachineQuery>().expect("a name");
        let body = json!({ "value": [{ "id": "1", "computerDnsName": answered }] });
        let found = query.machines_in(body.to_string().as_bytes());
        assert_eq!(found.is_ok(), fits, "{asked} {answered}");
    }
    let hundred = vec![entry(r#""johns-work-computer""#); 100].join(",");
    assert!(machines(&hundred).expect("a list").truncated);
}

/// Texts that have a meaning in a query, among others.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "('|%27| or | and |&|\\$top=|#|\\)|[a-zA-Z0-9.-]){0,20}",
        Just(ACTION.to_string()),
        Just(MACHINE.to_uppercase()),
        Just("2026-01-30T21:11:22Z".to_string()),
    ]
}

fn any_filter() -> impl Strategy<Value = MachineActionFilter> {
    let names = proptest::collection::vec(
        prop_oneof![3 => "[A-Z][a-zA-Z]{0,20}", 1 => any_text()],
        0..4,
    );
    (
        proptest::collection::vec(
            prop_oneof![4 => Just(ACTION.to_string()), 1 => any_text()],
            0..4,
        ),
        proptest::option::of(prop_oneof![4 => Just(MACHINE.to_string()), 1 => any_text()]),
        names.clone(),
        names,
        proptest::option::of(prop_oneof![
            4 => "20[0-9]{2}-0[1-9]-1[0-9]T1[0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,7})?Z",
            1 => any_text(),
        ]),
    )
        .prop_map(
            |(ids, machine_id, types, statuses, created_since)| MachineActionFilter {
                ids,
                machine_id,
                types: types.into_iter().map(ActionType::Other).collect(),
                statuses: statuses.into_iter().map(ActionStatus::Other).collect(),
                created_since,
            },
        )
}

fn any_entry() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_string()),
        Just("[[]]".to_string()),
        any::<i32>().prop_map(|number| number.to_string()),
        any_text().prop_map(|text| Value::from(text).to_string()),
    ];
    let name = "id|type|status|machineId|computerDnsName|osBuild|isExcluded|machineTags|x";
    let start = prop_oneof![
        Just(action(ACTION).to_string()),
        Just(r#"{"id":"1","computerDnsName":"johns-work-computer"}"#.to_string()),
        Just("{}".to_string()),
    ];
    (start, proptest::collection::vec((name, value), 0..3)).prop_map(|(start, members)| {
        let mut object = start.trim_end_matches('}').to_string();
        for (name, value) in members {
            if object.len() > 1 {
                object.push(',');
            }
            object.push_str(&format!("\"{name}\":{value}"));
        }
        object.push('}');
        object
    })
}

fn any_list() -> impl Strategy<Value = Vec<u8>> {
    let entries = proptest::collection::vec(any_entry(), 0..6);
    prop_oneof![
        6 => (entries, "(,\"@odata.nextLink\":(null|5|\"x\"))?").prop_map(|(entries, link)| {
            format!("{{\"value\":[{}]{link}}}", entries.join(",")).into_bytes()
        }),
        1 => proptest::collection::vec(any::<u8>(), 0..100),
        1 => any_entry().prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever the filter: each value stands in it once, and whatever is no value is refused.
    #[test]
    fn nothing_gets_into_a_query_but_values(filter in any_filter(), top in 0..1100_u32, skip: u32) {
        let Ok(query) = ActionQuery::new(&filter, top, skip) else { return Ok(()) };
        let text = query.text();
        let plain = text.replace("%20", " ").replace("%27", "'");
        prop_assert!(!plain.contains('%'), "{text}");
        prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"$=&%(),-:.".contains(&b)), "{text}");
        prop_assert!(text.matches('&').count() <= 2 && text.matches('$').count() <= 3, "{text}");
        let clauses = [
            !filter.ids.is_empty(),
            filter.machine_id.is_some(),
            !filter.types.is_empty(),
            !filter.statuses.is_empty(),
            filter.created_since.is_some(),
        ];
        let clauses = clauses.into_iter().filter(|is_there| *is_there).count();
        prop_assert_eq!(plain.matches(" and ").count(), clauses.saturating_sub(1), "{}", text);
        prop_assert!(!plain.contains(" or "), "{text}");
    }

    #[test]
    fn no_list_panics_and_what_is_read_of_one_was_in_it(body in any_list()) {
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        let ids = |said: &Option<Value>| -> Vec<String> {
            let value = said.as_ref().and_then(|said| said["value"].as_array());
            value.into_iter().flatten().map(|e| e["id"].as_str().unwrap_or_default().to_string()).collect()
        };
        if let Ok(page) = query(&everything(), 5, 0).page_in(&body) {
            let got: Vec<_> = page.items.iter().map(|action| action.id.clone()).collect();
            prop_assert_eq!(&got, &ids(&said));
            let link = said.is_some_and(|said| said.get("@odata.nextLink").is_some_and(|l| !l.is_null()));
            prop_assert_eq!(page.truncated, got.len() == 5 || link);
        }
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        let name: MachineQuery = "johns-work-computer".parse().expect("a name");
        if let Ok(found) = name.machines_in(&body) {
            let got: Vec<_> = found.items.iter().map(|machine| machine.id.clone()).collect();
            prop_assert_eq!(got, ids(&said));
        }
    }
}
