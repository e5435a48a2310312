//! `cases/quota.toml`, row by row. What must hold over any interleaving is in `quota_properties.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bawaba_policies::UnixNanos;
use bawaba_policies::license::licenses::Settings as Licenses;
use bawaba_policies::license::{AtLimit, Tiers};
use bawaba_policies::quota::{
    Admit, Cells, Client, Clocks, Delivered, Desk, Entitled, Limit, Limits, Overrides, Refused,
};
use serde::Deserialize;

const CASES: &str = include_str!("../cases/quota.toml");
const START: UnixNanos = UnixNanos::from_seconds(1_767_225_600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    group: Vec<Group>,
    claims: Vec<Claims>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    law: String,
    limits: Overrides,
    tenant: Option<Overrides>,
    #[serde(default)]
    at_limit: AtLimit,
    rows: Vec<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    law: String,
    licenses: Option<String>,
    claims: Vec<[String; 2]>,
}

type Store = Rc<RefCell<BTreeMap<String, (Vec<u8>, u32)>>>;

struct Shared(Store);

impl Cells for Shared {
    fn read(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.0.borrow().get(key).cloned()
    }

    fn swap(&self, key: &str, value: &[u8], version: Option<u32>) -> bool {
        let mut store = self.0.borrow_mut();
        if store.get(key).map(|(_, version)| *version) != version {
            return false;
        }
        store.insert(key.into(), (value.into(), version.unwrap_or(0) + 1));
        true
    }
}

/// A row's world: one store, a desk for each holder, users by name.
struct World<'a> {
    group: &'a Group,
    store: Store,
    clocks: Clocks,
    desks: BTreeMap<String, Desk<Shared>>,
    /// Symbols taken so far by `subscribe n` and `extend n`, by user: each is fresh.
    taken: BTreeMap<String, Vec<String>>,
    fresh: u32,
}

impl World<'_> {
    fn client(&self, user: &str, unit: u64) -> Client {
        let of = |limits: Overrides| Limits::UNLIMITED.overridden(limits);
        let entitled = Entitled {
            tenant: "acme".into(),
            user: user.into(),
            of_user: of(self.group.limits),
            of_tenant: self.group.tenant.map(of),
            at_user_limit: self.group.at_limit,
            at_tenant_limit: self.group.at_limit,
        };
        Client { entitled, unit }
    }

    /// `time [user@holder] verb [words]`.
    fn take(&mut self, action: &str) -> Result<(), Refused> {
        let mut words: Vec<&str> = action.split(' ').collect();
        let now = START.plus_millis(words.remove(0).parse().expect(action));
        let (user, holder) = match words[0].split_once('@') {
            Some(_) => words.remove(0).split_once('@').unwrap(),
            None => ("amina", "1"),
        };
        let number = |at: usize| words.get(at).map_or(1, |n| n.parse::<u32>().expect(action));
        let id = holder.parse().expect(action);
        let store = Rc::clone(&self.store);
        self.desks.entry(holder.into()).or_insert_with(|| Desk::new(Shared(store), id));
        let client = self.client(user, if words[0].ends_with("connect") { u64::from(number(1)) } else { 0 });
        let desk = &self.desks[holder];
        let named = || words[1].split(',').map(String::from).collect::<Vec<_>>();
        match words[0] {
            "connect" => desk.connect(&client, Admit::Within, now).map(drop),
            "reconnect" => desk.connect(&client, Admit::Again, now).map(drop),
            "disconnect" => {
                desk.disconnect(&client);
                Ok(())
            }
            "watch" => desk.subscribe(&client, Admit::Within, 1, &named(), now).map(drop),
            "unwatch" => {
                desk.unsubscribe(&client, 1, &named());
                Ok(())
            }
            verb @ ("subscribe" | "extend") => {
                let symbols: Vec<String> = (0..number(1)).map(|n| format!("S{}", self.fresh + n)).collect();
                self.fresh += number(1);
                desk.subscribe(&client, Admit::Within, u32::from(verb == "subscribe"), &symbols, now)?;
                self.taken.entry(user.into()).or_default().extend(symbols);
                Ok(())
            }
            verb @ ("unsubscribe" | "release") => {
                let taken = self.taken.entry(user.into()).or_default();
                let gone = taken.split_off(taken.len().saturating_sub(number(1) as usize));
                desk.unsubscribe(&client, u32::from(verb == "unsubscribe"), &gone);
                Ok(())
            }
            "message" => desk.spend(&client, now, |rates, limits| rates.message(limits, now)).map(drop),
            "subscribing" => desk.spend(&client, now, |rates, limits| rates.subscribe(limits, now)).map(drop),
            "order" => {
                let day = self.clocks.day(words.get(2).unwrap_or(&"EGX"), now);
                desk.spend(&client, now, |rates, limits| rates.order(limits, day, now)).map(drop)
            }
            verb @ ("deliver" | "undelivered") => {
                let day = self.clocks.day("EGX", now);
                let amount = Delivered { messages: u64::from(number(1)), bytes: 1024 * u64::from(number(2)) };
                if verb == "undelivered" {
                    desk.undelivered(&client, amount, day.number, now);
                    return Ok(());
                }
                let granted = desk.spend(&client, now, |rates, limits| rates.deliver(limits, amount, day, now))?;
                let least = granted.iter().map(|(granted, _)| granted.messages).min().unwrap();
                // `deliver` in a row wants all of it.
                assert_eq!(least, amount.messages, "{action}: granted in part");
                Ok(())
            }
            "renew" => {
                desk.renew(now);
                Ok(())
            }
            // The holder ends without giving anything back.
            "crash" => {
                self.desks.remove(holder);
                Ok(())
            }
            other => panic!("{other} is no verb"),
        }
    }
}

fn outcome(result: Result<(), Refused>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(Refused { reason, retry_after_ms: None }) => format!("{reason} -"),
        Err(Refused { reason, retry_after_ms: Some(wait) }) => format!("{reason} {wait}"),
    }
}

fn check(group: &Group, steps: &[String]) -> Result<(), String> {
    let mut world = World {
        group,
        store: Store::default(),
        clocks: Clocks::from_settings(&[]).unwrap(),
        desks: BTreeMap::new(),
        taken: BTreeMap::new(),
        fresh: 0,
    };
    for step in steps {
        let (action, expected) = step.split_once(" -> ").expect(step);
        let mut words: Vec<&str> = action.split(' ').collect();
        let verb = words.iter().position(|word| matches!(*word, "message" | "order" | "subscribing"));
        let times = match verb.and_then(|verb| words.get(verb + 1)) {
            Some(times) => times.parse().expect(step),
            None => 1,
        };
        if let Some(at) = verb.filter(|at| words.len() > at + 1) {
            words[at + 1] = "1";
        }
        let once = words.join(" ");
        for _ in 1..times {
            match outcome(world.take(&once)) {
                given if given == "ok" => {}
                given => return Err(format!("{}: {steps:?}: {given} before {step}", group.law)),
            }
        }
        match outcome(world.take(&once)) {
            given if given == expected => {}
            given => return Err(format!("{}: {steps:?}: {given} at {step}", group.law)),
        }
    }
    Ok(())
}

fn show(limit: Limit) -> String {
    match limit {
        Limit::AtMost(most) => most.to_string(),
        Limit::Unlimited => "unlimited".into(),
    }
}

#[test]
fn every_row_of_the_table_holds() {
    let table: Table = toml::from_str(CASES).unwrap();
    let (mut rows, mut wrong) = (0, Vec::new());
    for group in &table.group {
        for steps in &group.rows {
            wrong.extend(check(group, steps).err());
            rows += 1;
        }
    }
    for group in &table.claims {
        let licenses: Licenses = serde_json::from_str(group.licenses.as_deref().unwrap_or("{}")).unwrap();
        let tiers = Tiers::builtin().unwrap().with_licenses(&licenses).unwrap();
        for [claims, expected] in &group.claims {
            let given = match Entitled::from_claims(&tiers, &serde_json::from_str(claims).unwrap(), START) {
                Ok(Entitled { of_user: given, of_tenant, .. }) => {
                    let counts = [given.subscriptions, given.symbols];
                    let rates = [given.messages_per_second, given.messages_burst, given.orders_per_minute];
                    let days = [given.orders_per_day, given.delivered_messages_per_day, given.delivered_kib_per_day];
                    let all = counts.into_iter().chain(rates).chain(days).map(show).collect::<Vec<_>>().join(" ");
                    match of_tenant {
                        Some(tenant) => format!("{all} tenant {}", show(tenant.connections)),
                        None => all,
                    }
                }
                Err(reason) => reason.word().into(),
            };
            if given != *expected {
                wrong.push(format!("{}: {claims}: {given}, not {expected}", group.law));
            }
            rows += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows >= 110, "only {rows} rows: the table was cut short");
    println!("{rows} rows of cases/quota.toml hold");
}

#[test]
fn days_begin_at_the_exchanges_midnight_summer_time_included() {
    let clocks = Clocks::from_settings(&[]).unwrap();
    for (exchange, at, next) in [
        ("EGX", "2026-11-24T21:59:59Z", "2026-11-24T22:00:00Z"),
        ("EGX", "2026-11-24T22:00:00Z", "2026-11-25T22:00:00Z"),
        ("ADX", "2026-11-24T19:59:59Z", "2026-11-24T20:00:00Z"),
        ("ADX", "2026-11-24T20:00:00Z", "2026-11-25T20:00:00Z"),
        // Summer time: midnight in Cairo is 21:00Z; the night it begins has no 00:00, the night it ends has two 23:00.
        ("EGX", "2026-07-01T12:00:00Z", "2026-07-01T21:00:00Z"),
        ("EGX", "2026-04-23T12:00:00Z", "2026-04-23T22:00:00Z"),
        ("EGX", "2026-10-29T12:00:00Z", "2026-10-29T22:00:00Z"),
        ("ZZZ", "2026-11-24T12:00:00Z", "2026-11-25T00:00:00Z"),
    ] {
        let instant = |text| UnixNanos::parse_rfc3339(text).unwrap();
        assert_eq!(clocks.day(exchange, instant(at)).next_at, instant(next), "{exchange} {at}");
    }
}
