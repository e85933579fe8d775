//! What follows a 401: one forced renewal and one repeat, as a call of its own.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use defender_mock::{Api, Fault, Grant};
use host_demo::contract::Reason;
use host_demo::host::{CallError, WaitOptions};
use host_demo::identity::{BearerToken, FixedToken, IdentityError, TokenSource};
use tests::world::World;
use tokio::sync::watch;

fn is_unauthorized(error: &CallError) -> bool {
    matches!(error.reason(), Some(Reason::Unauthorized))
}

#[tokio::test]
async fn after_a_401_the_call_is_made_once_more_with_a_new_token_and_a_permit_of_its_own() {
    let world = World::new().await;
    world
        .release_of(&world.machine(1), "cleaned")
        .await
        .unwrap();
    assert_eq!((world.releases(), world.mock.arrivals(Api::Token)), (1, 1));

    world.mock.revoke_tokens();
    let action = world.release("cleaned").await.unwrap();
    assert_eq!(action.machine_id, Some(world.machine(0)));
    assert_eq!(world.mock.arrivals(Api::Token), 2, "one renewal");
    let statuses: Vec<_> = world
        .requests(Api::UnrestrictCodeExecution)
        .iter()
        .map(|release| (release.token, release.status))
        .collect();
    assert_eq!(
        statuses,
        [
            (Some(1), Some(201)),
            (Some(1), Some(401)),
            (Some(2), Some(201))
        ]
    );
    assert_eq!(world.used().await, 3, "each arrival had a permit");
}

#[tokio::test]
async fn a_401_that_a_new_token_does_not_cure_is_repeated_once_and_not_by_the_next_call() {
    let world = World::new().await;
    // As for a licence that has ended.
    let body = r#"{"error":{"code":"Unauthorized","message":"No Tvm license"}}"#;
    let licence = Fault::answer(401, body)
        .on(Api::UnrestrictCodeExecution)
        .always();
    world.mock.inject(licence);
    let error = world.release("cleaned").await.unwrap_err();
    assert!(is_unauthorized(&error), "{error:?}");
    assert_eq!((world.releases(), world.mock.arrivals(Api::Token)), (2, 2));
    assert_eq!(world.used().await, 2);

    let error = world.release("cleaned").await.unwrap_err();
    assert!(is_unauthorized(&error), "{error:?}");
    assert_eq!((world.releases(), world.mock.arrivals(Api::Token)), (3, 2));
    assert_eq!(world.used().await, 3);
}

#[tokio::test]
async fn calls_that_are_refused_together_share_one_renewal() {
    let world = World::new().await;
    world
        .release_of(&world.machine(0), "cleaned")
        .await
        .unwrap();
    world.mock.revoke_tokens();
    let (one, other) = (world.machine(1), world.machine(2));
    let (one, other) = tokio::join!(
        world.release_of(&one, "cleaned"),
        world.release_of(&other, "cleaned")
    );
    one.unwrap();
    other.unwrap();
    assert_eq!(world.mock.arrivals(Api::Token), 2);
    assert_eq!(world.used().await, world.releases());
}

#[tokio::test]
async fn a_token_that_was_given_is_not_renewed_and_its_call_not_repeated() {
    let world = World::with(|scene| scene.token = Some(Grant::default())).await;
    world.mock.revoke_tokens();
    let error = world.release("cleaned").await.unwrap_err();
    assert!(is_unauthorized(&error), "{error:?}");
    assert_eq!((world.releases(), world.mock.arrivals(Api::Token)), (1, 0));
}

#[tokio::test]
async fn where_no_other_token_can_be_had_the_authoritys_reason_is_the_answer() {
    let world = World::new().await;
    world
        .release_of(&world.machine(1), "cleaned")
        .await
        .unwrap();
    world.mock.revoke_tokens();
    let expired = r#"{"error":"invalid_client","error_codes":[7000222],
        "error_description":"AADSTS7000222: The provided client secret keys are expired.\r\nTrace ID: 1"}"#;
    world
        .mock
        .inject(Fault::answer(401, expired).on(Api::Token));
    let error = world.release("cleaned").await.unwrap_err();
    assert!(matches!(error, CallError::Identity(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("the client secret has expired: create a new one"),
        "{text}"
    );
    assert_eq!(world.releases(), 2);
}

/// A token, and an authority that never has another one.
struct Never(FixedToken);

#[async_trait]
impl TokenSource for Never {
    async fn token(&self) -> Result<BearerToken, IdentityError> {
        self.0.token().await
    }

    async fn renew(&self, _: &BearerToken) -> Result<bool, IdentityError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_caller_waits_for_another_token_no_longer_than_for_the_first() {
    let world = World::new().await;
    let token = FixedToken::new(&world.mock.token(Grant::new())).unwrap();
    let host = world.another_host(|setup| setup.tokens = Arc::new(Never(token)));
    world.mock.revoke_tokens();
    let call = async |patience| {
        let machine = world.machine(0);
        let call = host.unrestrict_code_execution(&machine, "cleaned", patience);
        world.play(call).await.unwrap_err()
    };
    let until = world.now() + Duration::from_secs(45);
    let patience = WaitOptions {
        until: Some(until),
        ..WaitOptions::default()
    };
    let error = call(patience).await;
    assert_eq!(error, CallError::Identity(IdentityError::NotInTime));
    assert_eq!((world.now(), world.releases()), (until, 1));

    let (stop, stopped) = watch::channel(false);
    let patience = WaitOptions {
        stop: Some(stopped),
        ..WaitOptions::default()
    };
    let (error, ()) = tokio::join!(call(patience), async {
        world.until("the 401", || world.releases() == 2).await;
        stop.send(true).unwrap();
    });
    assert_eq!(error, CallError::Stopped);
}
