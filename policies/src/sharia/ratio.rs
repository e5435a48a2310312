//! The ratio engine: a company's figures under a standard, and what that makes of its standing.
//!
//! Pure and exact: figures in, assessment out; what was found before is an argument. What is missing is insufficient,
//! and insufficient never stands as compliant.

use alloc::vec::Vec;
use core::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::amount::Amount;
use super::standard::{Activity, Averaging, Fundamentals, Hysteresis, Item, Limit, Operator, Screen, Standard, Whole};

/// What an earlier evaluation left behind; the next one is given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Past {
    /// Whether the company was in.
    pub member: bool,
    /// In: evaluations in a row above a limit, and tolerated. Out: evaluations in a row that it passed.
    #[serde(default)]
    pub streak: u8,
    /// It was let stay with one failure at the last evaluation.
    #[serde(default)]
    pub forgiven: bool,
}

/// What a company stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Compliant.
    Compliant,
    /// Not compliant.
    NotCompliant,
    /// Something that the standard asks for is not known.
    Insufficient,
}

/// How one screen came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Within the limit.
    Within,
    /// Above the limit, within what is tolerated of a company that is in.
    Tolerated,
    /// Above.
    Above,
    /// Not known: a figure is missing, negative, or what it is measured against is not above zero.
    Unknown,
    /// Not applied: the main activity is exempt.
    Exempt,
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assessment<'a> {
    /// What it comes to.
    pub standing: Standing,
    /// Whether the main activity is excluded; `None` if it is not known.
    pub excluded: Option<bool>,
    /// Each screen by its measure, in the standard's order.
    pub screens: Vec<(&'a str, Held)>,
    /// What the next evaluation is given. An insufficient one counts for nothing and leaves it as it was.
    pub past: Option<Past>,
    /// Impermissible income as part of revenue, in millionths, rounded up; `None` where it is not known.
    pub purification_ppm: Option<u64>,
}

/// Evaluates a company under a standard. `past` is what its last evaluation under that standard left, `None` at its first.
pub fn assess<'a>(standard: &'a Standard, company: &Fundamentals, past: Option<Past>) -> Assessment<'a> {
    let member = past.is_some_and(|past| past.member);
    let excluded = company.activity.map(|activity| standard.excluded_activities.contains(&activity));
    let exempt = company.activity.is_some_and(|activity| standard.exempt_activities.contains(&activity));
    let screens: Vec<(&str, Held)> = standard
        .screens
        .iter()
        .map(|screen| {
            let held = if exempt && !screen.is_of_income() { Held::Exempt } else { held(screen, company, member) };
            (screen.measure.as_str(), held)
        })
        .collect();
    let (standing, after) = stand(standard, excluded, &screens, past);
    Assessment { standing, excluded, screens, past: after, purification_ppm: purification(standard, company) }
}

/// One screen against all that it is measured against: the worst counts, and what is not known is worse than tolerated.
fn held(screen: &Screen, company: &Fundamentals, member: bool) -> Held {
    let Some(part) = part(screen, company) else { return Held::Unknown };
    let limit = screen.entry.filter(|_| !member).unwrap_or(screen.limit);
    let mut worst = Held::Within;
    for &whole in &screen.over {
        let against = self::whole(whole, screen.averaging, company).filter(|whole| whole.is_positive());
        let Some(against) = against else {
            worst = if worst == Held::Above { worst } else { Held::Unknown };
            continue;
        };
        if holds(part, against, limit) {
            continue;
        }
        let tolerated = member && screen.tolerated.is_some_and(|tolerated| holds(part, against, tolerated));
        worst = match (tolerated, worst) {
            (false, _) => Held::Above,
            (true, Held::Within) => Held::Tolerated,
            (true, worst) => worst,
        };
    }
    worst
}

fn holds(part: Amount, whole: Amount, limit: Limit) -> bool {
    match (part.share_to(whole, limit.percent), limit.operator) {
        (Ordering::Less, _) | (Ordering::Equal, Operator::AtMost) => true,
        (Ordering::Equal, Operator::Below) | (Ordering::Greater, _) => false,
    }
}

/// The sum that is measured; unknown if any of it is unknown or negative.
fn part(screen: &Screen, company: &Fundamentals) -> Option<Amount> {
    if screen.is_of_income() {
        return income(&mut screen.income_of.iter(), company);
    }
    screen.items.iter().try_fold(Amount::ZERO, |sum, item| Some(sum.plus(figure(company, *item)?)))
}

fn income(activities: &mut dyn Iterator<Item = &Activity>, company: &Fundamentals) -> Option<Amount> {
    let mut sum = Amount::ZERO;
    for activity in activities {
        sum = match company.income.get(activity) {
            Some(amount) if amount.is_negative() => return None,
            Some(amount) => sum.plus(*amount),
            None if company.income_is_complete => sum,
            None => return None,
        };
    }
    Some(sum)
}

fn figure(company: &Fundamentals, item: Item) -> Option<Amount> {
    company.accounts.get(&item).copied().filter(|amount| !amount.is_negative())
}

fn whole(whole: Whole, averaging: Option<Averaging>, company: &Fundamentals) -> Option<Amount> {
    let market_cap = || company.market_cap.get(&averaging?).copied().filter(|amount| !amount.is_negative());
    match whole {
        Whole::TotalAssets => figure(company, Item::TotalAssets),
        Whole::MarketCap => market_cap(),
        // Both must be known: the one that is missing may be the greater, but then the company only gains by telling.
        Whole::GreaterOfAssetsAndMarketCap => Some(figure(company, Item::TotalAssets)?.max(market_cap()?)),
        Whole::Revenue => figure(company, Item::Revenue),
        Whole::ProfitBeforeTax => figure(company, Item::ProfitBeforeTax),
    }
}

fn stand(
    standard: &Standard,
    excluded: Option<bool>,
    screens: &[(&str, Held)],
    past: Option<Past>,
) -> (Standing, Option<Past>) {
    const OUT: (Standing, Option<Past>) =
        (Standing::NotCompliant, Some(Past { member: false, streak: 0, forgiven: false }));
    let stays = |streak, forgiven| (Standing::Compliant, Some(Past { member: true, streak, forgiven }));
    let count = |held| screens.iter().filter(|(_, other)| *other == held).count();
    if excluded == Some(true) {
        return OUT;
    }
    let (above, tolerated) = (count(Held::Above), count(Held::Tolerated));
    let unknown = excluded.is_none() || count(Held::Unknown) > 0;
    let member = past.filter(|past| past.member);
    // One failure may be forgiven, but only where everything else is known to hold.
    let forgivable = standard.hysteresis == Hysteresis::OneFailure
        && member.is_some_and(|past| !past.forgiven)
        && above == 1
        && standard
            .screens
            .iter()
            .zip(screens)
            .all(|(screen, (_, held))| *held != Held::Above || !screen.is_of_income());
    if above > 0 && !forgivable {
        return OUT;
    }
    if unknown {
        return (Standing::Insufficient, past);
    }
    if above > 0 {
        return stays(0, true);
    }
    let Hysteresis::Periods { breaches, passes } = standard.hysteresis else { return stays(0, false) };
    match (member, past) {
        (Some(member), _) if tolerated > 0 => {
            let streak = member.streak.saturating_add(1);
            if streak >= breaches { OUT } else { stays(streak, false) }
        }
        (None, Some(outside)) => {
            let streak = outside.streak.saturating_add(1);
            let past = Past { member: false, streak, forgiven: false };
            if streak >= passes { stays(0, false) } else { (Standing::NotCompliant, Some(past)) }
        }
        _ => stays(0, false),
    }
}

/// All income that any screen of the standard counts, as part of revenue.
fn purification(standard: &Standard, company: &Fundamentals) -> Option<u64> {
    let mut counted: Vec<&Activity> = standard.screens.iter().flat_map(|screen| &screen.income_of).collect();
    counted.sort_unstable();
    counted.dedup();
    let revenue = figure(company, Item::Revenue).filter(|revenue| revenue.is_positive())?;
    Some(income(&mut counted.into_iter(), company)?.parts_per_million_of(revenue))
}
