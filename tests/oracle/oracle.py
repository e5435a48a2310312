"""An independent reader of the Sharia filter's settings: says which instruments a session may see.

Written from docs/compliance.md and decision 006, not from the Rust code, with plain loops over the data as it is
written. Python 3, standard library only.

    oracle.py SETTINGS.json NOW_NANOS < questions.json > answers.json

Questions: {"instruments": [["EGX", "ABUK"], ...], "rules": [{"rule": "all_of", "boards": ["EGX33"]}, ...]}.
Answers: for each rule a text with one digit for each instrument: 1 flows, 0 does not, and "known", one digit for each
instrument: 1 where the name is an instrument or several, 0 where it is none.
"""

import functools
import json
import re
import sys
from datetime import datetime, timezone

NEVER = {"BOND", "BILL", "OPTION", "FUTURE", "INDEX", "PREFERENCE"}
END = 2**64


@functools.cache
def nanos(text):
    """RFC 3339 with an offset and up to nine decimals, exactly."""
    match = re.fullmatch(r"(.{19})(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", text)
    date, decimals, offset = match.groups()
    whole = datetime.fromisoformat(date + ("+00:00" if offset == "Z" else offset))
    seconds = whole.astimezone(timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (seconds.days * 86400 + seconds.seconds) * 10**9 + int((decimals or "0").ljust(9, "0"))


class World:
    def __init__(self, settings):
        self.settings = settings
        # An instrument is its place in this list: (exchange, symbol, isin, kind).
        self.instruments = [
            (market["exchange"], row["symbol"], row.get("isin"), row["asset_type"])
            for market in settings["markets"]
            for row in market["instruments"]
        ]
        self.renames = [
            (market["exchange"], row["from"], row["to"], nanos(row["at"]) if row.get("at") else None)
            for market in settings["markets"]
            for row in market.get("renames", [])
        ]
        self.said = {}

    def claims(self, exchange, symbol, now):
        """Every instrument that has a claim to this name at this instant."""
        own = [at for at, row in enumerate(self.instruments) if row[0] == exchange and row[1] == symbol]
        former = [row for row in self.renames if row[0] == exchange and row[1] == symbol]
        found = []
        for at in own:
            begins = max([when for (_, _, _, when) in former if when is not None], default=0)
            if now >= begins:
                found.append(at)
        for _, _, new, when in former:
            ends = when if own and when is not None else END
            if now < ends:
                found += [at for at, row in enumerate(self.instruments) if row[0] == exchange and row[1] == new]
        return found

    def find(self, exchange, symbol, now):
        """The one instrument of this name, or None."""
        found = self.claims(exchange, symbol, now)
        if len(found) != 1:
            return None
        isin = self.instruments[found[0]][2]
        twins = [row for row in self.instruments if isin and row[0] == exchange and row[2] == isin]
        return None if len(twins) > 1 else found[0]

    def with_isin(self, isin):
        return [at for at, row in enumerate(self.instruments) if isin and row[2] == isin]

    def statements(self, listing):
        """What a list says, by instrument: a set of statuses; more than one is none."""
        if listing["id"] in self.said:
            return self.said[listing["id"]]
        said = {}
        for entry in listing["entries"]:
            isin, status = entry.get("isin"), entry["status"]
            named = None
            if "symbol" in entry:
                named = self.find(entry["exchange"], entry["symbol"], nanos(listing["effective_from"]))
            about = set(self.with_isin(isin))
            if named is not None and isin is None:
                about = {named} | set(self.with_isin(self.instruments[named][2]))
            elif named is not None and self.instruments[named][2] != isin:
                elsewhere = all(self.instruments[at][0] != self.instruments[named][0] for at in about)
                if self.instruments[named][2] is not None or not elsewhere:
                    status = "contradiction"
                about.add(named)
            for at in about:
                said.setdefault(at, set()).add(status)
        self.said[listing["id"]] = said
        return said

    def board_allows(self, board, at, now):
        exchange, symbol, isin, _ = self.instruments[at]
        begun = [
            listing
            for listing in self.settings["lists"]
            if listing["board"] == board
            and exchange in listing["exchanges"]
            and nanos(listing["effective_from"]) <= now
        ]
        if not begun or all(other["name"] != board for other in self.settings["boards"]):
            return False

        def revision(listing):
            tail = listing["id"].split("@")[1].split(".")
            return int(tail[1]) if len(tail) > 1 else 1

        newest = max(begun, key=lambda listing: (nanos(listing["effective_from"]), revision(listing)))
        ends = [nanos(newest[key]) for key in ("effective_to", "review_by") if newest.get(key)]
        if now >= min(ends) and newest["id"] not in self.settings.get("historical", []):
            return False
        for removal in self.settings.get("removals", []):
            by = removal.get("board")
            same = removal.get("isin") == isin is not None
            if "symbol" in removal:
                gone = self.find(removal["exchange"], removal["symbol"], nanos(removal["from"]))
                same = same or gone == at or (gone is not None and isin and self.instruments[gone][2] == isin)
            if same and by in (None, board) and nanos(removal["from"]) <= now:
                return False
        return self.statements(newest).get(at) == {"compliant"}

    def flows(self, exchange, symbol, rule, boards, now):
        at = self.find(exchange, symbol, now)
        if at is None or self.instruments[at][3] in NEVER:
            return False
        allowed = [self.board_allows(board, at, now) for board in boards]
        return any(allowed) if rule == "any_of" else all(allowed)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        world = World(json.load(file))
    now = int(sys.argv[2])
    questions = json.load(sys.stdin)
    answers = {
        "rules": [
            "".join(
                "1" if world.flows(exchange, symbol, asked["rule"], asked["boards"], now) else "0"
                for exchange, symbol in questions["instruments"]
            )
            for asked in questions["rules"]
        ],
        "known": "".join("1" if world.claims(exchange, symbol, now) else "0" for exchange, symbol in questions["instruments"]),
    }
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
