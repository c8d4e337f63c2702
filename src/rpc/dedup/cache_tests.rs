use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn key(number: u8) -> Key {
    (Nonce::from_bytes([number; Nonce::BYTES]), 1)
}

fn cache(memory: usize) -> Arc<Cache> {
    Cache::new(Limits { memory, keep: 5 * MINUTE, running: 2 })
}

/// Runs a request to its end; whether there was room for it.
fn answer(cache: &Arc<Cache>, number: u8, payload: &[u8]) -> bool {
    match cache.find(now(), key(number)) {
        Found::New(recorder) => {
            recorder.record(&payload.into());
            true
        }
        _ => false,
    }
}

fn known(cache: &Arc<Cache>, number: u8) -> String {
    match cache.find(now(), key(number)) {
        Found::New(recorder) => {
            recorder.withdraw(Verdict::Cancelled);
            "new".to_owned()
        }
        Found::Runs(_) => "runs".to_owned(),
        Found::Answered(payload) => format!("{payload:?}"),
        Found::Forgotten => "forgotten".to_owned(),
        Found::Full { what, limit } => format!("{what}: {limit}"),
    }
}

#[test]
fn an_answer_is_kept_until_its_time_is_over() {
    let cache = cache(1 << 20);
    assert!(answer(&cache, 1, &[0, 7]));
    assert_eq!(known(&cache, 1), "[0, 7]");
    let Found::Answered(_) = cache.find(now() + 4 * MINUTE, key(1)) else { panic!("not kept") };
    let Found::New(recorder) = cache.find(now() + 6 * MINUTE, key(1)) else { panic!("kept too long") };
    drop(recorder);
    assert_eq!(known(&cache, 1), "[1, 3]", "stopped: Cancelled");
}

#[test]
fn one_nonce_of_two_methods_is_two_requests() {
    let cache = cache(1 << 20);
    assert!(answer(&cache, 1, &[0]));
    assert!(matches!(cache.find(now(), (key(1).0, 2)), Found::New(_)));
}

#[test]
fn what_was_refused_before_it_ran_may_come_again() {
    let cache = cache(1 << 20);
    let Found::New(recorder) = cache.find(now(), key(1)) else { panic!("not new") };
    recorder.withdraw(Verdict::InvalidPayload);
    assert_eq!(known(&cache, 1), "new");
    assert_eq!(lock(&cache.state).memory, 0);
}

#[test]
fn so_many_run_at_once_and_no_more() {
    let cache = cache(1 << 20);
    let running = [1, 2].map(|number| cache.find(now(), key(number)));
    assert_eq!((known(&cache, 1), known(&cache, 3)), ("runs".into(), "Deduplicate::max_running: 2".into()));
    drop(running);
    assert_eq!(known(&cache, 3), "new");
}

#[test]
fn where_memory_is_short_answers_go_before_nonces_and_nonces_never() {
    let memory = 3 * ENTRY + 100;
    let cache = cache(memory);
    assert!(answer(&cache, 1, &[0; 60]) && answer(&cache, 2, &[1; 30]));
    assert!(answer(&cache, 3, &[2; 50]), "there is room when the oldest answer goes");
    assert_eq!(known(&cache, 1), "forgotten");
    assert_eq!(known(&cache, 2), format!("{:?}", [1; 30]));
    assert_eq!(known(&cache, 4), format!("Deduplicate::memory: {memory}"));
    let Found::New(recorder) = cache.find(now() + 6 * MINUTE, key(4)) else { panic!("still full") };
    recorder.record(&[3; 101].as_slice().into());
    assert_eq!(lock(&cache.state).memory, ENTRY + 101, "more than was free before the others went");
}

#[test]
fn an_answer_that_no_memory_holds_is_forgotten_at_once() {
    let cache = cache(ENTRY + 10);
    assert!(answer(&cache, 1, &[0; 11]));
    assert_eq!(known(&cache, 1), "forgotten");
    assert_eq!(lock(&cache.state).memory, ENTRY);
}
