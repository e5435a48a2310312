//! Requests and responses through filters that wait, ask other services, answer themselves and add
//! trailers: what comes out, in which order, and what is never told.

use std::cell::RefCell;
use std::rc::Rc;

use bawaba_filter_host::*;

use crate::guest::*;

/// An edge that notes what filters want and lets the test say what came of it.
#[derive(Default)]
struct Edge {
    http: RefCell<Vec<(CalloutId, HttpCall)>>,
    grpc: RefCell<Vec<(CalloutId, GrpcCall, Option<Vec<u8>>)>>,
    sent: RefCell<Vec<(CalloutId, Vec<u8>, bool)>>,
    closed: RefCell<Vec<CalloutId>>,
    cancelled: RefCell<Vec<CalloutId>>,
}

impl Callouts for Edge {
    fn http(&self, id: CalloutId, call: HttpCall) -> Result<(), CalloutRefusal> {
        if call.cluster != "auth" {
            return Err(CalloutRefusal::UnknownCluster);
        }
        self.http.borrow_mut().push((id, call));
        Ok(())
    }
    fn grpc_call(&self, id: CalloutId, call: GrpcCall, message: Vec<u8>) -> Result<(), CalloutRefusal> {
        self.grpc.borrow_mut().push((id, call, Some(message)));
        Ok(())
    }
    fn grpc_stream(&self, id: CalloutId, call: GrpcCall) -> Result<(), CalloutRefusal> {
        self.grpc.borrow_mut().push((id, call, None));
        Ok(())
    }
    fn grpc_send(&self, id: CalloutId, message: Vec<u8>, end: bool) {
        self.sent.borrow_mut().push((id, message, end));
    }
    fn grpc_close(&self, id: CalloutId) {
        self.closed.borrow_mut().push(id);
    }
    fn cancel(&self, id: CalloutId) {
        self.cancelled.borrow_mut().push(id);
    }
}

/// Serialised pairs, as text of a WAT string.
fn pairs(list: &[(&str, &str)]) -> (String, usize) {
    let mut raw = (list.len() as u32).to_le_bytes().to_vec();
    for (name, value) in list {
        raw.extend_from_slice(&(name.len() as u32).to_le_bytes());
        raw.extend_from_slice(&(value.len() as u32).to_le_bytes());
    }
    for (name, value) in list {
        raw.extend_from_slice(name.as_bytes());
        raw.push(0);
        raw.extend_from_slice(value.as_bytes());
        raw.push(0);
    }
    (raw.iter().map(|byte| format!("\\{byte:02x}")).collect(), raw.len())
}

/// Data at 100.. for the calls below, and a call to the cluster `auth` that must be answered so.
fn ask(status: u32) -> (String, String) {
    let (head, len) = pairs(&[(":method", "GET"), (":path", "/check"), (":authority", "auth")]);
    let data = format!(
        r#"(data (i32.const 100) "auth") (data (i32.const 110) "x-user") (data (i32.const 120) "u1")
           (data (i32.const 130) "body") (data (i32.const 300) "{head}")"#
    );
    let call =
        expect(status, &format!("call $http_call {}", words(&[100, 4, 300, len as i64, 130, 4, 0, 0, 500, 200])));
    (data, call)
}

/// Asks `auth` about each request and holds it back; goes on or answers 403 by the status of the response.
fn authorizer() -> String {
    let (data, call) = ask(0);
    let verdict = format!(
        r#"{} {} (drop (call $get_header {}))
           (if (i32.eq (i32.load8_u (i32.load (i32.const 8))) (i32.const 50))
             (then {} {})
             (else {}))"#,
        expect(0, "call $act_for (i32.const 2)"),
        expect(0, &format!("call $get_buffer {}", words(&[4, 0, 99, 16, 20]))),
        words(&[6, 140, 7, 8, 12]),
        expect(0, &format!("call $add_header {}", words(&[0, 110, 6, 120, 2]))),
        expect(0, "call $go_on (i32.const 0)"),
        expect(0, &format!("call $respond {}", words(&[403, 0, 0, 120, 2, 0, 0, -1]))),
    );
    format!(
        r#"{data} (data (i32.const 140) ":status") (data (i32.const 150) "x-seen")
        {} {} {} {}"#,
        callback("on_request_headers", 3, &call, Some(1)),
        callback("on_http_call_response", 5, &verdict, None),
        on_data(
            "(drop (call $set_buffer (i32.const 0) (i32.const -1) (i32.const 0) (i32.const 120) (i32.const 2))) (i32.const 0)"
        ),
        callback(
            "on_response_headers",
            3,
            &expect(0, &format!("call $add_header {}", words(&[2, 150, 6, 120, 2]))),
            Some(0)
        ),
    )
}

fn attached(body: &str) -> (Rc<Edge>, WorkerChain) {
    let edge = Rc::new(Edge::default());
    let filter = host().build(spec(module(body))).unwrap();
    let chain = Chain::new(1, vec![filter]).attach_with(edge.clone());
    (edge, chain)
}

fn head(headers: Headers) -> Part {
    Part::Headers { headers, ends: false }
}

fn data(bytes: &[u8], ends: bool) -> Part {
    Part::Data { data: bytes.to_vec(), ends }
}

fn all(chain: &mut WorkerChain, stream: &mut ChainStream, way: Way) -> Vec<Part> {
    std::iter::from_fn(|| chain.pull(stream, way)).collect()
}

fn answer(status: &str) -> CalloutEvent {
    let headers = [(":status", status)].into_iter().collect();
    CalloutEvent::Http { headers, body: b"ok".to_vec(), trailers: Headers::new() }
}

#[test]
fn a_request_waits_for_a_call_and_goes_on_with_what_the_call_said() {
    let (edge, mut chain) = attached(&authorizer());
    let mut stream = chain.begin(Rc::new(Facts), StreamKind::Http);
    chain.push(&mut stream, Way::Request, head(request())).unwrap();
    chain.push(&mut stream, Way::Request, data(b"one", false)).unwrap();
    chain.push(&mut stream, Way::Request, data(b"two", true)).unwrap();
    assert!(stream.is_waiting(Way::Request));
    assert!(all(&mut chain, &mut stream, Way::Request).is_empty(), "nothing passes");
    let (id, call) = edge.http.borrow_mut().pop().unwrap();
    assert_eq!((call.cluster.as_str(), call.body.as_slice()), ("auth", &b"body"[..]));
    assert_eq!((call.headers.get(":path"), call.headers.get("content-length")), (Some("/check"), Some("4")));
    assert_eq!((call.timeout, chain.callouts()), (Some(std::time::Duration::from_millis(500)), 1));

    chain.callout_event(id, answer("200"));
    assert_eq!((chain.take_woken(), chain.callouts()), (vec![stream.token()], 0));
    chain.wake(&mut stream).unwrap();
    let mut expected = request();
    expected.add("x-user", "u1");
    let passed = all(&mut chain, &mut stream, Way::Request);
    assert_eq!(passed, [head(expected), data(b"oneu1", false), data(b"twou1", true)]);
    // It was told: nothing that comes late is told again.
    chain.callout_event(id, answer("500"));
    assert!(chain.take_woken().is_empty());
    chain.close(stream);
    assert_eq!(chain.chain().filters()[0].metrics().traps, 0);
}

#[test]
fn an_answer_from_a_call_comes_out_as_a_response_that_the_filters_saw() {
    let (edge, mut chain) = attached(&authorizer());
    let mut stream = chain.begin(Rc::new(Facts), StreamKind::Http);
    chain.push(&mut stream, Way::Request, Part::Headers { headers: request(), ends: true }).unwrap();
    let (id, _) = edge.http.borrow_mut().pop().unwrap();
    chain.callout_event(id, answer("401"));
    assert_eq!(chain.take_woken(), [stream.token()]);
    chain.wake(&mut stream).unwrap();
    assert_eq!(stream.answered().map(|answer| answer.status), Some(403));
    assert!(all(&mut chain, &mut stream, Way::Request).is_empty());
    let response =
        [(":status", "403"), ("content-length", "2"), ("content-type", "text/plain"), ("x-seen", "u1")].into_iter();
    assert_eq!(all(&mut chain, &mut stream, Way::Response), [head(response.collect()), data(b"u1", true)]);
    chain.push(&mut stream, Way::Request, data(b"late", true)).unwrap();
    assert!(all(&mut chain, &mut stream, Way::Request).is_empty(), "nobody reads the request any more");
    chain.close(stream);
}

#[test]
fn a_grpc_request_is_answered_in_its_own_way() {
    let respond = expect(0, &format!("call $respond {}", words(&[403, 0, 0, 100, 4, 0, 0, -1])));
    let body = format!(r#"(data (i32.const 100) "50%!") {}"#, callback("on_request_headers", 3, &respond, Some(1)));
    for (content_type, parts) in [
        (
            "application/grpc+proto",
            vec![("content-type", "application/grpc"), ("grpc-status", "7"), ("grpc-message", "50%25!")],
        ),
        ("text/html", vec![("content-length", "4"), ("content-type", "text/plain")]),
    ] {
        let mut chain = one(&body);
        let mut headers = request();
        headers.add("content-type", content_type);
        let Opening::Refused(response) = chain.open(&mut headers, Rc::new(Facts)) else { panic!() };
        assert_eq!(response.headers, parts.into_iter().collect());
    }
}

#[test]
fn trailers_pass_wait_and_are_added_behind_a_body() {
    let name_value = r#"(data (i32.const 110) "x-sum") (data (i32.const 120) "42")"#;
    let add = |map: i64| expect(0, &format!("call $add_header {}", words(&[map, 110, 5, 120, 2])));
    let body = format!(
        r#"{name_value} {} {}
        (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
          (if (i32.eqz (local.get 2)) (then {} (return (i32.const 1)))) {} (i32.const 0))"#,
        callback("on_request_trailers", 2, &add(1), Some(0)),
        callback(
            "on_request_headers",
            3,
            &expect(2, &format!("call $add_header {}", words(&[1, 110, 5, 120, 2]))),
            Some(0)
        ),
        expect(2, &format!("call $add_header {}", words(&[3, 110, 5, 120, 2]))),
        add(3),
    );
    let mut chain = one(&body);
    let mut stream = chain.begin(Rc::new(Facts), StreamKind::Http);
    let sum = |list: &[(&str, &str)]| Part::Trailers(list.iter().copied().collect());
    chain.push(&mut stream, Way::Request, head(request())).unwrap();
    chain.push(&mut stream, Way::Request, data(b"body", false)).unwrap();
    chain.push(&mut stream, Way::Request, sum(&[("a", "b")])).unwrap();
    let passed = all(&mut chain, &mut stream, Way::Request);
    assert_eq!(passed[1..], [data(b"body", false), sum(&[("a", "b"), ("x-sum", "42")])]);
    // Held back until its end, then followed by trailers that nobody had sent.
    let response: Headers = [(":status", "200")].into_iter().collect();
    chain.push(&mut stream, Way::Response, head(response.clone())).unwrap();
    chain.push(&mut stream, Way::Response, data(b"one", false)).unwrap();
    assert_eq!(all(&mut chain, &mut stream, Way::Response), [head(response)]);
    chain.push(&mut stream, Way::Response, data(b"two", true)).unwrap();
    assert_eq!(all(&mut chain, &mut stream, Way::Response), [data(b"onetwo", false), sum(&[("x-sum", "42")])]);
    chain.close(stream);
    assert_eq!(chain.chain().filters()[0].metrics().traps, 0);
}

#[test]
fn a_broken_call_is_told_as_a_response_of_no_headers() {
    let (data, call) = ask(0);
    let told = format!(
        r#"(if (i32.or (local.get 2) (local.get 3)) (then unreachable)) {} {}
           (if (i32.ne (i32.load (i32.const 8)) (i32.const 11)) (then unreachable))
           (if (i32.ne (i32.load (i32.const 16)) (i32.const 5)) (then unreachable))"#,
        expect(1, &format!("call $get_buffer {}", words(&[4, 0, 99, 16, 20]))),
        expect(0, &format!("call $get_status {}", words(&[8, 12, 16]))),
    );
    let (edge, mut chain) = attached(&format!(
        "{data} {} {}",
        callback("on_request_headers", 3, &call, Some(0)),
        callback("on_http_call_response", 5, &told, None)
    ));
    let stream = open(&mut chain);
    let (id, _) = edge.http.borrow_mut().pop().unwrap();
    chain.callout_event(id, CalloutEvent::HttpReset);
    assert_eq!((chain.callouts(), chain.chain().filters()[0].metrics().traps), (0, 0));
    chain.close(stream);
}

#[test]
fn calls_are_bounded_refused_by_cluster_and_cancelled_with_their_vm() {
    let (data, call) = ask(0);
    let (_, refused) = ask(10);
    let unknown = call.replace("(i32.const 100) (i32.const 4)", "(i32.const 101) (i32.const 3)").replacen(
        "(i32.const 0)) (then",
        "(i32.const 2)) (then",
        1,
    );
    let body = format!(
        "{data} {} {}",
        callback("on_request_headers", 3, &format!("{call}{call}{refused}"), Some(0)),
        on_data("unreachable")
    );
    let edge = Rc::new(Edge::default());
    let mut spec = spec(module(&body));
    spec.limits.callouts_max = 2;
    let mut chain = Chain::new(1, vec![host().build(spec).unwrap()]).attach_with(edge.clone());
    let mut stream = open(&mut chain);
    assert_eq!((chain.callouts(), edge.http.borrow().len()), (2, 2));
    assert!(send(&mut chain, &mut stream, b"!").is_err());
    let mut cancelled = edge.cancelled.borrow().clone();
    cancelled.sort();
    assert_eq!(cancelled, edge.http.borrow().iter().map(|(id, _)| *id).collect::<Vec<_>>());
    assert_eq!(chain.chain().filters()[0].metrics().callouts_refused, 1);
    // An answer for a VM that is gone is told to no other.
    let first = edge.http.borrow()[0].0;
    chain.callout_event(first, answer("200"));
    let (_, mut chain) = attached(&format!("{data} {}", callback("on_request_headers", 3, &unknown, Some(0))));
    open(&mut chain);
}

#[test]
fn a_stream_that_waits_on_a_lost_vm_ends_as_on_failure_says() {
    let body =
        format!("{} {}", callback("on_request_headers", 3, "", Some(1)), callback("on_tick", 1, "unreachable", None));
    let body = format!("{body} {}", callback("on_configure", 2, "(drop (call $tick_every (i32.const 1)))", Some(1)));
    let (_, mut chain) = attached(&body);
    let mut stream = chain.begin(Rc::new(Facts), StreamKind::Http);
    chain.push(&mut stream, Way::Request, head(request())).unwrap();
    let due = chain.next_tick().unwrap();
    chain.tick(due);
    assert_eq!(chain.vms(), 0);
    let response = head([(":status", "200")].into_iter().collect());
    assert_eq!(chain.push(&mut stream, Way::Response, response), Err(denied(Cause::Lost)));
    chain.close(stream);
}

#[test]
fn a_unary_call_and_a_stream_live_and_end_as_in_envoy() {
    let grpc = r#"(data (i32.const 100) "\0a\06\0a\04auth") (data (i32.const 120) "pkg.Svc") (data (i32.const 130) "Do") (data (i32.const 140) "ping")"#;
    let start = format!(
        "{} {} {} {} {} {} {}",
        expect(0, &format!("call $grpc_call {}", words(&[100, 8, 120, 7, 130, 2, 0, 0, 140, 4, 900, 200]))),
        expect(0, &format!("call $grpc_stream {}", words(&[102, 6, 120, 7, 130, 2, 0, 0, 204]))),
        // A call takes no message; a number of nothing is not found; one of an HTTP call is a bad argument.
        expect(2, "call $grpc_send (i32.load (i32.const 200)) (i32.const 140) (i32.const 4) (i32.const 0)"),
        expect(1, "call $grpc_close (i32.const 401)"),
        expect(2, "call $grpc_cancel (i32.const 400)"),
        expect(0, "call $grpc_send (i32.load (i32.const 204)) (i32.const 140) (i32.const 4) (i32.const 0)"),
        expect(0, "call $grpc_close (i32.load (i32.const 204))"),
    );
    let steps = "(global $told (mut i32) (i32.const 0))";
    let note = |bit: u32| format!("(global.set $told (i32.or (global.get $told) (i32.const {bit})))");
    let received = format!(
        "(if (i32.ne (local.get 2) (i32.const 4)) (then unreachable)) {} {}",
        expect(0, &format!("call $get_buffer {}", words(&[5, 0, 99, 16, 20]))),
        note(2)
    );
    let (edge, mut chain) = attached(&format!(
        "{grpc} {steps} {} {} {} {} {} {}",
        callback("on_request_headers", 3, &start, Some(0)),
        callback("on_grpc_receive_initial_metadata", 3, &note(1), None),
        callback("on_grpc_receive", 3, &received, None),
        callback("on_grpc_receive_trailing_metadata", 3, &note(4), None),
        callback(
            "on_grpc_close",
            3,
            &format!("(if (i32.ne (local.get 2) (i32.const 5)) (then unreachable)) {}", note(8)),
            None
        ),
        on_data("(if (i32.ne (global.get $told) (i32.const 15)) (then unreachable)) (i32.const 0)"),
    ));
    let mut stream = open(&mut chain);
    let calls = edge.grpc.borrow();
    let [(unary, call, Some(message)), (streaming, _, None)] = calls.as_slice() else { panic!("{calls:?}") };
    assert_eq!((call.cluster.as_str(), call.service.as_str(), call.method.as_str()), ("auth", "pkg.Svc", "Do"));
    assert_eq!((message.as_slice(), call.timeout), (&b"ping"[..], Some(std::time::Duration::from_millis(900))));
    assert_eq!(*edge.sent.borrow(), [(*streaming, b"ping".to_vec(), false)]);
    assert_eq!(*edge.closed.borrow(), [*streaming]);
    assert_eq!(chain.callouts(), 2);
    let metadata: Headers = [("a", "b")].into_iter().collect();
    chain.callout_event(*unary, CalloutEvent::GrpcInitialMetadata(metadata.clone()));
    chain.callout_event(*unary, CalloutEvent::GrpcMessage(b"pong".to_vec()));
    assert_eq!(chain.callouts(), 1, "a call is over with its answer");
    chain.callout_event(*streaming, CalloutEvent::GrpcTrailingMetadata(metadata));
    chain.callout_event(*streaming, CalloutEvent::GrpcClose { status: 5, message: "gone".into() });
    assert_eq!(chain.callouts(), 0, "both halves ended");
    assert_eq!(send(&mut chain, &mut stream, b"x").unwrap(), b"x");
}

#[test]
fn our_own_functions_are_called_by_name_and_others_are_not_found() {
    let functions = ForeignFunctions::default().with("reverse", |argument| {
        if argument.is_empty() {
            Err(ForeignRefusal::BadArgument)
        } else {
            Ok(argument.iter().rev().copied().collect())
        }
    });
    let options = HostOptions { functions, ..Default::default() };
    let host = Host::with(HostLimits { vms_max: 4, ..Default::default() }, options).unwrap();
    let call = |name: i64, len: i64, argument: i64, to: i64| {
        format!("call $foreign {}", words(&[name, len, 130, argument, to, 12]))
    };
    let body = format!(
        r#"(data (i32.const 100) "reverse") (data (i32.const 110) "clear_route_cache") (data (i32.const 130) "abc")
        (func (export "proxy_on_configure") (param i32 i32) (result i32) {} {} {} {} {}
          (if (i32.ne (i32.load8_u (i32.load (i32.const 8))) (i32.const 99)) (then unreachable)) (i32.const 1))"#,
        expect(2, &call(100, 7, 0, 8)),
        expect(1, &call(100, 6, 3, 8)),
        expect(0, &call(110, 17, 0, 0)),
        expect(0, &call(100, 7, 3, 0)),
        expect(0, &call(100, 7, 3, 8)),
    );
    host.build(spec(module(&body))).unwrap();
}
