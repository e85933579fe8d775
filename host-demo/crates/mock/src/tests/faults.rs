//! What a client sees of each fault.

use super::*;

#[tokio::test]
async fn a_reset_leaves_the_client_without_an_answer_whether_the_service_acted_or_not() {
    for http1 in [true, false] {
        let mut world = world(Switches::default()).await;
        world.http = client(world.mock.ca_pem(), http1);
        for (fault, actions) in [(Fault::reset(), 0), (Fault::reset().after_acting(), 1)] {
            world.mock.inject(fault);
            let error = world.release().send().await.unwrap_err();
            assert!(
                error.is_request() && !error.is_connect(),
                "HTTP/1.1: {http1}: {error:?}"
            );
            let reset = std::io::ErrorKind::ConnectionReset;
            assert_eq!(io_kind(&error), Some(reset), "HTTP/1.1: {http1}: {error:?}");
            assert_eq!(world.mock.actions().len(), actions, "HTTP/1.1: {http1}");
        }
        let requests = world.mock.requests();
        assert!(requests.iter().all(|r| r.status.is_none()), "{requests:#?}");
        assert_eq!(
            world.mock.arrivals(Api::UnrestrictCodeExecution),
            2,
            "both were counted"
        );
        let third = got(world.release()).await;
        assert_eq!(third.error_code(), "ActiveRequestAlreadyExists");
    }
}

#[tokio::test]
async fn a_refused_connection_carries_nothing() {
    let world = world(Switches::default()).await;
    world.mock.inject(Fault::refused_connection());
    let error = world.release().send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert!(world.mock.requests().is_empty());
    assert_eq!(got(world.release()).await.status, 201);
}

#[tokio::test]
async fn a_spoiled_answer_is_to_a_request_that_was_acted_upon() {
    for http1 in [true, false] {
        let mut world = world(Switches {
            duplicate: Duplicate::Create,
            ..Switches::default()
        })
        .await;
        world.http = client(world.mock.ca_pem(), http1);

        world.mock.inject(Fault::truncated_body());
        let mut answer = world.release().send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let promised = answer.content_length().unwrap();
        let mut half = Vec::new();
        let error = loop {
            match answer.chunk().await {
                Ok(Some(chunk)) => half.extend_from_slice(&chunk),
                Ok(None) => panic!("the body ended in order after {} bytes", half.len()),
                Err(error) => break error,
            }
        };
        assert_eq!(
            half.len() as u64,
            promised / 2,
            "HTTP/1.1: {http1}: {error:?}"
        );

        world.mock.inject(Fault::endless_body());
        let mut answer = world.release().send().await.unwrap();
        let mut bytes = 0;
        while bytes < 2 * 1024 * 1024 {
            bytes += answer.chunk().await.unwrap().unwrap().len();
        }
        drop(answer);

        world.mock.inject(Fault::garbage());
        let error = world.release().send().await.unwrap_err();
        assert!(error.is_request(), "HTTP/1.1: {http1}: {error:?}");
        assert_eq!(world.mock.actions().len(), 3);
        assert_eq!(got(world.release()).await.status, 201);
    }
}

#[tokio::test]
async fn an_answer_can_be_put_in_the_services_place_before_and_after_it_acts() {
    let world = world(Switches::default()).await;
    let html = Fault::answer(502, "<html>")
        .header("Retry-After", "7")
        .times(2);
    world.mock.inject(html.on(Api::UnrestrictCodeExecution));
    assert_eq!(
        got(world.read("x")).await.status,
        404,
        "the fault is for another endpoint"
    );
    for _ in 0..2 {
        let answer = got(world.release()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.as_str()),
            (502, "<html>"),
            "{answer}"
        );
        assert_eq!(answer.headers["retry-after"], "7");
    }
    assert!(world.mock.actions().is_empty());

    world.mock.inject(Fault::server_error(500).after_acting());
    let answer = got(world.release()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.error_code().as_str()),
        (500, "InternalServerError")
    );
    assert_eq!(world.mock.actions().len(), 1);

    world.mock.inject(Fault::server_error(503).always());
    assert_eq!(
        got(world.ask_token()).await.status,
        503,
        "the token endpoint can fail, too"
    );
    assert_eq!(got(world.release()).await.status, 503);
    world.mock.clear_faults();
    assert_eq!(got(world.release()).await.status, 400);
}

#[tokio::test]
async fn a_delay_is_over_when_the_clock_says_so_and_not_before() {
    for (fault, actions) in [
        (Fault::delay(30 * SECOND), 0),
        (Fault::delay(30 * SECOND).after_acting(), 1),
    ] {
        let world = world(Switches::default()).await;
        world.mock.inject(fault);
        let release = tokio::spawn(got(world.release()));
        while world.clock.next_wake().is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.mock.actions().len(), actions);
        world.clock.advance(30 * SECOND - Duration::from_nanos(1));
        tokio::task::yield_now().await;
        assert!(!release.is_finished());
        world.clock.advance(Duration::from_nanos(1));
        let answer = release.await.unwrap();
        assert_eq!(answer.status, 201, "{answer}");
        let created = answer.json()["creationDateTimeUtc"]
            .as_str()
            .unwrap()
            .to_owned();
        let expected = if actions == 0 {
            "2026-01-30T21:11:52Z"
        } else {
            "2026-01-30T21:11:22Z"
        };
        assert_eq!(created, expected);
    }
}

#[tokio::test]
async fn a_server_error_has_the_body_that_the_switch_says() {
    for (value, body) in [
        ("envelope", "InternalServerError"),
        ("empty", ""),
        ("html", "<html>"),
    ] {
        let mut switches = Switches::default();
        switches.set("server-error-body", value).unwrap();
        let world = world(switches).await;
        world.mock.inject(Fault::server_error(503));
        let answer = got(world.release()).await;
        assert_eq!(answer.status, 503, "{answer}");
        assert!(answer.body.contains(body), "{answer}");
        assert_eq!(answer.body.is_empty(), body.is_empty(), "{answer}");
    }
}
