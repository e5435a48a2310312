//! What ships in `data/` is what it says it is, and what is embedded is what ships.
//!
//! `BLESS=1 cargo test -p bawaba-policies --test data` writes `data/builtin.json` anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use bawaba_policies::instrument::{Confidence, Market};
use bawaba_policies::license::Tiers;
use bawaba_policies::sharia::{Board, List, Register, Settings};
use bawaba_policies::{DataError, UnixNanos};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(path)
}

fn read<T: DeserializeOwned>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The JSON files of a folder in the order of their names.
fn files<T: DeserializeOwned>(folder: &str) -> Vec<T> {
    let mut paths: Vec<_> = fs::read_dir(data(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|kind| kind == "json"));
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Boards {
    boards: Vec<Board>,
}

fn boards() -> Vec<Board> {
    read::<Boards>(&data("sharia/boards.json")).boards
}

/// Only what a verdict needs: the module that embeds this travels to every edge.
fn compact() -> String {
    let keep = |value: Value, fields: &[&str]| -> Value {
        let fields = fields.iter().filter_map(|field| Some((String::from(*field), value.get(*field)?.clone())));
        Value::Object(fields.collect())
    };
    let each = |values: &Value, fields: &[&str]| -> Value {
        values.as_array().into_iter().flatten().map(|value| keep(value.clone(), fields)).collect()
    };
    let markets = files::<Value>("instruments").into_iter().map(|market| {
        let mut slim = json!({
            "exchange": market["exchange"],
            "instruments": each(&market["instruments"], &["symbol", "isin", "asset_type"]),
        });
        if market.get("renames").is_some() {
            slim["renames"] = each(&market["renames"], &["from", "to", "at"]);
        }
        slim
    });
    let lists = files::<Value>("sharia/lists").into_iter().map(|mut list| {
        list.as_object_mut().unwrap().remove("description");
        list["entries"] = each(&list["entries"], &["isin", "exchange", "symbol", "status"]);
        list
    });
    let boards: Vec<Value> = boards().iter().map(|board| json!({ "name": board.name })).collect();
    let whole = json!({
        "boards": boards, "lists": lists.collect::<Value>(), "markets": markets.collect::<Value>(),
    });
    format!("{whole}\n")
}

#[test]
fn the_embedded_data_is_the_shipped_data() {
    let path = data("builtin.json");
    if env::var_os("BLESS").is_some() {
        fs::write(&path, compact()).unwrap();
    }
    // Compared as values: the order of keys hangs on a feature of serde_json that any crate may turn on.
    let made: Value = serde_json::from_str(&compact()).unwrap();
    assert!(read::<Value>(&path) == made, "data/builtin.json is not made from data/: run with BLESS=1 and look");
    let full = Settings {
        boards: boards(),
        lists: files("sharia/lists"),
        markets: files("instruments"),
        base: bawaba_policies::sharia::Base::Empty,
        ..Settings::default()
    };
    let (full, builtin) = (Register::from_settings(&full).unwrap(), Register::builtin().unwrap());
    assert!(full.directory().iter().eq(builtin.directory().iter()));
    assert!(full.boards().eq(builtin.boards()));
}

#[test]
fn every_instrument_says_where_it_comes_from_and_how_sure_it_is() {
    let markets: Vec<Market> = files("instruments");
    let counts: Vec<_> = markets.iter().map(|market| (market.exchange.as_str(), market.instruments.len())).collect();
    assert_eq!(counts, [("ADX", 60), ("EGX", 67)]);
    for market in &markets {
        assert!(market.source.is_some() && market.confidence.is_some() && market.description.is_some());
        let mut symbols = BTreeSet::new();
        let mut isins = BTreeSet::new();
        for row in &market.instruments {
            assert!(row.source.is_some() && row.confidence.is_some(), "{}", row.symbol);
            assert!(row.name.is_some() && row.sector.is_some() && row.currency.is_some(), "{}", row.symbol);
            assert!(symbols.insert(&row.symbol), "{} is there twice", row.symbol);
            assert!(row.isin.is_none_or(|isin| isins.insert(isin)), "{} shares its ISIN", row.symbol);
            // Without an ISIN nobody can tell whether the ticker is still the same company.
            assert!(row.isin.is_some() || row.confidence == Some(Confidence::Low), "{}", row.symbol);
        }
        for rename in &market.renames {
            assert!(rename.source.is_some() && rename.confidence.is_some(), "{}", rename.from);
        }
    }
    for board in boards() {
        assert!(board.source.is_some() && board.confidence.is_some() && board.description.is_some(), "{}", board.name);
    }
}

#[test]
fn the_launch_list_is_the_33_of_june_2024_and_ended_with_the_first_review() {
    let lists: Vec<List> = files("sharia/lists");
    let [list] = lists.as_slice() else { panic!("one published list") };
    assert_eq!((list.id.as_str(), list.board.as_str(), list.entries.len()), ("egx33@2024-06-12", "EGX33", 33));
    assert_eq!(list.effective_from, UnixNanos::parse_rfc3339("2024-06-12T00:00:00+03:00").unwrap());
    assert_eq!(list.effective_to, UnixNanos::parse_rfc3339("2024-08-01T00:00:00+03:00"));
    let description = list.description.as_deref().unwrap();
    assert!(description.contains("launched") && description.contains("historical"), "{description}");
    // Every entry is one instrument of the directory, by ISIN and by symbol alike.
    let markets: Vec<Market> = files("instruments");
    let egx = markets.iter().find(|market| market.exchange == "EGX").unwrap();
    for entry in &list.entries {
        let symbol = entry.security.symbol.as_deref().unwrap();
        let row = egx.instruments.iter().find(|row| row.symbol == symbol).expect(symbol);
        assert_eq!(row.isin, entry.security.isin, "{symbol}");
    }
}

#[test]
fn the_shipped_tiers_load() {
    let now = UnixNanos::from_seconds(1_767_225_600);
    let tiers = Tiers::builtin().unwrap();
    for name in ["basic", "professional", "enterprise", "islamic"] {
        assert_eq!(tiers.tier(name, now).unwrap().name, name);
    }
    assert!(tiers.tier("Basic", now).is_none() && tiers.tier("", now).is_none() && tiers.tier("3", now).is_none());
}

/// A list that is right, to be broken one field at a time.
fn settings(change: impl FnOnce(&mut Value)) -> Result<Register, String> {
    let mut value = json!({
        "base": "empty",
        "boards": [{ "name": "B" }],
        "markets": [{ "exchange": "EGX", "instruments": [{ "symbol": "COMI", "isin": "EGS60121C018", "asset_type": "STOCK" }] }],
        "lists": [{
            "id": "b@2025-01-01", "board": "B", "exchanges": ["EGX"],
            "effective_from": "2025-01-01T00:00:00+02:00", "effective_to": "2026-01-01T00:00:00+02:00",
            "source": "synthetic", "confidence": "low", "entry_count": 1,
            "entries": [{ "isin": "EGS60121C018", "status": "compliant" }],
        }],
    });
    change(&mut value);
    let settings: Settings = serde_json::from_value(value).map_err(|error| error.to_string())?;
    Register::from_settings(&settings).map_err(|error: DataError| error.to_string())
}

#[test]
fn data_that_is_not_in_order_is_refused_whole_and_says_why() {
    assert!(settings(|_| {}).is_ok());
    let list = |field: &'static str, value: Value| move |all: &mut Value| all["lists"][0][field] = value;
    let refused = |result: Result<Register, String>, says: &str| {
        let error = result.err().unwrap_or_else(|| panic!("taken, and should say: {says}"));
        assert!(error.contains(says), "{error:?} should say {says:?}");
    };
    refused(settings(list("effective_to", Value::Null)), "needs review_by");
    refused(settings(list("effective_to", json!("2025-01-01T00:00:00+02:00"))), "come after");
    refused(settings(list("effective_to", json!("2026-01-01"))), "offset included");
    refused(settings(list("effective_from", json!("2025-03-01T00:00:00+02:00"))), "not the day of effective_from");
    refused(settings(list("entry_count", json!(2))), "entry_count");
    refused(settings(list("source", json!(""))), "source");
    refused(settings(list("exchanges", json!([]))), "at least one exchange");
    refused(settings(list("exchanges", json!(["DFM"]))), "no instruments are known");
    refused(settings(list("board", json!("C"))), "board is not among");
    refused(settings(list("id", json!("b"))), "name@YYYY-MM-DD");
    refused(settings(list("id", json!("b@2025-01-01.1"))), "name@YYYY-MM-DD");
    refused(settings(list("fatwa", json!("x"))), "unknown field `fatwa`");
    refused(settings(list("entries", json!([{ "status": "compliant" }]))), "isin, or exchange and symbol");
    refused(settings(list("entries", json!([{ "symbol": "COMI", "status": "compliant" }]))), "exchange and symbol");
    refused(settings(list("entries", json!([{ "isin": "EGS60121C019", "status": "compliant" }]))), "check digit");
    refused(settings(list("entries", json!([{ "isin": "EGS60121C018", "status": "halal" }]))), "unknown variant");
    refused(
        settings(list("entries", json!([{ "isin": "EGS60121C018", "status": "compliant", "ticker": "COMI" }]))),
        "unknown field",
    );
    let elsewhere = json!([{ "exchange": "ADX", "symbol": "COMI", "status": "compliant" }]);
    refused(settings(list("entries", elsewhere)), "does not speak about");
    refused(settings(|all| all["historical"] = json!(["b@2024-01-01"])), "no list of that id is loaded");
    refused(settings(|all| all["boards"] = json!([{ "name": "B" }, { "name": "B" }])), "twice");
    refused(settings(|all| all["boards"] = json!([{ "name": "B C" }])), "letters");
    refused(settings(|all| all["markets"][0]["renames"] = json!([{ "from": "OLD", "to": "NEW" }])), "rename leads to");
    refused(settings(|all| all["markets"][0]["exchange"] = json!("egx")), "no exchange or symbol");
    refused(settings(|all| all["markets"][0]["instruments"][0]["asset_type"] = json!("SHARE")), "no asset type");
    refused(settings(|all| all["extra"] = json!(1)), "unknown field `extra`");
    let market = |all: &mut Value| {
        let copy = all["markets"][0].clone();
        all["markets"].as_array_mut().unwrap().push(copy);
    };
    refused(settings(market), "put its instruments together");
    let again = |all: &mut Value| {
        let copy = all["lists"][0].clone();
        all["lists"].as_array_mut().unwrap().push(copy);
    };
    refused(settings(again), "twice");
    refused(
        settings(|all| {
            again(all);
            all["lists"][1]["id"] = json!("c@2025-01-01");
        }),
        "same instant",
    );
}

#[test]
fn a_list_whose_checksum_is_wrong_is_refused() {
    let list = |all: &mut Value| -> List { serde_json::from_value(all["lists"][0].clone()).unwrap() };
    let mut sum = String::new();
    assert!(settings(|all| sum = list(all).checksum()).is_ok());
    assert_eq!(sum.len(), 64);
    assert!(settings(|all| all["lists"][0]["sha256"] = json!(sum)).is_ok());
    let changed = settings(|all| {
        all["lists"][0]["sha256"] = json!(sum);
        all["lists"][0]["entries"][0]["status"] = json!("not_compliant");
    });
    assert!(changed.unwrap_err().contains("was changed after it was made"));
    let required = |all: &mut Value| all["checksums_required"] = json!(true);
    assert!(settings(required).unwrap_err().contains("has no sha256"));
    assert!(
        settings(|all| {
            required(all);
            all["lists"][0]["sha256"] = json!(sum);
        })
        .is_ok()
    );
}

#[test]
fn a_removal_of_nothing_is_refused() {
    let removal = json!([{ "exchange": "EGX", "symbol": "NOSUCH", "from": "2025-06-01T00:00:00Z", "source": "test" }]);
    assert!(settings(|all| all["removals"] = removal).unwrap_err().contains("nothing would be removed"));
}

#[test]
fn settings_are_laid_over_the_shipped_data() {
    let settings: Settings = serde_json::from_value(json!({
        "historical": ["egx33@2024-06-12"],
        "markets": [{ "exchange": "ADX", "instruments": [{ "symbol": "EAND", "asset_type": "STOCK" }, { "symbol": "NEWCO", "asset_type": "ETF" }] }],
    }))
    .unwrap();
    let register = Register::from_settings(&settings).unwrap();
    assert_eq!(register.directory().len(), 128);
}
