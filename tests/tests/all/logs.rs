//! Neither a token nor a secret is in what is logged, printed for debugging, or told in an error.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex};

use defender_mock::{Api, Fault, Grant, Mock};
use host_demo::identity::{BearerToken, FixedToken, TokenSource as _};
use tests::world::{World, evil_plugin, release};
use tracing_subscriber::fmt::MakeWriter;

/// Everything that is logged in this thread, by `tracing` or by `log`, and whatever else a test
/// adds.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<Vec<u8>>>);

impl Book {
    fn open(&self) -> tracing::subscriber::DefaultGuard {
        // Another test may have been first.
        let _ = tracing_log::LogTracer::init();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(self.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    fn add(&self, text: impl Debug + ToString) {
        let text = format!("{text:?} {text:#?} {}", text.to_string());
        self.0.lock().unwrap().extend(text.into_bytes());
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Book {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Book {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[track_caller]
fn assert_absent(book: &Book, mock: &Mock) {
    let text = book.text();
    let token = mock.token(Grant::new());
    // All tokens of the stand-in begin alike; of the secret, this is what no encoding changes.
    let tokens_begin = token.split_once('.').unwrap().0;
    let secret = mock.client_secret().split_once('~').unwrap().0;
    for (what, needle) in [("a token", tokens_begin), ("the secret", secret)] {
        if let Some(at) = text.find(needle) {
            let line = text[..at].rfind('\n').map_or(0, |n| n + 1);
            panic!("{what} is told: {}", &text[line..at]);
        }
    }
}

#[tokio::test]
async fn whole_calls_log_much_but_neither_token_nor_secret() {
    let world = World::new().await;
    let book = Book::default();
    let _open = book.open();

    let action = world.release("cleaned").await.unwrap();
    book.add(world.release("cleaned").await.unwrap_err());
    for fault in [
        Fault::answer(401, r#"{"error":{"code":"Unauthorized","message":"x"}}"#),
        Fault::answer(307, "").header("location", "https://localhost:1/"),
        Fault::server_error(503),
        Fault::reset(),
        Fault::garbage(),
        Fault::truncated_body(),
    ] {
        world.inject(fault);
        book.add(world.release("cleaned").await.unwrap_err());
    }
    let read = world
        .host
        .get_machine_action(&action.id, Default::default());
    book.add(read.await.unwrap_err());

    let text = book.text();
    assert!(text.contains(" TRACE "), "nothing but {text}");
    assert!(text.contains(&world.machine(0)), "{text}");
    assert_absent(&book, &world.mock);
}

#[tokio::test]
async fn a_token_that_is_not_to_be_had_is_reported_without_the_secret() {
    let world = World::new().await;
    let book = Book::default();
    let _open = book.open();
    let [tenant, id, secret] = world.application();
    // Wrong, but as secret as a right one.
    let secret = format!("{secret}x");
    for application in [
        [tenant, id, &secret],
        [tenant, "no-such-app", &secret],
        ["no-such-tenant", id, &secret],
        ["no such tenant / \r\n", id, &secret],
    ] {
        let tokens = world.client_secret(world.service(), application);
        book.add(tokens.token().await.unwrap_err());
        book.add(format!("{tokens:?} {tokens:#?}"));
    }
    for fault in [
        Fault::answer(200, "{}"),
        Fault::answer(400, format!("{{\"error\":\"{}\"", "x".repeat(300_000))),
        Fault::server_error(503),
        Fault::reset(),
    ] {
        world.mock.inject(fault.on(Api::Token));
        let hurried = host_demo::host::WaitOptions {
            until: Some(world.now()),
            ..Default::default()
        };
        let id = world.machine(0);
        let call = world
            .host
            .unrestrict_code_execution(&id, "cleaned", hurried);
        book.add(call.await.unwrap_err());
        world.clock.advance(std::time::Duration::from_secs(60));
    }
    assert_absent(&book, &world.mock);
}

#[tokio::test]
async fn what_holds_a_token_or_a_secret_does_not_show_it() {
    let world = World::new().await;
    let book = Book::default();
    let _open = book.open();
    let token = world.mock.token(Grant::new());
    let host = world.host_with_token(&token);
    release(&host, &world.machine(0), "cleaned").await.unwrap();
    book.add(format!("{host:?} {host:#?} {:?}", world.host));
    book.add(format!("{:?}", FixedToken::new(&token).unwrap()));
    book.add(format!("{:#?}", BearerToken::new(&token).unwrap()));
    for bad in [format!("{token}\n{token}"), format!("Bearer {token}")] {
        book.add(BearerToken::new(&bad).unwrap_err());
    }
    // Of the requests that arrived, too.
    book.add(format!("{:?}", world.mock.requests()));
    assert_absent(&book, &world.mock);
}

#[tokio::test]
async fn a_denied_request_is_logged_with_what_was_denied() {
    let world = World::with(|scene| scene.plugin = evil_plugin()).await;
    let book = Book::default();
    let _open = book.open();
    let other = world.machine(1);
    let way = format!("path /api/machines/{other}/unrestrictCodeExecution");
    world.release(&way).await.unwrap_err();
    world.release("authority evil.test").await.unwrap_err();
    let text = book.text();
    for told in [other.as_str(), "https://evil.test", "denied"] {
        assert!(text.contains(told), "{told}: {text}");
    }
}
