use super::*;
use proptest::prelude::*;

fn cluster(count: usize) -> Arc<Cluster> {
    let settings = config::Cluster {
        endpoints: (0..count).map(|n| format!("10.0.0.{n}:7000")).collect(),
        path: "/ws".into(),
        health: config::Health { unhealthy_after: 2, healthy_after: 2, ..config::Health::default() },
        token_file: None,
    };
    let cluster = Cluster::new("egx", settings).unwrap();
    for index in 0..count {
        cluster.note(index, Finding::Ready);
    }
    cluster
}

#[test]
fn losing_one_of_n_endpoints_moves_only_its_users() {
    let cluster = cluster(5);
    let users: Vec<String> = (0..2000).map(|n| format!("user-{n}")).collect();
    let before: Vec<_> = users.iter().map(|user| cluster.pick(user, None).unwrap()).collect();
    let lost = Arc::clone(&cluster.endpoints()[2]);
    cluster.suspect(&lost);
    for (user, before) in users.iter().zip(&before) {
        let after = cluster.pick(user, None).unwrap();
        assert_ne!(after, lost);
        if *before != lost {
            assert_eq!(after, *before, "{user} moved though its endpoint serves");
        }
    }
    // Two good checks bring it back, and with it exactly its users.
    cluster.note(2, Finding::Ready);
    cluster.note(2, Finding::Ready);
    for (user, before) in users.iter().zip(&before) {
        assert_eq!(cluster.pick(user, None).unwrap(), *before);
    }
    for endpoint in cluster.endpoints() {
        let share = before.iter().filter(|at| *at == endpoint).count();
        assert!((300..500).contains(&share), "{} has {share} of 2000 users", endpoint.address);
    }
}

#[test]
fn a_sticky_endpoint_is_kept_while_it_serves_and_left_when_it_does_not() {
    let cluster = cluster(3);
    for endpoint in cluster.endpoints() {
        assert_eq!(cluster.pick("user", Some(&endpoint.address)).unwrap(), *endpoint);
    }
    cluster.note(1, Finding::NotReady);
    assert_eq!(cluster.state(&cluster.endpoints()[1]), State::Serving, "one failure is not yet two");
    cluster.note(1, Finding::NotReady);
    assert_eq!(cluster.state(&cluster.endpoints()[1]), State::Draining);
    assert_ne!(cluster.pick("user", Some("10.0.0.1:7000")).unwrap().index, 1);
    assert!(cluster.pick("user", Some("10.9.9.9:7000")).is_some(), "an unknown endpoint falls back to the hash");
}

#[test]
fn no_endpoint_is_picked_when_none_serves() {
    let cluster = cluster(2);
    for index in [0, 1] {
        cluster.note(index, Finding::Silent);
        cluster.note(index, Finding::Silent);
    }
    assert!(!cluster.is_serving());
    assert!(cluster.pick("user", None).is_none());
}

proptest! {
    /// Whatever is found in whatever order: only a serving endpoint is picked, and the same one for the same states.
    #[test]
    fn what_is_picked_serves(findings in prop::collection::vec((0usize..4, 0u8..4), 0..60), user in "[a-z]{1,8}") {
        let cluster = cluster(4);
        for (index, finding) in findings {
            match finding {
                0 => cluster.note(index, Finding::Ready),
                1 => cluster.note(index, Finding::NotReady),
                2 => cluster.note(index, Finding::Silent),
                _ => cluster.suspect(&cluster.endpoints()[index]),
            }
        }
        match cluster.pick(&user, None) {
            Some(endpoint) => {
                prop_assert_eq!(cluster.state(&endpoint), State::Serving);
                prop_assert_eq!(cluster.pick(&user, None), Some(endpoint));
            }
            None => prop_assert!(!cluster.is_serving()),
        }
    }
}
