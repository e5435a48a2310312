//! What must hold for any lists, boards and instants: against an oracle that scans the data as it is written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bawaba_policies::instrument::{Instrument, Market};
use bawaba_policies::sharia::{
    self, Base, Board, Entry, List, Mode, Register, Rule, Screening, Security, Settings, Status, Verdict,
};
use bawaba_policies::{AssetType, InstrumentRef, UnixNanos};
use proptest::prelude::*;

const DAY: u64 = 86_400;
/// 2025-01-01T00:00:00Z.
const START: u64 = 1_735_689_600;
const SYMBOLS: [&str; 5] = ["AAA", "BBB", "CCC", "DDD", "INDX"];
const BOARDS: usize = 4;

/// One edition: begins on a day, ends or is due for review days later, says something about some symbols.
#[derive(Clone, Debug)]
struct Edition {
    board: usize,
    from: u64,
    days: u64,
    open_ended: bool,
    says: Vec<Option<Status>>,
    historical: bool,
}

fn day(day: u64) -> UnixNanos {
    UnixNanos::from_seconds(START + day * DAY)
}

fn edition() -> impl Strategy<Value = Edition> {
    let status = prop_oneof![
        3 => Just(Some(Status::Compliant)),
        1 => Just(Some(Status::NotCompliant)),
        1 => Just(Some(Status::Doubtful)),
        1 => Just(Some(Status::UnderReview)),
        2 => Just(None),
    ];
    let says = prop::collection::vec(status, SYMBOLS.len());
    (0..BOARDS, 0_u64..30, 1_u64..20, any::<bool>(), says, prop::bool::weighted(0.2)).prop_map(
        |(board, from, days, open_ended, says, historical)| Edition { board, from, days, open_ended, says, historical },
    )
}

/// Editions of which no two of one board begin on the same day.
fn editions() -> impl Strategy<Value = Vec<Edition>> {
    prop::collection::vec(edition(), 0..10).prop_map(|mut editions| {
        editions.sort_by_key(|edition| (edition.board, edition.from));
        editions.dedup_by_key(|edition| (edition.board, edition.from));
        editions
    })
}

/// An instant near the middle of a day or a nanosecond about its midnight.
fn instant() -> impl Strategy<Value = UnixNanos> {
    (1_u64..60, 0_u8..4).prop_map(|(at, shift)| match shift {
        0 => UnixNanos(day(at).0 - 1),
        1 => day(at),
        2 => UnixNanos(day(at).0 + 1),
        _ => UnixNanos(day(at).0 + 43_200_000_000_000),
    })
}

fn id(edition: &Edition) -> String {
    format!("b{}@{}", edition.board, &day(edition.from).to_rfc3339_millis()[..10])
}

fn board(index: usize) -> String {
    format!("B{index}")
}

fn register(editions: &[Edition]) -> Register {
    let instrument = |&symbol: &&str| Instrument {
        symbol: symbol.into(),
        isin: None,
        asset_type: if symbol == "INDX" { AssetType::Index } else { AssetType::Stock },
        name: None,
        sector: None,
        currency: None,
        note: None,
        source: None,
        confidence: None,
    };
    let market = Market {
        exchange: "EGX".into(),
        mic: None,
        description: None,
        source: None,
        confidence: None,
        instruments: SYMBOLS.iter().map(instrument).collect(),
        renames: Vec::new(),
    };
    let list = |edition: &Edition| {
        let entry = |(symbol, status): (&&str, &Option<Status>)| {
            Some(Entry {
                security: Security { isin: None, exchange: Some("EGX".into()), symbol: Some((*symbol).into()) },
                status: (*status)?,
                purification: None,
                note: None,
            })
        };
        let entries: Vec<Entry> = SYMBOLS.iter().zip(&edition.says).filter_map(entry).collect();
        let end = Some(day(edition.from + edition.days));
        List {
            id: id(edition),
            board: board(edition.board),
            exchanges: vec!["EGX".into()],
            effective_from: day(edition.from),
            effective_to: end.filter(|_| !edition.open_ended),
            review_by: end.filter(|_| edition.open_ended),
            standard: None,
            description: None,
            source: "synthetic".into(),
            confidence: bawaba_policies::instrument::Confidence::Low,
            entry_count: entries.len(),
            sha256: None,
            entries,
        }
    };
    let boards =
        (0..BOARDS).map(|index| Board { name: board(index), description: None, source: None, confidence: None });
    Register::from_settings(&Settings {
        base: Base::Empty,
        boards: boards.collect(),
        lists: editions.iter().map(list).collect(),
        markets: vec![market],
        standards: Vec::new(),
        evaluations: Vec::new(),
        removals: Vec::new(),
        checksums_required: false,
        rules: Vec::new(),
        historical: editions.iter().filter(|edition| edition.historical).map(id).collect(),
    })
    .unwrap()
}

/// Whether one board's newest edition that has begun is in force and calls the symbol compliant.
fn oracle(editions: &[Edition], board: usize, symbol: usize, now: UnixNanos) -> bool {
    let mut newest: Option<&Edition> = None;
    for edition in editions {
        let begun = edition.board == board && day(edition.from) <= now;
        if begun && newest.is_none_or(|other| edition.from > other.from) {
            newest = Some(edition);
        }
    }
    let Some(newest) = newest else { return false };
    let in_force = newest.historical || now < day(newest.from + newest.days);
    in_force && newest.says[symbol] == Some(Status::Compliant) && SYMBOLS[symbol] != "INDX"
}

fn screening(mode: Mode, rule: Rule, boards: &[usize]) -> Screening {
    Screening::new(mode, rule, boards.iter().map(|&index| board(index)).collect())
}

fn flows(register: &Register, rule: Rule, boards: &[usize], symbol: &str, now: UnixNanos) -> bool {
    let screening = screening(Mode::Filter, rule, boards);
    sharia::judge(register, &screening, InstrumentRef::new("EGX", symbol), now).flows()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_board_rule_allows_exactly_what_the_lists_say(
        editions in editions(), now in instant(), boards in prop::sample::subsequence(vec![0, 1, 2, 3], 1..=4)
    ) {
        let register = register(&editions);
        for (index, symbol) in SYMBOLS.iter().enumerate() {
            let says: Vec<bool> = boards.iter().map(|&board| oracle(&editions, board, index, now)).collect();
            for (&board, &says) in boards.iter().zip(&says) {
                prop_assert_eq!(flows(&register, Rule::Named, &[board], symbol, now), says);
            }
            prop_assert_eq!(flows(&register, Rule::AllOf, &boards, symbol, now), says.iter().all(|&says| says));
            prop_assert_eq!(flows(&register, Rule::AnyOf, &boards, symbol, now), says.iter().any(|&says| says));
        }
    }

    #[test]
    fn a_new_list_never_lets_through_what_it_refuses(editions in editions(), new in edition(), now in instant()) {
        let mut editions = editions;
        editions.retain(|edition| edition.board != new.board || edition.from < new.from);
        editions.push(new.clone());
        let register = register(&editions);
        for (index, symbol) in SYMBOLS.iter().enumerate() {
            if now >= day(new.from) && new.says[index] != Some(Status::Compliant) {
                prop_assert!(!flows(&register, Rule::Named, &[new.board], symbol, now));
                for other in (0..BOARDS).filter(|&other| other != new.board) {
                    prop_assert!(!flows(&register, Rule::AllOf, &[new.board, other], symbol, now));
                }
            }
        }
    }

    #[test]
    fn the_order_of_boards_changes_neither_verdict_nor_reason(
        editions in editions(), now in instant(), boards in Just(vec![0, 1, 2, 3]).prop_shuffle()
    ) {
        let register = register(&editions);
        for symbol in SYMBOLS {
            for rule in [Rule::AllOf, Rule::AnyOf] {
                let (one, other) = (screening(Mode::Filter, rule, &[0, 1, 2, 3]), screening(Mode::Filter, rule, &boards));
                let instrument = InstrumentRef::new("EGX", symbol);
                let judged = |screening| {
                    let verdict: Verdict<'_> = sharia::judge(&register, screening, instrument, now);
                    (verdict.outcome, verdict.level, verdict.refusal(), verdict.boards_disagree())
                };
                prop_assert_eq!(judged(&one), judged(&other));
            }
        }
    }

    #[test]
    fn annotating_and_filtering_find_the_same(editions in editions(), now in instant(), board in 0..BOARDS) {
        let register = register(&editions);
        for symbol in SYMBOLS {
            let instrument = InstrumentRef::new("EGX", symbol);
            let (filter, annotate) =
                (screening(Mode::Filter, Rule::Named, &[board]), screening(Mode::Annotate, Rule::Named, &[board]));
            let (filtered, annotated) =
                (sharia::judge(&register, &filter, instrument, now), sharia::judge(&register, &annotate, instrument, now));
            prop_assert!(annotated.flows());
            prop_assert_eq!(filtered.flows(), annotated.is_compliant());
            prop_assert_eq!(filtered.annotation(), annotated.annotation());
        }
    }

    /// Between two changes that the register announces, no verdict changes: an edge may sleep until the next one.
    #[test]
    fn verdicts_change_only_when_the_register_says_so(editions in editions(), from in instant()) {
        let register = register(&editions);
        // The last instant before the next change, or the end of time.
        let to = UnixNanos(register.next_change(from).map_or(u64::MAX, |change| change.0) - 1);
        for symbol in SYMBOLS {
            for board in 0..BOARDS {
                let screening = screening(Mode::Filter, Rule::Named, &[board]);
                let instrument = InstrumentRef::new("EGX", symbol);
                let judged = |now| sharia::judge(&register, &screening, instrument, now).outcome;
                prop_assert_eq!(judged(from), judged(to));
            }
        }
    }

    #[test]
    fn whatever_a_message_names_only_a_listed_instrument_flows(exchange in ".{0,6}", symbol in ".{0,16}") {
        let register = Register::from_settings(&Settings {
            historical: vec!["egx33@2024-06-12".into()], ..Settings::default()
        }).unwrap();
        let screening = Screening::new(Mode::Filter, Rule::Named, vec!["EGX33".into()]);
        let verdict = sharia::judge(&register, &screening, InstrumentRef::new(&exchange, &symbol), day(600));
        prop_assert!(!verdict.flows() || (exchange == "EGX" && symbol.bytes().all(|byte| byte.is_ascii_uppercase())));
    }

    #[test]
    fn no_claims_at_all_make_a_screened_session_unscreened(islamic in json(), sub in ".{0,8}") {
        let off = islamic.get("mode").and_then(|mode| mode.as_str()) == Some("off");
        let screening = Screening::from_claims(&serde_json::json!({ "sub": sub, "islamic": islamic }));
        prop_assert!(off || screening != Screening::Off);
    }
}

/// Claims that nearly make sense.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let word =
        prop::sample::select(vec!["mode", "boards", "rule", "filter", "annotate", "off", "named", "all_of", "EGX33"]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        word.clone().prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 16, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(word.clone().prop_map(String::from), inner, 0..4)
                .prop_map(|fields| fields.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}
