//! A licence that changes under open sockets ends exactly what it no longer opens, within a second, and gives it back
//! without a new connection.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::time::{Duration, Instant};

use bawaba_channels::wire::Timestamp;
use bawaba_tests::client::Client;
use bawaba_tests::keys::now_s;
use bawaba_tests::place::Scratch;
use bawaba_tests::stack::{Stack, path, set};
use bawaba_tests::{PATIENCE, by};
use serde_json::{Value, json};

/// Within which a change must have been told.
const AT_ONCE: Duration = Duration::from_secs(1);

struct Licensed {
    stack: Stack,
    files: Scratch,
}

impl Licensed {
    /// An edge behind the license and quota filters, with these licences.
    fn start(rows: &Value) -> Self {
        let files = Scratch::new();
        for filter in ["license", "quota"] {
            files.write(&format!("{filter}.json"), settings(rows).to_string());
        }
        let stack = Stack::start_with(&["license", "quota"], |config| {
            for filter in ["license", "quota"] {
                let file = files.path().join(format!("{filter}.json"));
                set(config, &format!("filter.{filter}.settings_file"), path(&file));
            }
        });
        Self { stack, files }
    }

    fn change(&self, rows: &Value) {
        for filter in ["license", "quota"] {
            self.files.write(&format!("{filter}.json"), settings(rows).to_string());
        }
    }

    fn connect(&self, user: &str) -> Client {
        let claims = json!({"sub": user, "tenant": "acme", "tier": "basic"});
        let mut client = self.stack.connect(&self.stack.keys.token(claims));
        client.until_type("welcome");
        client
    }
}

fn settings(rows: &Value) -> Value {
    json!({ "licenses": { "id": "licenses@test", "rows": rows } })
}

fn instant(seconds: i64) -> String {
    Timestamp(seconds * 1_000_000_000).to_string()
}

fn subscribe(client: &mut Client, id: u64, exchange: &str, symbol: &str) -> Value {
    client.request(
        json!({"type": "subscribe", "id": id, "channel": "market_data", "exchange": exchange, "symbols": [symbol]}),
    )
}

fn accepted(answer: &Value) -> &Value {
    &answer["accepted"][0]["symbol"]
}

#[test]
fn time_alone_ends_a_licence_on_open_sockets_within_a_second_and_gives_it_back() {
    let start = now_s();
    let (gone, back) = (start + 6, start + 9);
    // ADX goes with the second licence; from `back` on the third has it again.
    let row = |id: &str, from: i64, to: Option<i64>, without: &[&str]| json!({"id": id, "tenant": "acme", "tier": "professional", "from": instant(from), "to": to.map(instant), "without": without});
    let licensed = Licensed::start(&json!([
        row("L-1", start - 60, Some(gone), &[]),
        row("L-2", gone, Some(back), &["ADX_ACCESS"]),
        row("L-3", back, None, &[]),
    ]));
    let mut clients: Vec<Client> = (0..20).map(|n| licensed.connect(&format!("user-{n}"))).collect();
    for client in &mut clients {
        assert_eq!(accepted(&subscribe(client, 1, "EGX", "COMI")), "COMI");
        assert_eq!(accepted(&subscribe(client, 2, "ADX", "FAB")), "FAB");
    }
    assert!(now_s() < gone, "this machine is too slow for the test's clock");
    for client in &mut clients {
        let revoked = client.until_type("revoked");
        assert_eq!(revoked["code"], "license.exchange", "{revoked}");
        assert_eq!(revoked["symbols"], json!(["FAB"]), "exactly what the licence no longer opens: {revoked}");
        let told = Timestamp::from_millis(bawaba_tests::keys::now_ms());
        let late = told.0 - gone * 1_000_000_000;
        assert!((0..AT_ONCE.as_nanos() as i64).contains(&late), "told {late} ns after the licence ended");
    }
    // COMI goes on, FAB does not: of ten updates each none is of ADX.
    for client in &mut clients {
        for _ in 0..10 {
            assert_eq!(client.until_type("market_data_update")["exchange"], "EGX");
        }
        assert_eq!(subscribe(client, 3, "ADX", "FAB")["code"], "license.exchange");
    }
    let deadline = by(PATIENCE);
    while now_s() < back {
        assert!(deadline.left().is_some());
        // The clock is what is waited for; EGX's messages tell that it moves.
        clients[0].until_type("market_data_update");
    }
    for client in &mut clients {
        assert_eq!(accepted(&subscribe(client, 4, "ADX", "FAB")), "FAB", "back, on the same connection");
    }
}

#[test]
fn a_licence_that_is_suspended_by_new_data_ends_all_its_subscriptions_and_no_others() {
    let start = now_s();
    let row = |id: &str, user: Option<&str>| json!({"id": id, "tenant": "acme", "user": user, "tier": "professional", "from": instant(start - 60)});
    let rows = json!([row("L-1", None), row("V-1", Some("vip"))]);
    let licensed = Licensed::start(&rows);
    let (mut amina, mut vip) = (licensed.connect("amina"), licensed.connect("vip"));
    for client in [&mut amina, &mut vip] {
        assert_eq!(accepted(&subscribe(client, 1, "EGX", "COMI")), "COMI");
        let orders = client.request(json!({"type": "subscribe", "id": 2, "channel": "orders", "exchange": "EGX"}));
        assert!(orders["subscription"].is_string(), "{orders}");
    }
    let mut suspended = rows.clone();
    suspended[0]["suspended"] = json!([{ "from": instant(start - 30) }]);
    licensed.change(&suspended);
    for _ in 0..2 {
        let revoked = amina.until_type("revoked");
        assert_eq!(revoked["code"], "license.inactive", "{revoked}");
    }
    let answer = subscribe(&mut amina, 3, "EGX", "COMI");
    assert_eq!(answer["code"], "license.inactive", "{answer}");
    // The other licence goes on, and nothing of it was revoked meanwhile.
    subscribe(&mut vip, 5, "EGX", "TMGH");
    for _ in 0..20 {
        assert_ne!(vip.event()["type"], "revoked");
    }
    licensed.change(&rows);
    let begun = Instant::now();
    loop {
        let answer = subscribe(&mut amina, 4, "EGX", "COMI");
        if accepted(&answer) == "COMI" {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer}");
    }
}

#[test]
fn a_refreshed_token_with_fewer_rights_ends_what_they_no_longer_cover() {
    let stack = Stack::start(&["license", "quota"]);
    let token = |exchanges: &[&str]| {
        stack.keys.token(json!({"sub": "amina", "tenant": "t", "tier": "professional", "exchanges": exchanges}))
    };
    let mut client = stack.connect(&token(&["EGX", "ADX"]));
    client.until_type("welcome");
    subscribe(&mut client, 1, "EGX", "COMI");
    subscribe(&mut client, 2, "ADX", "FAB");
    client.send(json!({"type": "refresh", "id": 3, "token": token(&["EGX"])}));
    client.until_type("refreshed");
    let revoked = client.until_type("revoked");
    assert_eq!((revoked["symbols"].clone(), revoked["code"].clone()), (json!(["FAB"]), json!("license.exchange")));
    for _ in 0..10 {
        assert_eq!(client.until_type("market_data_update")["exchange"], "EGX");
    }
}
