//! Every state with every event, as tables: what is done in each cell. A change of behaviour is a diff here.

use super::{Scene, Seen};
use crate::{
    error::Violation,
    session::{connections::ConnKey, serving::Attached},
};

/// Puts a scene into a state.
type Enter = fn(&mut Scene);
/// Lets something happen, and says what came of it.
type Event = fn(&mut Scene) -> String;

/// Walks all states with all events, and compares with the table that the test expects.
fn assert_table(states: &[(&str, Enter)], events: &[(&str, Event)], expected: &str) {
    let mut table = row("", events.iter().map(|(name, _)| (*name).to_owned()));
    for (name, enter) in states {
        let cells = events.iter().map(|(_, event)| {
            let mut scene = Scene::new();
            enter(&mut scene);
            event(&mut scene)
        });
        table += &row(name, cells);
    }
    assert!(table == expected[1..], "{table}");
}

/// One line of a table.
fn row(name: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: String = cells.map(|cell| format!("| {cell:20}")).collect();
    format!("{}\n", format!("{name:10}{cells}").trim_end())
}

/// What a message came to, in short; a rule that it broke, by the last part of its id.
fn told(seen: Result<Seen, Violation>) -> String {
    match seen {
        Err(violation) => return format!("!{}", violation.rule().rsplit('.').next().unwrap_or_default()),
        Ok(Seen::Nothing) => "ignored",
        Ok(Seen::Request { .. }) => "accepted",
        Ok(Seen::Response { call: Some(_), .. }) => "to the caller",
        Ok(Seen::Response { call: None, .. }) => "to nobody",
        Ok(Seen::Cancel { .. }) => "stops the handler",
        Ok(Seen::Element { .. }) => "delivered",
        Ok(Seen::Closed { .. }) => "the stream's end",
        Ok(Seen::Reset { .. }) => "broken off",
        Ok(Seen::Credit { .. }) => "more credit",
        Ok(Seen::Refused { .. }) => "refused",
        Ok(Seen::Connect { .. }) => "to be decided",
        Ok(Seen::TooManyConnections { .. }) => "too many",
        Ok(Seen::Accepted { .. }) => "open",
        Ok(Seen::AcceptedTwice { .. }) => "id in use",
        Ok(Seen::Rejected { .. }) => "rejected",
        Ok(Seen::ConnectionGoodbye { .. }) => "its end",
        Ok(Seen::Goodbye { .. }) => "the link's end",
    }
    .to_owned()
}

#[test]
fn our_calls_in_every_state() {
    let states: &[(&str, Enter)] = &[
        ("unsent", |_| {}),
        ("waiting", |scene| _ = scene.call(&[])),
        ("abandoned", |scene| {
            scene.call(&[]);
            scene.session.root.calls.abandon(1);
        }),
        ("answered", |scene| {
            scene.call(&[]);
            scene.response(1, &[]).unwrap();
        }),
    ];
    let events: &[(&str, Event)] = &[
        ("Response", |scene| told(scene.response(1, &[]))),
        ("caller gone", |scene| match scene.session.root.calls.abandon(1) {
            Some(_) => "Cancel goes out".to_owned(),
            None => "ignored".to_owned(),
        }),
        ("end", |scene| format!("{} to fail", scene.left_open().0.len())),
    ];
    let expected = "
          | Response            | caller gone         | end
unsent    | ignored             | ignored             | 0 to fail
waiting   | to the caller       | Cancel goes out     | 1 to fail
abandoned | to nobody           | ignored             | 0 to fail
answered  | ignored             | ignored             | 0 to fail
";
    assert_table(states, events, expected);
}

#[test]
fn the_peers_requests_in_every_state() {
    fn started(scene: &mut Scene) {
        scene.request(1, &[]).unwrap();
    }
    fn running(scene: &mut Scene) {
        started(scene);
        assert_eq!(scene.session.root.serving.attach(1, 10), Attached::Running);
    }
    let states: &[(&str, Enter)] = &[
        ("unknown", |_| {}),
        ("started", started),
        ("running", running),
        ("stopping", |scene| {
            running(scene);
            scene.cancel(1).unwrap();
        }),
        ("answered", |scene| {
            running(scene);
            scene.session.finish(ConnKey::ROOT, 1);
        }),
    ];
    let events: &[(&str, Event)] = &[
        ("Request", |scene| told(scene.request(1, &[]))),
        ("Cancel", |scene| told(scene.cancel(1))),
        ("answer", |scene| match scene.session.root.serving.finish(1) {
            Some(_) => "goes out".to_owned(),
            None => "dropped".to_owned(),
        }),
        ("end", |scene| format!("{} to stop", scene.left_open().2.len())),
    ];
    let expected = "
          | Request             | Cancel              | answer              | end
unknown   | accepted            | ignored             | dropped             | 0 to stop
started   | !duplicate-detection| ignored             | goes out            | 0 to stop
running   | !duplicate-detection| stops the handler   | goes out            | 1 to stop
stopping  | !duplicate-detection| ignored             | goes out            | 0 to stop
answered  | accepted            | ignored             | dropped             | 0 to stop
";
    assert_table(states, events, expected);
}

#[test]
fn channels_in_every_state() {
    fn open(scene: &mut Scene) {
        scene.request(1, &[1]).unwrap();
    }
    fn closed(scene: &mut Scene) {
        open(scene);
        scene.close(1).unwrap();
    }
    let states: &[(&str, Enter)] = &[
        ("unopened", |_| {}),
        ("skipped", |scene| _ = scene.request(1, &[3]).unwrap()),
        ("open", open),
        ("closed", closed),
        ("read", |scene| {
            closed(scene);
            scene.session.forget_channel(ConnKey::ROOT, 1);
        }),
        ("reset", |scene| {
            open(scene);
            scene.reset(1).unwrap();
        }),
    ];
    let events: &[(&str, Event)] = &[
        ("Request opens it", |scene| told(scene.request(2, &[1]))),
        ("Data", |scene| told(scene.data(1, b"x"))),
        ("Close", |scene| told(scene.close(1))),
        ("Reset", |scene| told(scene.reset(1))),
        ("Credit", |scene| told(scene.credit(1))),
    ];
    let expected = "
          | Request opens it    | Data                | Close               | Reset               | Credit
unopened  | accepted            | !unknown            | !unknown            | !unknown            | !unknown
skipped   | accepted            | !unknown            | !unknown            | !unknown            | !unknown
open      | !unknown            | delivered           | the stream's end    | broken off          | more credit
closed    | !unknown            | !data-after-close   | !data-after-close   | broken off          | more credit
read      | !unknown            | ignored             | ignored             | ignored             | ignored
reset     | !unknown            | ignored             | ignored             | ignored             | ignored
";
    assert_table(states, events, expected);
}
