//! A virtual connection behind the proxy for each client.

use std::{env, sync::Arc, time::Duration};

use adjoin::{
    CallError, ConnectError, ConnectOptions, Connection, Dispatch, IncomingRequest, LinkEnd, Options,
    Service, ServiceDispatcher, Settings, channel,
    proxy::{LateBound, Pair, pair, pass_connections},
    stream,
};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

use crate::{
    common::{
        links::{Far, Kind, cell_command, link},
        watchdog::Watchdog,
    },
    rig::{GuestDispatcher, NAME, Named, ProbeClient, RoomClient, name_in, named, runtime, serving, until},
};

/// The links in front of the proxy and behind it.
const LINKS: &[(Kind, Kind)] = &[(Kind::Local, Kind::Local), (Kind::Uds, Kind::Tcp), (Kind::Tcp, Kind::Shm)];

/// A client that is paired.
struct Client {
    room: RoomClient,
    connection: Connection,
    pair: Pair,
}

async fn upstream(kind: Kind) -> (Connection, Far, ProbeClient) {
    let (upstream, server) = link(kind, Options::new(), serving()).await;
    let probe = ProbeClient::new(&upstream);
    (upstream, server, probe)
}

/// Says who is connected to the proxy, as that.
async fn enter(kind: Kind, upstream: &Connection, name: &str) -> Client {
    let late = LateBound::new().waiting(8);
    let guest = Options::new().serve(GuestDispatcher::new(Named(name.into())));
    let (connection, proxy) = link(kind, guest, Options::new().serve(late.clone())).await;
    let Far::Here { connection: proxy } = proxy else { panic!("the proxy is here") };
    // It may call before it is paired.
    let room = RoomClient::new(&connection);
    let first = tokio::spawn({
        let room = room.clone();
        async move { room.who().await }
    });
    let pair = pair(proxy, &late, upstream, named(name)).await.unwrap();
    assert_eq!(first.await.unwrap().unwrap(), name);
    assert_eq!(name_in(pair.upstream.metadata()), "the server");
    Client { room, connection, pair }
}

#[test]
fn each_client_has_a_connection_of_its_own_and_calls_back_arrive_at_it() {
    let _hang = Watchdog::seconds(60);
    for (near, far) in LINKS {
        runtime().block_on(async {
            let (upstream, _server, _) = upstream(*far).await;
            let mut all = JoinSet::new();
            for number in 0..8 {
                let name = format!("client {number}");
                let client = enter(*near, &upstream, &name).await;
                all.spawn(async move {
                    for _ in 0..20 {
                        assert_eq!(client.room.who().await.unwrap(), name);
                        assert_eq!(client.room.ask_back().await.unwrap(), name);
                        let (tx, input) = channel();
                        tx.send(vec![1; 3]).await.unwrap();
                        drop(tx);
                        assert_eq!(client.room.take(input).await.unwrap(), 3);
                    }
                    drop(client);
                });
            }
            all.join_all().await;
        });
    }
}

#[test]
fn when_either_side_closes_its_connection_the_other_one_is_closed() {
    let _hang = Watchdog::seconds(60);
    for (near, far) in LINKS {
        runtime().block_on(async {
            let (upstream, _server, probe) = upstream(*far).await;
            let stays = enter(*near, &upstream, "one who stays").await;

            let client = enter(*near, &upstream, "one who leaves").await;
            let hang = tokio::spawn({
                let room = client.room.clone();
                async move { room.hang().await }
            });
            assert_eq!(client.room.ask_back().await.unwrap(), "one who leaves");
            client.connection.close().await;
            until(async || probe.rooms().await.unwrap() == 1).await;
            client.pair.upstream.closed().await;
            assert!(matches!(hang.await.unwrap(), Err(CallError::Ended(LinkEnd::Closed))));

            let client = enter(*near, &upstream, "one who is left").await;
            let hang = tokio::spawn({
                let room = client.room.clone();
                async move { room.hang().await }
            });
            assert_eq!(client.room.ask_back().await.unwrap(), "one who is left");
            let _ = client.room.leave().await; // it may be too late for the answer
            let end = client.connection.closed().await;
            assert!(matches!(&end, LinkEnd::Goodbye { reason } if reason.is_empty()), "{end:?}");
            let hung = hang.await.unwrap();
            assert!(matches!(hung, Err(CallError::UpstreamEnded { .. })), "{hung:?}");

            assert_eq!(stays.room.ask_back().await.unwrap(), "one who stays");
            assert!(upstream.end().is_none());
        });
    }
}

#[test]
fn what_was_said_before_the_end_arrives_before_it() {
    let _hang = Watchdog::seconds(60);
    for (near, far) in LINKS {
        runtime().block_on(async {
            let (upstream, _server, _) = upstream(*far).await;
            for elements in [0, 1, 10, 100, 300].into_iter().cycle().take(25) {
                let client = enter(*near, &upstream, "one who listens").await;
                let (words, mut more) = client.room.last_words(elements).await.unwrap();
                assert_eq!(words, "farewell");
                for element in 0..elements {
                    let received = more.recv().await;
                    assert!(matches!(received, Ok(Some(_))), "{element} of {elements}: {received:?}");
                }
                assert_eq!(more.recv().await.unwrap(), None);
                client.connection.closed().await;
            }
        });
    }
}

/// For a client that opens a connection for each of its own on one link.
async fn passing(near: Kind, upstream: &Connection) -> (Connection, Far) {
    let passes = Options::new().on_connect(pass_connections(upstream));
    link(near, Options::new(), passes).await
}

#[test]
fn connections_are_passed_on_with_what_goes_with_them_both_ways() {
    let _hang = Watchdog::seconds(60);
    for (near, far) in LINKS {
        runtime().block_on(async {
            let (upstream, _server, probe) = upstream(*far).await;
            let (client, _proxy) = passing(*near, &upstream).await;
            let open = async |name: &str| {
                let guest = GuestDispatcher::new(Named(name.into()));
                client.connect(ConnectOptions::new().metadata(named(name)).serve(guest)).await
            };
            let (ada, bob) = (open("ada").await.unwrap(), open("bob").await.unwrap());
            assert_eq!(name_in(ada.metadata()), "the server");
            for (connection, name) in [(&ada, "ada"), (&bob, "bob")] {
                let room = RoomClient::new(connection);
                assert_eq!(room.who().await.unwrap(), name);
                assert_eq!(room.ask_back().await.unwrap(), name);
            }
            match open("nobody").await {
                Err(ConnectError::Rejected { reason, metadata }) => {
                    assert_eq!(reason, "who are you?");
                    assert_eq!(metadata.get(NAME).unwrap().as_str(), Some("the server"));
                }
                other => panic!("{other:?}"),
            }
            let _ = RoomClient::new(&ada).leave().await; // as above
            ada.closed().await;
            assert_eq!(RoomClient::new(&bob).ask_back().await.unwrap(), "bob");
            bob.close().await;
            until(async || probe.rooms().await.unwrap() == 0).await;
        });
    }
}

#[test]
fn a_client_that_goes_while_the_server_decides_is_not_waited_for() {
    let _hang = Watchdog::seconds(60);
    runtime().block_on(async {
        let (upstream, _server, _) = upstream(Kind::Uds).await;
        let passed = Arc::new(());
        let (kept, passes) = (Arc::clone(&passed), pass_connections(&upstream));
        let passes = Options::new().on_connect(move |incoming| {
            let _ = &kept;
            passes(incoming);
        });
        let (client, proxy) = link(Kind::Uds, Options::new(), passes).await;
        let connect = tokio::spawn({
            let client = client.clone();
            async move { client.connect(ConnectOptions::new().metadata(named("undecided"))).await }
        });
        // It was asked when the next one has been answered.
        let nobody = client.connect(ConnectOptions::new().metadata(named("nobody"))).await;
        assert!(matches!(nobody, Err(ConnectError::Rejected { .. })), "{nobody:?}");
        client.close().await;
        assert!(matches!(connect.await.unwrap(), Err(ConnectError::Ended(_))));
        drop(proxy);
        until(async || Arc::strong_count(&passed) == 1).await;

        let late = LateBound::new();
        let (client, proxy) = link(Kind::Uds, Options::new(), Options::new().serve(late.clone())).await;
        let Far::Here { connection: proxy } = proxy else { panic!("the proxy is here") };
        let (paired, ()) = tokio::join!(pair(proxy, &late, &upstream, named("undecided")), client.close());
        assert!(
            matches!(paired, Err(adjoin::proxy::PairError::Connect(ConnectError::Ended(_)))),
            "{paired:?}"
        );
    });
}

/// Serves what another does, and is known to be there.
struct Known<D>(D, #[allow(dead_code)] Arc<()>);

impl<D: ServiceDispatcher> ServiceDispatcher for Known<D> {
    fn service(&self) -> &'static Service {
        self.0.service()
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        self.0.dispatch(request)
    }
}

#[test]
fn nothing_stays_of_clients_that_came_and_went() {
    let _hang = Watchdog::seconds(120);
    let rounds = if cfg!(debug_assertions) { 2_000 } else { 10_000 };
    runtime().block_on(async {
        let (upstream, _server, probe) = upstream(Kind::Local).await;
        let (near, _proxy) = passing(Kind::Local, &upstream).await;
        let known = Arc::new(());
        for round in 0..rounds {
            // By a link of its own, and by a connection of a link.
            let late = LateBound::new().waiting(1);
            let guest = Known(GuestDispatcher::new(Named("a guest".into())), Arc::clone(&known));
            let passes = Options::new().serve(Known(late.clone(), Arc::clone(&known)));
            let (client, proxy) = adjoin::local::pair(Options::new().serve(guest), passes);
            let Pair { client: front, upstream: back } =
                pair(proxy, &late, &upstream, named("a guest")).await.unwrap();
            let weak = [front.downgrade(), back.downgrade()];
            drop((front, back, late));
            let guest = Known(GuestDispatcher::new(Named("another".into())), Arc::clone(&known));
            let connection =
                near.connect(ConnectOptions::new().metadata(named("another")).serve(guest)).await.unwrap();
            for (connection, name) in [(&client, "a guest"), (&connection, "another")] {
                let room = RoomClient::new(connection);
                assert_eq!(room.ask_back().await.unwrap(), name);
                if round % 3 == 0 {
                    let _ = room.leave().await; // it may be too late for the answer
                }
            }
            // Closed by the one side, or by the other.
            drop((client, connection));
            if round % 100 == 0 {
                until(async || weak.iter().all(|weak| weak.upgrade().is_none())).await;
            }
        }
        until(async || Arc::strong_count(&known) == 1).await;
        until(async || probe.rooms().await.unwrap() == 0).await;
    });
}

#[test]
fn what_a_client_breaks_behind_the_proxy_costs_its_own_connection_alone() {
    let _hang = Watchdog::seconds(60);
    for (near, far) in LINKS {
        runtime().block_on(async {
            let (upstream, _server, _) = upstream(*far).await;
            let honest = enter(*near, &upstream, "an honest one").await;
            let hostile = enter(*near, &upstream, "a hostile one").await;
            // Elements that are no byte strings, for a method that expects some.
            let (tx, input) = channel();
            tx.send(u64::MAX).await.unwrap();
            let taken = ForgedClient::new(&hostile.connection).take(input).await;
            assert!(
                matches!(taken, Err(CallError::UpstreamEnded { .. } | CallError::Ended(_))),
                "the call ended otherwise: {taken:?}"
            );
            hostile.connection.closed().await;
            assert_eq!(honest.room.ask_back().await.unwrap(), "an honest one");
            assert!(upstream.end().is_none());
        });
    }
}

/// The room of somebody who sends other elements than it takes.
#[adjoin::service(name = "Room")]
trait Forged {
    #[adjoin(id = 0x4001)]
    async fn take(&self, input: adjoin::Rx<u64>) -> u64;
}

const SOCKET: &str = "ADJOIN_PROXY_SOCKET";

/// A client that is a process of its own, and calls until it is killed. `false`: this is none.
pub fn call_if_client() -> bool {
    let Some(path) = env::var_os(SOCKET) else { return false };
    runtime().block_on(async {
        let guest = Options::new().serve(GuestDispatcher::new(Named("a process".into())));
        let client = stream::connect(UnixStream::connect(path).await.unwrap(), guest).await.unwrap();
        let _ = RoomClient::new(client).hang().await;
    });
    std::process::exit(0);
}

#[test]
fn a_process_that_is_killed_on_either_side_takes_the_pair_with_it() {
    let _hang = Watchdog::seconds(60);
    runtime().block_on(async {
        let server =
            adjoin::spawn(cell_command(), Options::new().settings(Settings::default())).await.unwrap();
        let (upstream, probe) = (server.connection().clone(), ProbeClient::new(server.connection()));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut command = cell_command();
        let mut process = command.env(SOCKET, &path).spawn().unwrap();
        let late = LateBound::new().waiting(8);
        let passes = Options::new().serve(late.clone());
        let front = stream::accept(listener.accept().await.unwrap().0, passes).await.unwrap();
        let killed = pair(front, &late, &upstream, named("a process")).await.unwrap();
        until(async || probe.rooms().await.unwrap() == 1).await;
        process.kill().unwrap();
        process.wait().unwrap();
        killed.client.closed().await;
        killed.upstream.closed().await;
        until(async || probe.rooms().await.unwrap() == 0).await;

        let left = enter(Kind::Uds, &upstream, "one who is left").await;
        server.kill().unwrap();
        let end = left.connection.closed().await;
        assert!(matches!(&end, LinkEnd::Goodbye { reason } if reason.is_empty()), "{end:?}");
        let _ = tokio::time::timeout(Duration::from_secs(30), server.wait()).await.unwrap();
    });
}
