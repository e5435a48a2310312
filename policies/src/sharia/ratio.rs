//! The ratio engine: a company's figures under a standard, and what that makes of its standing.
//!
//! Pure and exact: figures in, assessment out; what was found before is an argument. What is missing is insufficient,
//! and insufficient never stands as compliant.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::amount::Amount;
use super::standard::{Activity, Averaging, Fundamentals, Hysteresis, Item, Limit, Operator, Screen, Standard, Whole};

/// What an earlier evaluation left behind; the next one is given it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Past {
    /// Whether the company was in.
    pub member: bool,
    /// By the measure of each screen that tolerates. In: evaluations in a row above its limit, and tolerated. Out:
    /// evaluations in a row that passed it. A measure that is not here stands at none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub streaks: BTreeMap<String, u8>,
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
pub fn assess<'a>(standard: &'a Standard, company: &Fundamentals, past: Option<&Past>) -> Assessment<'a> {
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
    past: Option<&Past>,
) -> (Standing, Option<Past>) {
    let out = || (Standing::NotCompliant, Some(Past::default()));
    let stays = |streaks, forgiven| (Standing::Compliant, Some(Past { member: true, streaks, forgiven }));
    let count = |held| screens.iter().filter(|(_, other)| *other == held).count();
    if excluded == Some(true) {
        return out();
    }
    let above = count(Held::Above);
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
    let Hysteresis::Periods { breaches, passes } = standard.hysteresis else {
        return match (above, unknown) {
            (1.., _) if !forgivable => out(),
            (_, true) => (Standing::Insufficient, past.cloned()),
            (above, false) => stays(BTreeMap::new(), above > 0),
        };
    };
    if above > 0 && past.is_none_or(|past| past.member) {
        return out();
    }
    if unknown && above == 0 {
        return (Standing::Insufficient, past.cloned());
    }
    let Some(past) = past else { return stays(BTreeMap::new(), false) };
    // Each screen that tolerates counts for itself: two that are above their limits in turns are each above it once.
    let counted = if past.member { Held::Tolerated } else { Held::Within };
    let banded = || standard.screens.iter().zip(screens).filter(|(screen, _)| screen.tolerated.is_some());
    let streak = |(screen, (_, held)): (&Screen, &(&str, Held))| {
        let before = past.streaks.get(&screen.measure).copied().unwrap_or(0);
        // What is not known neither goes on nor ends.
        let streak = match held {
            held if *held == counted => before.saturating_add(1),
            Held::Unknown => before,
            _ => 0,
        };
        (streak > 0).then(|| (screen.measure.clone(), streak))
    };
    let streaks: BTreeMap<String, u8> = banded().filter_map(streak).collect();
    if past.member {
        return if streaks.values().any(|&streak| streak >= breaches) { out() } else { stays(streaks, false) };
    }
    let returns = |(screen, (_, held)): (&Screen, &(&str, Held))| {
        *held == Held::Exempt || streaks.get(&screen.measure).is_some_and(|&streak| streak >= passes)
    };
    if above == 0 && banded().all(returns) {
        return stays(BTreeMap::new(), false);
    }
    (Standing::NotCompliant, Some(Past { member: false, streaks, forgiven: false }))
}

/// All income that any screen of the standard counts, as part of revenue.
fn purification(standard: &Standard, company: &Fundamentals) -> Option<u64> {
    let mut counted: Vec<&Activity> = standard.screens.iter().flat_map(|screen| &screen.income_of).collect();
    counted.sort_unstable();
    counted.dedup();
    let revenue = figure(company, Item::Revenue).filter(|revenue| revenue.is_positive())?;
    Some(income(&mut counted.into_iter(), company)?.parts_per_million_of(revenue))
}
