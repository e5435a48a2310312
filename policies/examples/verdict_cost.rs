//! Prints what a verdict and a load cost: `cargo run --release -p bawaba-policies --example verdict_cost`.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bawaba_policies::sharia::{self, Register, Settings};
use bawaba_policies::{DataError, InstrumentRef, UnixNanos};
use serde_json::json;

const BOARDS: usize = 8;

/// Synthetic settings: as many instruments as asked for, each on the lists of all boards.
fn settings(instruments: usize) -> String {
    let symbol = |index: usize| format!("S{index}");
    let entries: Vec<_> = (0..instruments)
        .map(|index| json!({ "exchange": "EGX", "symbol": symbol(index), "status": "compliant" }))
        .collect();
    let list = |board: usize| {
        json!({
            "id": format!("b{board}@2025-01-01"), "board": format!("B{board}"), "exchanges": ["EGX"],
            "effective_from": "2025-01-01T00:00:00Z", "effective_to": "2030-01-01T00:00:00Z",
            "source": "synthetic", "confidence": "low", "entry_count": instruments, "entries": entries,
        })
    };
    let rows = (0..instruments).map(|index| json!({ "symbol": symbol(index), "asset_type": "STOCK" }));
    json!({
        "base": "empty",
        "boards": (0..BOARDS).map(|board| json!({ "name": format!("B{board}") })).collect::<Vec<_>>(),
        "lists": (0..BOARDS).map(list).collect::<Vec<_>>(),
        "markets": [{ "exchange": "EGX", "instruments": rows.collect::<Vec<_>>() }],
    })
    .to_string()
}

fn load(text: &str) -> Result<(Register, Duration), DataError> {
    let start = Instant::now();
    let settings: Settings = serde_json::from_str(text)?;
    let register = Register::from_settings(&settings)?;
    Ok((register, start.elapsed()))
}

fn main() -> Result<(), DataError> {
    println!("{} {}, {BOARDS} boards", std::env::consts::ARCH, std::env::consts::OS);
    for instruments in [127, 5_000, 100_000] {
        let text = settings(instruments);
        let (register, loaded) = load(&text)?;
        println!("{instruments} instruments: {} KiB of JSON loaded in {loaded:?}", text.len() / 1024);
        for boards in [1, BOARDS] {
            let names: Vec<_> = (0..boards).map(|board| format!("B{board}")).collect();
            let claims = json!({ "islamic": { "mode": "filter", "boards": names } });
            let screening = sharia::Screening::from_claims(&claims);
            let symbols: Vec<_> = (0..4_096).map(|index| format!("S{}", index * 7_919 % instruments)).collect();
            let now = UnixNanos::from_seconds(1_767_225_600);
            let start = Instant::now();
            let mut flowing = 0_u32;
            for symbol in symbols.iter().cycle().take(1_000_000) {
                let instrument = InstrumentRef::new("EGX", black_box(symbol));
                flowing += u32::from(sharia::judge(&register, &screening, instrument, now).flows());
            }
            let each = start.elapsed() / 1_000_000;
            println!("  verdict by {boards} board(s): {each:?} ({flowing} of 1000000 flow)");
        }
    }
    Ok(())
}
