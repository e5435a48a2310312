use http::Request;
use proptest::prelude::*;

use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A good request over HTTP/1.1, with headers replaced (`None` takes one out).
fn request(method: &str, target: &str, changes: &[(&str, Option<&str>)]) -> Parts {
    let mut headers = vec![
        ("host", "edge.example:8443"),
        ("upgrade", "websocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];
    for (name, value) in changes {
        headers.retain(|(known, _)| known != name);
        headers.extend(value.map(|value| (*name, value)));
    }
    let mut builder = Request::builder().method(method).uri(target).version(Version::HTTP_11);
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn target(parts: &Parts) -> Target {
    Target::read(parts).unwrap()
}

#[test]
fn only_a_handshake_by_the_rules_is_taken() {
    let rows: &[(&str, &str, &[(&str, Option<&str>)], Result<(), (u16, &str)>)] = &[
        ("good", "GET", &[], Ok(())),
        ("an old client's capitals", "GET", &[("upgrade", Some("WebSocket")), ("connection", Some("UPGRADE"))], Ok(())),
        ("an empty body", "GET", &[("content-length", Some("0"))], Ok(())),
        ("POST", "POST", &[], Err((405, "protocol.malformed"))),
        ("no host", "GET", &[("host", None)], Err((400, "protocol.malformed"))),
        ("no Connection", "GET", &[("connection", None)], Err((400, "protocol.malformed"))),
        ("another Connection", "GET", &[("connection", Some("keep-alive"))], Err((400, "protocol.malformed"))),
        ("no version", "GET", &[("sec-websocket-version", None)], Err((426, "protocol.unsupported"))),
        ("version 8", "GET", &[("sec-websocket-version", Some("8"))], Err((426, "protocol.unsupported"))),
        ("no key", "GET", &[("sec-websocket-key", None)], Err((400, "protocol.malformed"))),
        ("a short key", "GET", &[("sec-websocket-key", Some("c2hvcnQ="))], Err((400, "protocol.malformed"))),
        ("a key that is no base64", "GET", &[("sec-websocket-key", Some("!!!"))], Err((400, "protocol.malformed"))),
        ("a body", "GET", &[("content-length", Some("5"))], Err((400, "protocol.malformed"))),
        ("a chunked body", "GET", &[("transfer-encoding", Some("chunked"))], Err((400, "protocol.malformed"))),
    ];
    for (name, method, changes, expected) in rows {
        let got = WebSocketRequest::read(&request(method, "/ws", changes));
        let got = got
            .map(|asked| assert_eq!(asked.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))
            .map_err(|r| (r.status, r.reason.word()));
        assert_eq!(got, *expected, "{name}");
    }
    let twice = {
        let mut parts = request("GET", "/ws", &[]);
        parts.headers.append("sec-websocket-key", KEY.parse().unwrap());
        parts
    };
    assert_eq!(WebSocketRequest::read(&twice).unwrap_err().status, 400);
    let refusal = WebSocketRequest::read(&request("GET", "/ws", &[("sec-websocket-version", Some("8"))])).unwrap_err();
    assert!(
        refusal.headers.contains(&("sec-websocket-version", "13".into())),
        "a client learns which version to speak"
    );
}

#[test]
fn over_http2_a_websocket_is_an_extended_connect() {
    let build = |method: &str, protocol: Option<&'static str>| {
        let mut builder = Request::builder()
            .method(method)
            .uri("https://edge.example/ws")
            .version(Version::HTTP_2)
            .header("sec-websocket-version", "13");
        if let Some(protocol) = protocol {
            builder = builder.extension(h2::ext::Protocol::from_static(protocol));
        }
        builder.body(()).unwrap().into_parts().0
    };
    let good = build("CONNECT", Some("websocket"));
    assert_eq!(kind(&good), Kind::WebSocket);
    assert_eq!(WebSocketRequest::read(&good).unwrap().accept, "");
    assert_eq!(target(&good).host(), "edge.example");
    assert_eq!(kind(&build("CONNECT", Some("connect-udp"))), Kind::Http);
    assert_eq!(kind(&build("GET", None)), Kind::Http);
    // As Envoy shows it: filters see the same handshake whichever way it came.
    let asked = WebSocketRequest::read(&good).unwrap();
    let origin = Origin { client: "10.0.0.9:5000".parse().unwrap(), tls: true };
    let headers = request_headers(&good, &target(&good), &asked, origin, None, KeepAuthorization::No).unwrap();
    let get = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!((get(":method"), get("upgrade"), get("connection")), (Some("GET"), Some("websocket"), Some("Upgrade")));
}

#[test]
fn credentials_leave_the_target_and_the_subprotocols() {
    for (path, clean, token, resume) in [
        ("/ws", "/ws", None, None),
        ("/ws?token=J.W.T", "/ws", Some("J.W.T"), None),
        ("/ws?a=1&token=J&b=2&resume=R", "/ws?a=1&b=2", Some("J"), Some("R")),
        ("/ws?tokens=J", "/ws?tokens=J", None, None),
        ("/ws?token", "/ws?token", None, None),
    ] {
        let target = target(&request("GET", path, &[]));
        assert_eq!(target.path_and_query, clean);
        assert_eq!(target.token.map(|token| token.0).as_deref(), token);
        assert_eq!(target.resume.as_deref(), resume);
    }
    let offered =
        |value: &str| WebSocketRequest::read(&request("GET", "/ws", &[("sec-websocket-protocol", Some(value))]));
    let asked = offered("tradsys.v3.proto, tradsys.v3.json, bearer.J.W.T").unwrap();
    assert_eq!(asked.offers, ["tradsys.v3.proto", "tradsys.v3.json"]);
    assert_eq!(asked.encoding().unwrap(), Some(Encoding::Proto), "the first supported one");
    assert_eq!(asked.token.unwrap().0, "J.W.T");
    assert_eq!(format!("{:?}", Token("secret".into())), "Token(redacted)");
    assert_eq!(offered("bearer.J, tradsys.v3.json").unwrap_err().status, 400, "only last, or a server might select it");
    assert_eq!(offered("soap, tradsys.v3.json").unwrap().encoding().unwrap(), Some(Encoding::Json));
    assert_eq!(offered("soap").unwrap().encoding().unwrap_err().reason, Reason::ProtocolUnsupported);
    assert_eq!(offered("bearer.J").unwrap().encoding().unwrap(), None);
}

#[test]
fn a_path_that_two_servers_may_read_in_two_ways_is_refused() {
    for path in ["/public/../admin", "/a/./b", "/a/%2e%2E/b", "/a%2Fb", "/a%5cb", "/.."] {
        assert_eq!(Target::read(&request("GET", path, &[])).unwrap_err().status, 400, "{path}");
    }
    for path in ["/a.b/c..d", "/...", "/%41", "/a?x=../y"] {
        assert!(Target::read(&request("GET", path, &[])).is_ok(), "{path}");
    }
    let mut two_hosts = request("GET", "/ws", &[]);
    two_hosts.headers.append("host", "other.example".parse().unwrap());
    assert_eq!(Target::read(&two_hosts).unwrap_err().status, 400);
}

#[test]
fn forged_headers_are_gone_and_the_edges_own_are_there() {
    let parts = request(
        "GET",
        "/ws?token=J",
        &[
            ("x-bawaba-claims", Some("Zm9yZ2Vk")),
            ("x-bawaba-cohort", Some("1")),
            ("sec-websocket-extensions", Some("permessage-deflate")),
            ("authorization", Some("Bearer J")),
            ("x-forwarded-for", Some("1.2.3.4")),
            ("x-forwarded-proto", Some("https")),
            ("cookie", Some("a=b")),
        ],
    );
    let asked = WebSocketRequest::read(&parts).unwrap();
    let origin = Origin { client: "10.0.0.9:5000".parse().unwrap(), tls: false };
    let headers =
        request_headers(&parts, &target(&parts), &asked, origin, Some("dmVyaWZpZWQ"), KeepAuthorization::No).unwrap();
    let all = |name: &str| headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
    assert_eq!(headers[3], (":path".into(), "/ws".into()));
    assert_eq!(all("x-bawaba-claims"), ["dmVyaWZpZWQ"]);
    assert_eq!(all("x-bawaba-cohort"), [""; 0]);
    assert_eq!(all("sec-websocket-extensions"), [""; 0]);
    assert_eq!(all("authorization"), [""; 0]);
    assert_eq!(all("x-forwarded-for"), ["1.2.3.4, 10.0.0.9"]);
    assert_eq!(all("x-forwarded-proto"), ["http"]);
    assert_eq!(all("cookie"), ["a=b"]);
    assert_eq!(all("host"), [""; 0], "as in Envoy, :authority stands for it");
    let kept = request_headers(&parts, &target(&parts), &asked, origin, None, KeepAuthorization::Yes).unwrap();
    assert!(kept.contains(&("authorization".into(), "Bearer J".into())));
    assert!(!kept.iter().any(|(name, _)| name == "x-bawaba-claims"));
}

#[test]
fn a_page_opens_only_what_its_origin_may() {
    let allowed = ["https://app.example".to_owned()];
    let any = ["*".to_owned()];
    let rows: &[(&[String], Option<&str>, bool)] = &[
        (&[], None, true),
        (&[], Some("https://edge.example:8443"), true),
        (&[], Some("https://evil.example"), false),
        (&[], Some("null"), false),
        (&allowed, None, true),
        (&allowed, Some("https://APP.example"), true),
        (&allowed, Some("https://app.example.evil"), false),
        (&allowed, Some("https://edge.example:8443"), false),
        (&any, Some("https://evil.example"), true),
    ];
    for (origins, origin, expected) in rows {
        let parts = request("GET", "/ws", &[("origin", *origin)]);
        assert_eq!(
            origin_is_allowed(origins, &parts.headers, "edge.example:8443"),
            *expected,
            "{origins:?} {origin:?}"
        );
    }
}

proptest! {
    /// Whatever stands in a request: no panic, and nothing of a token in what is logged or passed on.
    #[test]
    fn no_request_panics_or_leaks_its_token(
        path in "/[ -~]{0,40}",
        protocols in proptest::option::of("[ -~]{0,60}"),
        key in proptest::option::of("[ -~]{0,40}"),
    ) {
        let uri = format!("{}{}token=SECRETTOKEN", path, if path.contains('?') { '&' } else { '?' });
        let Ok(uri) = uri.parse::<http::Uri>() else { return Ok(()) };
        let mut parts = request("GET", "/ws", &[("sec-websocket-key", key.as_deref()), ("sec-websocket-protocol", protocols.as_deref())]);
        parts.uri = uri;
        if let (Ok(target), Ok(asked)) = (Target::read(&parts), WebSocketRequest::read(&parts)) {
            let origin = Origin { client: "10.0.0.9:5000".parse().unwrap(), tls: false };
            if let Ok(headers) = request_headers(&parts, &target, &asked, origin, None, KeepAuthorization::No) {
                let shown = format!("{headers:?}");
                prop_assert!(!shown.contains("SECRETTOKEN"));
            }
        }
    }
}
