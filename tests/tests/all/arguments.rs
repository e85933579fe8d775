//! Arguments that don't fit: nothing is sent, nothing is fetched, nothing is spent.

use defender_mock::Api;
use host_demo::contract::{Effect, Reason};
use host_demo::host::{CallError, WaitOptions};
use tests::world::World;

const ID: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";

async fn assert_nothing_happened(world: &World) {
    assert!(world.mock.requests().is_empty(), "not even a token");
    assert_eq!(world.used().await, 0);
}

fn refused_parameter(error: &CallError) -> &str {
    match error.reason() {
        Some(Reason::InvalidArgument(refused)) => &refused.parameter,
        _ => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn what_is_no_machine_id_is_refused_and_spends_nothing() {
    let world = World::new().await;
    let long = ID.repeat(2500);
    for id in [
        "",
        "abc/offboard?",
        "../x",
        "..%2fx",
        &ID[1..],
        &format!("{ID}0"),
        &format!("{ID}/../../x"),
        &format!("{ID}?"),
        &format!("{ID}#"),
        &format!(" {ID}"),
        &format!("{ID}\n"),
        &format!("{}\0", &ID[1..]),
        &format!("{}/", &ID[1..]),
        &format!("{}é", &ID[2..]),
        "1e5bc9d7e413ddd7902c2932e418702b84d0cc0g",
        "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a",
        "johns-work-computer.contoso.com",
        &long,
    ] {
        let error = world.release_of(id, "cleaned").await.unwrap_err();
        assert_eq!(refused_parameter(&error), "machine-id", "{id:?}");
        assert_eq!(error.effect(), Effect::None);
        assert!(id.len() < 3 || !error.to_string().contains(id), "{error}");
    }
    assert_nothing_happened(&world).await;
}

#[tokio::test]
async fn what_is_no_comment_is_refused_and_spends_nothing() {
    let world = World::new().await;
    for comment in [
        "",
        "   ",
        "\t\r\n\u{a0}\u{2003}",
        "\u{200b}\u{200f}\u{2060}\u{feff}",
        "bell\u{7}",
        "nul\0",
        "escape\u{1b}[2J",
        "delete\u{7f}",
        "next line\u{85}",
        &"x".repeat(4097),
        &"é".repeat(4097),
        &"x".repeat(100 * 1024),
    ] {
        let error = world.release(comment).await.unwrap_err();
        let start: String = comment.chars().take(20).collect();
        assert_eq!(refused_parameter(&error), "comment", "{start:?}");
        assert_eq!(error.effect(), Effect::None);
    }
    assert_nothing_happened(&world).await;
}

#[tokio::test]
async fn what_is_no_action_id_is_refused_and_spends_nothing() {
    let world = World::new().await;
    for id in [
        "",
        ID,
        "8a5c34dc9ca94be4b3c24c70e4bfb69a",
        "{8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a}",
        "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a/cancel",
        "../machines",
        "?$filter=x",
    ] {
        let read = world.host.get_machine_action(id, WaitOptions::default());
        let error = read.await.unwrap_err();
        assert_eq!(refused_parameter(&error), "action-id", "{id:?}");
    }
    assert_nothing_happened(&world).await;
}

#[tokio::test]
async fn ids_in_upper_case_are_in_lower_case_on_the_wire() {
    let world = World::with(|scene| scene.switches.visible_after = Default::default()).await;
    let machine = world.machine(0);
    let upper = machine.to_ascii_uppercase();
    let action = world.release_of(&upper, "cleaned").await.unwrap();
    let release = &world.requests(Api::UnrestrictCodeExecution)[0];
    assert_eq!(
        release.path_and_query,
        format!("/api/machines/{machine}/unrestrictCodeExecution")
    );

    let upper = action.id.to_ascii_uppercase();
    let read = world
        .host
        .get_machine_action(&upper, WaitOptions::default());
    assert_eq!(read.await.unwrap().id, action.id);
    let read = &world.requests(Api::GetMachineAction)[0];
    assert_eq!(
        read.path_and_query,
        format!("/api/machineactions/{}", action.id)
    );
}

/// A run's comment is checked before there is a run: behind it stands a reference by then, which
/// can be seen where the comment can't.
#[test]
fn a_runs_comment_is_one_exactly_where_the_plugin_takes_it_for_one() {
    let by_plugin = |text: &str| text.parse::<plugin::arguments::Comment>().is_ok();
    let by_run = |text: &str| host_demo::batch::check_comment(text).is_ok();
    for c in '\0'..=char::MAX {
        let text = c.to_string();
        assert_eq!(by_run(&text), by_plugin(&text), "{c:?}");
    }
    for text in ["", "\u{200b} \u{2060}\t", "\u{200b}x"] {
        assert_eq!(by_run(text), by_plugin(text), "{text:?}");
    }
}
