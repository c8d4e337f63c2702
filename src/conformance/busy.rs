//! A connection on which everything is open at once, its neighbours, and what becomes of them when the peer breaks
//! a rule.

use tokio::task::JoinHandle;

use super::{
    links::{Ground, Place, WINDOW},
    note::Note,
    rig::{CANCELLED, Calling, Line, OK, Rig, assert_same, element, of, value},
    service::{Event, HANG, NOP},
};
use crate::{
    error::{ConnectionEnd, LinkEnd, Violation},
    rpc::errors::{CallError, RecvError, SendError},
};

/// What is open on a connection.
struct Busy {
    /// Calls of ours in flight: a plain one, and those that the streams belong to.
    calls: Vec<Calling>,
    /// Waits for credit.
    sender: JoinHandle<Result<(), SendError>>,
    /// Waits for an element.
    reader: JoinHandle<Result<Option<Vec<u8>>, RecvError>>,
}

/// What is open on a connection to which nothing is to happen: a call each way.
struct Calls {
    ours: (Calling, u64),
    theirs: u64,
}

/// A link with a busy connection, on which the link's other connections have calls, and another link of this
/// process that has some, too.
struct Scene {
    rig: Rig,
    busy: Busy,
    /// The root, and another virtual connection, where the busy one is virtual.
    others: Vec<(Line, Calls)>,
    neighbour: (Rig, Calls),
}

impl Ground {
    /// The peer breaks a rule on a busy connection, by what `breaks` says and does: it hears Goodbye with the
    /// rule and the connection, everything there fails with it, and the neighbours go on: other links, and, if it
    /// is a virtual connection, the link's other connections.
    pub(super) async fn costs_the_connection(self, breaks: impl AsyncFnOnce(&mut Rig) -> Violation) {
        if self.place == Place::Root {
            return self.costs_the_link(breaks).await;
        }
        let mut scene = Scene::on(self).await;
        let violation = breaks(&mut scene.rig).await;
        scene.rig.hears(Note::goodbye(scene.rig.conn, violation.rule())).await;
        scene.connection_failed(ConnectionEnd::Violation(violation)).await;
    }

    /// The same for what costs the link on whichever connection it happens: the link's other connections fail,
    /// too.
    pub(super) async fn costs_the_link(self, breaks: impl AsyncFnOnce(&mut Rig) -> Violation) {
        let mut scene = Scene::on(self).await;
        let violation = breaks(&mut scene.rig).await;
        scene.rig.hears(Note::goodbye(0, violation.rule())).await;
        scene.rig.hears_the_end().await;
        scene.link_failed(LinkEnd::Violation(violation)).await;
    }

    /// The link ends by what `ends` says and does, which hears of the end what is to be heard.
    pub(super) async fn ends_the_link(self, ends: impl AsyncFnOnce(&mut Rig) -> LinkEnd) {
        let mut scene = Scene::on(self).await;
        let end = ends(&mut scene.rig).await;
        scene.link_failed(end).await;
    }

    /// A virtual connection ends by what `ends` says and does, which hears of the end what is to be heard.
    pub(super) async fn ends_the_connection(self, ends: impl AsyncFnOnce(&mut Rig) -> ConnectionEnd) {
        let mut scene = Scene::on(self).await;
        let end = ends(&mut scene.rig).await;
        scene.connection_failed(end).await;
    }
}

impl Scene {
    async fn on(ground: Ground) -> Self {
        let mut neighbour = ground.rig().await;
        let open = Calls::on(&mut neighbour).await;
        let mut rig = ground.rig().await;
        let mut others = std::mem::take(&mut rig.others);
        if ground.place != Place::Root {
            others.push(rig.open_line(ground.place).await);
        }
        let mut with_calls = Vec::new();
        for mut line in others {
            let calls = rig.on(&mut line, Calls::on).await;
            with_calls.push((line, calls));
        }
        let busy = Busy::on(&mut rig).await;
        Scene { rig, busy, others: with_calls, neighbour: (neighbour, open) }
    }

    /// The link has ended: everything on all of its connections has failed with the end.
    async fn link_failed(self, end: LinkEnd) {
        let Scene { mut rig, busy, others, neighbour: (mut neighbour, calls) } = self;
        busy.failed(&mut rig, &end).await;
        for (mut line, calls) in others {
            rig.on(&mut line, async |rig| calls.failed(rig, &end).await).await;
        }
        calls.go_on(&mut neighbour).await;
    }

    /// A virtual connection has ended, alone: the link's other connections go on, and what still arrives for it is
    /// ignored.
    async fn connection_failed(self, end: ConnectionEnd) {
        let Scene { mut rig, busy, others, neighbour: (mut neighbour, calls) } = self;
        busy.failed(&mut rig, &LinkEnd::Connection(end)).await;
        for note in crossing(&rig) {
            rig.say(note).await;
        }
        for (mut line, calls) in others {
            rig.on(&mut line, async |rig| calls.go_on(rig).await).await;
        }
        calls.go_on(&mut neighbour).await;
    }
}

/// A message of each kind for the rig's connection, as it may have been on its way when the connection closed.
fn crossing(rig: &Rig) -> Vec<Note> {
    let (conn_id, request_id, channel_id) = (rig.conn, 1, rig.our_first_channel());
    vec![
        Note::request(conn_id, 77, &NOP, &[]),
        rig.opening(78, &NOP, 79, &[]),
        Note::response(conn_id, request_id, OK),
        Note::Cancel { conn_id, request_id },
        Note::data(conn_id, channel_id, &element(3)),
        Note::Close { conn_id, channel_id },
        Note::Reset { conn_id, channel_id },
        Note::Credit { conn_id, channel_id, bytes: 1 },
        Note::goodbye(conn_id, ""),
    ]
}

impl Busy {
    /// Opens one of everything.
    async fn on(rig: &mut Rig) -> Self {
        let (plain, _) = rig.calling().await;

        let to_send = rig.calling_to_send().await;
        let tx = to_send.half;
        let half = WINDOW as usize / 2;
        let sender = tokio::spawn(async move {
            for _ in 0..3 {
                tx.send(value(half)).await?;
            }
            Ok(())
        });
        for _ in 0..2 {
            rig.hears(Note::data(rig.conn, to_send.channel_id, &element(half))).await;
        }

        let to_receive = rig.calling_to_receive().await;
        let mut rx = to_receive.half;
        let reader = tokio::spawn(async move { rx.recv().await });

        rig.peer_calls(&HANG, &[]).await;
        assert!(matches!(rig.event().await, Event::Started));
        Busy { calls: vec![plain, to_send.call, to_receive.call], sender, reader }
    }

    /// The connection has ended, and everything has failed with the end.
    async fn failed(self, rig: &mut Rig, end: &LinkEnd) {
        for call in self.calls {
            call_failed(call, end).await;
        }
        let Err(SendError::Ended(found)) = of(self.sender).await else { panic!("everything was sent") };
        assert_same(&found, end);
        let Err(RecvError::Ended(found)) = of(self.reader).await else { panic!("something was received") };
        assert_same(&found, end);
        is_over(rig, end).await;
    }
}

impl Calls {
    async fn on(rig: &mut Rig) -> Self {
        let ours = rig.calling().await;
        let theirs = rig.peer_calls(&HANG, &[]).await;
        assert!(matches!(rig.event().await, Event::Started));
        Calls { ours, theirs }
    }

    async fn failed(self, rig: &mut Rig, end: &LinkEnd) {
        call_failed(self.ours.0, end).await;
        is_over(rig, end).await;
    }

    /// Nothing has happened to the connection: its call can be answered, its handler still runs.
    async fn go_on(self, rig: &mut Rig) {
        let (call, request_id) = self.ours;
        rig.answer(request_id, OK).await;
        of(call).await.expect("the peer has answered");
        assert!(rig.unseen().is_none(), "its handler was stopped");
        rig.say(Note::Cancel { conn_id: rig.conn, request_id: self.theirs }).await;
        rig.hears_answer(self.theirs, CANCELLED).await;
        assert!(matches!(rig.event().await, Event::Stopped));
        rig.goes_on().await;
    }
}

async fn call_failed(call: Calling, end: &LinkEnd) {
    let error = of(call).await.expect_err("nobody has answered");
    let CallError::Ended(found) = error else { panic!("{error:?}") };
    assert_same(&found, end);
}

/// The connection says how it ended, its handlers are stopped, and what is tried on it fails.
async fn is_over(rig: &mut Rig, end: &LinkEnd) {
    assert_same(&rig.ours.closed().await, end);
    loop {
        match rig.event().await {
            Event::Stopped => break,
            // Of a handler that a case has started: it may see the end of its stream before it is stopped.
            Event::Ended(Err(RecvError::Ended(found))) | Event::NotSent(SendError::Ended(found)) => {
                assert_same(&found, end);
            }
            other => panic!("{other:?}"),
        }
    }
    call_failed(rig.call(), end).await;
}
