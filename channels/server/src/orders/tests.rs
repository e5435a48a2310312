//! Laws of the simulated accounts.

use super::*;
use bawaba_channels::wire::{Book, Level};
use proptest::prelude::*;
use std::collections::BTreeMap;

use bawaba_channels::price::quantity;

fn accounts() -> (Accounts, usize) {
    let listing = Arc::new(Listing::embedded("EGX").unwrap());
    let index = listing.index("COMI").unwrap();
    (Accounts::new(listing, "acct-1".into()), index)
}

fn market(accounts: &Accounts, phase: Phase, seq: u64, bids: &[(Mils, i64)], asks: &[(Mils, i64)]) -> MarketView {
    let rules = &accounts.listing.rules.ticks;
    let side = |levels: &[(Mils, i64)]| {
        levels.iter().map(|(p, s)| Level { price: rules.decimal(*p), size: quantity(*s) }).collect()
    };
    let book = Book { bids: side(bids), asks: side(asks) };
    MarketView { market: phase, instrument: None, last: 84_500, close: 84_500, book: BookView::new(seq, &book) }
}

fn order(side: &str, price: Option<&str>, size: i64) -> Request {
    Request {
        op: "place".into(),
        exchange: "EGX".into(),
        symbol: "COMI".into(),
        side: side.into(),
        order_type: if price.is_some() { "limit" } else { "market" }.into(),
        price: price.map(|p| p.parse().unwrap()),
        quantity: Some(quantity(size)),
        ..Request::default()
    }
}

const BIDS: [(Mils, i64); 2] = [(84_490, 300), (84_480, 500)];
const ASKS: [(Mils, i64); 2] = [(84_510, 200), (84_530, 400)];

#[test]
fn a_crossing_order_fills_by_price_and_rests_with_what_is_left() {
    let (mut accounts, comi) = accounts();
    let view = market(&accounts, Phase::Continuous, 1, &BIDS, &ASKS);
    let outcome = accounts.place("u", comi, &order("buy", Some("84.51"), 500), &view, 1).unwrap();
    assert_eq!((outcome.answer.status.as_str(), outcome.answer.filled_quantity), ("partially_filled", quantity(200)));
    assert_eq!(outcome.answer.average_price.unwrap().to_string(), "84.51");
    assert_eq!(outcome.news.len(), 2);
    // The same state of the book has nothing left at that price; the next one has.
    assert!(accounts.reach(comi, &view, 2).is_empty());
    let view = market(&accounts, Phase::Continuous, 2, &BIDS, &[(84_500, 1000)]);
    let told = accounts.reach(comi, &view, 3);
    let Private::Order(update) = &told[0].1[0] else { panic!("an order update first") };
    assert_eq!((update.status.as_str(), update.seq), ("filled", 2));
    let Private::Position(position) = &told[0].1[1] else { panic!("then the position") };
    assert_eq!((position.quantity, position.average_price.unwrap().to_string()), (quantity(500), "84.504".into()));
    assert!(!accounts.rests_on(comi));
}

#[test]
fn a_market_order_takes_what_there_is_and_the_rest_is_cancelled() {
    let (mut accounts, comi) = accounts();
    let view = market(&accounts, Phase::Continuous, 1, &BIDS, &ASKS);
    let outcome = accounts.place("u", comi, &order("buy", None, 1000), &view, 1).unwrap();
    assert_eq!((outcome.answer.status.as_str(), outcome.answer.filled_quantity), ("cancelled", quantity(600)));
    // Another account finds the book taken.
    let outcome = accounts.place("v", comi, &order("buy", None, 10), &view, 1).unwrap();
    assert_eq!(outcome.answer.filled_quantity, quantity(0));
}

#[test]
fn the_same_client_order_id_is_the_same_order_once() {
    let (mut accounts, comi) = accounts();
    let view = market(&accounts, Phase::Continuous, 1, &BIDS, &ASKS);
    let request = Request { client_order_id: Some("k".into()), ..order("buy", Some("84.51"), 100) };
    let first = accounts.place("u", comi, &request, &view, 1).unwrap();
    let again = accounts.place("u", comi, &request, &view, 9).unwrap();
    assert_eq!(first.answer, again.answer);
    assert!(again.news.is_empty());
    let other = Request { quantity: Some(quantity(101)), ..request.clone() };
    assert_eq!(accounts.place("u", comi, &other, &view, 9).err().unwrap().reason, Reason::OrderRejected);
    // Another user's key is another order.
    assert_ne!(accounts.place("v", comi, &request, &view, 9).unwrap().answer.order_id, first.answer.order_id);
}

#[test]
fn orders_against_the_rules_are_refused_with_the_exact_reason() {
    let (mut accounts, comi) = accounts();
    let rows: [(Phase, Request, &str, &str); 12] = [
        (Phase::Continuous, order("hold", None, 1), "order.rejected", "side"),
        (Phase::Continuous, order("buy", None, 0), "order.lot", "quantity"),
        (Phase::Continuous, Request { quantity: None, ..order("buy", None, 1) }, "order.lot", "quantity"),
        (Phase::Continuous, Request { quantity: "1.5".parse().ok(), ..order("buy", None, 1) }, "order.lot", "quantity"),
        (Phase::Continuous, order("buy", Some("84.505"), 1), "order.tick", "tick 0.01"),
        (Phase::Continuous, order("buy", Some("101.41"), 1), "order.price_limit", "limits 67.60 to 101.40"),
        (Phase::Continuous, order("sell", None, 1), "order.rejected", "short_sale"),
        (
            Phase::Continuous,
            Request { price: None, ..order("buy", Some("84.50"), 1) },
            "order.rejected",
            "needs a price",
        ),
        (
            Phase::Continuous,
            Request { price: "1".parse().ok(), ..order("buy", None, 1) },
            "order.rejected",
            "has no price",
        ),
        (
            Phase::Continuous,
            Request { flags: vec!["x".into()], ..order("buy", None, 1) },
            "order.rejected",
            "flag \"x\"",
        ),
        (Phase::Closed, order("buy", Some("84.50"), 1), "channel.closed", "closed"),
        (Phase::PreOpen, order("buy", None, 1), "order.phase", "pre_open"),
    ];
    for (phase, request, code, text) in rows {
        let view = market(&accounts, phase, 1, &BIDS, &ASKS);
        let refusal = accounts.place("u", comi, &request, &view, 1).err().expect("refused");
        assert_eq!(refusal.reason.word(), code, "{request:?}");
        assert!(refusal.text.contains(text), "{}", refusal.text);
    }
    let cancel = Request { op: "cancel".into(), order_id: Some("o-77".into()), ..Request::default() };
    assert_eq!(accounts.cancel("u", &cancel, 1).err().unwrap().reason, Reason::OrderUnknown);
}

#[test]
fn orders_gather_in_an_auction_and_trade_at_last_only_at_the_close() {
    let (mut accounts, comi) = accounts();
    let auction = market(&accounts, Phase::ClosingAuction, 1, &BIDS, &ASKS);
    let outcome = accounts.place("u", comi, &order("buy", Some("85.00"), 100), &auction, 1).unwrap();
    assert_eq!(outcome.answer.status, "open");
    let at_last = market(&accounts, Phase::TradeAtLast, 2, &BIDS, &ASKS);
    let told = accounts.reach(comi, &at_last, 2);
    let Private::Order(update) = &told[0].1[0] else { panic!("an order update") };
    assert_eq!((update.status.as_str(), update.average_price.unwrap().to_string()), ("filled", "84.50".into()));
}

#[test]
fn what_rests_at_the_end_of_the_day_is_cancelled() {
    let (mut accounts, comi) = accounts();
    let view = market(&accounts, Phase::Continuous, 1, &BIDS, &ASKS);
    accounts.place("u", comi, &order("buy", Some("84.51"), 500), &view, 1).unwrap();
    let told = accounts.end_day(2);
    let [(user, news)] = told.as_slice() else { panic!("one order") };
    let [Private::Order(update)] = news.as_slice() else { panic!("one update") };
    assert_eq!((user.as_str(), update.status.as_str(), update.filled_quantity), ("u", "cancelled", quantity(200)));
    assert!(!accounts.rests_on(comi) && accounts.end_day(3).is_empty());
}

#[test]
fn a_user_cannot_cancel_the_order_of_another() {
    let (mut accounts, comi) = accounts();
    let view = market(&accounts, Phase::Continuous, 1, &BIDS, &ASKS);
    let placed = accounts.place("u", comi, &order("buy", Some("80.00"), 100), &view, 1).unwrap().answer;
    let cancel = Request { op: "cancel".into(), order_id: Some(placed.order_id), ..Request::default() };
    accounts.place("v", comi, &order("buy", Some("80.00"), 1), &view, 1).unwrap();
    assert_eq!(accounts.cancel("v", &cancel, 2).err().unwrap().reason, Reason::OrderUnknown);
    assert_eq!(accounts.cancel("u", &cancel, 2).unwrap().answer.status, "cancelled");
    assert_eq!(accounts.cancel("u", &cancel, 3).err().unwrap().reason, Reason::OrderUnknown);
}

proptest! {
    /// Whatever is ordered: no fill beyond an order's limit or quantity, none beyond a book's size, numbers by one,
    /// and positions are the sums of the fills.
    #[test]
    fn fills_add_up(steps in prop::collection::vec((any::<bool>(), 0i64..6, 1i64..500, any::<bool>(), any::<bool>()), 1..80)) {
        let (mut accounts, comi) = accounts();
        let mut seq = 1;
        let mut seen: [u64; 2] = [0, 0];
        let mut held: BTreeMap<String, i64> = BTreeMap::new();
        let mut bought_from_book = 0;
        for (buy, ticks, size, next_book, market_order) in steps {
            if next_book {
                seq += 1;
                bought_from_book = 0;
            }
            let view = market(&accounts, Phase::Continuous, seq, &BIDS, &ASKS);
            let price = format!("84.{}", 48 + ticks);
            let mut request = order(if buy { "buy" } else { "sell" }, (!market_order).then_some(price.as_str()), size);
            request.flags = vec![SHORT_SALE.into()];
            let mut told: Vec<(String, Vec<Private>)> = accounts.reach(comi, &view, 1);
            let outcome = accounts.place("u", comi, &request, &view, 1).unwrap();
            told.push(("u".into(), outcome.news));
            for (user, news) in told {
                let mut before = held.get(&user).copied().unwrap_or(0);
                for update in news {
                    match update {
                        Private::Order(u) => {
                            seen[0] += 1;
                            prop_assert_eq!(u.seq, seen[0]);
                            prop_assert!(u.filled_quantity <= u.quantity);
                            if let (Some(limit), Some(average)) = (u.price, u.average_price) {
                                let within = if u.side == "buy" { average <= limit } else { average >= limit };
                                prop_assert!(within);
                            }
                        }
                        Private::Position(u) => {
                            seen[1] += 1;
                            prop_assert_eq!(u.seq, seen[1]);
                            let change = u.quantity.mantissa - before;
                            bought_from_book += change.max(0);
                            before = u.quantity.mantissa;
                        }
                    }
                }
                held.insert(user, before);
            }
            prop_assert!(bought_from_book <= ASKS.iter().map(|a| a.1).sum::<i64>());
        }
        let account = accounts.get("u").unwrap();
        let updates = account.order_updates.seq();
        prop_assert_eq!(updates, seen[0]);
    }
}
