use proptest::prelude::*;

use super::*;
use crate::{Ask, Thresholds};

const NOW: Duration = Duration::from_secs(1000);

fn settings() -> Settings {
    Settings {
        thresholds: Thresholds { unhealthy_after: 2, healthy_after: 2 },
        slow_start: Duration::ZERO,
        ..Settings::default()
    }
}

fn address(n: usize) -> String {
    format!("10.0.0.{n}:7000")
}

fn roster(count: usize) -> Roster {
    let roster = Roster::new(settings(), (0..count).map(|n| Announced::at(address(n))).collect(), 1, NOW);
    for n in 0..count {
        roster.note(&address(n), Finding::Ready, Duration::from_millis(1), NOW);
    }
    roster
}

fn pick(roster: &Roster, user: &str) -> Option<String> {
    roster.choose(&Ask { user, ..Ask::default() }, NOW).map(|endpoint| endpoint.address.clone())
}

#[test]
fn what_stays_keeps_its_state_what_comes_is_unchecked_and_what_goes_drains() {
    let roster = roster(3);
    let (kept, lost) = (roster.find(&address(0)).unwrap(), roster.find(&address(1)).unwrap());
    let mut open = lost.carry(1);
    let heavier = Announced { weight: 5, region: Some("eg".into()), ..Announced::at(address(0)) };
    let done = roster.announce(STATIC, vec![heavier, Announced::at(address(2)), Announced::at(address(3))], NOW);
    assert_eq!((done.added.len(), done.removed.len(), done.altered), (1, 1, 1));
    assert_eq!(roster.find(&address(0)).unwrap().state(), State::Serving);
    assert_eq!(kept.state(), State::Serving, "who holds the earlier form sees the same state");
    assert_eq!(roster.find(&address(3)).unwrap().state(), State::Unchecked);
    assert_eq!(lost.state(), State::Draining);
    assert_eq!(roster.leaving(), [Arc::clone(&lost)]);
    for user in 0..200 {
        assert_ne!(pick(&roster, &user.to_string()), Some(address(1)));
    }
    // It comes back while a session is still open on it: that session counts, its state begins anew.
    roster.announce("file", vec![Announced::at(address(1))], NOW);
    assert_eq!(roster.find(&address(1)).map(|at| (at.state(), at.sessions())), Some((State::Unchecked, 1)));
    open.remove_one();
    assert_eq!(lost.sessions(), 0);
    assert!(roster.leaving().is_empty());
    roster.retract("file", NOW);
    assert!(roster.find(&address(1)).is_none());
}

#[test]
fn sources_are_united_and_the_configuration_counts_first() {
    let roster = roster(1);
    let said = |weight| Announced { weight, ..Announced::at(address(0)) };
    roster.announce("nats", vec![said(7), Announced::at(address(1))], NOW);
    roster.announce("dns", vec![Announced { weight: 3, ..Announced::at(address(1)) }], NOW);
    assert_eq!(roster.find(&address(0)).unwrap().about.weight, 1);
    assert_eq!(roster.find(&address(1)).unwrap().about.weight, 3, "dns sorts before nats");
    roster.retract("dns", NOW);
    assert_eq!(roster.find(&address(1)).unwrap().about.weight, 1);
    assert_eq!(roster.sources(), ["nats", STATIC]);
}

#[test]
fn an_announcement_that_asks_to_leave_an_endpoint_drains_it_at_once_and_back() {
    let roster = roster(2);
    roster.announce("nats", Vec::new(), NOW);
    let leave = |draining| vec![Announced { draining, ..Announced::at(address(0)) }, Announced::at(address(1))];
    roster.announce(STATIC, leave(true), NOW);
    assert_eq!(roster.find(&address(0)).unwrap().state(), State::Draining);
    assert!((0..50).all(|user| pick(&roster, &user.to_string()) == Some(address(1))));
    roster.announce(STATIC, leave(false), NOW);
    assert_eq!(roster.find(&address(0)).unwrap().state(), State::Serving);
}

#[test]
fn another_form_of_a_cluster_takes_over_what_is_known_and_announced() {
    let before = roster(2);
    before.announce("dns", vec![Announced::at(address(5))], NOW);
    let open = before.find(&address(0)).unwrap().carry(3);
    let after = Roster::new(settings(), vec![Announced::at(address(0)), Announced::at(address(9))], 1, NOW);
    after.take_over(&before, NOW);
    let state = |n| after.find(&address(n)).map(|at| at.state());
    assert_eq!(state(0), Some(State::Serving));
    assert_eq!(state(1), None);
    assert_eq!(state(5), Some(State::Unchecked));
    assert_eq!(state(9), Some(State::Unchecked));
    assert_eq!(after.find(&address(0)).unwrap().sessions(), 3);
    assert!(after.is_serving());
    drop(open);
    assert_eq!(after.find(&address(0)).unwrap().sessions(), 0);
}

#[test]
fn what_comes_later_warms_up_and_what_was_there_does_not() {
    let slow = Settings { slow_start: Duration::from_secs(10), ..settings() };
    let roster = Roster::new(slow, vec![Announced::at(address(0))], 1, NOW);
    let ready = |n, now| roster.note(&address(n), Finding::Ready, Duration::from_millis(1), now);
    ready(0, NOW);
    roster.announce("dns", vec![Announced::at(address(1))], NOW);
    ready(1, NOW);
    let share = |now: Duration| {
        let at = |user: &u32| roster.choose(&Ask { user: &user.to_string(), ..Ask::default() }, now).unwrap();
        (0..2000).filter(|user| at(user).address == address(1)).count()
    };
    let (cold, warmer, warm) = (share(NOW), share(NOW + Duration::from_secs(5)), share(NOW + Duration::from_secs(11)));
    assert!((100..300).contains(&cold), "a tenth of the weight is 1 in 11: {cold}");
    assert!((600..800).contains(&warmer), "55 % of the weight: {warmer}");
    assert!((900..1100).contains(&warm), "{warm}");
}

proptest! {
    /// Whatever is announced and found in whatever order: only what takes sessions is chosen, the same one for the same
    /// states, and the weight of those that serve is never miscounted.
    #[test]
    fn what_is_chosen_is_in_the_set_and_serves(
        steps in prop::collection::vec((0usize..8, 0u8..6), 0..80),
        user in "[a-z]{1,8}",
    ) {
        let roster = roster(4);
        for (n, step) in steps {
            match step {
                0 => drop(roster.note(&address(n), Finding::Ready, Duration::from_millis(1), NOW)),
                1 => drop(roster.note(&address(n), Finding::NotReady, Duration::ZERO, NOW)),
                2 => drop(roster.note(&address(n), Finding::Silent, Duration::ZERO, NOW)),
                3 => drop(roster.fail(&address(n), NOW)),
                4 => drop(roster.announce("dns", (0..n).map(|n| Announced::at(address(n))).collect(), NOW)),
                _ => drop(roster.announce(STATIC, (n / 2..n).map(|n| Announced::at(address(n))).collect(), NOW)),
            }
            let serving = roster.endpoints().iter().filter(|at| at.state() == State::Serving).count() as u64;
            prop_assert_eq!(roster.set().lanes.iter().map(|lane| lane.load().1).sum::<u64>(), serving);
        }
        let states: Vec<State> = roster.endpoints().iter().map(|at| at.state()).collect();
        match pick(&roster, &user) {
            Some(chosen) => {
                let state = roster.find(&chosen).unwrap().state();
                let wanted = if states.contains(&State::Serving) { State::Serving } else { State::Unchecked };
                prop_assert_eq!(state, wanted);
                prop_assert_eq!(pick(&roster, &user), Some(chosen));
            }
            None => prop_assert!(!states.iter().any(|state| matches!(state, State::Serving | State::Unchecked))),
        }
    }
}
