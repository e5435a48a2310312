//! A thousand endpoints and their users, under a seed: how many move when one comes or goes, and how evenly they lie.
//! `BAWABA_USERS` takes another number of users than this profile's.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails loudly, and says what it found"
)]

use std::time::{Duration, Instant};

use bawaba_routing::{Announced, Ask, Finding, Roster, STATIC, Settings};

const ENDPOINTS: usize = 1000;
const NOW: Duration = Duration::from_secs(1000);

fn users() -> usize {
    std::env::var("BAWABA_USERS").ok().and_then(|users| users.parse().ok()).unwrap_or(100_000)
}

fn address(n: usize) -> String {
    format!("10.{}.{}.1:7000", n / 250, n % 250)
}

fn announced(count: usize) -> Vec<Announced> {
    (0..count).map(|n| Announced::at(address(n))).collect()
}

fn roster(settings: Settings, count: usize) -> Roster {
    let roster = Roster::new(settings, announced(count), 42, NOW);
    serve(&roster);
    roster
}

fn serve(roster: &Roster) {
    for endpoint in roster.endpoints() {
        roster.note(&endpoint.address, Finding::Ready, Duration::from_millis(1), NOW);
    }
}

/// Where each user goes, for itself alone.
fn places(roster: &Roster, users: usize) -> Vec<String> {
    (0..users)
        .map(|user| roster.choose(&Ask { user: &user.to_string(), ..Ask::default() }, NOW).unwrap().address.clone())
        .collect()
}

#[test]
fn one_endpoint_of_n_that_comes_or_goes_moves_no_more_than_its_share() {
    let users = users();
    let begun = Instant::now();
    let settings = Settings { load_percent_max: 0, slow_start: Duration::ZERO, ..Settings::default() };
    let roster = roster(settings, ENDPOINTS);
    let before = places(&roster, users);
    // Four standard deviations of a share of 1/N.
    let share = users as f64 / ENDPOINTS as f64;
    let most = (share + 4.0 * share.sqrt()) as usize;
    let gone = address(ENDPOINTS / 2);
    roster.fail(&gone, NOW);
    let after = places(&roster, users);
    let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert!(before.iter().zip(&after).all(|(a, b)| a == b || *a == gone), "only who was there moves");
    assert!(moved <= most, "{moved} of {users} moved, {most} may");
    roster.note(&gone, Finding::Ready, Duration::from_millis(1), NOW);
    assert!(places(&roster, users) == before, "they come back when it does");
    roster.announce(STATIC, announced(ENDPOINTS + 1), NOW);
    serve(&roster);
    let grown = places(&roster, users);
    let came = before.iter().zip(&grown).filter(|(a, b)| a != b).count();
    assert!(
        before.iter().zip(&grown).all(|(a, b)| a == b || *b == address(ENDPOINTS)),
        "who moves goes to the new one"
    );
    assert!(came <= most, "{came} of {users} moved, {most} may");
    println!(
        "{ENDPOINTS} endpoints, {users} users: one lost moves {moved}, one added moves {came} (1/N is {share:.0}); {:.1} s",
        begun.elapsed().as_secs_f64()
    );
}

#[test]
fn no_endpoint_carries_more_than_its_bounded_share_while_sessions_come_and_go() {
    let users = users();
    let begun = Instant::now();
    let settings = Settings { slow_start: Duration::ZERO, ..Settings::default() };
    let roster = roster(settings, ENDPOINTS);
    let choose = |user: usize| roster.choose(&Ask { user: &user.to_string(), ..Ask::default() }, NOW).unwrap();
    let mut open: Vec<_> = (0..users).map(|user| (choose(user).address.clone(), choose(user).carry(1))).collect();
    let skew = || {
        let fair = users as f64 / ENDPOINTS as f64;
        roster.endpoints().iter().map(|at| f64::from(at.sessions())).fold(0.0, f64::max) / fair
    };
    let bound = 1.25 + ENDPOINTS as f64 / users as f64;
    let filled = skew();
    assert!(filled <= bound, "{filled}");
    // A tenth leaves and comes again, in another order.
    let mut moved = 0;
    for (user, place) in open.iter_mut().enumerate().filter(|(user, _)| user % 10 == 3) {
        let away = roster.endpoints()[0].carry(0);
        drop(std::mem::replace(&mut place.1, away));
        let next = choose(user);
        moved += usize::from(next.address != place.0);
        *place = (next.address.clone(), next.carry(1));
    }
    let churned = skew();
    assert!(churned <= bound, "{churned}");
    assert!(
        moved * 5 < users / 10,
        "{moved} of {} came elsewhere: the bound moves only who lies at a full one",
        users / 10
    );
    println!(
        "{ENDPOINTS} endpoints, {users} sessions: most loaded {filled:.3} of the fair share, {churned:.3} after churn; {:.1} s",
        begun.elapsed().as_secs_f64()
    );
}
