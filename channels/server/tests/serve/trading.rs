//! Orders and positions over the wire: answers, pushes, trunks, resume.

use std::collections::BTreeMap;

use bawaba_channels::wire::{Encoding, Event, Order, OrderUpdate, Position, Request, Subscribe};

use crate::client::{Client, subscribe};
use crate::process::{Server, recent_anchor};

fn place(id: u64, side: &str, price: Option<&str>, quantity: &str) -> Order {
    Order {
        id: Some(id),
        op: "place".into(),
        exchange: "EGX".into(),
        symbol: "COMI".into(),
        side: side.into(),
        order_type: if price.is_some() { "limit" } else { "market" }.into(),
        price: price.map(|p| p.parse().unwrap()),
        quantity: quantity.parse().ok(),
        ..Order::default()
    }
}

fn order_update(client: &mut Client) -> OrderUpdate {
    client.until(|event| match event {
        Event::OrderUpdate(update) => Some(update),
        Event::Error(error) => panic!("refused: {error:?}"),
        _ => None,
    })
}

#[test]
fn an_order_is_answered_once_and_told_to_every_session_of_its_user() {
    let server = Server::simulated("EGX", &recent_anchor(), &[]);
    let (mut trader, mut screen, mut stranger) =
        (Client::user(&server, "amina"), Client::user(&server, "amina"), Client::user(&server, "omar"));
    for client in [&mut screen, &mut stranger] {
        client.subscribe(subscribe("orders", "EGX", &[]));
        client.subscribe(subscribe("positions", "EGX", &[]));
    }
    trader.send(&Request::Order(place(10, "buy", None, "50")));
    let answer = order_update(&mut trader);
    assert_eq!((answer.id, answer.status.as_str(), answer.seq, answer.user), (Some(10), "filled", 1, None));
    let pushed = order_update(&mut screen);
    assert_eq!((pushed.id, pushed.seq, pushed.subscription.as_deref()), (None, 1, Some("egx/orders")));
    let Event::PositionUpdate(position) = screen.next() else { panic!("the position") };
    assert_eq!((position.quantity.to_string().as_str(), position.seq), ("50", 1));
    // The same session's own cancel comes to it once as an answer and, to the other, once as news.
    trader.send(&Request::Order(place(11, "sell", Some("100.00"), "50")));
    let resting = order_update(&mut trader);
    assert_eq!((resting.status.as_str(), resting.seq), ("open", 2));
    trader.send(&Request::Order(Order {
        id: Some(12),
        op: "cancel".into(),
        order_id: Some(resting.order_id),
        ..Order::default()
    }));
    assert_eq!(order_update(&mut trader).status, "cancelled");
    assert_eq!([order_update(&mut screen).seq, order_update(&mut screen).seq], [2, 3]);
    stranger.send(&Request::Ping(bawaba_channels::wire::Ping { id: Some(1) }));
    assert!(matches!(stranger.next(), Event::Pong(_)), "nothing of another user's");
}

#[test]
fn an_edge_acts_for_the_users_it_names_and_hears_whose_each_update_is() {
    let server = Server::simulated("EGX", &recent_anchor(), &[]);
    let mut trunk = Client::connect(&server, Encoding::Proto, r#"{"sub":"edge-1","role":"edge"}"#);
    for user in ["amina", "omar"] {
        let user = Some(user.to_owned());
        let answer = trunk.subscribe(Subscribe { user: user.clone(), ..subscribe("orders", "EGX", &[]) });
        assert_eq!(answer.subscription, user.map(|user| format!("egx/orders/{user}")));
    }
    for (id, user) in [(1, "amina"), (2, "omar")] {
        trunk.send(&Request::Order(Order { user: Some(user.into()), ..place(id, "buy", None, "5") }));
        let answer = order_update(&mut trunk);
        assert_eq!((answer.id, answer.user.as_deref(), answer.seq), (Some(id), Some(user), 1));
        let pushed = order_update(&mut trunk);
        assert_eq!((pushed.id, pushed.user.as_deref()), (None, Some(user)));
    }
    trunk.send(&Request::Order(place(3, "buy", None, "5")));
    assert!(matches!(trunk.next(), Event::Error(error) if error.id == Some(3) && error.code == "protocol.malformed"));
    // A client cannot act for another: the user that it names is not looked at.
    let mut client = Client::user(&server, "mallory");
    client.send(&Request::Order(Order { user: Some("amina".into()), ..place(4, "sell", None, "5") }));
    assert!(matches!(client.next(), Event::Error(error) if error.code == "order.rejected"), "mallory holds nothing");
}

#[test]
fn a_private_channel_resumes_without_loss_or_repetition() {
    let server = Server::simulated("EGX", &recent_anchor(), &[]);
    let mut client = Client::user(&server, "amina");
    let accepted = client.subscribe(subscribe("orders", "EGX", &[])).accepted.remove(0);
    assert_eq!((accepted.symbol.as_str(), accepted.seq), ("", 0));
    drop(client);
    let mut trader = Client::user(&server, "amina");
    for id in 1..=3 {
        let request = Order { client_order_id: Some(format!("k{id}")), ..place(id, "buy", Some("70.00"), "10") };
        trader.send(&Request::Order(request.clone()));
        let first = order_update(&mut trader);
        trader.send(&Request::Order(request));
        assert_eq!(order_update(&mut trader).order_id, first.order_id, "the same key is the same order");
    }
    let resume = |seq| BTreeMap::from([(String::new(), Position { epoch: accepted.epoch.clone(), seq })]);
    let mut client = Client::user(&server, "amina");
    let answer = client.subscribe(Subscribe { resume: resume(1), ..subscribe("orders", "EGX", &[]) });
    assert!(answer.accepted[0].recovered);
    assert_eq!([order_update(&mut client).seq, order_update(&mut client).seq], [2, 3]);
    // Afresh: the open orders as they stand.
    let mut client = Client::user(&server, "amina");
    client.subscribe(subscribe("orders", "EGX", &[]));
    assert_eq!([1, 2, 3].map(|_| order_update(&mut client).seq), [1, 2, 3]);
}
