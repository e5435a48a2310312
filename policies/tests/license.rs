//! `cases/license.toml`, row by row.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bawaba_policies::license::{
    self, Asset, Depth, Latency, License, Refusal, Settings, Subscription, Symbols, Terms, Tiers,
};
use bawaba_policies::{AssetType, Reason, UnixNanos};
use serde::Deserialize;
use serde_json::{Value, json};

const CASES: &str = include_str!("../cases/license.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    group: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    law: String,
    settings: Option<String>,
    licenses: Option<String>,
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    claims: String,
    exp: Option<String>,
    at: Option<UnixNanos>,
    later: Option<UnixNanos>,
    subscribe: Option<String>,
    order: Option<String>,
    gives: String,
}

fn asset(word: &str) -> Asset {
    match word {
        "-" => Asset::None,
        "?" => Asset::Unknown,
        word => Asset::Known(AssetType::parse(word).unwrap_or_else(|| panic!("{word} is no asset type"))),
    }
}

fn judge(tiers: &Tiers, row: &Row) -> Result<(), Reason> {
    let now = row.at.unwrap_or(UnixNanos::parse_rfc3339("2026-01-01T00:00:00Z").unwrap());
    let later = row.later.unwrap_or(now);
    let mut claims: Value = serde_json::from_str(&row.claims).unwrap();
    if let Some(claims) = claims.as_object_mut().filter(|_| row.exp.as_deref() != Some("none")) {
        claims.entry("exp").or_insert(json!(1_798_761_600));
    }
    let terms = Terms::from_claims(&claims)?;
    let reason = |refusal: Refusal| refusal.reason;
    let license: License = license::judge_connect(tiers, &terms, now).map_err(reason)?;
    if let Some(order) = &row.order {
        let (exchange, kind) = order.split_once(' ').unwrap();
        license::judge_order(tiers, &license, exchange, asset(kind), later).map_err(reason)?;
    }
    if let Some(subscribe) = &row.subscribe {
        let words: Vec<&str> = subscribe.split(' ').collect();
        let request = Subscription {
            channel: words[0],
            exchange: Some(words[1]).filter(|&exchange| exchange != "-"),
            asset: asset(words[2]),
            symbols: if words[3..].contains(&"*") { Symbols::All } else { Symbols::Named },
            depth: if words[3..].contains(&"L2") { Depth::Level2 } else { Depth::Level1 },
        };
        license::judge_subscribe(tiers, &license, &request, later).map_err(reason)?;
    }
    Ok(())
}

#[test]
fn every_row_of_the_table_holds() {
    let table: Table = toml::from_str(CASES).unwrap();
    let (mut rows, mut wrong) = (0, Vec::new());
    for group in &table.group {
        let settings: Settings = serde_json::from_str(group.settings.as_deref().unwrap_or("{}")).unwrap();
        let licenses = serde_json::from_str(group.licenses.as_deref().unwrap_or("{}")).unwrap();
        let tiers = Tiers::from_settings(&settings).unwrap().with_licenses(&licenses).unwrap();
        for row in &group.rows {
            let given = judge(&tiers, row).map_or_else(Reason::word, |()| "admitted");
            if given != row.gives {
                wrong.push(format!("{}: {given}: {row:?}", group.law));
            }
            rows += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows >= 150, "only {rows} rows: the table was cut short");
    println!("{rows} rows of cases/license.toml hold");
}

#[test]
fn a_permit_says_how_fresh_the_data_may_be_and_when_it_ends() {
    let tiers = Tiers::builtin().unwrap();
    let now = UnixNanos::from_seconds(1_767_225_600);
    let request = Subscription {
        channel: "market_data",
        exchange: Some("EGX"),
        asset: Asset::Known(AssetType::Stock),
        symbols: Symbols::Named,
        depth: Depth::Level1,
    };
    for (tier, latency) in [("basic", Latency::DelayedMs(900_000)), ("professional", Latency::RealTime)] {
        let terms = Terms::from_claims(&json!({ "tier": tier, "exp": 1_798_761_600 })).unwrap();
        let license = license::judge_connect(&tiers, &terms, now).unwrap();
        let permit = license::judge_subscribe(&tiers, &license, &request, now).unwrap();
        assert_eq!((permit.latency, permit.expires_at), (latency, UnixNanos::from_seconds(1_798_761_600)));
    }
}

#[test]
fn tiers_that_contradict_themselves_are_refused_whole() {
    let refused = |settings: Value, says: &str| {
        let settings: Result<Settings, _> = serde_json::from_value(settings);
        let error = match settings {
            Ok(settings) => Tiers::from_settings(&settings).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(says), "{error:?} should say {says:?}");
    };
    let limits = json!({"connections": 1, "subscriptions": 1, "symbols": 1, "messages_per_second": 1, "messages_burst": 1, "orders_per_minute": 1});
    let tier = |feature: &str| json!({"name": "t", "features": [feature], "depth": 1, "latency": "real_time", "limits": limits});
    refused(json!({ "tiers": [tier("TELEPATHY")] }), "not among the features");
    refused(json!({ "tiers": [tier("REST_API"), tier("REST_API")] }), "twice");
    refused(json!({ "order": ["TELEPATHY"] }), "not among the features");
    refused(json!({ "base": "empty", "id": "x" }), "is required");
    refused(json!({ "tier": [] }), "unknown field");
    let mut deep = tier("REST_API");
    deep["depth"] = json!(3);
    refused(json!({ "tiers": [deep] }), "a depth is 1");
    let mut endless = tier("REST_API");
    endless["limits"]["symbols"] = json!(-1);
    refused(json!({ "tiers": [endless] }), "whole number");
}

#[test]
fn licences_that_contradict_themselves_are_refused_whole() {
    let refused = |settings: Value, says: &str| {
        let error = match serde_json::from_value(settings) {
            Ok(settings) => Tiers::builtin().unwrap().with_licenses(&settings).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(says), "{error:?} should say {says:?}");
    };
    let row = |change: Value| {
        let mut row = json!({"id": "L", "tenant": "acme", "tier": "basic", "from": "2026-01-01T00:00:00Z"});
        row.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        row
    };
    let one = |change: Value| json!({"id": "e", "rows": [row(change)]});
    let two = |change: Value| json!({"id": "e", "rows": [row(json!({})), row(change)]});
    refused(json!({"rows": [row(json!({}))]}), "edition has no id");
    refused(one(json!({"id": ""})), "id of its own");
    refused(two(json!({"user": "amina"})), "id of its own");
    refused(two(json!({"id": "M", "from": "2026-02-01T00:00:00Z"})), "begins before it ends");
    refused(one(json!({"to": "2026-01-01T00:00:00Z"})), "ends before it begins");
    refused(one(json!({"to": "2026-01-01"})), "offset included");
    refused(one(json!({"tier": "gold"})), "no tier of this name");
    refused(one(json!({"features": ["TELEPATHY"]})), "not among the features");
    refused(one(json!({"without": ["TELEPATHY"]})), "not among the features");
    refused(one(json!({"user": ""})), "leave the key out");
    refused(one(json!({"at_user_limit": "evict"})), "refuse");
    refused(one(json!({"at_user_limit": {"count": null}})), "expected a string");
    refused(one(json!({"latency": {"real_time": null}})), "a latency is");
    refused(one(json!({"latency": {"delayed_minutes": 15, "delayed_ms": 1}})), "a latency is");
    refused(one(json!({"latency": {"delayed_minutes": -1}})), "a latency is");
    refused(one(json!({"latency": {"delayed_minutes": 71_583}})), "a latency is");
    refused(one(json!({"limits": {"sybmols": 1}})), "sybmols");
    refused(
        one(json!({"suspended": [{"from": "2026-02-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}]})),
        "suspension ends",
    );
    refused(json!({"others": {"refuse": null}}), "expected a string");
    refused(json!({"row": []}), "unknown field");
}

#[test]
fn a_verdict_says_until_when_it_holds_by_itself() {
    let licenses = json!({"id": "e", "rows": [
        {"id": "L", "tenant": "acme", "tier": "basic", "from": "2026-02-01T00:00:00Z", "to": "2026-05-01T00:00:00Z",
         "suspended": [{"from": "2026-03-01T00:00:00Z", "to": "2026-04-01T00:00:00Z"}]}]});
    let tiers = Tiers::builtin().unwrap().with_licenses(&serde_json::from_value(licenses).unwrap()).unwrap();
    let terms = Terms::from_claims(&json!({"tenant": "acme", "exp": 1_798_761_600})).unwrap();
    for (at, word, until) in [
        ("2026-01-01T00:00:00Z", "license.inactive", Some("2026-02-01T00:00:00Z")),
        ("2026-02-01T00:00:00Z", "admitted", Some("2026-03-01T00:00:00Z")),
        ("2026-03-01T00:00:00Z", "license.inactive", Some("2026-04-01T00:00:00Z")),
        ("2026-04-01T00:00:00Z", "admitted", Some("2026-05-01T00:00:00Z")),
        ("2026-05-01T00:00:00Z", "license.expired", None),
    ] {
        let now = UnixNanos::parse_rfc3339(at).unwrap();
        let (given, changes_at) = match license::judge_standing(&tiers, &terms, now) {
            Ok(license) => ("admitted", license.changes_at()),
            Err(lapse) => (lapse.reason.word(), lapse.changes_at),
        };
        assert_eq!((given, changes_at), (word, until.map(|until| UnixNanos::parse_rfc3339(until).unwrap())), "{at}");
    }
}
