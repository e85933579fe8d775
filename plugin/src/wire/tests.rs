use std::format;
use std::string::ToString;

use super::*;

/// What the service answered to this very call in January 2026, as Ping Identity recorded it for
/// their "Microsoft Defender for Endpoint Connector", revision of 2026-02-05:
/// <https://docs.pingidentity.com/connectors/microsoft_defender_connector.html>.
pub(crate) const RECORDED: &str = r##"{"@odata.context":"https://api.security.microsoft.com/api/$metadata#MachineActions/$entity",
 "id":"8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a","type":"UnrestrictCodeExecution","title":null,
 "requestor":"Defender for Endpoint API","requestorComment":"Device cleared, removing app restriction",
 "status":"Pending","machineId":"49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9",
 "computerDnsName":"johns-work-computer",
 "creationDateTimeUtc":"2026-01-30T21:11:22.8419303Z","lastUpdateDateTimeUtc":"2026-01-30T21:11:22.8419314Z",
 "cancellationRequestor":null,"cancellationComment":null,"cancellationDateTimeUtc":null,
 "errorHResult":0,"scope":null,"externalId":null,"requestSource":"PublicApi",
 "relatedFileInfo":null,"commands":[],"troubleshootInfo":null}"##;

fn read(json: &str) -> MachineAction {
    machine_action(json.as_bytes()).unwrap_or_else(|| panic!("no machine action: {json}"))
}

/// A machine action with these properties besides the required ones.
fn with(properties: &str) -> MachineAction {
    read(&format!(
        r#"{{"id":"1","type":"Isolate","status":"Failed",{properties}}}"#
    ))
}

fn rest(action: &MachineAction) -> Vec<(&str, &str)> {
    action
        .additional_properties
        .iter()
        .map(|p| (p.name.as_str(), p.json.as_str()))
        .collect()
}

#[test]
fn the_recorded_answer_is_read_whole() {
    let text = |text: &str| Some(text.to_string());
    assert_eq!(
        read(RECORDED),
        MachineAction {
            id: "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a".into(),
            type_: ActionType::UnrestrictCodeExecution,
            title: None,
            requestor: text("Defender for Endpoint API"),
            requestor_comment: text("Device cleared, removing app restriction"),
            status: ActionStatus::Pending,
            machine_id: text("49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9"),
            computer_dns_name: text("johns-work-computer"),
            creation_date_time_utc: text("2026-01-30T21:11:22.8419303Z"),
            last_update_date_time_utc: text("2026-01-30T21:11:22.8419314Z"),
            cancellation_requestor: None,
            cancellation_comment: None,
            cancellation_date_time_utc: None,
            error_h_result: Some(0),
            scope: None,
            external_id: None,
            request_source: text("PublicApi"),
            related_file_info: None,
            commands: text("[]"),
            troubleshoot_info: None,
            additional_properties: std::vec![Property {
                name: "@odata.context".into(),
                json: "\"https://api.security.microsoft.com/api/$metadata#MachineActions/$entity\""
                    .into(),
            }],
        }
    );
}

#[test]
fn the_answer_may_lack_all_that_is_not_required() {
    let action = read(r#"{"id":"1","type":"Isolate","status":"Failed"}"#);
    assert_eq!(action.error_h_result, None);
    assert_eq!(action.machine_id, None);
    assert_eq!(rest(&action), []);
    assert_eq!(
        action,
        with(
            r#""title":null,"requestor":null,"requestorComment":null,"machineId":null,"computerDnsName":null,
            "creationDateTimeUtc":null,"lastUpdateDateTimeUtc":null,"cancellationRequestor":null,
            "cancellationComment":null,"cancellationDateTimeUtc":null,"errorHResult":null,"scope":null,
            "externalId":null,"requestSource":null,"relatedFileInfo":null,"commands":null,
            "troubleshootInfo":null"#
        )
    );
}

#[test]
fn a_date_time_is_kept_as_sent_however_many_digits_it_has() {
    for fraction in [
        "", ".2", ".42", ".773", ".8419", ".84193", ".773821", ".8419303",
    ] {
        let sent = format!("2026-01-30T21:11:22{fraction}Z");
        let action = with(&format!(r#""creationDateTimeUtc":"{sent}""#));
        assert_eq!(action.creation_date_time_utc, Some(sent));
    }
}

#[test]
fn every_documented_type_and_status_has_a_case_and_others_keep_their_spelling() {
    let types = [
        ("RunAntiVirusScan", ActionType::RunAntiVirusScan),
        ("Offboard", ActionType::Offboard),
        ("LiveResponse", ActionType::LiveResponse),
        (
            "CollectInvestigationPackage",
            ActionType::CollectInvestigationPackage,
        ),
        ("Isolate", ActionType::Isolate),
        ("Unisolate", ActionType::Unisolate),
        ("StopAndQuarantineFile", ActionType::StopAndQuarantineFile),
        ("RestrictCodeExecution", ActionType::RestrictCodeExecution),
        (
            "UnrestrictCodeExecution",
            ActionType::UnrestrictCodeExecution,
        ),
        ("Live Response", ActionType::Other("Live Response".into())),
        ("isolate", ActionType::Other("isolate".into())),
    ];
    for (name, expected) in types {
        let action = read(&format!(
            r#"{{"id":"1","type":"{name}","status":"Pending"}}"#
        ));
        assert_eq!(action.type_, expected);
    }
    let statuses = [
        ("Pending", ActionStatus::Pending),
        ("InProgress", ActionStatus::InProgress),
        ("Succeeded", ActionStatus::Succeeded),
        ("Failed", ActionStatus::Failed),
        ("TimeOut", ActionStatus::TimeOut),
        ("Cancelled", ActionStatus::Cancelled),
        ("Canceled", ActionStatus::Other("Canceled".into())),
        ("Timeout", ActionStatus::Other("Timeout".into())),
    ];
    for (name, expected) in statuses {
        let action = read(&format!(
            r#"{{"id":"1","type":"Isolate","status":"{name}"}}"#
        ));
        assert_eq!(action.status, expected);
    }
}

#[test]
fn a_property_of_an_unexpected_form_is_kept_as_it_came() {
    for (property, json) in [
        ("title", "5"),
        ("title", r#"{"text" : "x"}"#),
        ("requestor", "false"),
        ("machineId", "49"),
        ("creationDateTimeUtc", "1769807482.8419303"),
        ("errorHResult", "\"0\""),
        ("errorHResult", "0.0"),
        ("errorHResult", "2149122456"),
        ("errorHResult", "1e999"),
        (
            "errorHResult",
            "123456789012345678901234567890.123456789012345678901234567890",
        ),
        ("relatedFileInfo", "[]"),
        ("relatedFileInfo", "\"{}\""),
        ("commands", "{}"),
        ("commands", "0"),
        ("scope", "\"\\ud800\""),
    ] {
        let action = with(&format!(r#""{property}": {json} "#));
        assert_eq!(rest(&action), [(property, json)]);
        let absent = MachineAction {
            additional_properties: Vec::new(),
            ..action
        };
        assert_eq!(
            absent,
            read(r#"{"id":"1","type":"Isolate","status":"Failed"}"#)
        );
    }
}

#[test]
fn what_has_no_fixed_form_is_kept_as_json() {
    let action = with(
        r#""relatedFileInfo":{"fileIdentifier":"ab", "fileIdentifierType":"Sha1"},
        "commands":[ {"index":0,"errors":[]} ],"troubleshootInfo":"text","errorHResult":-2145844840"#,
    );
    assert_eq!(
        action.related_file_info.as_deref(),
        Some(r#"{"fileIdentifier":"ab", "fileIdentifierType":"Sha1"}"#)
    );
    assert_eq!(
        action.commands.as_deref(),
        Some(r#"[ {"index":0,"errors":[]} ]"#)
    );
    assert_eq!(action.troubleshoot_info.as_deref(), Some("\"text\""));
    assert_eq!(action.error_h_result, Some(-2_145_844_840));
    assert_eq!(
        with(r#""troubleshootInfo":[1, 2]"#)
            .troubleshoot_info
            .as_deref(),
        Some("[1, 2]")
    );
}

#[test]
fn unknown_properties_are_kept_in_order_with_their_numbers_as_written() {
    let action = with(
        r#""b":1.10,"a":[ ],"huge":1e9999,"":null,"lastUpdateTimeUtc":"x","\u00e9\n":true,"ID":"2""#,
    );
    assert_eq!(
        rest(&action),
        [
            ("b", "1.10"),
            ("a", "[ ]"),
            ("huge", "1e9999"),
            ("", "null"),
            ("lastUpdateTimeUtc", "\"x\""),
            ("é\n", "true"),
            ("ID", "\"2\""),
        ]
    );
}

#[test]
fn of_two_properties_of_one_name_the_last_counts_and_the_other_is_kept() {
    let action = with(r#""title":"first","x":1,"title":"last","x":2"#);
    assert_eq!(action.title.as_deref(), Some("last"));
    assert_eq!(
        rest(&action),
        [("title", "\"first\""), ("x", "1"), ("x", "2")]
    );

    let action = with(r#""title":"first","title":5"#);
    assert_eq!(action.title, None);
    assert_eq!(rest(&action), [("title", "\"first\""), ("title", "5")]);
}

#[test]
fn a_byte_order_mark_and_white_space_around_are_ignored() {
    let marked = format!("\u{feff} \r\n{RECORDED}\n ");
    assert_eq!(read(&marked), read(RECORDED));
}

#[test]
fn what_is_no_object_with_id_type_and_status_is_no_machine_action() {
    for body in [
        "",
        " ",
        "null",
        "true",
        "5",
        "-1.5e400",
        "\"text\"",
        "[]",
        "[1]",
        "{}",
        "{",
        "<html><body>OK</body></html>",
        "\u{feff}",
        r#"{"id":"1","type":"Isolate"}"#,
        r#"{"id":"1","status":"Pending"}"#,
        r#"{"type":"Isolate","status":"Pending"}"#,
        r#"{"id":"","type":"Isolate","status":"Pending"}"#,
        r#"{"id":"1","type":"","status":"Pending"}"#,
        r#"{"id":"1","type":"Isolate","status":""}"#,
        r#"{"id":1,"type":"Isolate","status":"Pending"}"#,
        r#"{"id":"1","type":null,"status":"Pending"}"#,
        r#"{"id":"1","type":"Isolate","status":["Pending"]}"#,
        r#"{"id":"1","id":null,"type":"Isolate","status":"Pending"}"#,
        r#"{"ID":"1","Type":"Isolate","Status":"Pending"}"#,
        r#"{"id":"1","type":"Isolate","status":"Pending"}x"#,
        r#"{"id":"1","type":"Isolate","status":"Pending"}{}"#,
        r#"{"id":"1","type":"Isolate","status":"Pending",}"#,
        r#"{"id":"1","type":"Isolate","status":"Pending","x":01}"#,
        r#"{'id':'1','type':'Isolate','status':'Pending'}"#,
        r#"[{"id":"1","type":"Isolate","status":"Pending"}]"#,
        r#"{"value":[{"id":"1","type":"Isolate","status":"Pending"}]}"#,
    ] {
        assert_eq!(machine_action(body.as_bytes()), None, "{body}");
    }
    assert_eq!(
        machine_action(b"{\"id\":\"1\",\"type\":\"Isolate\",\"status\":\"\xff\"}"),
        None
    );
    assert_eq!(machine_action(b"\xff\xfe{\0}\0"), None);
}

#[test]
fn the_recorded_answer_cut_short_is_no_machine_action() {
    for end in 0..RECORDED.len() {
        let cut = &RECORDED.as_bytes()[..end];
        assert_eq!(machine_action(cut), None, "{end}");
        assert_eq!(ErrorDocument::parse(cut), ErrorDocument::default(), "{end}");
    }
}

#[test]
fn nesting_is_never_too_deep() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = 100_000;
        let json = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let action = with(&format!(r#""deep":{json},"troubleshootInfo":{json}"#));
        assert_eq!(rest(&action), [("deep", json.as_str())]);
        assert_eq!(action.troubleshoot_info, Some(json));
        let open_ended = open.repeat(depth);
        assert_eq!(machine_action(open_ended.as_bytes()), None);
    }
}

#[test]
fn an_object_of_more_properties_than_the_bound_is_no_machine_action() {
    let object = |more: usize| {
        let more = r#","":0"#.repeat(more);
        format!(r#"{{"id":"1","type":"Isolate","status":"Failed"{more}}}"#)
    };
    assert_eq!(
        read(&object(MAX_PROPERTIES - 3))
            .additional_properties
            .len(),
        MAX_PROPERTIES - 3
    );
    assert_eq!(machine_action(object(MAX_PROPERTIES - 2).as_bytes()), None);
}

#[test]
fn every_known_form_of_an_error_document_is_read() {
    type Document = (
        Option<&'static str>,
        Option<&'static str>,
        Option<&'static str>,
    );
    let table: &[(&str, Document)] = &[
        // https://learn.microsoft.com/en-us/defender-endpoint/api/common-errors
        (
            r#"{"error":{"code":"InvalidRequestBody","message":"Request body is incorrect",
                "target":"43f4cb08-8fac-4b65-9db1-745c2ae65f3a"}}"#,
            (
                Some("InvalidRequestBody"),
                Some("Request body is incorrect"),
                Some("43f4cb08-8fac-4b65-9db1-745c2ae65f3a"),
            ),
        ),
        // https://github.com/MicrosoftDocs/microsoft-365-docs/issues/13047
        (
            r#"{"error":{"code":"ResourceNotFound","message":"Machine xxxxxx was not found","target":"|3xxxxx"}}"#,
            (
                Some("ResourceNotFound"),
                Some("Machine xxxxxx was not found"),
                Some("|3xxxxx"),
            ),
        ),
        // https://github.com/MicrosoftDocs/microsoft-365-docs/issues/12682
        (
            r#"{"error":{"code":"","message":"The query specified in the URI is not valid.","details":[]}}"#,
            (
                None,
                Some("The query specified in the URI is not valid."),
                None,
            ),
        ),
        // https://github.com/MicrosoftDocs/windows-itpro-docs/issues/4593
        (
            r#"{"error":{"code":"BadRequest","message":"recommendedAction argument is missing"}}"#,
            (
                Some("BadRequest"),
                Some("recommendedAction argument is missing"),
                None,
            ),
        ),
        // https://www.rfc-editor.org/rfc/rfc6749#section-5.2
        (
            r#"{"error":"invalid_request","error_description":"AADSTS900144: The request body must contain"}"#,
            (
                Some("invalid_request"),
                Some("AADSTS900144: The request body must contain"),
                None,
            ),
        ),
        (
            r#"{"timestamp":1,"status":404,"error":"Not Found","message":"No message available","path":"/"}"#,
            (Some("Not Found"), Some("No message available"), None),
        ),
        // https://github.com/MicrosoftDocs/windows-itpro-docs/issues/799
        (
            r#"{"Message":"Authorization has been denied for this request."}"#,
            (
                None,
                Some("Authorization has been denied for this request."),
                None,
            ),
        ),
        (
            r#"{"statusCode":401,"message":"Access denied due to missing subscription key."}"#,
            (
                None,
                Some("Access denied due to missing subscription key."),
                None,
            ),
        ),
        (
            r#"{"Error":{"Code":"X","Message":"<b>markup</b>"}}"#,
            (Some("X"), Some("<b>markup</b>"), None),
        ),
        (
            r#"{"error":{"code":5,"message":{"value":"x"},"target":null}}"#,
            (None, None, None),
        ),
        (r#"{"error":null,"message":"x"}"#, (None, Some("x"), None)),
        (r#"{"error":[]}"#, (None, None, None)),
        (r#"{"error":""}"#, (None, None, None)),
        (r#"{"code":"X"}"#, (Some("X"), None, None)),
        ("{}", (None, None, None)),
        ("[]", (None, None, None)),
        ("\"Service Unavailable\"", (None, None, None)),
        ("<html>502 Bad Gateway</html>", (None, None, None)),
        ("Service Unavailable", (None, None, None)),
        ("", (None, None, None)),
    ];
    for (body, (code, message, target)) in table {
        let text = |text: &Option<&str>| text.map(ToString::to_string);
        let expected = ErrorDocument {
            code: text(code),
            message: text(message),
            target: text(target),
        };
        assert_eq!(ErrorDocument::parse(body.as_bytes()), expected, "{body}");
        let marked = format!("\u{feff}{body}");
        assert_eq!(ErrorDocument::parse(marked.as_bytes()), expected, "{body}");
    }
}

#[test]
fn the_body_of_a_request_is_one_property_whose_key_has_its_exact_case() {
    for (comment, body) in [
        ("cleared", r#"{"Comment":"cleared"}"#),
        ("a\"b\\c\td\r\ne", r#"{"Comment":"a\"b\\c\td\r\ne"}"#),
        (
            "Gerät 🦀 \u{2028}</script>",
            "{\"Comment\":\"Gerät 🦀 \u{2028}</script>\"}",
        ),
    ] {
        assert_eq!(comment_body(comment), body.as_bytes());
    }
}
