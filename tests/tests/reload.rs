//! SIGHUP: another configuration is in force for open sessions too, from where they stand; a broken one changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::net::SocketAddr;
use std::process::Command;

use bawaba_tests::client::Client;
use bawaba_tests::keys::Keys;
use bawaba_tests::place::{Scratch, binary};
use bawaba_tests::process::Process;
use bawaba_tests::stack::{ChannelServer, Edge, edge_config, set};
use bawaba_tests::{PATIENCE, by, http, until};
use serde_json::{Value, json};
use toml::Table;

/// An edge without filters, and the configuration that it has.
struct Running {
    keys: Keys,
    edge: Edge,
    config: Table,
    scratch: Scratch,
}

impl Running {
    fn start(clusters: &[(&str, &[SocketAddr])]) -> Self {
        let (keys, scratch) = (Keys::generate(), Scratch::new());
        let config = edge_config(&scratch, &keys, &[], clusters);
        let edge = Edge::start(&scratch, &config);
        Self { keys, edge, config, scratch }
    }

    fn generation(&self) -> f64 {
        self.edge.metric("bawaba_generation").unwrap()
    }

    /// Puts a changed configuration in force.
    fn change(&mut self, change: impl FnOnce(&mut Table)) {
        let before = self.generation();
        change(&mut self.config);
        self.edge.reload(&self.scratch, &self.config.to_string());
        until("it is in force", by(PATIENCE), || (self.generation() > before).then_some(()));
    }

    fn user(&self, user: &str) -> Client {
        let mut client = self.edge.connect(&self.keys.unscreened(user));
        client.until_type("welcome");
        client
    }
}

fn subscribe(id: u64, exchange: &str, channel: &str, symbols: &[&str]) -> Value {
    json!({"type": "subscribe", "id": id, "channel": channel, "exchange": exchange, "symbols": symbols})
}

fn sessions(server: &ChannelServer) -> u64 {
    http::get(server.address, "/load").unwrap().json()["sessions"].as_u64().unwrap()
}

/// Reads updates of one instrument: in sequence, whoever sends them.
fn in_sequence(client: &mut Client, last: &mut Option<(String, u64)>, count: usize) {
    for _ in 0..count {
        let update = client.until(|event| event["type"] != "order_update", by(PATIENCE));
        assert_eq!(update["type"], "market_data_update", "{update}");
        let place = (update["epoch"].as_str().unwrap().to_owned(), update["seq"].as_u64().unwrap());
        if let Some((epoch, seq)) = last {
            assert_eq!((&*epoch, *seq + 1), (&place.0, place.1), "{update}");
        }
        *last = Some(place);
    }
}

/// However the configuration says that an exchange is served elsewhere, its sessions follow it there.
fn followed(change: impl FnOnce(&mut Table, SocketAddr)) {
    let (mut old, new) = (ChannelServer::live("EGX"), ChannelServer::live("EGX"));
    let mut running = Running::start(&[("EGX", &[old.address])]);
    let mut client = running.user("mona");
    client.request(subscribe(1, "EGX", "market_data", &["COMI"]));
    let mut place = None;
    in_sequence(&mut client, &mut place, 5);
    running.change(|config| change(config, new.address));
    until("the trunk has moved", by(PATIENCE), || (sessions(&new) > 0 && sessions(&old) == 0).then_some(()));
    old.process.kill();
    in_sequence(&mut client, &mut place, 10);
    let order = json!({"type": "order", "id": 2, "op": "place", "exchange": "EGX", "symbol": "COMI", "side": "buy",
        "order_type": "limit", "price": "70.00", "quantity": "100"});
    assert_eq!(client.request(order)["status"], "open");
    // A session that comes now goes there at once.
    let mut newcomer = running.user("omar");
    assert_eq!(newcomer.request(subscribe(1, "EGX", "market_data", &["TMGH"]))["type"], "subscribed");
}

#[test]
fn open_sessions_follow_a_cluster_to_its_new_endpoints() {
    followed(|config, new| {
        set(config, "cluster.egx.endpoints", vec![toml::Value::from(new.to_string())]);
    });
}

#[test]
fn open_sessions_follow_a_route_to_its_new_cluster() {
    followed(|config, new| {
        config["cluster"].as_table_mut().unwrap().remove("egx");
        set(config, "cluster.cairo.endpoints", vec![toml::Value::from(new.to_string())]);
        set(config, "route.0.channel.EGX", "cairo");
    });
}

#[test]
fn a_changed_setting_of_a_cluster_costs_nobody_an_update() {
    let server = ChannelServer::live("EGX");
    let mut running = Running::start(&[("EGX", &[server.address])]);
    let mut client = running.user("mona");
    client.request(subscribe(1, "EGX", "market_data", &["COMI"]));
    let mut place = None;
    in_sequence(&mut client, &mut place, 2);
    for interval in ["300ms", "400ms"] {
        running.change(|config| set(config, "cluster.egx.health.interval", interval));
        // What is known of its endpoints is known still.
        assert_eq!(http::get(running.edge.admin, "/readyz").unwrap().status, 200);
        in_sequence(&mut client, &mut place, 4);
    }
}

#[test]
fn what_a_route_serves_no_more_is_revoked_and_a_route_that_is_gone_closes() {
    let (egx, adx) = (ChannelServer::live("EGX"), ChannelServer::live("ADX"));
    let mut running = Running::start(&[("EGX", &[egx.address]), ("ADX", &[adx.address])]);
    let mut client = running.user("mona");
    client.request(subscribe(1, "EGX", "market_data", &["COMI"]));
    client.request(subscribe(2, "ADX", "market_data", &["FAB", "ALDAR"]));
    client.request(subscribe(3, "ADX", "orders", &[]));
    running.change(|config| {
        config["route"][0]["channel"].as_table_mut().unwrap().remove("ADX");
    });
    let mut revoked = Vec::new();
    while revoked.len() < 3 {
        let event = client.until_type("revoked");
        assert_eq!(event["code"], "channel.unknown", "{event}");
        revoked.push(event["symbols"].to_string());
    }
    revoked.sort();
    assert_eq!(revoked, [r#"["ALDAR"]"#, r#"["FAB"]"#, "[]"]);
    assert_eq!(client.until_type("market_data_update")["symbol"], "COMI");
    let answer = client.request(subscribe(4, "ADX", "market_data", &["FAB"]));
    assert_eq!(answer["code"], "channel.unknown", "{answer}");
    running.change(|config| set(config, "route.0.name", "other"));
    assert_eq!(client.close_code(), Some(1012));
}

#[test]
fn a_broken_configuration_changes_nothing_but_a_metric_and_the_log() {
    let server = ChannelServer::live("EGX");
    let running = Running::start(&[("EGX", &[server.address])]);
    let mut client = running.user("mona");
    client.request(subscribe(1, "EGX", "market_data", &["COMI"]));
    let mut place = None;
    in_sequence(&mut client, &mut place, 1);
    let with = |change: &dyn Fn(&mut Table)| {
        let mut config = running.config.clone();
        change(&mut config);
        config.to_string()
    };
    let table = [
        ("no TOML", "[[[".to_owned()),
        ("an unknown key", with(&|config| set(config, "edge.wrokers", 3))),
        ("a cluster that is not there", with(&|config| set(config, "route.0.channel.EGX", "nowhere"))),
        (
            "a module that is not there",
            with(&|config| {
                set(config, "filter.gone.module", "gone.wasm");
                set(config, "filter.gone.on_failure", "deny");
                set(config, "route.0.filters", vec![toml::Value::from("gone")]);
            }),
        ),
        ("a key file that is not there", with(&|config| set(config, "identity.jwks_file", "gone.json"))),
    ];
    for (failures, (law, config)) in (1..).zip(table) {
        running.edge.reload(&running.scratch, &config);
        until(law, by(PATIENCE), || {
            let counted = running.edge.metric("bawaba_generation_failures_total")? >= f64::from(failures);
            let told = running.edge.process.output().matches("the one in force stays").count() >= failures as usize;
            (counted && told).then_some(())
        });
        assert_eq!(running.generation(), 1.0, "{law}");
        in_sequence(&mut client, &mut place, 1);
    }
    let mut newcomer = running.user("omar");
    assert_eq!(newcomer.request(subscribe(1, "EGX", "market_data", &["TMGH"]))["type"], "subscribed");
}

#[test]
fn the_log_has_the_format_that_the_configuration_names() {
    let (keys, scratch) = (Keys::generate(), Scratch::new());
    let mut config = edge_config(&scratch, &keys, &[], &[("EGX", &[([127, 0, 0, 1], 9).into()])]);
    set(&mut config, "edge.log_format", "json");
    let file = scratch.write("edge.toml", config.to_string());
    let process = Process::spawn("bawaba", Command::new(binary("bawaba")).arg("serve").arg(file));
    let line: Value = process.line("saying where it listens", by(PATIENCE), |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["fields"]["message"] == "listening").then_some(line)
    });
    assert_eq!(line["level"], "INFO", "{line}");
}
