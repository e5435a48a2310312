//! `cases/sharia.toml`, row by row.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use bawaba_policies::sharia::{self, OrderTerms, Register, Screening, Settings, Verdict};
use bawaba_policies::{InstrumentRef, UnixNanos};
use serde::Deserialize;
use serde_json::{Value, json};

const CASES: &str = include_str!("../cases/sharia.toml");
const REGISTERS: &str = include_str!("../cases/sharia_registers.toml");

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
    register: String,
    at: Option<UnixNanos>,
    mode: Option<String>,
    boards: Option<Vec<String>>,
    rule: Option<String>,
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    on: String,
    at: Option<UnixNanos>,
    mode: Option<String>,
    boards: Option<Vec<String>>,
    rule: Option<String>,
    order: Option<String>,
    gives: String,
    result: Option<String>,
    level: Option<String>,
    list: Option<String>,
    compliant: Option<bool>,
    disagree: Option<bool>,
    historical: Option<bool>,
}

/// The same instrument, register and instant for every row: what differs is how the claims are written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    law: String,
    gives: String,
    claims: Vec<String>,
}

fn registers() -> BTreeMap<String, Register> {
    let settings: BTreeMap<String, Settings> = toml::from_str(REGISTERS).unwrap();
    settings
        .into_iter()
        .map(|(name, settings)| {
            let register = Register::from_settings(&settings).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, register)
        })
        .collect()
}

fn gives(verdict: &Verdict<'_>) -> &'static str {
    verdict.refusal().map_or("flows", |reason| reason.word())
}

fn check(register: &Register, group: &Group, row: &Row) {
    let context = format!("{}: {row:?}", group.law);
    let mut islamic = json!({ "mode": row.mode.as_ref().or(group.mode.as_ref()).map_or("filter", String::as_str) });
    islamic["boards"] = json!(row.boards.as_ref().or(group.boards.as_ref()).expect(&context));
    if let Some(rule) = row.rule.as_ref().or(group.rule.as_ref()) {
        islamic["rule"] = json!(rule);
    }
    let screening = Screening::from_claims(&json!({ "islamic": islamic }));
    let (exchange, symbol) = row.on.split_once('/').expect(&context);
    let instrument = InstrumentRef::new(exchange, symbol);
    let now = row.at.or(group.at).expect(&context);
    let verdict = match row.order.as_deref() {
        None => sharia::judge(register, &screening, instrument, now),
        Some(terms @ ("cash" | "short" | "margin")) => {
            let terms = OrderTerms { short_sale: terms == "short", margin: terms == "margin" };
            sharia::judge_order(register, &screening, instrument, terms, now)
        }
        Some(other) => panic!("{context}: {other} is no way to pay"),
    };
    assert_eq!(gives(&verdict), row.gives, "{context}");
    assert_eq!(verdict.filtered_at, now, "{context}");
    if let Some(result) = &row.result {
        assert_eq!(verdict.outcome.word(), result, "{context}");
    }
    if let Some(compliant) = row.compliant {
        assert_eq!(verdict.is_compliant(), compliant, "{context}");
    }
    if let Some(disagree) = row.disagree {
        assert_eq!(verdict.boards_disagree(), disagree, "{context}");
    }
    if let Some(historical) = row.historical {
        assert_eq!(verdict.findings.iter().any(|finding| finding.historical), historical, "{context}");
    }
    let annotation = verdict.annotation();
    assert_eq!(annotation.is_none(), verdict.outcome.word() == "unscreened", "{context}");
    if let Some(level) = &row.level {
        assert_eq!(annotation.as_ref().unwrap().compliance_level, level, "{context}");
    }
    if let Some(list) = &row.list {
        assert_eq!(&annotation.as_ref().unwrap().list, list, "{context}");
    }
}

#[test]
fn every_row_of_the_table_holds() {
    let registers = registers();
    let table: Table = toml::from_str(CASES).unwrap();
    let mut rows = 0;
    for group in &table.group {
        let register = registers.get(&group.register).unwrap_or_else(|| panic!("no register {}", group.register));
        for row in &group.rows {
            check(register, group, row);
            rows += 1;
        }
    }
    for claims in &table.claims {
        for text in &claims.claims {
            let parsed: Value = serde_json::from_str(text).unwrap();
            let screening = Screening::from_claims(&parsed);
            let now = UnixNanos::parse_rfc3339("2026-01-01T00:00:00Z").unwrap();
            let verdict = sharia::judge(&registers["synthetic"], &screening, InstrumentRef::new("EGX", "BAD"), now);
            assert_eq!(gives(&verdict), claims.gives, "{}: {text}", claims.law);
            rows += 1;
        }
    }
    assert!(rows >= 230, "only {rows} rows: the table was cut short");
    println!("{rows} rows of cases/sharia.toml hold");
}

#[test]
fn a_revocation_says_delisted_only_for_what_left_the_list() {
    let registers = registers();
    let screening =
        Screening::from_claims(&json!({ "islamic": { "mode": "filter", "boards": ["EDIT"], "rule": "named" } }));
    let before = UnixNanos::parse_rfc3339("2025-06-30T20:59:59.999999999Z").unwrap();
    let after = UnixNanos(before.0 + 1);
    let stale = UnixNanos::parse_rfc3339("2026-06-01T00:00:00Z").unwrap();
    let judge =
        |symbol, now| sharia::judge(&registers["synthetic"], &screening, InstrumentRef::new("EGX", symbol), now);
    let word = |symbol, from, to| {
        sharia::revocation(&judge(symbol, from), &judge(symbol, to)).map(bawaba_policies::Reason::word)
    };
    assert_eq!(word("SPLIT", before, after), Some("sharia.delisted"));
    assert_eq!(word("GOOD", before, after), None);
    assert_eq!(word("GOOD", before, stale), Some("sharia.list_stale"));
    assert_eq!(word("ABSENT", before, after), Some("sharia.not_listed"));
    assert_eq!(registers["synthetic"].next_change(before), Some(after));
    // REUSED passes to another company at midnight: that is a change, though no list begins or ends.
    let reused = UnixNanos::parse_rfc3339("2025-05-01T00:00:00+03:00").unwrap();
    assert_eq!(registers["synthetic"].next_change(UnixNanos(reused.0 - 1)), Some(reused));
}

#[test]
fn the_lists_in_force_are_named_until_they_end() {
    let registers = registers();
    let claims = json!({ "islamic": { "mode": "filter", "boards": ["EDIT", "NOBODY", "ENDED", "ALPHA"] } });
    let Screening::On(screened) = Screening::from_claims(&claims) else { panic!("screened") };
    let now = UnixNanos::parse_rfc3339("2025-12-01T00:00:00Z").unwrap();
    let lists = registers["synthetic"].lists_in_force(&screened, now);
    assert_eq!(lists, [("EDIT", "edit@2025-07-01.2"), ("ALPHA", "alpha@2025-01-01")]);
}
