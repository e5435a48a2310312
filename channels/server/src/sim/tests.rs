//! Laws of the simulation.

use super::*;
use bawaba_channels::price::mils;
use bawaba_channels::wire::{Quote, Timestamp};
use proptest::prelude::*;
use std::collections::HashMap;

fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().0
}

fn sim(exchange: &str, seed: u64, anchor: i64, hours: Hours) -> Sim {
    let listing = Arc::new(Listing::embedded(exchange).unwrap());
    Sim::new(listing, Settings { seed, anchor, updates_per_second: 100, hours })
}

fn run(sim: &mut Sim, steps: usize) -> Vec<Happening> {
    let mut out = Vec::new();
    for _ in 0..steps {
        sim.step(Some(&mut out));
    }
    out
}

fn updates(happenings: &[Happening]) -> impl Iterator<Item = (Channel, usize, &Update)> {
    happenings.iter().filter_map(|h| match h {
        Happening::Update { channel, instrument: Some(index), update } => Some((*channel, *index, update)),
        _ => None,
    })
}

#[test]
fn a_late_starter_gives_what_an_early_one_gave() {
    let anchor = at("2026-11-23T10:00:00Z");
    let mut early = sim("ADX", 7, anchor, Hours::RoundTheClock);
    let all = run(&mut early, 3000);
    let mut late = sim("ADX", 7, anchor, Hours::RoundTheClock);
    let mut tail = Vec::new();
    late.start(anchor + 2999 * late.interval_ns, 10, &mut tail);
    assert_eq!(early.epoch(), late.epoch());
    let by_place: HashMap<_, _> = updates(&all).map(|(c, i, u)| ((c, i, u.seq), u)).collect();
    let mut compared = 0;
    for (channel, index, update) in updates(&tail) {
        assert_eq!(by_place[&(channel, index, update.seq)], update);
        compared += 1;
    }
    assert!(compared > 600, "{compared}");
    assert_eq!(run(&mut early, 50), run(&mut late, 50));
}

#[test]
fn other_settings_give_another_epoch() {
    let anchor = at("2026-11-23T10:00:00Z");
    let epoch = |e: &str, seed, anchor, hours| sim(e, seed, anchor, hours).epoch().to_owned();
    let base = epoch("EGX", 1, anchor, Hours::RoundTheClock);
    assert_eq!(base, epoch("EGX", 1, anchor, Hours::RoundTheClock));
    assert_ne!(base, epoch("ADX", 1, anchor, Hours::RoundTheClock));
    assert_ne!(base, epoch("EGX", 2, anchor, Hours::RoundTheClock));
    assert_ne!(base, epoch("EGX", 1, anchor + 1, Hours::RoundTheClock));
    assert_ne!(base, epoch("EGX", 1, anchor, Hours::Calendar));
}

#[test]
fn a_trading_day_has_auction_trades_no_others_outside_and_silence_when_closed() {
    // From ten minutes before the pre-open of Monday to after the pre-open of Tuesday.
    let listing = Arc::new(Listing::embedded("EGX").unwrap());
    let anchor = at("2026-11-23T07:20:00Z");
    let settings = Settings { seed: 3, anchor, updates_per_second: 2, hours: Hours::Calendar };
    let mut sim = Sim::new(listing, settings);
    let mut out = Vec::new();
    while sim.next_at() < at("2026-11-24T07:40:00Z") {
        sim.step(Some(&mut out));
    }
    let phases: Vec<_> =
        out.iter().filter_map(|h| if let Happening::Phase(phase) = h { Some(*phase) } else { None }).collect();
    use Phase::*;
    assert_eq!(phases, [PreOpen, Continuous, ClosingAuction, TradeAtLast, Closed, PreOpen]);
    let calendar = &sim.listing.calendar;
    let mut closing: HashMap<usize, _> = HashMap::new();
    for (channel, index, update) in updates(&out) {
        let phase = calendar.phase_at(update.time).phase;
        if update.time > anchor {
            assert_ne!(phase, Closed, "{update:?}");
        }
        let Some(Data::Trade(trade)) = &update.data else { continue };
        assert_eq!(channel, Channel::Trades);
        assert!(!phase.is_auction(), "{update:?}");
        if phase == TradeAtLast {
            assert_eq!(
                closing.entry(index).or_insert(trade.price),
                &trade.price,
                "only the closing price trades at last"
            );
        }
    }
    assert_eq!(closing.len(), 67);
    // The second day counts from the first day's closing price.
    let last_quote = |index: usize| -> Quote {
        let quote = updates(&out).filter(|(c, i, _)| *c == Channel::MarketData && *i == index).last().unwrap().2;
        let Some(Data::Quote(quote)) = &quote.data else { unreachable!() };
        quote.clone()
    };
    for (index, price) in closing {
        let quote = last_quote(index);
        assert_eq!((quote.close, quote.volume.unwrap().mantissa, quote.open), (Some(price), 0, None));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Ticks, limits, sequence numbers, book and quote and trades all fit together, whatever the seed.
    #[test]
    fn whatever_the_seed_the_exchange_s_rules_hold(seed in any::<u64>(), adx in any::<bool>(), rate in 1u32..5000) {
        let listing = Arc::new(Listing::embedded(if adx { "ADX" } else { "EGX" }).unwrap());
        let settings = Settings { seed, anchor: at("2026-11-23T21:00:00Z"), updates_per_second: rate, hours: Hours::RoundTheClock };
        let mut sim = Sim::new(listing.clone(), settings);
        let mut seqs: HashMap<(Channel, usize), u64> = HashMap::new();
        let mut quotes: HashMap<usize, Quote> = HashMap::new();
        let rules = &listing.rules.ticks;
        for (channel, index, update) in updates(&run(&mut sim, 4000)) {
            let seq = seqs.entry((channel, index)).or_insert(0);
            prop_assert_eq!(update.seq, *seq + 1);
            *seq = update.seq;
            match update.data.as_ref().unwrap() {
                Data::Quote(quote) => {
                    let (bid, ask) = (mils(quote.bid.unwrap()).unwrap(), mils(quote.ask.unwrap()).unwrap());
                    let (low, high) = rules.limits(listing.limits(index), mils(quote.close.unwrap()).unwrap());
                    prop_assert!(low <= bid && bid < ask && ask <= high);
                    prop_assert!(rules.on_grid(bid) && rules.on_grid(ask));
                    prop_assert!(quote.bid_size.unwrap().mantissa > 0 && quote.ask_size.unwrap().mantissa > 0);
                    if let Some(before) = quotes.insert(index, quote.clone()) {
                        prop_assert!(before.volume <= quote.volume);
                    }
                }
                Data::Book(book) => {
                    let quote = &quotes[&index];
                    prop_assert_eq!((Some(book.bids[0].price), Some(book.bids[0].size)), (quote.bid, quote.bid_size));
                    prop_assert_eq!((Some(book.asks[0].price), Some(book.asks[0].size)), (quote.ask, quote.ask_size));
                    prop_assert!(book.bids.windows(2).all(|w| w[0].price > w[1].price) && book.bids.len() <= 10);
                    prop_assert!(book.asks.windows(2).all(|w| w[0].price < w[1].price) && book.asks.len() <= 10);
                    let (low, high) = rules.limits(listing.limits(index), mils(quote.close.unwrap()).unwrap());
                    for level in book.bids.iter().chain(&book.asks) {
                        let price = mils(level.price).unwrap();
                        prop_assert!(rules.on_grid(price) && low <= price && price <= high && level.size.mantissa > 0);
                    }
                }
                Data::Trade(trade) => {
                    let quote = &quotes[&index];
                    let best = if trade.side == "buy" { (quote.ask, quote.ask_size) } else { (quote.bid, quote.bid_size) };
                    prop_assert_eq!(Some(trade.price), best.0);
                    prop_assert!(trade.size.mantissa > 0 && Some(trade.size) <= best.1);
                }
                Data::News(_) => prop_assert!(false, "news has no instrument"),
            }
        }
    }
}
