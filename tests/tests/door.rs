//! The door of the edge, from outside: however a connection comes (plain, TLS, HTTP/2), whatever is sent ahead, and
//! what a service behind a relay route sees of it. Bad input has tests of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bawaba_tests::client::{BINARY, Connect, End, TEXT, frame};
use bawaba_tests::keys::trader;
use bawaba_tests::relay::Door;
use bawaba_tests::stack::{Edge, free_address, path, set};
use bawaba_tests::{PATIENCE, by, http, until};
use serde_json::Value;
use tungstenite::{Bytes, Message};

#[test]
fn a_relay_passes_what_both_sides_say_as_it_is() {
    let door = Door::plain();
    let connect = door
        .connect()
        .path("/quotes/live?since=4&token=ignored")
        .header("x-bawaba-claims", "Zm9yZ2Vk")
        .header("cookie", "a=b");
    let mut client = connect.accepted(door.edge.address);
    assert_eq!(
        client.handshake().header("sec-websocket-protocol"),
        Some("soup.v1"),
        "the service chooses the subprotocol"
    );
    let big: Vec<u8> = (0..600_000u32).map(|n| n as u8).collect();
    for message in [
        Message::text("مرحبا"),
        Message::binary(vec![]),
        Message::binary(big),
        Message::Ping(Bytes::from_static(b"are you there")),
    ] {
        client.send_message(message.clone());
        let expected = match message {
            // The service's own Pong: control frames pass untouched.
            Message::Ping(payload) => Message::Pong(payload),
            other => other,
        };
        assert_eq!(client.message(by(PATIENCE)).unwrap(), expected);
    }
    let head = door.service.head("get /quotes/live?since=4 ");
    assert!(!head.contains("zm9yz2vk") && !head.contains("token="), "{head}");
    assert!(head.contains("cookie: a=b") && head.contains("x-forwarded-for: 127.0.0.1"), "{head}");
    assert_eq!(head.matches("x-bawaba-claims: ").count(), 1, "the verified claims, and nothing forged");
    client.close();
    assert!(matches!(client.message(by(PATIENCE)), Err(End::Close(..) | End::Cut)));
}

#[test]
fn claims_that_reach_a_service_are_those_of_the_token() {
    let door = Door::plain();
    door.connect().header("x-bawaba-claims", "Zm9yZ2Vk").accepted(door.edge.address);
    let heads = door.service.heads.lock().unwrap();
    let head = heads.iter().find(|head| head.starts_with("get /quotes/live ")).unwrap();
    let sent = head.lines().find_map(|line| line.strip_prefix("x-bawaba-claims: ")).unwrap();
    let bearer = head.lines().find_map(|line| line.strip_prefix("authorization: bearer ")).unwrap();
    assert_eq!(Some(sent), bearer.split('.').nth(1), "the payload that was signed, and no other");
}

#[test]
fn a_half_closed_relay_still_carries_the_other_half() {
    let door = Door::plain();
    let mut client = door.connect().accepted(door.edge.address);
    client.send_message(Message::text("before"));
    client.half_close();
    // What was sent before the end is still echoed, through an edge whose client has said all.
    assert_eq!(client.message(by(PATIENCE)).unwrap(), Message::text("before"));
    assert!(client.message(by(PATIENCE)).is_err(), "and then the service ends too");

    let mut client = door.connect().accepted(door.edge.address);
    client.send_message(Message::text("half"));
    assert_eq!(client.message(by(PATIENCE)).unwrap(), Message::text("half"));
    assert!(matches!(client.message(by(PATIENCE)), Err(End::Cut)), "the service's end is passed on");
    until("the session is over", by(PATIENCE), || {
        drop(client.send_bytes(&[0x88, 0x80, 0, 0, 0, 0]));
        client.half_close();
        (sessions(&door.edge) == 0).then_some(())
    });
}

#[test]
fn a_frame_in_the_packet_of_the_request_is_not_lost() {
    let door = Door::plain();
    let mut connect = door.connect();
    connect.ahead = frame(TEXT, b"first");
    connect.ahead.extend(frame(TEXT, b"second"));
    connect.ahead.extend_from_slice(&frame(TEXT, b"third")[..4]);
    let mut client = connect.accepted(door.edge.address);
    client.send_bytes(&frame(TEXT, b"third")[4..]).unwrap();
    for expected in ["first", "second", "third"] {
        assert_eq!(client.message(by(PATIENCE)).unwrap(), Message::text(expected));
    }
}

#[test]
fn a_service_that_refuses_is_heard() {
    let door = Door::plain();
    let answer = door.connect().path("/quotes/refuse").refused(door.edge.address);
    assert_eq!((answer.status, answer.header("x-why"), answer.text().as_str()), (418, Some("tea"), "short stout"));
}

#[test]
fn a_service_that_is_gone_is_said_with_a_word_and_when_to_come_back() {
    let nowhere = Door::unready(|config, _| {
        let gone = free_address().to_string();
        set(config, "cluster.gone.endpoints", vec![toml::Value::from(gone)]);
        let routes = config["route"].as_array_mut().unwrap();
        let mut route = routes[0].as_table().unwrap().clone();
        set(&mut route, "name", "gone");
        set(&mut route, "path", "/gone/*");
        set(&mut route, "relay.cluster", "gone");
        routes.push(route.into());
    });
    let token = nowhere.keys.unscreened("amina");
    for _ in 0..2 {
        let answer = Connect::with_token(&token).path("/gone/x").refused(nowhere.edge.address);
        assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("edge.no_endpoint")));
        assert!(answer.header("retry-after").is_some());
    }
}

#[test]
fn a_frame_that_breaks_the_protocol_ends_a_relay_with_the_right_code() {
    let door = Door::open(|config, _| set(config, "limits.relay_message_bytes_max", 1000));
    let unmasked = vec![0x81, 0x02, b'h', b'i'];
    let reserved = [&[0xC1][..], &frame(TEXT, b"hi")[1..]].concat();
    let giant = [&[0x82, 0xFE, 0x40, 0x00, 1, 2, 3, 4][..], &[0; 0x4000]].concat();
    for (bytes, code) in [(unmasked, 1002), (reserved, 1002), (giant, 1009)] {
        let mut client = door.connect().accepted(door.edge.address);
        client.send_message(Message::text("hello"));
        assert_eq!(client.message(by(PATIENCE)).unwrap(), Message::text("hello"));
        drop(client.send_bytes(&bytes));
        match client.message(by(PATIENCE)) {
            Err(End::Close(Some(got), _)) => assert_eq!(got, code),
            other => panic!("{code}: {other:?}"),
        }
    }
    until("every slot is free again", by(PATIENCE), || (sessions(&door.edge) == 0).then_some(()));
}

#[test]
fn plain_requests_pass_a_relay_route_judged_and_rewritten() {
    let door = Door::plain();
    let ask = |path: &str, headers: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n{headers}\r\n");
        http::ask(door.edge.address, head.as_bytes()).unwrap().0
    };
    let bearer = format!("authorization: Bearer {}\r\nx-bawaba-claims: forged\r\n", door.keys.unscreened("amina"));
    let answer = ask("/quotes/last", &bearer);
    assert_eq!((answer.status, answer.header("x-service"), answer.text().as_str()), (200, Some("yes"), "plainly"));
    let head = door.service.head("get /quotes/last ");
    assert!(!head.contains("forged") && head.contains("x-bawaba-claims: "), "{head}");
    assert!(head.contains("x-forwarded-proto: http\r\n") && head.contains("host: edge\r\n"), "{head}");

    for (path, headers, status, code) in [
        ("/quotes/last", "", 401, "auth.missing"),
        ("/quotes/last", "authorization: Bearer no.such.token\r\n", 401, "auth.invalid"),
        ("/nowhere", bearer.as_str(), 404, "edge.not_found"),
        ("/quotes/../admin", bearer.as_str(), 400, "protocol.malformed"),
    ] {
        let answer = ask(path, headers);
        assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{path}");
    }
}

#[test]
fn a_body_reaches_the_service_whole_and_the_connection_is_kept() {
    let door = Door::plain();
    let token = door.keys.unscreened("amina");
    let request =
        format!("POST /quotes/alerts?token={token} HTTP/1.1\r\nhost: edge\r\ncontent-length: 11\r\n\r\nhello world");
    let (answer, mut stream) = http::ask(door.edge.address, request.as_bytes()).unwrap();
    assert_eq!(answer.text(), "plainly");
    let head = door.service.head("post /quotes/alerts http/1.1");
    assert!(head.ends_with("hello world"), "{head}");
    // The same connection turns into a WebSocket with its second request.
    stream.write_all(&door.connect().request(door.edge.address)).unwrap();
    assert_eq!(http::read_answer(&mut stream, by(PATIENCE)).unwrap().status, 101);
}

#[test]
fn the_private_page_changes_nothing_by_reading() {
    let door = Door::plain();
    let ask = |method: &str, path: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        http::ask(door.edge.admin, head.as_bytes()).unwrap().0
    };
    let _held = door.connect().accepted(door.edge.address);
    assert_eq!(ask("GET", "/sessions").json()["sessions"][0]["user"], "amina");
    assert_eq!(ask("GET", "/endpoints").json()["quotes"][0]["state"], "serving");
    assert_eq!(ask("GET", "/drain").status, 405);
    assert_eq!(ask("DELETE", "/sessions").status, 405);
    assert_eq!(ask("GET", "/anything").status, 404);
    assert_eq!(ask("GET", "/readyz").status, 200);
    let metrics = ask("GET", "/metrics").text();
    assert!(metrics.contains("bawaba_sessions{route=\"quotes\"} 1"), "{metrics}");
    assert_eq!(ask("GET", "/config").json()["route"][0]["name"], "quotes");
    assert!(!ask("GET", "/config").text().contains("crv"), "names of files, not what is in them");
    assert_eq!(ask("POST", "/drain").status, 202);
    assert_eq!(ask("GET", "/readyz").status, 503);
    let answer = door.connect().refused(door.edge.address);
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("edge.draining")));
}

#[test]
fn limits_hold_and_a_slot_is_free_again_after_its_session() {
    let door = Door::open(|config, _| set(config, "limits.sessions_max", 2));
    let first = door.connect().accepted(door.edge.address);
    let _second = door.connect().accepted(door.edge.address);
    let answer = door.connect().refused(door.edge.address);
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("edge.overloaded")));
    assert!(answer.header("retry-after").is_some());
    drop(first);
    until("the slot is free", by(PATIENCE), || door.connect().open(door.edge.address).ok());
}

#[test]
fn over_tls_everything_is_the_same() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let door = Door::open(|config, scratch| {
        let certificate = scratch.write("edge.pem", certified.cert.pem());
        let key = scratch.write("edge.key", certified.signing_key.serialize_pem());
        set(config, "listener.0.tls.certificate", path(&certificate));
        set(config, "listener.0.tls.key", path(&key));
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let session = rustls::ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
    let tcp = TcpStream::connect(door.edge.address).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let stream = rustls::StreamOwned::new(session, tcp);
    let request = tungstenite::http::Request::builder()
        .uri("wss://localhost/quotes/live")
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", tungstenite::handshake::client::generate_key())
        .header("authorization", format!("Bearer {}", door.keys.unscreened("amina")))
        .body(())
        .unwrap();
    let (mut socket, _) = tungstenite::client(request, stream).unwrap();
    let big = "x".repeat(200_000);
    for text in ["over TLS", big.as_str()] {
        socket.send(Message::text(text)).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text(text));
    }
    assert!(door.service.head("get /quotes/live ").contains("x-forwarded-proto: https"));
    // Plain bytes where TLS is spoken end the connection, and nothing else.
    let mut plain = TcpStream::connect(door.edge.address).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /quotes/live HTTP/1.1\r\n\r\n").unwrap();
    drop(plain.read_to_end(&mut Vec::new()));
    socket.send(Message::text("still here")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("still here"));
}

/// An HTTP/2 connection with prior knowledge.
async fn http2(address: SocketAddr) -> h2::client::SendRequest<tungstenite::Bytes> {
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let sender = sender.ready().await.unwrap();
    // The settings of the edge come with its first answer.
    sender
}

#[test]
fn over_http2_an_extended_connect_is_a_websocket_both_ways() {
    let door = Door::open(|config, _| set(config, "listener.0.h2c", true));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, over_http2(&door)).await.expect("in time");
    });
    // HTTP/1.1 on the same listener, also with a request shorter than HTTP/2's preface.
    let (answer, _) = http::ask(door.edge.address, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(answer.status, 404);
    let mut client = door.connect().accepted(door.edge.address);
    client.send_message(Message::text("as before"));
    assert_eq!(client.message(by(PATIENCE)).unwrap(), Message::text("as before"));
}

async fn over_http2(door: &Door) {
    let mut sender = http2(door.edge.address).await;
    let token = door.keys.unscreened("amina");
    let plain = |path: &str| {
        let uri = format!("http://edge{path}");
        tungstenite::http::Request::get(uri).header("authorization", format!("Bearer {token}")).body(()).unwrap()
    };
    // A plain request first: with its answer the client knows that extended CONNECT is spoken here.
    let (answer, _) = sender.send_request(plain("/quotes/last"), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    assert!(sender.is_extended_connect_protocol_enabled());
    let connect = |path: &str, token: &str| {
        tungstenite::http::Request::builder()
            .method("CONNECT")
            .uri(format!("http://edge{path}"))
            .extension(h2::ext::Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13")
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .unwrap()
    };
    sender = sender.ready().await.unwrap();
    let (answer, mut send) = sender.send_request(connect("/quotes/live", &token), false).unwrap();
    // Before the answer has come.
    send.send_data(frame(TEXT, b"early").into(), false).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    assert_eq!(read_bytes(&mut body, 7).await, [&[0x81, 5][..], b"early"].concat());
    let big = vec![b'y'; 300_000];
    let whole = frame(BINARY, &big);
    for part in whole.chunks(16_000) {
        send.reserve_capacity(part.len());
        let mut part = tungstenite::Bytes::copy_from_slice(part);
        while !part.is_empty() {
            let granted = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
            send.send_data(part.split_to(granted.min(part.len())), false).unwrap();
        }
    }
    let echoed = read_bytes(&mut body, big.len() + 10).await;
    assert_eq!(echoed[10..], big);
    // The client's half ends; the service's end comes back.
    send.send_data(tungstenite::Bytes::new(), true).unwrap();
    while let Some(chunk) = body.data().await {
        drop(body.flow_control().release_capacity(chunk.unwrap().len()));
    }

    for (path, token, status) in [
        ("/quotes/live", "no.such.token", 401),
        ("/nowhere", token.as_str(), 404),
        ("/quotes/refuse", token.as_str(), 418),
    ] {
        sender = sender.ready().await.unwrap();
        let (answer, _send) = sender.send_request(connect(path, token), false).unwrap();
        assert_eq!(answer.await.unwrap().status(), status, "{path}");
    }
}

async fn read_bytes(body: &mut h2::RecvStream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let chunk = body.data().await.expect("more").unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        bytes.extend_from_slice(&chunk);
    }
    bytes
}

#[test]
fn a_connection_that_asks_for_nothing_is_closed_in_time() {
    let door = Door::open(|config, _| {
        set(config, "listener.0.h2c", true);
        set(config, "timeouts.request_head", "300ms");
    });
    for begun in [&b""[..], b"PRI * HTTP/2.0\r\n", b"GET /quotes/live HTTP/1.1\r\nhost: "] {
        let mut stream = TcpStream::connect(door.edge.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(begun).unwrap();
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert_eq!(begun.starts_with(b"GET"), !answer.is_empty(), "who has begun to ask is told");
    }
    until("no connection is left", by(PATIENCE), || {
        (door.edge.metric("bawaba_connections") == Some(0.0)).then_some(())
    });
}

#[test]
fn a_newer_connection_of_the_same_session_takes_its_place() {
    let door = Door::plain();
    let mut claims = trader("amina");
    claims["sid"] = Value::from("phone");
    let connect = Connect::with_token(&door.keys.token(claims)).path("/quotes/live").protocols(&[]);
    let mut first = connect.accepted(door.edge.address);
    let mut second = connect.accepted(door.edge.address);
    match first.message(by(PATIENCE)) {
        Err(End::Close(Some(code), _)) => assert_eq!(code, 4409),
        other => panic!("{other:?}"),
    }
    second.send_message(Message::text("here"));
    assert_eq!(second.message(by(PATIENCE)).unwrap(), Message::text("here"));
}

#[test]
fn a_relay_ends_when_its_token_does() {
    let door = Door::open(|config, _| set(config, "identity.leeway", "0s"));
    let mut claims = trader("amina");
    claims["exp"] = Value::from(bawaba_tests::keys::now_s() + 2);
    let connect = Connect::with_token(&door.keys.token(claims)).path("/quotes/live").protocols(&[]);
    let mut client = connect.accepted(door.edge.address);
    match client.message(by(Duration::from_secs(10))) {
        Err(End::Close(Some(code), _)) => assert_eq!(code, 4401),
        other => panic!("{other:?}"),
    }
}

/// Open sessions, as the private page counts them.
fn sessions(edge: &Edge) -> u64 {
    edge.metric("bawaba_sessions{route=\"quotes\"}").map_or(u64::MAX, |open| open as u64)
}
