//! `bawaba-channel calendar`: when an exchange trades, day by day, with what each day rests on.

use std::io::Write as _;

use anyhow::ensure;
use bawaba_channels::calendar::{Calendar, TZDATA};

use crate::config;

/// Most days in one table.
const DAYS_MAX: i32 = 3700;

pub(crate) fn print(asked: &config::Calendar) -> anyhow::Result<()> {
    let listing = config::listing(&asked.exchange, asked.data.as_deref())?;
    let days = asked.to.duration_since(asked.from).as_hours() / 24;
    ensure!((0..i64::from(DAYS_MAX)).contains(&days), "--from to --to: 1 to {DAYS_MAX} days");
    let mut out = std::io::stdout().lock();
    let calendar = &listing.calendar;
    writeln!(out, "{} ({}), {}, tzdata {TZDATA}", listing.exchange, listing.mic, calendar.row().timezone)?;
    let mut date = asked.from;
    while date <= asked.to {
        writeln!(out, "{}", line(calendar, date))?;
        let Ok(next) = date.tomorrow() else { break };
        date = next;
    }
    Ok(())
}

fn line(calendar: &Calendar, date: jiff::civil::Date) -> String {
    let day = calendar.day(date);
    let mut line = format!("{} ", date.strftime("%F %a"));
    match (day.schedule, day.holiday) {
        (Some(schedule), _) => {
            for slot in &schedule.phases {
                let at = |time| calendar.local(calendar.instant(date, time));
                let offset = at(slot.start).rsplit_once(' ').map(|(_, offset)| offset.to_owned()).unwrap_or_default();
                let random =
                    slot.random_end.map(|end| format!("~{}", end.earliest.strftime("%H:%M"))).unwrap_or_default();
                let (start, end) = (slot.start.strftime("%H:%M"), slot.end.strftime("%H:%M"));
                line.push_str(&format!(" {} {start}-{end}{random}", slot.phase.as_str()));
                if slot.start == schedule.phases[0].start {
                    line.push_str(&format!(" (UTC{offset})"));
                }
            }
            line.push_str(&format!("  [{}, {}]", schedule.name, day.certainty.as_str()));
            for window in schedule.windows.iter().filter(|window| calendar.window_is_on(window, date)) {
                let (start, end) = (window.start.strftime("%H:%M"), window.end.strftime("%H:%M"));
                line.push_str(&format!("; {} {start}-{end}", window.name));
            }
        }
        (None, Some(holiday)) => {
            let certainty = day.certainty.as_str();
            line.push_str(&format!(" closed: {}  [{}, {certainty}; {}]", holiday.name, holiday.status, holiday.source));
        }
        (None, None) => line.push_str(" closed"),
    }
    line
}
