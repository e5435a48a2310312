//! `cases/sharia_rules.toml`, row by row; and what no set of rules can do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use bawaba_policies::sharia::{self, Decision, Field, Fields, Mode, Outcome, Register, Screening, Settings, Subject};
use bawaba_policies::{InstrumentRef, UnixNanos};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

const CASES: &str = include_str!("../cases/sharia_rules.toml");
const REGISTERS: &str = include_str!("../cases/sharia_registers.toml");
const AT: UnixNanos = UnixNanos::from_seconds(1_767_225_600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    group: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    law: String,
    rules: String,
    boards: Option<Vec<String>>,
    rule: Option<String>,
    #[serde(default)]
    rows: Vec<Row>,
    refused: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    on: String,
    kind: Option<String>,
    mode: Option<String>,
    gives: String,
    by: Option<String>,
}

fn register(rules: Value) -> Result<Register, String> {
    let mut all: BTreeMap<String, Settings> = toml::from_str(REGISTERS).unwrap();
    let mut settings = all.remove("synthetic").unwrap();
    settings.rules = serde_json::from_value(rules).map_err(|error| error.to_string())?;
    Register::from_settings(&settings).map_err(|error| error.to_string())
}

fn subject(word: &str) -> Subject {
    match word {
        "quote" => Subject::Quote,
        "book" => Subject::Book,
        "trade" => Subject::Trade,
        "news" => Subject::News,
        "status" => Subject::Status,
        "alert" => Subject::Alert,
        "order" => Subject::Order,
        "order_update" => Subject::OrderUpdate,
        "position_update" => Subject::PositionUpdate,
        other => panic!("{other} is no kind"),
    }
}

/// The fields of a message of this kind.
const fn fields_of(subject: Subject) -> &'static [&'static str] {
    match subject {
        Subject::Quote => &["last", "bid", "ask", "open", "high", "low", "close", "bid_size", "ask_size", "volume"],
        Subject::Book => &["bids", "asks"],
        Subject::Trade => &["price", "size", "side", "trade_id"],
        _ => &[],
    }
}

fn gives(decision: Decision, subject: Subject) -> String {
    match decision {
        Decision::Annotate => "shown".into(),
        Decision::Drop(reason) => reason.word().into(),
        Decision::Redact(fields) => {
            let left: Vec<&str> = fields.left().collect();
            let gone = fields_of(subject).iter().filter(|name| !left.contains(*name));
            gone.fold("without".into(), |text, name| format!("{text} {name}"))
        }
    }
}

#[test]
fn every_row_of_the_table_holds() {
    let table: Table = toml::from_str(CASES).unwrap();
    let mut rows = 0;
    for group in &table.group {
        let register = register(serde_json::from_str(&group.rules).unwrap());
        if let Some(refused) = &group.refused {
            let error = register.expect_err(&group.law);
            assert!(error.contains(refused.as_str()), "{}: {error}", group.law);
            rows += 1;
            continue;
        }
        let register = register.unwrap_or_else(|error| panic!("{}: {error}", group.law));
        for row in &group.rows {
            let context = format!("{}: {row:?}", group.law);
            let mode = row.mode.as_deref().unwrap_or("filter");
            let mut islamic = json!({ "mode": mode, "boards": group.boards });
            if let Some(rule) = &group.rule {
                islamic["rule"] = json!(rule);
            }
            let screening = Screening::from_claims(&json!({ "islamic": islamic }));
            let (exchange, symbol) = row.on.split_once('/').expect(&context);
            let verdict = sharia::judge(&register, &screening, InstrumentRef::new(exchange, symbol), AT);
            let kind = subject(row.kind.as_deref().unwrap_or("quote"));
            let decided = register.rules().decide(&verdict, exchange, kind);
            assert_eq!(gives(decided.decision, kind), row.gives, "{context}");
            if let Some(by) = &row.by {
                assert_eq!(decided.rule.unwrap_or("-"), by, "{context}");
            }
            rows += 1;
        }
    }
    assert!(rows >= 100, "only {rows} rows: the table was cut short");
    println!("{rows} rows of cases/sharia_rules.toml hold");
}

fn some<T: Clone + std::fmt::Debug + 'static>(of: Vec<T>) -> impl Strategy<Value = Option<Vec<T>>> {
    let len = of.len();
    prop::option::of(prop::sample::subsequence(of, 1..=len))
}

fn rule() -> impl Strategy<Value = Value> {
    let fields: Vec<&str> = Field::SINGLE.iter().map(|(_, name)| *name).chain(["prices", "sizes", "all"]).collect();
    let kinds = ["market_data_update", "order_book_update", "trade_update", "news_update", "market_status", "alert"];
    let results: Vec<&str> = Outcome::ALL.iter().map(|outcome| outcome.word()).collect();
    let action = prop_oneof![
        Just(json!("drop")),
        Just(json!("annotate")),
        prop::sample::subsequence(fields, 1..4).prop_map(|fields| json!({ "redact": fields })),
    ];
    let matches = (
        some(vec!["annotate", "filter"]),
        some(vec!["STOCK", "ETF", "BOND"]),
        some(vec!["EGX", "ADX"]),
        some(vec!["strict", "moderate", "flexible"]),
        some(kinds.to_vec()),
        some(results),
    );
    (matches, action).prop_map(|((modes, types, exchanges, levels, kinds, results), action)| {
        let all = json!({ "modes": modes, "asset_types": types, "exchanges": exchanges, "levels": levels,
            "kinds": kinds, "results": results });
        let written: serde_json::Map<_, _> =
            all.as_object().unwrap().clone().into_iter().filter(|(_, value)| !value.is_null()).collect();
        json!({ "match": written, "action": action })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Of what a verdict refuses nothing is shown but by a rule that names mode and result, of a verdict that a board gave,
    /// and never a price.
    #[test]
    fn no_set_of_rules_shows_more_than_its_verdicts_allow(rules in prop::collection::vec(rule(), 1..8)) {
        // Each alone that is taken, then those together: a rule that is not taken must not hide the others.
        let numbered = |(at, mut rule): (usize, Value)| {
            rule["id"] = json!(format!("r{at}"));
            rule["priority"] = json!(at);
            rule
        };
        let rules: Vec<Value> = rules.into_iter().enumerate().map(numbered).collect();
        let taken: Vec<Value> = rules.into_iter().filter(|rule| register(json!([rule])).is_ok()).collect();
        let register = register(json!(taken)).unwrap();
        for (boards, how) in [(vec!["ALPHA"], "all_of"), (vec!["ALPHA", "BETA"], "any_of"), (vec!["OVERDUE"], "named")] {
            for mode in ["annotate", "filter"] {
                let claims = json!({ "islamic": { "mode": mode, "boards": boards, "rule": how } });
                let screening = Screening::from_claims(&claims);
                for symbol in ["GOOD", "BAD", "DOUBT", "REVIEW", "ABSENT", "SPLIT", "BONDX", "ETFX", "DUPE", "NOSUCH"] {
                    let verdict = sharia::judge(&register, &screening, InstrumentRef::new("EGX", symbol), AT);
                    for subject in Subject::ALL {
                        let decided = register.rules().decide(&verdict, "EGX", subject);
                        if verdict.refusal().is_none() {
                            continue;
                        }
                        prop_assert_eq!(verdict.mode, Mode::Filter);
                        match decided.decision {
                            Decision::Drop(reason) => prop_assert_eq!(Some(reason), verdict.refusal()),
                            Decision::Annotate => prop_assert!(false, "{:?}", decided),
                            Decision::Redact(fields) => {
                                prop_assert!(fields.hide_prices());
                                let by = taken.iter().find(|rule| rule["id"] == decided.rule.unwrap()).unwrap();
                                let named = |key: &str, word: &str| {
                                    by["match"][key].as_array().is_some_and(|list| list.contains(&json!(word)))
                                };
                                prop_assert!(named("modes", "filter") && named("results", verdict.outcome.word()));
                                prop_assert!(verdict.outcome.is_a_boards_word());
                            }
                        }
                    }
                }
            }
        }
    }

    /// Redacting more never leaves more.
    #[test]
    fn a_redaction_is_monotone(
        some in prop::sample::subsequence(Field::SINGLE.to_vec(), 1..5),
        more in prop::sample::subsequence(Field::SINGLE.to_vec(), 1..5),
    ) {
        let fields = |list: &[(Field, &str)]| list.iter().map(|(field, _)| *field).collect::<Vec<_>>();
        let few: Vec<_> = Fields::closed(&fields(&some)).left().collect();
        for left in Fields::closed(&fields(&[some.clone(), more].concat())).left() {
            prop_assert!(few.contains(&left), "{left}");
        }
        for (_, name) in &some {
            prop_assert!(!few.contains(name), "{name}");
        }
    }
}
