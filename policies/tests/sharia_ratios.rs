//! `cases/sharia_ratios.toml`, row by row, against the standards that ship; and what must hold for any figures.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use bawaba_policies::sharia::{Fundamentals, Past, Standard, Standing, assess};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

const CASES: &str = include_str!("../cases/sharia_ratios.toml");
const STANDARDS: &str = include_str!("../data/sharia/standards.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Standards beside those that ship, as JSON.
    standards: Vec<String>,
    group: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    law: String,
    standard: String,
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    #[serde(default)]
    set: BTreeMap<String, String>,
    past: Option<String>,
    gives: String,
    leaves: Option<String>,
    purification: Option<u64>,
}

fn standards() -> BTreeMap<String, Standard> {
    let all: Value = serde_json::from_str(STANDARDS).unwrap();
    let all: Vec<Standard> = serde_json::from_value(all["standards"].clone()).unwrap();
    all.into_iter().map(|standard| (standard.id.clone(), standard)).collect()
}

fn company(set: &BTreeMap<String, String>) -> Fundamentals {
    let none = ["interest_bearing_debt", "total_debt", "cash", "conventional_cash", "interest_bearing_investments"];
    let mut whole = json!({
        "activity": "permissible",
        "accounts": { "receivables": "0", "liquid_assets": "0", "total_assets": "100", "revenue": "100",
            "profit_before_tax": "100" },
        "market_cap": { "spot": "100", "6m": "100", "12m": "100", "24m": "100", "36m": "100" },
        "income": {}, "income_is_complete": true,
    });
    for item in none {
        whole["accounts"][item] = "0".into();
    }
    for (key, value) in set {
        let (part, name) = match (key.strip_prefix("income_"), key.strip_prefix("market_cap_")) {
            _ if key == "activity" => ("", "activity"),
            _ if key == "income_is_complete" => {
                whole[key] = (value == "true").into();
                continue;
            }
            (Some(activity), _) => ("income", activity),
            (_, Some(averaging)) => ("market_cap", averaging),
            _ => ("accounts", key.as_str()),
        };
        let table = if part.is_empty() { &mut whole } else { &mut whole[part] };
        let table = table.as_object_mut().unwrap();
        if value == "-" {
            table.remove(name).unwrap_or_else(|| panic!("{key} is not there to be taken away"));
        } else {
            table.insert(name.into(), value.as_str().into());
        }
    }
    serde_json::from_value(whole).unwrap()
}

/// `in`, `forgiven`, `out`; with `:debt=2,cash=1`, how often in a row by measure, where `:2` is debt's.
fn past(text: &str) -> Past {
    let (word, streaks) = text.split_once(':').unwrap_or((text, ""));
    let streak = |text: &str| {
        let (measure, streak) = text.split_once('=').unwrap_or(("debt", text));
        (measure.to_owned(), streak.parse().unwrap())
    };
    let streaks = streaks.split(',').filter(|text| !text.is_empty()).map(streak).collect();
    Past { member: word != "out", streaks, forgiven: word == "forgiven" }
}

const fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Compliant => "compliant",
        Standing::NotCompliant => "not_compliant",
        Standing::Insufficient => "insufficient",
    }
}

#[test]
fn every_row_of_the_table_holds() {
    let mut standards = standards();
    let table: Table = toml::from_str(CASES).unwrap();
    for text in &table.standards {
        let standard: Standard = serde_json::from_str(text).unwrap();
        standards.insert(standard.id.clone(), standard);
    }
    let mut rows = 0;
    for group in &table.group {
        let standard = standards.get(&group.standard).unwrap_or_else(|| panic!("no standard {}", group.standard));
        for row in &group.rows {
            let context = format!("{}: {row:?}", group.law);
            let found = assess(standard, &company(&row.set), row.past.as_deref().map(past).as_ref());
            assert_eq!(word(found.standing), row.gives, "{context}: {found:?}");
            if let Some(leaves) = &row.leaves {
                assert_eq!(found.past, Some(past(leaves)), "{context}");
            }
            if let Some(parts) = row.purification {
                assert_eq!(found.purification_ppm, Some(parts), "{context}");
            }
            rows += 1;
        }
    }
    assert!(rows >= 250, "only {rows} rows: the table was cut short");
    println!("{rows} rows of cases/sharia_ratios.toml hold");
}

fn figures() -> impl Strategy<Value = BTreeMap<String, String>> {
    let keys = prop::sample::select(vec![
        "interest_bearing_debt",
        "total_debt",
        "cash",
        "conventional_cash",
        "interest_bearing_investments",
        "receivables",
        "liquid_assets",
        "total_assets",
        "revenue",
        "profit_before_tax",
        "market_cap_6m",
        "market_cap_12m",
        "market_cap_24m",
        "market_cap_36m",
        "income_interest",
        "income_alcohol",
        "income_cinema",
    ]);
    let values = prop_oneof!["[0-9]{1,3}", "[0-9]{1,2}\\.[0-9]{1,6}", "-[1-9]"];
    prop::collection::btree_map(keys.prop_map(String::from), values, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Nothing that is not told makes a company compliant that would not be so if it were told to be nothing.
    #[test]
    fn taking_a_figure_away_never_makes_a_company_compliant(set in figures(), gone in any::<prop::sample::Index>()) {
        let mut less = set.clone();
        let keys = ["total_assets", "revenue", "market_cap_12m", "interest_bearing_debt", "total_debt", "cash"];
        less.insert(keys[gone.index(keys.len())].into(), "-".into());
        for standard in standards().values() {
            let (whole, part) = (assess(standard, &company(&set), None), assess(standard, &company(&less), None));
            prop_assert!(part.standing != Standing::Compliant || whole.standing == Standing::Compliant);
        }
    }

    /// Amounts in another currency give the same standing: only ratios count.
    #[test]
    fn the_unit_of_money_does_not_matter(set in figures(), member in any::<bool>()) {
        let shifted = |text: &str| match text.split_once('.') {
            Some((whole, rest)) => format!("{whole}{:0<6}", rest),
            None => format!("{text}000000"),
        };
        let past = Past { member, ..Past::default() };
        for standard in standards().values() {
            let one = company(&set);
            let mut million = one.clone();
            let all = million.accounts.values_mut().chain(million.market_cap.values_mut()).chain(million.income.values_mut());
            for amount in all {
                *amount = bawaba_policies::sharia::Amount::parse(&shifted(&amount.to_string())).unwrap();
            }
            prop_assert_eq!(assess(standard, &one, Some(&past)), assess(standard, &million, Some(&past)));
        }
    }
}
