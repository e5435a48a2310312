use super::*;

const TOOK: Duration = Duration::from_millis(1);

fn settings(count: usize) -> config::Cluster {
    let health = config::Health { unhealthy_after: 2, healthy_after: 2, ..config::Health::default() };
    config::Cluster {
        endpoints: (0..count).map(|n| Announced::at(address(n))).collect(),
        health,
        // What is remembered hides what a policy would choose.
        balance: config::balance::Balance { remember: Duration::ZERO, ..Default::default() },
        ..config::Cluster::default()
    }
}

fn address(n: usize) -> String {
    format!("10.0.0.{n}:7000")
}

fn cluster(count: usize) -> Arc<Cluster> {
    let cluster = Cluster::new("egx", settings(count)).unwrap();
    for n in 0..count {
        cluster.note(&address(n), Finding::Ready, TOOK);
    }
    cluster
}

#[test]
fn losing_one_of_n_endpoints_moves_only_its_users() {
    let cluster = cluster(5);
    let users: Vec<String> = (0..2000).map(|n| format!("user-{n}")).collect();
    let before: Vec<_> = users.iter().map(|user| cluster.pick(user, None).unwrap()).collect();
    let lost = cluster.find(&address(2)).unwrap();
    cluster.suspect(&lost);
    for (user, before) in users.iter().zip(&before) {
        let after = cluster.pick(user, None).unwrap();
        assert_ne!(after, lost);
        if *before != lost {
            assert_eq!(after, *before, "{user} moved though its endpoint serves");
        }
    }
    // Two good checks bring it back, and with it exactly its users.
    cluster.note(&address(2), Finding::Ready, TOOK);
    cluster.note(&address(2), Finding::Ready, TOOK);
    for (user, before) in users.iter().zip(&before) {
        assert_eq!(cluster.pick(user, None).unwrap(), *before);
    }
    for endpoint in cluster.endpoints() {
        let share = before.iter().filter(|at| **at == endpoint).count();
        assert!((300..500).contains(&share), "{} has {share} of 2000 users", endpoint.address);
    }
}

#[test]
fn a_sticky_endpoint_is_kept_while_it_serves_and_left_when_it_does_not() {
    let cluster = cluster(3);
    for endpoint in cluster.endpoints() {
        assert_eq!(cluster.pick("user", Some(&endpoint.address)).unwrap(), endpoint);
    }
    cluster.note(&address(1), Finding::NotReady, TOOK);
    let one = cluster.find(&address(1)).unwrap();
    assert_eq!(cluster.state(&one), State::Serving, "one failure is not yet two");
    cluster.note(&address(1), Finding::NotReady, TOOK);
    assert_eq!(cluster.state(&one), State::Draining);
    assert_ne!(cluster.pick("user", Some(&address(1))).unwrap(), one);
    assert!(cluster.pick("user", Some("10.9.9.9:7000")).is_some(), "an unknown endpoint falls back to the hash");
}

#[test]
fn no_endpoint_is_picked_when_none_serves() {
    let cluster = cluster(2);
    for n in [0, 1] {
        cluster.note(&address(n), Finding::Silent, TOOK);
        cluster.note(&address(n), Finding::Silent, TOOK);
    }
    assert!(!cluster.is_serving());
    assert!(cluster.pick("user", None).is_none());
}

#[test]
fn whoever_waits_is_woken_by_an_announcement_and_not_by_its_repetition() {
    let cluster = cluster(2);
    let mut states = cluster.states();
    let mut sets = cluster.sets();
    states.mark_unchanged();
    sets.mark_unchanged();
    cluster.announce("dns", vec![Announced::at(address(2))]);
    assert!(states.has_changed().unwrap() && sets.has_changed().unwrap());
    states.mark_unchanged();
    cluster.announce("dns", vec![Announced::at(address(2))]);
    assert!(!states.has_changed().unwrap());
    let gone = cluster.find(&address(2)).unwrap();
    cluster.retract("dns");
    assert!(states.has_changed().unwrap());
    assert_eq!(cluster.state(&gone), State::Draining);
    assert_eq!(cluster.len(), 2);
}

#[test]
fn a_changed_cluster_inherits_what_was_announced_to_the_one_before() {
    let before = cluster(2);
    before.announce("nats", vec![Announced::at(address(7))]);
    before.note(&address(7), Finding::Ready, TOOK);
    let after = Cluster::new("egx", settings(1)).unwrap();
    after.inherit(&before);
    let states: Vec<_> = after.endpoints().iter().map(|at| (at.address.clone(), at.state())).collect();
    assert_eq!(states, [(address(0), State::Serving), (address(7), State::Serving)]);
}
