//! What a ledger comes to: a month's units, peaks, refusals; and the records themselves as CSV or JSON lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::ledger::Ledger;
use super::{Kind, Record};

/// A month as reports count it.
#[derive(Clone, Debug)]
pub struct Month {
    year: i16,
    month: i8,
    zone: TimeZone,
}

/// What was used in a month. A unit is a user: tenant and name.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// `2026-11`.
    pub month: String,
    /// Whose days and months.
    pub time_zone: String,
    /// Users who used anything.
    pub units: usize,
    /// By product.
    pub products: BTreeMap<String, Product>,
    /// Refusals and revocations by word.
    pub refused: BTreeMap<String, u64>,
    /// Records that are known to be missing.
    pub lost: u64,
    /// Records that are not what was written.
    pub broken: Vec<u64>,
}

/// The use of one product.
#[derive(Debug, Default, Serialize)]
pub struct Product {
    /// Users who used it.
    pub units: usize,
    /// Most users at once, by day.
    pub peak_by_day: BTreeMap<String, usize>,
    #[serde(skip)]
    users: BTreeSet<User>,
}

type User = (String, String);
/// Open uses: by product, who, in which sessions.
type Open = BTreeMap<String, BTreeMap<User, BTreeSet<String>>>;

impl Month {
    /// Reads `2026-11`.
    pub fn parse(text: &str, zone: &str) -> Result<Self, String> {
        let zone = TimeZone::get(zone).map_err(|error| format!("time zone: {error}"))?;
        let parts = text.split_once('-').and_then(|(year, month)| Some((year.parse().ok()?, month.parse().ok()?)));
        match parts {
            Some((year, month @ 1..=12)) if (1970..=9999).contains(&year) => Ok(Self { year, month, zone }),
            _ => Err(format!("{text:?} is no month: write 2026-11")),
        }
    }

    fn day(&self, at: i64) -> Option<Date> {
        let time = Timestamp::from_nanosecond(i128::from(at)).ok()?;
        Some(self.zone.to_datetime(time).date())
    }

    fn has(&self, day: Date) -> bool {
        (day.year(), day.month()) == (self.year, self.month)
    }
}

/// Counts a month. Whatever is open when a new day begins is in use on that day too; and until `now`, where that is said,
/// what is open behind the last record.
pub fn report(ledger: &Ledger, month: &Month, zone: &str, now: Option<i64>) -> Result<Report, String> {
    let mut report = Report {
        month: format!("{:04}-{:02}", month.year, month.month),
        time_zone: zone.to_owned(),
        ..Report::default()
    };
    let mut all = BTreeSet::new();
    let mut open = Open::new();
    let mut today: Option<Date> = None;
    ledger.each(|found| {
        if !found.chained {
            report.broken.push(found.number);
        }
        let Ok(record) = found.record else { return };
        let Some(day) = month.day(record.at) else { return };
        pass(&mut report, month, &mut today, day, &open, &mut all);
        let user = (record.tenant.clone(), record.user.clone());
        match record.kind {
            Some(Kind::Start) => open.clear(),
            Some(Kind::Product) if record.to.is_none() => {
                let users = open.entry(record.product.clone()).or_default();
                users.entry(user).or_default().insert(record.session.clone());
                if month.has(day) {
                    note(&mut report, &record.product, day, &open[&record.product], &mut all);
                }
            }
            Some(Kind::Product) => {
                if let Some(users) = open.get_mut(&record.product)
                    && let Some(sessions) = users.get_mut(&user)
                {
                    sessions.remove(&record.session);
                    if sessions.is_empty() {
                        users.remove(&user);
                    }
                }
            }
            Some(Kind::Session) if month.has(day) => drop(all.insert(user)),
            Some(Kind::Refusal | Kind::Revocation) if month.has(day) => {
                // Those at the door are gathered.
                *report.refused.entry(record.reason.clone()).or_default() += record.count.max(1);
            }
            Some(Kind::Lost) if month.has(day) => report.lost += record.count,
            _ => {}
        }
    })?;
    if let Some(day) = now.and_then(|now| month.day(now)) {
        pass(&mut report, month, &mut today, day, &open, &mut all);
    }
    report.units = all.len();
    for product in report.products.values_mut() {
        product.units = product.users.len();
    }
    Ok(report)
}

/// Goes on to a day: those on which nothing began or ended are days of use all the same.
fn pass(
    report: &mut Report,
    month: &Month,
    today: &mut Option<Date>,
    day: Date,
    open: &Open,
    all: &mut BTreeSet<User>,
) {
    while let Some(last) = today.filter(|last| *last < day) {
        let Ok(next) = last.tomorrow() else { break };
        *today = Some(next);
        if month.has(next) {
            open.iter().for_each(|(product, users)| note(report, product, next, users, all));
        }
    }
    *today = Some(today.map_or(day, |today| today.max(day)));
}

fn note(
    report: &mut Report,
    product: &str,
    day: Date,
    users: &BTreeMap<User, BTreeSet<String>>,
    all: &mut BTreeSet<User>,
) {
    if users.is_empty() {
        return;
    }
    let product = report.products.entry(product.to_owned()).or_default();
    product.users.extend(users.keys().cloned());
    all.extend(users.keys().cloned());
    let peak = product.peak_by_day.entry(day.to_string()).or_default();
    *peak = (*peak).max(users.len());
}

/// A report for people.
pub fn text(report: &Report) -> String {
    let mut out = format!("{} ({}): {} units\n", report.month, report.time_zone, report.units);
    for (name, product) in &report.products {
        let _ = writeln!(out, "{name}: {} units", product.units);
        for (day, peak) in &product.peak_by_day {
            let _ = writeln!(out, "  {day}: at most {peak} at once");
        }
    }
    for (word, count) in &report.refused {
        let _ = writeln!(out, "refused {word}: {count}");
    }
    if report.lost > 0 {
        let _ = writeln!(out, "missing: {} records could not be written", report.lost);
    }
    if !report.broken.is_empty() {
        let _ = writeln!(out, "NOT WHAT WAS WRITTEN: records {:?}", report.broken);
    }
    out
}

/// Every record, one a line.
pub fn export(ledger: &Ledger, form: Form) -> Result<String, String> {
    let mut out = String::new();
    if form == Form::Csv {
        out.push_str(
            "number,kind,at,session,tenant,user,product,level,symbols,from,to,verdict,reason,basis,lists,count\n",
        );
    }
    ledger.each(|found| {
        let Ok(record) = found.record else { return };
        match form {
            Form::Json => {
                let mut value = serde_json::to_value(&record).unwrap_or_default();
                value["number"] = found.number.into();
                let _ = writeln!(out, "{value}");
            }
            Form::Csv => csv(&mut out, found.number, &record),
        }
    })?;
    Ok(out)
}

/// How records are written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// RFC 4180.
    Csv,
    /// One JSON object a line.
    Json,
}

fn csv(out: &mut String, number: u64, record: &Record) {
    let time = |at: Option<i64>| {
        at.and_then(|at| Timestamp::from_nanosecond(i128::from(at)).ok()).map_or(String::new(), |at| at.to_string())
    };
    let kind = record.kind.and_then(|kind| serde_json::to_value(kind).ok());
    let fields = [
        number.to_string(),
        kind.as_ref().and_then(serde_json::Value::as_str).unwrap_or("").to_owned(),
        time(Some(record.at)),
        record.session.clone(),
        record.tenant.clone(),
        record.user.clone(),
        record.product.clone(),
        record.level.clone(),
        record.symbols.join(" "),
        time(record.from),
        time(record.to),
        record.verdict.clone(),
        record.reason.clone(),
        record.basis.clone(),
        record.lists.clone(),
        record.count.to_string(),
    ];
    let line: Vec<String> = fields.iter().map(|field| quoted(field)).collect();
    let _ = writeln!(out, "{}", line.join(","));
}

/// A field as RFC 4180 has it. What a spreadsheet would take for a formula is marked as text.
fn quoted(field: &str) -> String {
    let formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let field = if formula { format!("'{field}") } else { field.to_owned() };
    if field.contains([',', '"', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_peaks_are_those_of_the_months_own_days() {
        let file = std::env::temp_dir().join(format!("bawaba-report-{}.redb", std::process::id()));
        let _ = std::fs::remove_file(&file);
        let ledger = Ledger::open(&file).unwrap();
        let at = |text: &str| i64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap();
        let product = |user: &str, session: &str, when: &str, to: Option<&str>| Record {
            kind: Some(Kind::Product),
            at: at(when),
            tenant: "acme".into(),
            user: user.into(),
            session: session.into(),
            product: "EGX/market_data".into(),
            to: to.map(at),
            ..Record::default()
        };
        ledger
            .append(&[
                // Still October in Cairo, and open into November.
                product("old", "s0", "2026-10-31T21:30:00Z", None),
                product("amina", "s1", "2026-11-03T08:00:00Z", None),
                // The same user twice is one unit.
                product("amina", "s2", "2026-11-03T08:01:00Z", None),
                product("badr", "s3", "2026-11-03T08:02:00Z", None),
                product("amina", "s1", "2026-11-03T09:00:00Z", Some("2026-11-03T09:00:00Z")),
                product("badr", "s3", "2026-11-03T10:00:00Z", Some("2026-11-03T10:00:00Z")),
                product("old", "s0", "2026-11-03T11:00:00Z", Some("2026-11-03T11:00:00Z")),
                // Midnight in Cairo is 22:00Z: the 5th.
                product("dalia", "s4", "2026-11-04T22:30:00Z", None),
                // A restart: whatever was open is not any more.
                Record { kind: Some(Kind::Start), at: at("2026-11-05T10:00:00Z"), ..Record::default() },
                product("late", "s5", "2026-12-01T08:00:00Z", None),
            ])
            .unwrap();
        let month = Month::parse("2026-11", "Africa/Cairo").unwrap();
        let report = report(&ledger, &month, "Africa/Cairo", None).unwrap();
        let product = &report.products["EGX/market_data"];
        assert_eq!((report.units, product.units), (4, 4));
        let peaks: Vec<(&str, usize)> = product.peak_by_day.iter().map(|(day, peak)| (day.as_str(), *peak)).collect();
        assert_eq!(
            peaks,
            [("2026-11-01", 1), ("2026-11-02", 1), ("2026-11-03", 3), ("2026-11-04", 1), ("2026-11-05", 2)]
        );
        assert!(Month::parse("2026-13", "UTC").is_err() && Month::parse("November", "UTC").is_err());
        std::fs::remove_file(file).unwrap();
    }

    /// Computed by hand. December 2026 in Cairo (UTC+2) begins on 30 November at 22:00Z.
    ///
    /// | user  | begins (Cairo)   | ends (Cairo)     | days of December |
    /// |-------|------------------|------------------|------------------|
    /// | amina | 30 Nov 23:30     | 1 Dec 00:30      | 1                |
    /// | badr  | 30 Nov 23:00     | 30 Nov 23:59:59  | none             |
    /// | dalia | 1 Dec 00:00      | 1 Dec 00:15      | 1                |
    /// | emad  | 2 Dec 10:00      | still open       | 2 and on         |
    /// | farah | 3 Dec 10:00      | 3 Dec 11:00      | 3                |
    ///
    /// At once: on 1 Dec amina and dalia (2), on 2 Dec emad (1), on 3 Dec emad and farah (2), and emad until the 5th,
    /// which is when the report is asked for. Units of December: amina, dalia, emad, farah; of November: amina, badr.
    #[test]
    fn a_month_computed_by_hand_over_its_border_is_what_is_reported() {
        let file = std::env::temp_dir().join(format!("bawaba-border-{}.redb", std::process::id()));
        let _ = std::fs::remove_file(&file);
        let ledger = Ledger::open(&file).unwrap();
        let at = |text: &str| i64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap();
        let product = |user: &str, when: &str, ended: bool| Record {
            kind: Some(Kind::Product),
            at: at(when),
            user: user.into(),
            session: user.into(),
            product: "EGX/trades".into(),
            to: ended.then(|| at(when)),
            ..Record::default()
        };
        ledger
            .append(&[
                product("badr", "2026-11-30T21:00:00Z", false),
                product("amina", "2026-11-30T21:30:00Z", false),
                product("badr", "2026-11-30T21:59:59Z", true),
                product("dalia", "2026-11-30T22:00:00Z", false),
                product("dalia", "2026-11-30T22:15:00Z", true),
                product("amina", "2026-11-30T22:30:00Z", true),
                product("emad", "2026-12-02T08:00:00Z", false),
                product("farah", "2026-12-03T08:00:00Z", false),
                product("farah", "2026-12-03T09:00:00Z", true),
            ])
            .unwrap();
        let asked = |month: &str, now: Option<&str>| {
            let month = Month::parse(month, "Africa/Cairo").unwrap();
            let report = report(&ledger, &month, "Africa/Cairo", now.map(at)).unwrap();
            let peaks: Vec<(String, usize)> = report.products["EGX/trades"].peak_by_day.clone().into_iter().collect();
            (report.units, report.products["EGX/trades"].units, peaks)
        };
        let days =
            |days: &[(&str, usize)]| days.iter().map(|(day, peak)| ((*day).to_owned(), *peak)).collect::<Vec<_>>();
        let to_the_third = [("2026-12-01", 2), ("2026-12-02", 1), ("2026-12-03", 2)];
        assert_eq!(asked("2026-11", None), (2, 2, days(&[("2026-11-30", 2)])));
        assert_eq!(asked("2026-12", None), (4, 4, days(&to_the_third)), "nobody is there to use anything");
        let on_the_fifth = [&to_the_third[..], &[("2026-12-04", 1), ("2026-12-05", 1)]].concat();
        assert_eq!(asked("2026-12", Some("2026-12-05T12:00:00Z")), (4, 4, days(&on_the_fifth)));
        assert_eq!(asked("2026-12", Some("2026-12-04T22:00:00Z")), (4, 4, days(&on_the_fifth)), "Cairo's midnight");
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_field_of_a_client_is_no_formula_and_breaks_no_row() {
        assert_eq!(quoted("=1+1"), "'=1+1");
        assert_eq!(quoted("a,\"b\"\nc"), "\"a,\"\"b\"\"\nc\"");
        assert_eq!(quoted("amina"), "amina");
    }
}
