//! Over any interleaving, what is granted never exceeds the limit: scripted interleavings between a read and its write,
//! and real threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex};

use bawaba_policies::UnixNanos;
use bawaba_policies::license::AtLimit;
use bawaba_policies::quota::{Admit, Cells, Client, Delivered, Desk, Entitled, Limit, Limits, Rates};
use proptest::prelude::*;

const START: UnixNanos = UnixNanos::from_seconds(1_767_225_600);

fn client(user: &str, limits: Limits, tenant: Option<Limits>, unit: u64) -> Client {
    let entitled = Entitled {
        tenant: "acme".into(),
        user: user.into(),
        of_user: limits,
        of_tenant: tenant,
        at_user_limit: AtLimit::Refuse,
        at_tenant_limit: AtLimit::Refuse,
    };
    Client { entitled, unit }
}

fn limits(most: u32) -> Limits {
    let at = Limit::AtMost(most);
    Limits { connections: at, subscriptions: at, symbols: at, orders_per_minute: at, ..Limits::UNLIMITED }
}

/// A store in which others get their turn between a read and the write that follows.
#[derive(Default)]
struct Interleaved {
    values: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    script: RefCell<Vec<Step>>,
    world: RefCell<Weak<World>>,
}

struct Handle(Rc<Interleaved>);

impl Cells for Handle {
    fn read(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        let store = &self.0;
        let value = store.values.borrow().get(key).cloned();
        let step = store.script.borrow_mut().pop();
        let world = store.world.borrow().upgrade();
        // A worker does one thing at a time: who is in the middle of something gets no turn.
        if let (Some(step), Some(world)) = (step, world)
            && !world.busy.borrow().contains(&step.holder)
        {
            world.act(&step);
        }
        value
    }

    fn swap(&self, key: &str, value: &[u8], version: Option<u32>) -> bool {
        let mut values = self.0.values.borrow_mut();
        if values.get(key).map(|(_, version)| *version) != version {
            return false;
        }
        values.insert(key.into(), (value.into(), version.unwrap_or(0) + 1));
        true
    }
}

#[derive(Clone, Debug)]
struct Step {
    holder: usize,
    user: usize,
    verb: u8,
    unit: u64,
}

struct World {
    desks: Vec<Desk<Handle>>,
    of_user: Limits,
    of_tenant: Limits,
    /// What was granted and not given back: (holder, user, unit) and (holder, user, symbol).
    connections: RefCell<Vec<(usize, usize, u64)>>,
    watched: RefCell<Vec<(usize, usize, u64)>>,
    orders: RefCell<Vec<usize>>,
    busy: RefCell<Vec<usize>>,
}

impl World {
    fn client(&self, step: &Step) -> Client {
        client(&format!("user-{}", step.user), self.of_user, Some(self.of_tenant), step.unit)
    }

    fn act(&self, step: &Step) {
        let (desk, client) = (&self.desks[step.holder], self.client(step));
        let key = (step.holder, step.user, step.unit);
        let symbol = [format!("S{}", step.unit)];
        self.busy.borrow_mut().push(step.holder);
        match step.verb {
            0 | 1 => {
                if desk.connect(&client, Admit::Within, START).is_ok() {
                    self.connections.borrow_mut().push(key);
                }
            }
            2 => {
                if take(&self.connections, key) {
                    desk.disconnect(&client);
                }
            }
            3 | 4 => {
                if desk.subscribe(&client, Admit::Within, 1, &symbol, START).is_ok() {
                    self.watched.borrow_mut().push(key);
                }
            }
            5 => {
                if take(&self.watched, key) {
                    desk.unsubscribe(&client, 1, &symbol);
                }
            }
            _ => {
                let day = bawaba_policies::quota::Day { number: 1, next_at: UnixNanos(u64::MAX) };
                let order = |rates: &mut Rates, limits: &Limits| rates.order(limits, day, START);
                if desk.spend(&client, START, order).is_ok() {
                    self.orders.borrow_mut().push(step.user);
                }
            }
        }
        self.busy.borrow_mut().pop();
        self.holds();
    }

    /// The law, by what the desks said: distinct units and symbols of a user, and of all users.
    fn holds(&self) {
        let most = |limit: Limit| match limit {
            Limit::AtMost(most) => most as usize,
            Limit::Unlimited => usize::MAX,
        };
        for user in 0..3 {
            let units: BTreeSet<u64> =
                self.connections.borrow().iter().filter(|of| of.1 == user).map(|of| of.2).collect();
            assert!(units.len() <= most(self.of_user.connections));
            let watched = self.watched.borrow();
            let own: Vec<u64> = watched.iter().filter(|of| of.1 == user).map(|of| of.2).collect();
            assert!(own.len() <= most(self.of_user.subscriptions));
            assert!(own.iter().collect::<BTreeSet<_>>().len() <= most(self.of_user.symbols));
            assert!(
                self.orders.borrow().iter().filter(|of| **of == user).count() <= most(self.of_user.orders_per_minute)
            );
        }
        let all: BTreeSet<u64> = self.connections.borrow().iter().map(|of| of.2).collect();
        assert!(all.len() <= most(self.of_tenant.connections));
        assert!(self.watched.borrow().len() <= most(self.of_tenant.subscriptions));
        assert!(self.orders.borrow().len() <= most(self.of_tenant.orders_per_minute));
    }
}

fn take(from: &RefCell<Vec<(usize, usize, u64)>>, key: (usize, usize, u64)) -> bool {
    let mut from = from.borrow_mut();
    from.iter().position(|known| *known == key).map(|at| from.remove(at)).is_some()
}

fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (0_usize..3, 0_usize..3, 0_u8..8, 0_u64..5).prop_map(|(holder, user, verb, unit)| Step {
        holder,
        user,
        verb,
        unit,
    });
    prop::collection::vec(step, 0..count)
}

proptest! {
    #[test]
    fn over_any_interleaving_no_more_is_granted_than_the_limit(
        of_user in 0_u32..4, of_tenant in 0_u32..6, outer in steps(60), inner in steps(120)
    ) {
        let store = Rc::new(Interleaved::default());
        let desks = (0..3).map(|holder| Desk::new(Handle(Rc::clone(&store)), holder)).collect();
        let world = Rc::new(World {
            desks,
            of_user: limits(of_user),
            of_tenant: limits(of_tenant),
            connections: RefCell::default(),
            watched: RefCell::default(),
            orders: RefCell::default(),
            busy: RefCell::default(),
        });
        *store.world.borrow_mut() = Rc::downgrade(&world);
        *store.script.borrow_mut() = inner;
        for step in outer {
            world.act(&step);
        }
        // Given back, everything can be had again.
        store.script.borrow_mut().clear();
        for (holder, user, unit) in world.connections.take() {
            world.desks[holder].disconnect(&world.client(&Step { holder, user, verb: 2, unit }));
        }
        for (holder, user, unit) in world.watched.take() {
            let client = world.client(&Step { holder, user, verb: 5, unit });
            world.desks[holder].unsubscribe(&client, 1, &[format!("S{unit}")]);
        }
        for unit in 0..u64::from(of_user.min(of_tenant)) {
            world.act(&Step { holder: 0, user: 0, verb: 0, unit });
        }
        prop_assert_eq!(world.connections.borrow().len(), of_user.min(of_tenant) as usize);
    }

    /// Over every stretch of any timeline, also one whose clock steps back.
    #[test]
    fn messages_granted_never_exceed_burst_plus_rate(
        rate in 0_u32..2_000, burst in 0_u32..20, steps in prop::collection::vec(-20_000_000_i64..400_000_000, 1..120)
    ) {
        let limits = Limits {
            messages_per_second: Limit::AtMost(rate), messages_burst: Limit::AtMost(burst), ..Limits::UNLIMITED
        };
        let mut rates = Rates::default();
        let (mut now, mut latest) = (START.0, START.0);
        let mut granted: Vec<u64> = Vec::new();
        for step in steps {
            now = now.saturating_add_signed(step);
            latest = latest.max(now);
            match rates.message(&limits, UnixNanos(now)) {
                Ok(()) => granted.push(latest),
                // What it says to wait is enough, and a millisecond less is not.
                Err(refused) => if let Some(wait) = refused.retry_after_ms {
                    let at = |millis: u64| rates.clone().message(&limits, UnixNanos(now).plus_millis(millis));
                    prop_assert!(at(wait).is_ok());
                    prop_assert!(wait == 0 || at(wait - 1).is_err());
                }
            }
        }
        for (first, &from) in granted.iter().enumerate() {
            for (last, &to) in granted.iter().enumerate().skip(first) {
                let most = u128::from(burst) + u128::from(to - from) * u128::from(rate) / 1_000_000_000;
                prop_assert!((last - first + 1) as u128 <= most);
            }
        }
    }

    /// The same for a rate of a minute, whose fractions must not be lost over many small steps.
    #[test]
    fn subscribes_granted_follow_the_rate_of_a_minute(
        rate in 1_u32..90, steps in prop::collection::vec(1_u64..3_000_000_000, 1..150)
    ) {
        let limits = Limits { subscribes_per_minute: Limit::AtMost(rate), ..Limits::UNLIMITED };
        let mut rates = Rates::default();
        let (mut now, mut granted) = (START.0, 0_u128);
        for step in steps {
            now += step;
            match rates.subscribe(&limits, UnixNanos(now)) {
                Ok(()) => granted += 1,
                Err(refused) => {
                    let at = |millis: u64| rates.clone().subscribe(&limits, UnixNanos(now).plus_millis(millis));
                    let wait = refused.retry_after_ms.unwrap();
                    prop_assert!(at(wait).is_ok());
                    prop_assert!(wait == 0 || at(wait - 1).is_err());
                }
            }
            prop_assert!(granted <= u128::from(rate) + u128::from(now - START.0) * u128::from(rate) / 60_000_000_000 + 1);
        }
    }
}

struct Locked(Arc<Mutex<BTreeMap<String, (Vec<u8>, u32)>>>);

impl Cells for Locked {
    fn read(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.0.lock().unwrap().get(key).cloned()
    }

    fn swap(&self, key: &str, value: &[u8], version: Option<u32>) -> bool {
        let mut values = self.0.lock().unwrap();
        if values.get(key).map(|(_, version)| *version) != version {
            return false;
        }
        values.insert(key.into(), (value.into(), version.unwrap_or(0) + 1));
        true
    }
}

#[test]
fn threads_that_race_get_exactly_the_limit_between_them() {
    const THREADS: u64 = 8;
    const EACH: u64 = 200;
    let store = Arc::new(Mutex::default());
    let limits = Limits { orders_per_minute: Limit::AtMost(500), connections: Limit::AtMost(300), ..Limits::UNLIMITED };
    let allowance = Limits { delivered_messages_per_day: Limit::AtMost(10_000), ..limits };
    let run = |holder: u64| {
        let store = Arc::clone(&store);
        std::thread::spawn(move || {
            let desk = Desk::new(Locked(store), holder);
            let day = bawaba_policies::quota::Day { number: 1, next_at: UnixNanos(u64::MAX) };
            let (mut orders, mut connections, mut delivered) = (0_u64, 0_u64, 0_u64);
            for turn in 0..EACH {
                let client = client("amina", allowance, None, holder * EACH + turn);
                orders +=
                    u64::from(desk.spend(&client, START, |rates, limits| rates.order(limits, day, START)).is_ok());
                connections += u64::from(desk.connect(&client, Admit::Within, START).is_ok());
                let wanted = Delivered { messages: 37, bytes: 0 };
                let granted = desk.spend(&client, START, |rates, limits| rates.deliver(limits, wanted, day, START));
                delivered += granted.map_or(0, |granted| granted[0].0.messages);
            }
            (orders, connections, delivered)
        })
    };
    let threads: Vec<_> = (0..THREADS).map(run).collect();
    let sums = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .fold((0, 0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1, sum.2 + of.2));
    assert_eq!(sums, (500, 300, 10_000));
}
