//! What is answered to whom, and what is on record of it.

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_client_lists_actions_and_machines_page_by_page() {
    let world = world(Switches {
        visible_after: Duration::ZERO,
        ..Switches::default()
    })
    .await;
    let get = async |path: &str| {
        let request = world.http.get(world.url(path));
        got(request.bearer_auth(&world.token)).await
    };
    for machine in world.mock.machine_ids() {
        let url = world.url(&format!("/api/machines/{machine}/restrictCodeExecution"));
        let request = world.http.post(url).bearer_auth(&world.token);
        let request = request.header("content-type", "application/json");
        let restriction = got(request.body(r#"{"Comment":"suspicious"}"#)).await;
        assert_eq!(restriction.status, 201, "{restriction}");
        world.clock.advance(SECOND);
    }
    let page = get("/api/machineactions?$top=2").await;
    let body = page.json();
    assert_eq!(page.status, 200, "{page}");
    let context = "https://api.security.microsoft.com/api/$metadata#MachineActions";
    assert_eq!(body["@odata.context"], context);
    let newest_first: Vec<_> = world.mock.machine_ids().into_iter().rev().collect();
    let machines = |body: &Value| -> Vec<String> {
        let value = body["value"].as_array().unwrap().iter();
        value
            .map(|a| a["machineId"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(machines(&body), newest_first[..2]);
    let link = "https://api.security.microsoft.com/api/machineactions?$skip=2";
    assert_eq!(body["@odata.nextLink"], link);
    let rest = get("/api/machineactions?$top=2&$skip=2").await.json();
    assert_eq!(machines(&rest), newest_first[2..]);
    assert!(rest.get("@odata.nextLink").is_none(), "{rest}");
    let filter = "/api/machineactions?$filter=machineId eq '{id}' and status eq 'Pending'";
    assert_eq!(machines(&get(filter).await.json()), newest_first[2..]);

    let found = get("/api/machines?$filter=computerDnsName eq 'device-002.contoso.com'").await;
    assert_eq!(
        found.json()["value"][0]["id"],
        world.mock.machine_ids()[1],
        "{found}"
    );
    let all = get("/api/machines").await;
    assert_eq!(all.json()["value"].as_array().unwrap().len(), 3, "{all}");
}

/// MicrosoftDocs/microsoft-365-docs#12682
#[tokio::test]
async fn a_query_that_is_not_understood_gets_the_odata_layers_error() {
    let world = world(Switches::default()).await;
    for path in [
        "/api/machineactions?$stop=2",
        "/api/machineactions?$expand=x",
        "/api/machineactions?$filter=contains(id,'a')",
        "/api/machines?$filter=startswith(computerDnsName,'device')",
        "/api/machines?$filter=healthStatus eq 'Active'",
    ] {
        let request = world.http.get(world.url(path)).bearer_auth(&world.token);
        let refused = got(request).await;
        assert_eq!(refused.status, 400, "{refused}");
        let error = &refused.json()["error"];
        assert_eq!(
            (&error["code"], &error["details"]),
            (&json!(""), &json!([])),
            "{refused}"
        );
        let words = error["message"].as_str().unwrap();
        assert!(
            words.starts_with("The query specified in the URI is not valid. "),
            "{words}"
        );
    }
}

#[tokio::test]
async fn a_client_cancels_an_action() {
    let world = world(Switches {
        visible_after: Duration::ZERO,
        ..Switches::default()
    })
    .await;
    let release = got(world.release()).await.json();
    let id = release["id"].as_str().unwrap();
    let cancel = async |body: &'static str| {
        let request = world.post(&format!("/api/machineactions/{id}/cancel"));
        let request = request.header("content-type", "application/json");
        got(request.bearer_auth(&world.token).body(body)).await
    };
    let nothing = cancel("").await;
    assert_eq!(
        nothing.error_code(),
        "MissingRequiredParameter",
        "{nothing}"
    );
    let cancelled = cancel(r#"{"Comment":"not now"}"#).await;
    assert_eq!(cancelled.status, 200, "{cancelled}");
    let body = cancelled.json();
    assert_eq!(
        (&body["id"], &body["status"]),
        (&json!(id), &json!("Cancelled"))
    );
    assert_eq!(body["cancellationComment"], "not now");
    assert_eq!(body["errorHResult"], -2_147_467_260);
    let again = cancel(r#"{"Comment":"not now"}"#).await;
    assert_eq!(
        (again.status.as_u16(), again.error_code()),
        (400, "BadRequest".to_owned())
    );
}

#[tokio::test]
async fn a_client_fetches_a_token_releases_a_device_and_follows_the_action() {
    let mut world = world(Switches::default()).await;
    let token = got(world.ask_token()).await;
    assert_eq!(token.status, 200, "{token}");
    world.token = token.json()["access_token"].as_str().unwrap().to_owned();

    let release = got(world.release()).await;
    assert_eq!(release.status, 201, "{release}");
    for (name, value) in [
        (
            "content-type",
            "application/json; odata.metadata=minimal; odata.streaming=true; charset=utf-8",
        ),
        ("odata-version", "4.0"),
        (
            "strict-transport-security",
            "max-age=31536000; includeSubDomains",
        ),
    ] {
        assert_eq!(release.headers[name], value, "{release}");
    }
    assert_eq!(
        release.headers["mise-correlation-id"].len(),
        36,
        "{release}"
    );

    // The recorded answer of Ping Identity's "Microsoft Defender connector", with its own ids.
    let id = release.json()["id"].as_str().unwrap().to_owned();
    let machine = &world.mock.machine_ids()[0];
    let recorded = format!(
        r##"{{"@odata.context":"https://api.security.microsoft.com/api/$metadata#MachineActions/$entity","id":"{id}","type":"UnrestrictCodeExecution","title":null,"requestor":"Defender for Endpoint API","requestorComment":"clean","status":"Pending","machineId":"{machine}","computerDnsName":"device-001.contoso.com","creationDateTimeUtc":"2026-01-30T21:11:22Z","lastUpdateDateTimeUtc":"2026-01-30T21:11:22.0000011Z","cancellationRequestor":null,"cancellationComment":null,"cancellationDateTimeUtc":null,"errorHResult":0,"scope":null,"externalId":null,"requestSource":"PublicApi","relatedFileInfo":null,"commands":[],"troubleshootInfo":null}}"##
    );
    assert_eq!(release.body, recorded);

    for (after, status, code) in [
        (0, 404, "ResourceNotFound"),
        (5, 200, "Pending"),
        (15, 200, "InProgress"),
        (20, 200, "Succeeded"),
    ] {
        world.clock.advance(after * SECOND);
        let read = got(world.read(&id)).await;
        assert_eq!(read.status, status, "{read}");
        let body = read.json();
        assert!(
            body["status"] == code || body["error"]["code"] == code,
            "not {code}: {read}"
        );
    }
    assert_eq!(world.mock.is_restricted(machine), Some(false));
}

#[tokio::test]
async fn every_way_to_speak_to_it_works() {
    for (plain_http, http1) in [(false, false), (false, true), (true, true)] {
        let mock = Mock::builder()
            .plain_http(plain_http)
            .start()
            .await
            .unwrap();
        let http = client(mock.ca_pem(), http1);
        let expected = if http1 {
            http::Version::HTTP_11
        } else {
            http::Version::HTTP_2
        };
        let hosts =
            ["localhost", "127.0.0.1"].map(|host| mock.base_url().replace("localhost", host));
        for host in hosts {
            let url = format!("{host}/api/v1.0/machines/{}", mock.machine_ids()[0]);
            let request = http.get(&url).bearer_auth(mock.token(Grant::new()));
            let answer = request
                .send()
                .await
                .unwrap_or_else(|e| panic!("{url}: {e:?}"));
            assert_eq!(
                (answer.status().as_u16(), answer.version()),
                (200, expected),
                "{url}"
            );
            let machine: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            assert_eq!(machine["id"], mock.machine_ids()[0].as_str(), "{machine}");
        }
        mock.shutdown().await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_trust_its_ca_gets_nowhere() {
    let world = world(Switches::default()).await;
    let other = Mock::start().await.unwrap();
    let stranger = client(other.ca_pem(), false);
    let error = stranger.get(world.url("/")).send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert_eq!(world.mock.requests().len(), 0);
}

#[tokio::test]
async fn a_token_must_be_known_valid_meant_for_the_api_and_hold_the_role() {
    let world = world(Switches::default()).await;
    let release = |token: Option<String>| {
        let request = world.post("/api/machines/{id}/restrictCodeExecution");
        let request = request
            .header("content-type", "application/json")
            .body(r#"{"Comment":"c"}"#);
        got(match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    };
    let token = |grant| Some(world.mock.token(grant));
    let expired = token(Grant::new().lifetime(Duration::ZERO));
    let wrong_audience = token(Grant::new().audience("https://api.security.microsoft.com"));
    let other_roles = token(Grant::new().roles(["Machine.Read.All", "Machine.Isolate"]));
    let scopes = |scope| token(Grant::new().delegated([scope]));
    let roles = "Missing application roles. API required roles: Machine.RestrictExecution, \
                 application roles: Machine.Read.All,Machine.Isolate.";
    let none = "Missing application roles. API required roles: Machine.RestrictExecution, \
                application roles: .";
    for (token, status, code, message) in [
        (
            None,
            401,
            "Unauthorized",
            "Invalid or expired authorization header",
        ),
        (
            Some("e30.e30.e30".to_owned()),
            401,
            "Unauthorized",
            "Invalid or expired",
        ),
        (
            expired,
            401,
            "Unauthorized",
            "Invalid Authorization payload. AppId: ",
        ),
        (
            wrong_audience,
            403,
            "Forbidden",
            "Invalid audience: https://api.security",
        ),
        (other_roles, 403, "Forbidden", roles),
        (
            token(Grant::new().roles::<String>([])),
            403,
            "Forbidden",
            none,
        ),
        (
            scopes("Machine.Read"),
            403,
            "Forbidden",
            "Missing user scopes.",
        ),
        (
            token(Grant::new().tenant("fabrikam")),
            404,
            "ResourceNotFound",
            "Machine ",
        ),
    ] {
        let answer = release(token).await;
        assert_eq!(
            (answer.status.as_u16(), answer.error_code().as_str()),
            (status, code),
            "{answer}"
        );
        let error = &answer.json()["error"];
        let got = error["message"].as_str().unwrap();
        assert!(got.starts_with(message), "{answer}");
        assert_eq!(
            error["target"],
            answer.headers["mise-correlation-id"].to_str().unwrap()
        );
    }
    assert!(world.mock.actions().is_empty());
    let delegated = release(scopes("Machine.RestrictExecution")).await;
    assert_eq!(delegated.status, 201, "{delegated}");
    assert_eq!(delegated.json()["requestor"], "analyst@contoso.com");
}

#[tokio::test]
async fn reading_needs_a_permission_that_releasing_does_not_bring() {
    for (read_role, role, status) in [
        (ReadRole::Either, "Machine.RestrictExecution", 403),
        (ReadRole::Either, "Machine.Read.All", 200),
        (ReadRole::Either, "Machine.ReadWrite.All", 200),
        (ReadRole::ReadWrite, "Machine.Read.All", 403),
        (ReadRole::ReadWrite, "Machine.ReadWrite.All", 200),
    ] {
        let switches = Switches {
            read_role,
            visible_after: Duration::ZERO,
            ..Switches::default()
        };
        let mut world = world(switches).await;
        let id = got(world.release()).await.json()["id"]
            .as_str()
            .unwrap()
            .to_owned();
        world.token = world.mock.token(Grant::new().roles([role]));
        let read = got(world.read(&id)).await;
        assert_eq!(read.status, status, "{role}: {read}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_what_is_documented_is_refused() {
    let world = world(Switches::default()).await;
    for (content_type, body, status, code) in [
        (
            "application/json",
            r#"{"comment":"c"}"#,
            400,
            "MissingRequiredParameter",
        ),
        (
            "application/json",
            r#"{"Comment":null}"#,
            400,
            "MissingRequiredParameter",
        ),
        (
            "application/json",
            r#"{"Comment":" "}"#,
            400,
            "MissingRequiredParameter",
        ),
        ("application/json", "", 400, "MissingRequiredParameter"),
        ("application/json", "{}", 400, "MissingRequiredParameter"),
        (
            "application/json",
            r#"{"Comment":7}"#,
            400,
            "InvalidRequestBody",
        ),
        (
            "application/json",
            r#"["Comment"]"#,
            400,
            "InvalidRequestBody",
        ),
        (
            "application/json",
            r#"{"Comment":"c""#,
            400,
            "InvalidRequestBody",
        ),
        (
            "text/plain",
            r#"{"Comment":"c"}"#,
            415,
            "UnsupportedMediaType",
        ),
    ] {
        let answer = got(world.release_with(content_type, body)).await;
        let expected = (status, code.to_owned());
        assert_eq!(
            (answer.status.as_u16(), answer.error_code()),
            expected,
            "{body}: {answer}"
        );
    }
    assert!(world.mock.actions().is_empty());
    let large = got(world.release_with("application/json", vec![b' '; 1024 * 1024 + 1])).await;
    assert_eq!(large.status, 413, "{large}");
    let body = r#"{"Comment":"ä\n","ExternalId":"x"}"#;
    let answer = got(world.release_with("application/json; charset=utf-8", body)).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["requestorComment"]),
        (201, &json!("ä\n"))
    );
}

#[tokio::test]
async fn a_machine_that_is_not_there_is_not_found_before_or_after_the_role() {
    for (check_order, no_role) in [
        (CheckOrder::RoleFirst, 403),
        (CheckOrder::MachineFirst, 404),
    ] {
        let world = world(Switches {
            check_order,
            ..Switches::default()
        })
        .await;
        let post = |token: String| {
            let request =
                world.post("/api/machines/elastic-connector-test/unrestrictCodeExecution");
            let request = request.header("content-type", "application/json");
            got(request.bearer_auth(token).body(r#"{"Comment":"c"}"#))
        };
        let answer = post(world.token.clone()).await;
        assert_eq!(answer.status, 404, "{answer}");
        let error = &answer.json()["error"];
        assert_eq!(error["code"], "ResourceNotFound");
        assert_eq!(
            error["message"],
            "Machine elastic-connector-test was not found"
        );
        assert_eq!(error["target"].as_str().unwrap().len(), 36, "{answer}");
        let answer = post(world.mock.token(Grant::new().roles::<String>([]))).await;
        assert_eq!(answer.status, no_role, "{answer}");
    }
}

#[tokio::test]
async fn a_second_release_meets_the_first_as_the_switch_says() {
    let reject = world(Switches::default()).await;
    assert_eq!(got(reject.release()).await.status, 201);
    let second = got(reject.release()).await;
    assert_eq!(
        (second.status.as_u16(), second.error_code().as_str()),
        (400, "ActiveRequestAlreadyExists")
    );
    assert_eq!(
        second.json()["error"]["message"],
        "Action is already in progress"
    );

    let duplicate = Duplicate::Return;
    let returned_status = ReturnedStatus::Ok;
    let same = world(Switches {
        duplicate,
        returned_status,
        ..Switches::default()
    })
    .await;
    let first = got(same.release()).await.json();
    same.clock.advance(20 * SECOND);
    let second = got(same.release()).await;
    assert_eq!(
        (second.status.as_u16(), &second.json()["id"]),
        (200, &first["id"]),
        "{second}"
    );
    assert_eq!(second.json()["status"], "InProgress");
    assert_eq!(same.mock.actions_of(&same.mock.machine_ids()[0]).len(), 1);
}

#[tokio::test]
async fn what_is_over_a_quota_gets_429_whatever_else_is_wrong_with_it() {
    let switches = Switches {
        per_minute: Some(2),
        ..Switches::default()
    };
    let world = world(switches).await;
    assert_eq!(got(world.release()).await.status, 201);
    assert_eq!(
        got(world.release()).await.status,
        400,
        "refused calls count as well"
    );
    world.clock.advance(59 * SECOND);
    let third = got(world.release()).await;
    assert_eq!(
        (third.status.as_u16(), third.error_code().as_str()),
        (429, "429"),
        "{third}"
    );
    assert_eq!(third.headers["retry-after"], "1", "{third}");
    let message = third.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        message.contains("Maximum allowed 2 per 00:01:00 for the key"),
        "{third}"
    );
    assert!(message.ends_with("in 1 seconds."), "{third}");
    assert_eq!(
        got(world.read("x")).await.status,
        404,
        "another endpoint has its own quota"
    );

    world.clock.advance(SECOND);
    assert_eq!(got(world.release()).await.status, 201);
    let minute = 60 * SECOND;
    assert_eq!(world.mock.arrivals(Api::UnrestrictCodeExecution), 4);
    assert_eq!(
        world
            .mock
            .most_in_any_window(Api::UnrestrictCodeExecution, minute),
        3
    );
    assert_eq!(
        world.mock.most_in_any_window(Api::GetMachineAction, minute),
        1
    );
}

#[tokio::test]
async fn what_arrived_is_on_record_without_its_secrets() {
    let world = world(Switches::default()).await;
    got(world.ask_token()).await;
    got(world.release()).await;
    got(world.http.get(world.url("/api/machines/{id}/offboard?x=1"))).await;
    let requests = world.mock.requests();
    let seen: Vec<_> = requests
        .iter()
        .map(|r| (r.api, r.method.as_str(), r.status, r.token))
        .collect();
    let expected = [
        (Some(Api::Token), "POST", Some(200), None),
        (
            Some(Api::UnrestrictCodeExecution),
            "POST",
            Some(201),
            Some(1),
        ),
        (None, "GET", Some(404), None),
    ];
    assert_eq!(seen, expected, "{requests:#?}");
    let token_request = String::from_utf8_lossy(&requests[0].body);
    assert!(
        token_request.contains("&client_secret=***&"),
        "{token_request}"
    );
    assert_eq!(requests[1].headers["authorization"], "Bearer ***");
    assert_eq!(requests[1].body, r#"{"Comment":"clean"}"#);
    assert!(
        requests[2].path_and_query.ends_with("/offboard?x=1"),
        "{requests:#?}"
    );
    let all = format!("{requests:?}");
    assert!(
        !all.contains(&world.token) && !all.contains(world.mock.client_secret()),
        "{all}"
    );
}

#[tokio::test]
async fn paths_and_methods_that_it_does_not_have_get_bare_answers() {
    let world = world(Switches::default()).await;
    let unknown = got(world
        .http
        .post(world.url("/api/machine/{id}/unrestrictCodeExecution")))
    .await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.body.as_str()),
        (404, ""),
        "{unknown}"
    );
    let put = got(world
        .http
        .put(world.url("/api/machines/{id}/unrestrictCodeExecution")))
    .await;
    assert_eq!(
        (put.status.as_u16(), &put.headers["allow"]),
        (405, &"POST".parse().unwrap()),
        "{put}"
    );
    // MicrosoftDocs/microsoft-365-docs#12682
    let odata = got(world.read("x?$stop=10")).await;
    let expected = json!({ "error": {
        "code": "",
        "message": "The query specified in the URI is not valid. \
                    The query parameter '$stop' is not supported.",
        "details": [],
    }});
    assert_eq!(
        (odata.status.as_u16(), odata.json()),
        (400, expected),
        "{odata}"
    );
}

/// What is unusual about a request.
enum But {
    Nothing,
    Body(&'static str),
    Type(&'static str),
    Path(&'static str),
    NoToken,
    NoRole,
}

#[tokio::test]
async fn switches_bend_the_answer() {
    use But::*;
    let path = "/API/Machines/{id}/UnrestrictCodeExecution";
    for (switch, value, but, status, part) in [
        (
            "location",
            "present",
            Nothing,
            201,
            "location: https://api.security.microsoft.com/api/",
        ),
        ("requestor", "id", Nothing, 201, CLIENT_ID),
        (
            "context-host",
            "api-us3.test",
            Nothing,
            201,
            "https://api-us3.test/api/$metadata#",
        ),
        ("www-authenticate", "absent", NoToken, 401, "Unauthorized"),
        (
            "www-authenticate",
            "present",
            NoToken,
            401,
            "www-authenticate: Bearer error=",
        ),
        ("target", "hierarchical", NoToken, 401, "\"target\":\"|"),
        ("target", "absent", NoToken, 401, "authorization header\"}}"),
        (
            "forbidden-wording",
            "old",
            NoRole,
            403,
            "permissions (Machine.RestrictExecution) to",
        ),
        (
            "missing-comment",
            "invalid-body",
            Body("{}"),
            400,
            "Request body is incorrect",
        ),
        (
            "blank-comment",
            "accept",
            Body(r#"{"Comment":""}"#),
            201,
            r#""requestorComment":"""#,
        ),
        ("max-comment", "3", Body(r#"{"Comment":"äöü"}"#), 201, "äöü"),
        (
            "max-comment",
            "3",
            Body(r#"{"Comment":"äöüß"}"#),
            400,
            "InvalidInput",
        ),
        (
            "unknown-property",
            "accept",
            Body(r#"{"Comment":"c","x":1}"#),
            201,
            "Pending",
        ),
        (
            "unknown-property",
            "reject",
            Body(r#"{"Comment":"c","x":1}"#),
            400,
            "InvalidRequestBody",
        ),
        (
            "content-type",
            "400",
            Type("text/plain"),
            400,
            "InvalidRequestBody",
        ),
        ("content-type", "accept", Type("text/plain"), 201, "Pending"),
        ("path-case", "insensitive", Path(path), 201, "Pending"),
        ("path-case", "sensitive", Path(path), 404, ""),
        (
            "token-audience",
            "https://graph.microsoft.com",
            Nothing,
            403,
            "Invalid audience",
        ),
        (
            "audiences",
            "https://api-gov.securitycenter.microsoft.us",
            Nothing,
            201,
            "Pending",
        ),
        (
            "token-lifetime",
            "0s",
            Nothing,
            401,
            "Invalid Authorization payload",
        ),
        ("roles", "", Nothing, 403, "application roles: ."),
        (
            "per-minute",
            "0",
            Nothing,
            429,
            "Maximum allowed 0 per 00:01:00",
        ),
    ] {
        let mut switches = Switches::default();
        switches.set(switch, value).unwrap();
        let mut world = world(switches).await;
        match but {
            NoToken => world.token = "none".to_owned(),
            NoRole => world.token = world.mock.token(Grant::new().roles(["Machine.Scan"])),
            _ => {}
        }
        let request = match but {
            Body(body) => world.release_with("application/json", body),
            Type(content_type) => world.release_with(content_type, r#"{"Comment":"c"}"#),
            Path(path) => {
                let request = world.post(path).bearer_auth(&world.token);
                request
                    .header("content-type", "application/json")
                    .body(r#"{"Comment":"c"}"#)
            }
            Nothing | NoToken | NoRole => world.release(),
        };
        let answer = got(request).await;
        let lines = answer
            .headers
            .iter()
            .map(|(n, v)| format!("{n}: {}\n", v.to_str().unwrap()));
        let text = lines.collect::<String>() + &answer.body;
        assert_eq!(answer.status, status, "{switch}={value}: {answer}");
        assert!(
            text.contains(part),
            "{switch}={value} has no {part:?}: {answer}"
        );
    }
}

#[tokio::test]
async fn another_tenants_token_reads_nothing() {
    let mut world = world(Switches {
        visible_after: Duration::ZERO,
        ..Switches::default()
    })
    .await;
    let id = got(world.release()).await.json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    world.token = world.mock.token(Grant::new().tenant("fabrikam"));
    for path in [
        format!("/api/machineactions/{id}"),
        "/api/machines/{id}".to_owned(),
    ] {
        let answer = got(world.http.get(world.url(&path)).bearer_auth(&world.token)).await;
        assert_eq!(answer.status, 404, "{path}: {answer}");
    }
    assert_eq!(
        world.mock.most_in_any_window(Api::GetMachineAction, SECOND),
        1
    );
}

#[tokio::test]
async fn each_device_goes_its_own_way() {
    let world = world(Switches::default()).await;
    let ids = world.mock.machine_ids();
    let other = format!("/api/machines/{}/unrestrictCodeExecution", ids[1]);
    let request = world.post(&other).bearer_auth(&world.token);
    let request = request
        .header("content-type", "application/json")
        .body(r#"{"Comment":"c"}"#);
    for answer in [got(world.release()).await, got(request).await] {
        assert_eq!(answer.status, 201, "{answer}");
    }
    assert!(world.mock.set_device(&ids[1], DeviceBehaviour::Offline));
    assert!(!world.mock.set_device("unknown", DeviceBehaviour::Offline));
    world.clock.advance(40 * SECOND);
    let state = |id: &str| {
        (
            world.mock.actions_of(id)[0].status,
            world.mock.is_restricted(id),
        )
    };
    assert_eq!(state(&ids[0]), (ActionStatus::Succeeded, Some(false)));
    assert_eq!(state(&ids[1]), (ActionStatus::Pending, Some(true)));
    assert_eq!(world.mock.is_restricted("unknown"), None);
}

#[tokio::test]
async fn machines_are_those_that_were_asked_for_and_three_where_none_were() {
    let builder = Mock::builder().machine(Machine::new("aa11", "laptop").nameless());
    let mock = builder.machines(2).machines(2).start().await.unwrap();
    let ids = mock.machine_ids();
    let different: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(
        (ids.len(), different.len(), ids[0].as_str()),
        (5, 5, "aa11"),
        "{ids:?}"
    );
    assert_eq!(Mock::start().await.unwrap().machine_ids().len(), 3);
}

#[tokio::test]
async fn an_authority_can_be_discovered() {
    let world = world(Switches::default()).await;
    let discovery = got(world.http.get(world.url("/common/discovery/instance")))
        .await
        .json();
    let url = discovery["tenant_discovery_endpoint"]
        .as_str()
        .unwrap()
        .to_owned();
    let configuration = got(world.http.get(&url)).await.json();
    let expected = format!("{}/{TENANT_ID}/oauth2/v2.0/token", world.mock.authority());
    assert_eq!(configuration["token_endpoint"], expected);
    let unknown = got(world.http.get(url.replace(TENANT_ID, "fabrikam"))).await;
    let body = unknown.json();
    assert_eq!(
        (unknown.status.as_u16(), &body["error_codes"][0]),
        (400, &json!(90002)),
        "{unknown}"
    );
}

#[tokio::test]
async fn a_browsers_page_may_call_the_api_only_where_the_switch_says_so() {
    for (cors, preflight, allowed) in [(Header::Absent, 405, false), (Header::Present, 204, true)] {
        let world = world(Switches {
            cors,
            ..Switches::default()
        })
        .await;
        let url = world.url("/api/machines/{id}/unrestrictCodeExecution");
        let options = got(world.http.request(http::Method::OPTIONS, url)).await;
        assert_eq!(options.status, preflight, "{options}");
        let release = got(world.release()).await;
        for answer in [options, release] {
            let any = answer.headers.contains_key("access-control-allow-origin");
            assert_eq!(any, allowed, "{answer}");
        }
    }
}

#[tokio::test]
async fn it_stops_when_it_is_shut_down_or_dropped() {
    for drop_it in [true, false] {
        let World { mock, http, .. } = world(Switches::default()).await;
        let url = mock.base_url().to_owned();
        assert_eq!(got(http.get(&url)).await.status, 404);
        if drop_it {
            drop(mock);
        } else {
            mock.shutdown().await;
        }
        let error = http.get(&url).send().await.unwrap_err();
        let fresh = client(None, true).get(&url).send().await.unwrap_err();
        assert!(fresh.is_connect(), "after {error:?}: {fresh:?}");
    }
}
