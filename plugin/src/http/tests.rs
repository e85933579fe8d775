use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;

use wasi::http::types::{DnsErrorPayload, FieldSizePayload, TlsAlertReceivedPayload};

use super::*;

fn every_code() -> Vec<ErrorCode> {
    let field = || FieldSizePayload {
        field_name: None,
        field_size: None,
    };
    std::vec![
        ErrorCode::DnsTimeout,
        ErrorCode::DnsError(DnsErrorPayload {
            rcode: Some("NXDOMAIN".into()),
            info_code: None
        }),
        ErrorCode::DestinationNotFound,
        ErrorCode::DestinationUnavailable,
        ErrorCode::DestinationIpProhibited,
        ErrorCode::DestinationIpUnroutable,
        ErrorCode::ConnectionRefused,
        ErrorCode::ConnectionTerminated,
        ErrorCode::ConnectionTimeout,
        ErrorCode::ConnectionReadTimeout,
        ErrorCode::ConnectionWriteTimeout,
        ErrorCode::ConnectionLimitReached,
        ErrorCode::TlsProtocolError,
        ErrorCode::TlsCertificateError,
        ErrorCode::TlsAlertReceived(TlsAlertReceivedPayload {
            alert_id: None,
            alert_message: None
        }),
        ErrorCode::HttpRequestDenied,
        ErrorCode::HttpRequestLengthRequired,
        ErrorCode::HttpRequestBodySize(None),
        ErrorCode::HttpRequestMethodInvalid,
        ErrorCode::HttpRequestUriInvalid,
        ErrorCode::HttpRequestUriTooLong,
        ErrorCode::HttpRequestHeaderSectionSize(None),
        ErrorCode::HttpRequestHeaderSize(None),
        ErrorCode::HttpRequestTrailerSectionSize(None),
        ErrorCode::HttpRequestTrailerSize(field()),
        ErrorCode::HttpResponseIncomplete,
        ErrorCode::HttpResponseHeaderSectionSize(None),
        ErrorCode::HttpResponseHeaderSize(field()),
        ErrorCode::HttpResponseBodySize(None),
        ErrorCode::HttpResponseTrailerSectionSize(None),
        ErrorCode::HttpResponseTrailerSize(field()),
        ErrorCode::HttpResponseTransferCoding(None),
        ErrorCode::HttpResponseContentCoding(None),
        ErrorCode::HttpResponseTimeout,
        ErrorCode::HttpUpgradeFailed,
        ErrorCode::HttpProtocolError,
        ErrorCode::LoopDetected,
        ErrorCode::ConfigurationError,
        ErrorCode::InternalError(Some("first line\nsecond\u{1b}[0m".into())),
    ]
}

/// The table of the contract's documentation: from an error's name to its reason and effect.
fn documented() -> BTreeMap<String, (Reason, Effect)> {
    let wit = include_str!("../../../wit/types.wit");
    let mut table = BTreeMap::new();
    let rows = wit
        .lines()
        .skip_while(|line| !line.contains("| `error-code`"))
        .skip(2)
        .map_while(|line| line.trim().strip_prefix("/// |"));
    for row in rows {
        let cells: Vec<&str> = row.split('|').collect();
        let [codes, reason, effect, _] = cells[..] else {
            panic!("a row of three cells: {row}")
        };
        let reason = match reason.trim() {
            "`transport`" => Reason::Transport,
            "`denied`" => Reason::Denied,
            "`unavailable`" => Reason::Unavailable,
            other => panic!("an unexpected reason: {other}"),
        };
        let effect = match effect.trim() {
            "`none`" => Effect::None,
            "`unknown`" => Effect::Unknown,
            other => panic!("an unexpected effect: {other}"),
        };
        for code in codes.split('`').skip(1).step_by(2) {
            let twice = table.insert(code.to_string(), (reason.clone(), effect));
            assert_eq!(twice, None, "{code} stands in the table twice");
        }
    }
    table
}

#[test]
fn the_contract_s_table_of_errors_is_the_code_s() {
    let coded: BTreeMap<String, (Reason, Effect)> = every_code()
        .iter()
        .map(|code| (describe(code).0.to_string(), judge(code)))
        .collect();
    // `judge` has no wildcard, so the compiler finds a case that `wasi:http` adds; these 39 are its
    // cases now.
    assert_eq!(coded.len(), 39);
    assert_eq!(coded, documented());
}

#[test]
fn an_error_is_described_on_one_line_with_its_name_and_detail() {
    for code in every_code() {
        let what = failure(&code).what;
        assert!(what.contains(describe(&code).0), "{what}");
        assert!(!what.contains(char::is_control), "{what}");
    }
    assert_eq!(
        failure(&ErrorCode::InternalError(Some(
            "first line\nsecond\u{1b}[0m".into()
        )))
        .what,
        "the host failed while it sent the request (internal-error: first line second [0m)"
    );
}
