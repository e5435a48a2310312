//! `cases/quota.toml`, row by row, and what must hold over any interleaving.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bawaba_policies::license::Tiers;
use bawaba_policies::quota::{Limit, Limits, Refused, Usage};
use bawaba_policies::{Reason, UnixNanos};
use proptest::prelude::*;
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
    limits: [Limit; 5],
    rows: Vec<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    law: String,
    claims: Vec<[String; 2]>,
}

fn limits([subscriptions, symbols, messages_per_second, messages_burst, orders_per_minute]: [Limit; 5]) -> Limits {
    let connections = Limit::AtMost(1);
    Limits { connections, subscriptions, symbols, messages_per_second, messages_burst, orders_per_minute }
}

fn take(usage: &mut Usage, limits: &Limits, verb: &str, n: u32, now: UnixNanos) -> Result<(), Refused> {
    match verb {
        "subscribe" => usage.subscribe(limits, n),
        "extend" => usage.extend(limits, n),
        "unsubscribe" => {
            usage.unsubscribe(n);
            Ok(())
        }
        "release" => {
            usage.release_symbols(n);
            Ok(())
        }
        "message" => usage.message(limits, now),
        "order" => usage.order(limits, now),
        other => panic!("{other} is no verb"),
    }
}

fn outcome(result: Result<(), Refused>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(Refused { reason, retry_after_ms: None }) => format!("{reason} -"),
        Err(Refused { reason, retry_after_ms: Some(wait) }) => format!("{reason} {wait}"),
    }
}

fn check(law: &str, limits: &Limits, steps: &[String]) {
    let mut usage = Usage::new();
    for step in steps {
        let (action, expected) = step.split_once(" -> ").expect(step);
        let words: Vec<&str> = action.split(' ').collect();
        let now = START.plus_millis(words[0].parse().expect(step));
        let n = words.get(2).map_or(1, |n| n.parse().expect(step));
        let times = if matches!(words[1], "message" | "order") { n } else { 1 };
        for _ in 1..times {
            assert_eq!(outcome(take(&mut usage, limits, words[1], n, now)), "ok", "{law}: {steps:?}, before {step}");
        }
        assert_eq!(outcome(take(&mut usage, limits, words[1], n, now)), expected, "{law}: {steps:?}, at {step}");
    }
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
    let mut rows = 0;
    for group in &table.group {
        for steps in &group.rows {
            check(&group.law, &limits(group.limits), steps);
            rows += 1;
        }
    }
    let tiers = Tiers::builtin().unwrap();
    for group in &table.claims {
        for [claims, expected] in &group.claims {
            let given = match Limits::from_claims(&tiers, &serde_json::from_str(claims).unwrap()) {
                Ok(given) => {
                    let counts = [given.subscriptions, given.symbols];
                    let rates = [given.messages_per_second, given.messages_burst, given.orders_per_minute];
                    counts.into_iter().chain(rates).map(show).collect::<Vec<_>>().join(" ")
                }
                Err(reason) => reason.word().into(),
            };
            assert_eq!(&given, expected, "{}: {claims}", group.law);
            rows += 1;
        }
    }
    assert!(rows >= 30, "only {rows} rows: the table was cut short");
    println!("{rows} rows of cases/quota.toml hold");
}

proptest! {
    /// Any order of taking and giving back, by a caller that gives back only what it holds.
    #[test]
    fn what_is_held_never_exceeds_the_limit(
        most in 0_u32..6, most_symbols in 0_u32..20, steps in prop::collection::vec((0_u8..4, 0_u32..12), 0..200)
    ) {
        let at = Limit::AtMost;
        let limits = limits([at(most), at(most_symbols), at(1), at(1), at(1)]);
        let mut usage = Usage::new();
        let mut held: Vec<u32> = Vec::new();
        for (verb, n) in steps {
            let before = usage;
            let result = match verb {
                0 => usage.subscribe(&limits, n).map(|()| held.push(n)),
                1 => match held.last_mut() {
                    Some(last) => usage.extend(&limits, n).map(|()| *last += n),
                    None => Ok(()),
                },
                2 => {
                    held.pop().into_iter().for_each(|last| usage.unsubscribe(last));
                    Ok(())
                }
                _ => {
                    if let Some(last) = held.last_mut() {
                        let some = n.min(*last);
                        *last -= some;
                        usage.release_symbols(some);
                    }
                    Ok(())
                }
            };
            prop_assert!(result.is_ok() || usage == before, "a refusal takes nothing");
            prop_assert_eq!(usage.subscriptions() as usize, held.len());
            prop_assert_eq!(usage.symbols(), held.iter().sum::<u32>());
            prop_assert!(usage.subscriptions() <= most && usage.symbols() <= most_symbols);
        }
    }

    /// Over every stretch of any timeline, also one whose clock steps back.
    #[test]
    fn messages_granted_never_exceed_burst_plus_rate(
        rate in 0_u32..2_000, burst in 0_u32..20, steps in prop::collection::vec(-20_000_000_i64..400_000_000, 1..120)
    ) {
        let limits = limits([Limit::AtMost(1), Limit::AtMost(1), Limit::AtMost(rate), Limit::AtMost(burst), Limit::AtMost(1)]);
        let mut usage = Usage::new();
        let (mut now, mut latest) = (START.0, START.0);
        let mut granted: Vec<u64> = Vec::new();
        for step in steps {
            now = now.saturating_add_signed(step);
            latest = latest.max(now);
            match usage.message(&limits, UnixNanos(now)) {
                Ok(()) => granted.push(latest),
                Err(refused) => {
                    prop_assert_eq!(refused.reason, Reason::QuotaMessages);
                    // What it says to wait is enough, and a millisecond less is not.
                    if let Some(wait) = refused.retry_after_ms {
                        let at = |millis: u64| usage.clone().message(&limits, UnixNanos(now).plus_millis(millis));
                        prop_assert!(at(wait).is_ok());
                        prop_assert!(wait == 0 || at(wait - 1).is_err());
                    }
                }
            }
        }
        for (first, &from) in granted.iter().enumerate() {
            for (last, &to) in granted.iter().enumerate().skip(first) {
                let most = u128::from(burst) + u128::from(to - from) * u128::from(rate) / 1_000_000_000;
                prop_assert!((last - first + 1) as u128 <= most);
            }
        }
    }

    #[test]
    fn orders_granted_in_a_minute_of_the_clock_never_exceed_the_limit(
        most in 0_u32..8, steps in prop::collection::vec(-5_000_i64..40_000, 1..200)
    ) {
        let limits = limits([Limit::AtMost(1), Limit::AtMost(1), Limit::AtMost(1), Limit::AtMost(1), Limit::AtMost(most)]);
        let mut usage = Usage::new();
        let (mut millis, mut latest) = (1_000_000_u64, 0);
        let mut granted = std::collections::BTreeMap::<u64, u32>::new();
        for step in steps {
            millis = millis.saturating_add_signed(step);
            let now = UnixNanos::from_millis(millis);
            match usage.order(&limits, now) {
                // A clock that stepped back is still in the latest minute that it showed.
                Ok(()) => {
                    latest = latest.max(millis / 60_000);
                    *granted.entry(latest).or_default() += 1;
                }
                Err(Refused { retry_after_ms: Some(wait), .. }) => {
                    prop_assert!(usage.clone().order(&limits, now.plus_millis(wait)).is_ok());
                }
                Err(_) => prop_assert_eq!(most, 0),
            }
        }
        prop_assert!(granted.values().all(|&count| count <= most));
    }
}
