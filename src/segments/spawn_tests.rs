use std::{
    env, fs,
    future::poll_fn,
    path::{Path, PathBuf},
    pin::pin,
    task::Poll,
};

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::{
    error::LinkEnd,
    link::testing::{Collector, DATA, message},
    segments::attach,
};

/// A cell of which nothing is shown.
fn silent() -> Manner {
    Manner { stderr: CellOutput::Null, ..Manner::default() }
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

async fn fails(command: Command) -> SpawnError {
    match launch(command, &Settings::default(), &Manner::default()).await {
        Err(error) => error,
        Ok(_) => panic!("was launched"),
    }
}

fn short() -> Settings {
    Settings::default().handshake_timeout(Duration::from_millis(50))
}

/// Whether a process is there, a zombie included.
fn exists(pid: &str) -> bool {
    Path::new("/proc").join(pid.trim()).exists()
}

#[tokio::test]
async fn a_cell_that_exits_early_is_told_of_with_its_code_and_its_last_words() {
    let error = fails(shell("echo boom >&2; exit 3")).await;
    assert!(error.to_string().contains("boom"), "{error}");
    let SpawnError::Exited { status, stderr, .. } = error else { panic!("{error:?}") };
    assert_eq!((status.code(), stderr.as_str()), (Some(3), "boom\n"));
}

#[tokio::test]
async fn of_many_last_words_the_end_is_kept() {
    let error = fails(shell("head -c 5000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 1")).await;
    let SpawnError::Exited { stderr, .. } = error else { panic!("{error:?}") };
    assert_eq!(stderr.len(), 4096);
    assert!(stderr.ends_with("xxend\n"));
}

#[tokio::test]
async fn a_grandchild_that_keeps_stderr_and_the_socket_open_hides_no_exit() {
    let error = fails(shell("sleep 1000 & echo $! >&2; exit 4")).await;
    let SpawnError::Exited { status, stderr, .. } = error else { panic!("{error:?}") };
    assert_eq!(status.code(), Some(4));
    let grandchild = Pid::from_raw(stderr.trim().parse().unwrap()).unwrap();
    kill_process(grandchild, Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_named() {
    let error = fails(Command::new("/nonexistent/program")).await;
    let SpawnError::Start { program, source, .. } = &error else { panic!("{error:?}") };
    assert!(error.to_string().contains("the cell `cell` could not"), "{error}");
    assert_eq!((program.to_str(), source.kind()), (Some("/nonexistent/program"), io::ErrorKind::NotFound));
}

#[tokio::test]
async fn impossible_settings_are_refused_before_anything_runs() {
    let settings = Settings::default().ring_bytes(5000);
    let error = launch(shell("exit 1"), &settings, &Manner::default()).await.err().unwrap();
    assert!(
        matches!(error, SpawnError::Settings { source, .. } if source.field == "ring_bytes"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_cell_that_does_not_serve_in_time_is_killed_and_reaped() {
    let command = shell("echo $$ >&2; exec sleep 1000");
    let error = launch(command, &short(), &Manner::default()).await.err().unwrap();
    let SpawnError::Timeout { after, stderr, .. } = error else { panic!("{error:?}") };
    assert_eq!(after, Duration::from_millis(50));
    assert!(!exists(&stderr), "{stderr}");
}

#[tokio::test]
async fn a_cell_that_closes_the_link_and_runs_on_is_killed_and_reaped() {
    if role().is_some() {
        eprintln!("{}", std::process::id());
        drop(raw_link());
        return std::future::pending().await;
    }
    let error = fails(myself("a_cell_that_closes_the_link_and_runs_on_is_killed_and_reaped", "cell")).await;
    let SpawnError::Handshake { source: HandshakeError::Closed, stderr, .. } = error else {
        panic!("{error:?}")
    };
    assert!(!exists(&stderr), "{stderr}");
}

#[tokio::test]
async fn a_program_that_writes_nonsense_to_the_link_is_refused() {
    if role().is_some() {
        let link = raw_link();
        rustix::io::write(&link, b"nonsense and more").unwrap();
        return std::future::pending().await;
    }
    let error = fails(myself("a_program_that_writes_nonsense_to_the_link_is_refused", "cell")).await;
    assert!(matches!(error, SpawnError::Handshake { source: HandshakeError::NotAdjoin, .. }), "{error:?}");
}

/// The descriptor of a cell, as anybody could use it.
fn raw_link() -> OwnedFd {
    let link = env::var(LINK_VARIABLE).unwrap();
    let descriptor = link.split_once(':').unwrap().0.parse().unwrap();
    // SAFETY: in bounds and aligned: no memory is touched. Alone: it was inherited, and nobody else in this
    // process knows of it. Alive: no mapping is involved.
    unsafe { rustix::fd::FromRawFd::from_raw_fd(descriptor) }
}

#[tokio::test]
async fn a_launch_that_is_dropped_kills_and_reaps_its_cell() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let mut command = shell("echo $$ > \"$FILE.new\"; mv \"$FILE.new\" \"$FILE\"; exec sleep 1000");
    command.env("FILE", &file);
    let pid = {
        let settings = Settings::default();
        let silent = silent();
        let mut launched = pin!(launch(command, &settings, &silent));
        poll_fn(|cx| {
            assert!(launched.as_mut().poll(cx).is_pending());
            cx.waker().wake_by_ref();
            fs::read_to_string(&file).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    };
    while exists(&pid) {
        tokio::task::yield_now().await;
    }
}

/// Runs this test's binary again, as one test in another role.
fn myself(test: &str, role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    let module = module_path!().split_once("::").unwrap().1; // without the crate
    command.args(["--exact", &format!("{module}::{test}"), "--nocapture"]).env(ROLE, role);
    command.stdout(Stdio::null());
    command
}

fn role() -> Option<String> {
    env::var(ROLE).ok()
}

const ROLE: &str = "ADJOIN_TEST_ROLE";

/// The peer's next message.
async fn hear(parts: &mut Parts) -> Vec<u8> {
    let mut heard = Collector::all();
    poll_fn(|cx| {
        loop {
            match parts.receiver.poll_receive(cx, &mut heard) {
                Poll::Ready(Ok(0)) => {}
                Poll::Ready(received) => return Poll::Ready(received.map(drop)),
                Poll::Pending => {}
            }
            match parts.watcher.as_mut().unwrap().poll_rung(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
    .unwrap();
    heard.messages.remove(0)
}

/// How the link ends, whatever is said before.
async fn end(parts: &mut Parts) -> LinkEnd {
    poll_fn(|cx| {
        loop {
            match parts.watcher.as_mut().unwrap().poll_rung(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_cell_that_serves_is_attached_and_its_death_is_told() {
    const NAME: &str = "a_cell_that_serves_is_attached_and_its_death_is_told";
    if role().is_some() {
        let mut parts = attach(&Settings::default()).await.unwrap();
        assert!(matches!(attach(&Settings::default()).await, Err(crate::AttachError::Taken)));
        assert_eq!(hear(&mut parts).await, message(&DATA, b"ping"));
        let _ = parts.say(&DATA, b"pong").unwrap();
        match end(&mut parts).await {
            LinkEnd::Gone => std::process::exit(9),
            end => panic!("{end:?}"),
        }
    }
    let settings = Settings::default().max_payload_size(1000);
    let (mut parts, process) = launch(myself(NAME, "cell"), &settings, &Manner::default()).await.unwrap();
    assert_eq!((parts.role, parts.limits.max_payload_size), (Role::Acceptor, 1000));
    let _ = parts.say(&DATA, b"ping").unwrap();
    assert_eq!(hear(&mut parts).await, message(&DATA, b"pong"));
    process.kill().unwrap();
    assert!(matches!(end(&mut parts).await, LinkEnd::Killed { signal: 9 }));
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(process.wait().await.unwrap().signal(), Some(9));
    assert!(!exists(&process.id().to_string()));

    // Here the host lets go, and the cell says so by its exit code.
    let (mut parts, process) = launch(myself(NAME, "cell"), &settings, &Manner::default()).await.unwrap();
    let _ = parts.say(&DATA, b"ping").unwrap();
    assert_eq!(hear(&mut parts).await, message(&DATA, b"pong"));
    drop(parts);
    assert_eq!(process.wait().await.unwrap().code(), Some(9));
}

#[tokio::test]
async fn a_cell_whose_host_is_killed_is_told_of_the_signal() {
    const NAME: &str = "a_cell_whose_host_is_killed_is_told_of_the_signal";
    match role().as_deref() {
        Some("cell") => {
            let mut parts = attach(&Settings::default()).await.unwrap();
            let file = PathBuf::from(env::var_os("ADJOIN_TEST_FILE").unwrap());
            write(&file.with_extension("up"), "up");
            let end = end(&mut parts).await;
            return write(&file, &format!("{end:?}"));
        }
        Some(_) => {
            let _cell = launch(myself(NAME, "cell"), &Settings::default(), &silent()).await.unwrap();
            return std::future::pending().await;
        }
        None => {}
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("end");
    let mut host = myself(NAME, "host").env("ADJOIN_TEST_FILE", &file).spawn().unwrap();
    read(&file.with_extension("up")).await;
    host.kill().unwrap();
    assert_eq!(read(&file).await, "Killed { signal: 9 }");
    host.wait().unwrap();
}

/// Writes a file so that nobody sees a part of it.
fn write(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

/// Reads a file as soon as it is there.
async fn read(file: &Path) -> String {
    loop {
        if let Ok(text) = fs::read_to_string(file) {
            return text;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn launches_leave_no_descriptor_mapping_or_child() {
    const NAME: &str = "launches_leave_no_descriptor_mapping_or_child";
    // Alone in its process, where nothing else opens and closes.
    match role().as_deref() {
        Some("cell") => {
            let mut parts = attach(&Settings::default()).await.unwrap();
            drop(end(&mut parts).await);
        }
        Some(_) => leaks_nothing(NAME).await,
        None => {
            let output =
                myself(NAME, "alone").stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

async fn leaks_nothing(name: &str) {
    let held = || {
        let count = |path: &str| fs::read_dir(path).unwrap().count();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        (count("/proc/self/fd"), count("/proc/self/task"), maps.matches("memfd:adjoin").count())
    };
    let before = held();
    for _ in 0..20 {
        drop(fails(shell("exit 3")).await);
        drop(fails(Command::new("/nonexistent/program")).await);
        let settings = short().handshake_timeout(Duration::from_millis(2));
        drop(launch(shell("exec sleep 1000"), &settings, &Manner::default()).await);
        let (mut parts, process) =
            launch(myself(name, "cell"), &Settings::default(), &Manner::default()).await.unwrap();
        process.kill().unwrap();
        drop(end(&mut parts).await);
        drop((parts, process));
        // A cell that still runs when it is dropped is reaped by a task.
        let (_parts, process) =
            launch(myself(name, "cell"), &Settings::default(), &Manner::default()).await.unwrap();
        let pid = process.id().to_string();
        drop(process);
        while exists(&pid) {
            tokio::task::yield_now().await;
        }
    }
    while held() != before {
        tokio::task::yield_now().await; // the tasks of stderr end when they see the end
    }
    assert!(rustix::process::wait(rustix::process::WaitOptions::NOHANG).is_err(), "a child is left");
}
