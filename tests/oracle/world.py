"""Makes worlds to screen: the shipped instruments and the shipped list, with made-up lists of eight boards beside it.

    world.py POLICIES_DATA_DIRECTORY NOW_NANOS DIRECTORY COUNT

Writes COUNT settings of the Sharia filter, DIRECTORY/0.json and on. In each, the lists, renames and removals lie elsewhere
around the one instant NOW: begun and not, ended and not, at least an hour away, so that a test of some minutes sees one
world. Everything but the launch list is made up; the seed is the world's number. Python 3, standard library only.
"""

import json
import random
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
BOARDS = [f"B{number}" for number in range(8)]
KINDS = ["BOND", "BILL", "OPTION", "FUTURE", "INDEX", "PREFERENCE", "SUKUK", "ETF", "REIT", "RIGHT", "SHARIA_STOCK"]


def text(instant):
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def entry(chance, exchange, row):
    status = chance.choices(
        ["compliant", "not_compliant", "doubtful", "under_review", "insufficient_data"], [70, 12, 6, 6, 6]
    )[0]
    named = {"exchange": exchange, "symbol": row["symbol"], "status": status}
    if "isin" not in row:
        return named
    return chance.choice([named, {"isin": row["isin"], "status": status}, named | {"isin": row["isin"]}])


def listing(chance, board, begins, ends, markets, revision=""):
    exchanges = chance.choice([["EGX"], ["ADX"], ["EGX", "ADX"], ["EGX", "ADX"]])
    rows = [(market["exchange"], row) for market in markets for row in market["instruments"]]
    entries = [entry(chance, *pair) for pair in rows if pair[0] in exchanges and chance.random() < 0.85]
    if len(entries) > 9 and chance.random() < 0.7:
        # Said twice, alike or not; and an ISIN that parts company with its symbol.
        entries.append(dict(chance.choice(entries), status=chance.choice(["compliant", "doubtful"])))
        with_isin = [one for one in entries if "isin" in one]
        with_name = [one for one in entries if "symbol" in one]
        if with_isin and with_name:
            entries.append(dict(chance.choice(with_name), isin=chance.choice(with_isin)["isin"]))
    return {
        "id": f"{board.lower()}@{begins:%Y-%m-%d}{revision}",
        "board": board,
        "exchanges": exchanges,
        "effective_from": text(begins),
        chance.choice(["effective_to", "review_by"]): text(ends),
        "source": "made up",
        "confidence": "low",
        "entry_count": len(entries),
        "entries": entries,
    }


def lists(chance, now, markets):
    made = []
    for board in BOARDS[:-1]:
        # Editions in steps of days; the newest that has begun holds, ends an hour ago or in an hour, or none has begun.
        for step in chance.sample([-90, -60, -30, -2, 2, 30], chance.randint(1, 4)):
            begins = now + step * DAY + chance.choice([-1, 1]) * HOUR
            ends = chance.choice([now - HOUR, now + HOUR, now + 40 * DAY, begins + 10 * DAY])
            made.append(listing(chance, board, begins, max(ends, begins + HOUR), markets))
            if chance.random() < 0.25:
                made.append(listing(chance, board, begins, max(ends, begins + HOUR), markets, ".2"))
    return made


def world(data, now, number):
    chance = random.Random(number)
    markets = []
    for name in ("egx", "adx"):
        market = json.loads((data / "instruments" / f"{name}.json").read_text(encoding="utf-8"))
        rows = [{key: row[key] for key in ("symbol", "isin", "asset_type") if key in row} for row in market["instruments"]]
        rows += [{"symbol": f"KIND{at}", "asset_type": kind} for at, kind in enumerate(KINDS)]
        # A ticker with two companies, and one company with two tickers.
        rows += [{"symbol": "TWIN", "asset_type": "STOCK"}, {"symbol": "TWIN", "asset_type": "STOCK"}]
        if name == "egx":
            rows.append({"symbol": "SAMEISIN", "isin": rows[5]["isin"], "asset_type": "STOCK"})
        renames = [{"from": "WASFIRST", "to": rows[0]["symbol"]}]
        moved = now + chance.choice([-HOUR, HOUR])
        renames.append({"from": rows[1]["symbol"], "to": rows[2]["symbol"], "at": text(moved)})
        renames.append({"from": rows[3]["symbol"], "to": rows[4]["symbol"]})
        markets.append({"exchange": market["exchange"], "instruments": rows, "renames": renames})
    launch = json.loads((data / "sharia" / "lists" / "egx33_2024-06-12.json").read_text(encoding="utf-8"))
    rows = [row["symbol"] for row in markets[0]["instruments"] if "isin" in row]
    removals = [
        {"exchange": "EGX", "symbol": chance.choice(rows[6:-1]), "from": text(now - HOUR), "source": "made up"},
        {"exchange": "EGX", "symbol": chance.choice(rows[6:-1]), "from": text(now + HOUR), "source": "made up"},
        {"isin": markets[0]["instruments"][20]["isin"], "board": "B1", "from": text(now - HOUR), "source": "made up"},
    ]
    return {
        "base": "empty",
        "own_records": "hide",
        "boards": [{"name": name} for name in [*BOARDS, "EGX33"]],
        "markets": markets,
        "lists": [launch, *lists(chance, now, markets)],
        "removals": removals,
        "historical": ["egx33@2024-06-12"] if number % 2 else [],
    }


def main():
    data, out = Path(sys.argv[1]), Path(sys.argv[3])
    now = datetime.fromtimestamp(int(sys.argv[2]) // 10**9, timezone.utc)
    for number in range(int(sys.argv[4])):
        (out / f"{number}.json").write_text(json.dumps(world(data, now, number)), encoding="utf-8")


if __name__ == "__main__":
    main()
