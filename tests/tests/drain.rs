//! SIGTERM: clients are told when and where to come back, closed with 1012 in a paced way, and the process ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::time::{Duration, Instant};

use bawaba_tests::client::{Client, Connect};
use bawaba_tests::stack::{Stack, set};
use bawaba_tests::{PATIENCE, by};

const CLIENTS: usize = 50;

#[test]
fn a_drain_tells_everyone_and_closes_everyone_within_its_window() {
    let mut stack = Stack::start_with(&[], |config| set(config, "edge.drain_window", "2s"));
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|n| {
            let mut client = stack.connect(&stack.keys.unscreened(&format!("user-{n}")));
            client.until_type("welcome");
            client
        })
        .collect();
    let began_at = Instant::now();
    stack.edge.process.terminate();

    let mut waits = Vec::new();
    for client in &mut clients {
        let drain = client.until_type("drain");
        assert!(drain["resume"].as_str().is_some_and(|token| !token.is_empty()), "{drain}");
        waits.push(drain["retry_after_ms"].as_u64().unwrap());
    }
    waits.sort_unstable();
    assert!(waits[CLIENTS - 1] - waits[0] > 500, "all would come back at once: {waits:?}");

    let refused = Connect::with_token(&stack.keys.unscreened("late")).refused(stack.edge.address);
    assert_eq!(refused.status, 503);
    for client in &mut clients {
        assert_eq!(client.close_code(), Some(1012));
    }
    stack.edge.process.ended(by(PATIENCE));
    assert!(began_at.elapsed() < Duration::from_secs(8), "{:?}", began_at.elapsed());
}
