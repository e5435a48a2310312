use super::*;
use crate::roster::STATIC;
use crate::{Announced, Breaker, Finding, Outlier, Settings};

const NOW: Duration = Duration::from_secs(1000);
const MS: Duration = Duration::from_millis(1);

fn address(n: usize) -> String {
    format!("10.0.0.{n}:7000")
}

fn roster(settings: Settings, endpoints: Vec<Announced>) -> Roster {
    let roster = Roster::new(settings, endpoints, 7, NOW);
    for endpoint in roster.endpoints() {
        roster.note(&endpoint.address, Finding::Ready, MS, NOW);
    }
    roster
}

fn plain(count: usize) -> Vec<Announced> {
    (0..count).map(|n| Announced::at(address(n))).collect()
}

fn by(policy: Policy) -> Settings {
    Settings { policy, ..Settings::default() }
}

fn ask(user: &str) -> Ask<'_> {
    Ask { user, ..Ask::default() }
}

/// How often each endpoint is chosen; what is chosen stays open.
fn shares(roster: &Roster, users: usize) -> Vec<u32> {
    let leases: Vec<_> = (0..users).map(|user| roster.choose(&ask(&user.to_string()), NOW).unwrap().carry(1)).collect();
    let shares = roster.endpoints().iter().map(|at| at.sessions()).collect();
    drop(leases);
    shares
}

#[test]
fn each_policy_spreads_as_it_says() {
    let weighted: Vec<_> = [1, 2, 5].iter().zip(plain(3)).map(|(w, at)| Announced { weight: *w, ..at }).collect();
    assert_eq!(shares(&roster(by(Policy::RoundRobin), plain(4)), 400), [100; 4]);
    for (got, fair) in shares(&roster(by(Policy::Weighted), weighted.clone()), 800).iter().zip([100, 200, 500]) {
        assert!(got.abs_diff(fair) <= 2, "{got} for {fair}");
    }
    for policy in [Policy::LeastConnections, Policy::Hash] {
        for (got, fair) in shares(&roster(by(policy), weighted.clone()), 800).iter().zip([100, 200, 500]) {
            assert!(*got <= fair * 5 / 4 + 1, "{policy:?}: {got} for {fair}");
        }
    }
    assert!(shares(&roster(by(Policy::Random), plain(4)), 4000).iter().all(|got| (850..1150).contains(got)));
}

#[test]
fn the_same_seed_makes_the_same_choices() {
    for policy in [Policy::Random, Policy::LeastConnections, Policy::PeakEwma, Policy::Weighted, Policy::RoundRobin] {
        assert_eq!(shares(&roster(by(policy), plain(7)), 500), shares(&roster(by(policy), plain(7)), 500));
    }
}

#[test]
fn a_slow_endpoint_gets_less_by_peak_latency() {
    let roster = roster(by(Policy::PeakEwma), plain(4));
    roster.succeed(&roster.find(&address(2)).unwrap(), MS * 100, NOW);
    let shares = shares(&roster, 1000);
    let slow = roster.endpoints().iter().position(|at| at.address == address(2)).unwrap();
    assert!(shares[slow] < 30, "{shares:?}");
}

#[test]
fn a_token_comes_first_then_where_the_user_was_then_the_policy() {
    let settings = Settings { remember: Duration::from_secs(60), ..by(Policy::RoundRobin) };
    let roster = roster(settings, plain(5));
    let (first, why) = roster.choose_why(&ask("amina"), NOW).unwrap();
    assert_eq!(why, Why::Policy(Policy::RoundRobin));
    let later = NOW + Duration::from_secs(59);
    assert_eq!(roster.choose_why(&ask("amina"), later), Some((Arc::clone(&first), Why::Remembered)));
    let other = roster.endpoints().into_iter().find(|at| *at != first).unwrap();
    let told = Ask { place: Some(&other.address), ..ask("amina") };
    assert_eq!(roster.choose_why(&told, later), Some((Arc::clone(&other), Why::Token)));
    roster.fail(&other.address, later);
    assert_ne!(roster.choose(&told, later).unwrap(), other);
    let forgotten = later + Duration::from_secs(61);
    assert_eq!(roster.choose_why(&ask("amina"), forgotten).unwrap().1, Why::Policy(Policy::RoundRobin));
}

#[test]
fn the_nearest_region_wins_while_it_is_not_too_loaded() {
    let endpoints: Vec<_> = (0..6)
        .map(|n| Announced { region: Some(if n < 3 { "eg" } else { "ae" }.into()), ..Announced::at(address(n)) })
        .collect();
    let settings = Settings { region_percent_max: Some(150), ..by(Policy::LeastConnections) };
    let roster = roster(settings, endpoints);
    let mut leases = Vec::new();
    let mut of = |region: &'static str, count: usize| {
        let ask = Ask { region: Some(region), ..Ask::default() };
        leases.extend((0..count).map(|_| roster.choose(&ask, NOW).unwrap().carry(1)));
        let sum = |name: &str| -> u32 {
            let of = roster.endpoints().into_iter().filter(|at| at.about.region.as_deref() == Some(name));
            of.map(|at| at.sessions()).sum()
        };
        (sum("eg"), sum("ae"))
    };
    assert_eq!(of("eg", 1), (1, 0));
    let (eg, ae) = of("eg", 999);
    assert!((740..=760).contains(&eg), "150 % of a fair half: {eg} and {ae}");
    let (eg_then, _) = of("ae", 100);
    assert_eq!(eg_then, eg, "who is at home elsewhere goes there");
    for n in 3..6 {
        roster.fail(&address(n), NOW);
    }
    let ask = Ask { region: Some("ae"), ..Ask::default() };
    assert_eq!(roster.choose(&ask, NOW).unwrap().about.region.as_deref(), Some("eg"), "a region lost");
    // Unknown where the client is: the region that answers most quickly.
    for n in 3..6 {
        roster.note(&address(n), Finding::Ready, MS / 10, NOW);
    }
    drop(leases);
    assert_eq!(roster.choose(&Ask::default(), NOW).unwrap().about.region.as_deref(), Some("ae"));
}

#[test]
fn a_lane_has_endpoints_of_its_own_and_falls_back_to_the_others() {
    let mut endpoints = plain(4);
    endpoints[3].lane = Some("critical".into());
    let roster = roster(by(Policy::Random), endpoints);
    let critical = Ask { lane: Some("critical"), ..Ask::default() };
    for _ in 0..100 {
        assert_eq!(roster.choose(&critical, NOW).unwrap().address, address(3));
        assert_ne!(roster.choose(&Ask::default(), NOW).unwrap().address, address(3));
    }
    let named = address(3);
    let sneaks = Ask { place: Some(&named), ..Ask::default() };
    assert_ne!(roster.choose(&sneaks, NOW).unwrap().address, named, "a token opens no lane");
    roster.fail(&address(3), NOW);
    assert_ne!(roster.choose(&critical, NOW).unwrap().address, address(3));
}

#[test]
fn what_is_full_or_cannot_do_what_is_asked_is_passed_over() {
    let mut endpoints = plain(3);
    endpoints[0].exchanges = ["ADX".to_owned()].into();
    endpoints[1].features = ["depth".to_owned()].into();
    let settings = Settings { breaker: Breaker { sessions_max: 2, pending_max: 1 }, ..by(Policy::Hash) };
    let roster = roster(settings, endpoints);
    let egx = Ask { exchange: Some("EGX"), ..ask("amina") };
    let depth = Ask { requires: &["depth"], ..egx };
    assert_eq!(roster.choose(&depth, NOW).unwrap().address, address(1));
    let opening = roster.find(&address(1)).unwrap().open();
    assert_eq!(roster.choose(&depth, NOW), None, "one is being opened already");
    drop(opening);
    let open = roster.find(&address(1)).unwrap().carry(2);
    assert_eq!(roster.choose(&depth, NOW), None, "it is full");
    assert_eq!(roster.choose(&egx, NOW).unwrap().address, address(2));
    drop(open);
    assert!(roster.choose(&depth, NOW).is_some());
}

#[test]
fn who_fails_sessions_again_and_again_is_left_alone_longer_each_time_but_never_too_many() {
    let outlier = Outlier { failures: 3, ejected_percent_max: 50, ..Outlier::default() };
    let settings = Settings { outlier, slow_start: Duration::ZERO, ..by(Policy::Hash) };
    let roster = roster(settings, plain(4));
    let state = |n: usize| roster.find(&address(n)).unwrap().state();
    let break_down = |n: usize, now: Duration| {
        for _ in 0..3 {
            roster.fail(&address(n), now);
            roster.note(&address(n), Finding::Ready, MS, now);
        }
    };
    break_down(0, NOW);
    assert_eq!(state(0), State::Ejected, "its checks are good, yet");
    assert!((0..200).all(|user| roster.choose(&ask(&user.to_string()), NOW).unwrap().address != address(0)));
    assert!(roster.review(NOW + Duration::from_secs(29)).is_empty());
    let back = NOW + Duration::from_secs(30);
    assert_eq!(roster.review(back).len(), 1);
    assert_eq!(state(0), State::Serving);
    break_down(0, back);
    assert!(roster.review(back + Duration::from_secs(59)).is_empty(), "twice as long");
    break_down(1, back);
    break_down(2, back);
    assert_eq!([0, 1, 2, 3].map(state), [State::Ejected, State::Ejected, State::Serving, State::Serving]);
}

#[test]
fn who_answers_far_more_slowly_than_the_others_is_left_alone() {
    let outlier = Outlier { latency_percent: 300, ..Outlier::default() };
    let roster = roster(Settings { outlier, ..by(Policy::Hash) }, plain(5));
    let slow = roster.find(&address(4)).unwrap();
    for _ in 0..20 {
        roster.succeed(&slow, MS * 80, NOW);
    }
    for _ in 0..2 {
        assert!(roster.review(NOW).is_empty());
    }
    assert_eq!(roster.review(NOW).len(), 1);
    assert_eq!(slow.state(), State::Ejected);
    roster.announce(STATIC, plain(4), NOW);
    assert!(roster.review(NOW).is_empty());
}
