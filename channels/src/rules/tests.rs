//! The rules of each exchange as a table: `channels/cases/orders.toml`.

use super::*;
use crate::listing::Listing;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    on: String,
    order: String,
    #[serde(default = "continuous")]
    market: Phase,
    instrument: Option<Phase>,
    #[serde(default = "stock")]
    asset_type: String,
    #[serde(default = "main")]
    board: String,
    #[serde(default = "close")]
    close: String,
    gives: String,
    #[serde(default)]
    says: String,
}

fn continuous() -> Phase {
    Phase::Continuous
}
fn stock() -> String {
    "STOCK".into()
}
fn main() -> String {
    "main".into()
}
fn close() -> String {
    "84.50".into()
}

/// `buy 100 at 84.50` is a limit order, `sell 5` one at market, `buy 5 stop at 3` of another type.
fn judge(rules: &Rules, case: &Case) -> Result<(), Breach> {
    let words: Vec<&str> = case.order.split_whitespace().collect();
    let price = words.iter().position(|word| *word == "at").map(|at| words[at + 1].parse().unwrap());
    let order_type = match words.get(2) {
        Some(&"at") => "limit",
        Some(other) => other,
        None => "market",
    };
    let quantity = words[1].parse().ok();
    let asked = Asked { side: words[0], order_type, price, quantity };
    let facts = Facts {
        asset_type: &case.asset_type,
        board: &case.board,
        market: case.market,
        instrument: case.instrument,
        close: case.close.parse().ok().and_then(mils),
    };
    rules.form(&asked).and_then(|sized| rules.admit(order_type, &sized, &facts))
}

#[test]
fn orders_are_judged_as_the_table_says() {
    let cases: Cases = toml::from_str(include_str!("../../cases/orders.toml")).unwrap();
    assert!(cases.case.len() > 40);
    let mut words = alloc::collections::BTreeSet::new();
    for case in &cases.case {
        let rules = Listing::embedded(&case.on).unwrap().rules;
        let at = format!("{} {} in {:?}", case.on, case.order, case.market);
        match judge(&rules, case) {
            Ok(()) => assert_eq!(case.gives, "taken", "{at}"),
            Err(breach) => {
                assert_eq!(breach.reason.word(), case.gives, "{at}: {}", breach.text);
                assert!(breach.text.contains(&case.says), "{at}: {}", breach.text);
                words.insert(breach.reason.word());
            }
        }
    }
    for word in [
        "order.tick",
        "order.price_limit",
        "order.lot",
        "order.asset_type",
        "order.board",
        "order.phase",
        "order.halted",
        "order.rejected",
        "channel.closed",
    ] {
        assert!(words.contains(word), "{word} is never given");
    }
}
