//! Everything works, and what arrives is what was sent.

use std::process::Command;

#[test]
fn every_peer_does_every_work_for_a_moment() {
    let output = Command::new(env!("CARGO_BIN_EXE_adjoin-peers")).arg("--smoke").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8_lossy(&output.stdout);
    let peers = ["shm", "shm-spin", "uds", "uds-wide", "iceoryx2", "tarpc", "tonic", "ipc-channel"];
    for peer in peers {
        assert!(table.contains(&format!("| {peer} ")), "{peer} is missing:\n{table}");
    }
}
