//! What guests can do through the host, and that it is what Envoy lets them do.

use std::rc::Rc;
use std::time::Instant;

use crate::guest::*;
use bawaba_filter_host::*;

/// `set_buffer_bytes(start, len)` with the text "new", on a body of ten bytes.
fn edited(start: u32, len: u32) -> (i32, Vec<u8>) {
    let code = format!(
        r#"(data (i32.const 100) "new") {}
           (global $status (mut i32) (i32.const 0))"#,
        on_data(&format!(
            "(global.set $status (call $set_buffer (i32.const 0) (i32.const {start}) (i32.const {len}) (i32.const 100) (i32.const 3)))
             (if (i32.ne (global.get $status) (i32.const 0))
               (then (drop (call $respond (i32.add (i32.const 400) (global.get $status)) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1)))))
             (i32.const 0)"
        ))
    );
    let mut chain = one(&code);
    let mut stream = open(&mut chain);
    match send(&mut chain, &mut stream, b"0123456789") {
        Ok(data) => (0, data),
        Err(StreamEnd::LocalResponse(response)) => (i32::from(response.status) - 400, Vec::new()),
        Err(end) => panic!("{end:?}"),
    }
}

#[test]
fn a_body_is_edited_from_its_start_and_at_its_end_as_in_envoy_and_nowhere_else() {
    assert_eq!(edited(0, 0), (0, b"new0123456789".to_vec()));
    assert_eq!(edited(0, 10), (0, b"new".to_vec()));
    assert_eq!(edited(0, u32::MAX), (0, b"new".to_vec()));
    assert_eq!(edited(10, 0), (0, b"0123456789new".to_vec()));
    assert_eq!(edited(u32::MAX, 7), (0, b"0123456789new".to_vec()));
    assert_eq!(edited(0, 9), (0, b"new9".to_vec()));
    assert_eq!(edited(3, 0), (2, vec![]));
}

#[test]
fn a_body_outside_its_callback_reads_empty_and_cannot_be_written() {
    let mut chain = one(r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (if (i32.ne (call $get_buffer (i32.const 0) (i32.const 0) (i32.const 9) (i32.const 8) (i32.const 12)) (i32.const 0)) (then unreachable))
             (if (i32.load (i32.const 12)) (then unreachable))
             (if (i32.ne (call $set_buffer (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 4)) (i32.const 2)) (then unreachable))
             (if (i32.ne (call $get_buffer (i32.const 7) (i32.const 0) (i32.const 9) (i32.const 8) (i32.const 12)) (i32.const 1)) (then unreachable))
             (if (i32.ne (call $get_buffer (i32.const 9) (i32.const 0) (i32.const 9) (i32.const 8) (i32.const 12)) (i32.const 2)) (then unreachable))
             (i32.const 0))"#);
    open(&mut chain);
}

#[test]
fn headers_are_edited_in_their_callback_and_host_is_authority() {
    let mut chain = one(
        r#"(data (i32.const 100) "x-who") (data (i32.const 110) "guest") (data (i32.const 120) "X-New") (data (i32.const 130) "host") (data (i32.const 140) "gone")
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (if (i32.ne (local.get 1) (i32.const 5)) (then unreachable))
             (drop (call $replace_header (i32.const 0) (i32.const 100) (i32.const 5) (i32.const 110) (i32.const 5)))
             (drop (call $add_header (i32.const 0) (i32.const 120) (i32.const 5) (i32.const 110) (i32.const 5)))
             (drop (call $remove_header (i32.const 0) (i32.const 140) (i32.const 4)))
             (if (call $get_header (i32.const 0) (i32.const 130) (i32.const 4) (i32.const 8) (i32.const 12)) (then unreachable))
             (if (i32.ne (i32.load (i32.const 12)) (i32.const 12)) (then unreachable))
             ;; absent: NotFound; a map that is not there: BadArgument, read as pairs: empty
             (if (i32.ne (call $get_header (i32.const 0) (i32.const 140) (i32.const 4) (i32.const 8) (i32.const 12)) (i32.const 1)) (then unreachable))
             (if (i32.ne (call $get_header (i32.const 2) (i32.const 140) (i32.const 4) (i32.const 8) (i32.const 12)) (i32.const 2)) (then unreachable))
             (if (call $get_pairs (i32.const 2) (i32.const 8) (i32.const 12)) (then unreachable))
             (if (i32.load (i32.const 12)) (then unreachable))
             (i32.const 0))"#,
    );
    let mut headers = request();
    headers.add("gone", "1");
    let Opening::Stream(_) = chain.open(&mut headers, Rc::new(Facts)) else { panic!() };
    assert_eq!(headers.get("x-who"), Some("guest"));
    assert_eq!(headers.get("x-new"), Some("guest"));
    assert_eq!(headers.get("gone"), None);
}

#[test]
fn a_local_response_in_the_handshake_refuses_it_and_later_ends_the_stream() {
    let respond = r#"(drop (call $respond (i32.const 403) (i32.const 100) (i32.const 9) (i32.const 110) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const -1)))"#;
    let data = r#"(data (i32.const 100) "not today") (data (i32.const 110) "no")"#;
    let headers = format!(
        r#"{data} (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {respond} (i32.const 1))"#
    );
    let Opening::Refused(response) = one(&headers).open(&mut request(), Rc::new(Facts)) else { panic!() };
    assert_eq!((response.status, response.body.as_slice(), response.details.as_str()), (403, &b"no"[..], "not_today"));
    assert_eq!(response.grpc_status, None);

    let mut chain = one(&format!("{data} {}", on_data(&format!("{respond} (i32.const 0)"))));
    let mut stream = open(&mut chain);
    assert!(matches!(send(&mut chain, &mut stream, b"x"), Err(StreamEnd::LocalResponse(r)) if r.status == 403));
    chain.close(stream);
}

#[test]
fn a_pause_holds_bytes_back_and_shows_them_again() {
    // Goes on once it sees four bytes.
    let mut chain = one(&on_data("(i32.lt_u (local.get $size) (i32.const 4))"));
    let mut stream = open(&mut chain);
    assert_eq!(send(&mut chain, &mut stream, b"ab").unwrap(), b"");
    assert_eq!(send(&mut chain, &mut stream, b"c").unwrap(), b"");
    assert_eq!(send(&mut chain, &mut stream, b"d").unwrap(), b"abcd");
    assert_eq!(send(&mut chain, &mut stream, b"efgh").unwrap(), b"efgh");
}

#[test]
fn requests_meet_filters_in_order_and_responses_in_reverse() {
    let stamp = |letter: &str| {
        let stamp = |export: &str, kind| {
            format!(
                r#"(func (export "{export}") (param i32 i32 i32) (result i32)
                     (if (local.get 1) (then (drop (call $set_buffer (i32.const {kind}) (i32.const -1) (i32.const 0) (i32.const 100) (i32.const 1)))))
                     (i32.const 0))"#
            )
        };
        spec(module(&format!(
            r#"(data (i32.const 100) "{letter}") {} {}"#,
            stamp("proxy_on_request_body", 0),
            stamp("proxy_on_response_body", 1)
        )))
    };
    let mut chain = chain(&host(), vec![stamp("a"), stamp("b"), stamp("c")]);
    let mut stream = open(&mut chain);
    chain.response_headers(&mut stream, &mut [(":status", "101")].into_iter().collect()).unwrap();
    assert_eq!(send(&mut chain, &mut stream, b">").unwrap(), b">abc");
    let mut data = b"<".to_vec();
    chain.response_data(&mut stream, &mut data).unwrap();
    assert_eq!(data, b"<cba");
}

#[test]
fn a_tick_acts_for_another_stream_and_closes_it() {
    let mut chain = one(r#"(global $last (mut i32) (i32.const 0))
           (func (export "proxy_on_configure") (param i32 i32) (result i32) (drop (call $tick_every (i32.const 1))) (i32.const 1))
           (func (export "proxy_on_context_create") (param i32 i32) (if (local.get 1) (then (global.set $last (local.get 0)))))
           (func (export "proxy_on_tick") (param i32)
             (if (i32.ne (call $act_for (i32.const 77)) (i32.const 2)) (then unreachable))
             (if (call $act_for (global.get $last)) (then unreachable))
             ;; a tick injects nothing: the body is not there
             (if (i32.ne (call $set_buffer (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1)) (i32.const 2)) (then unreachable))
             (if (call $close (i32.const 0)) (then unreachable)))"#);
    let (first, second) = (open(&mut chain), open(&mut chain));
    let due = chain.next_tick().expect("a tick was asked for");
    chain.tick(due);
    assert_eq!(chain.take_closed(), [second.token()]);
    assert!(chain.take_closed().is_empty());
    assert!(chain.next_tick().unwrap() > due);
    chain.close(second);
    chain.close(first);
}

#[test]
fn shared_data_is_seen_by_the_other_thread_and_cas_holds() {
    let body = r#"(data (i32.const 100) "key") (data (i32.const 110) "value")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (i32.eq (call $get_shared (i32.const 100) (i32.const 3) (i32.const 8) (i32.const 12) (i32.const 16)) (i32.const 1))
            (then (return (call $set_shared (i32.const 100) (i32.const 3) (i32.const 110) (i32.const 5) (i32.const 0)))))
          (if (i32.ne (i32.load (i32.const 12)) (i32.const 5)) (then unreachable))
          (if (i32.ne (call $set_shared (i32.const 100) (i32.const 3) (i32.const 110) (i32.const 5) (i32.add (i32.load (i32.const 16)) (i32.const 1))) (i32.const 8)) (then unreachable))
          (i32.const 0))"#;
    let host = host();
    let filter = host.build(spec(module(body))).unwrap();
    let shared = Chain::new(1, vec![filter]);
    open(&mut shared.attach());
    std::thread::scope(|scope| scope.spawn(|| drop(open(&mut shared.attach()))).join().unwrap());
}

#[test]
fn properties_come_from_the_edge_the_plugin_and_what_filters_stored() {
    let check = |path: &str, len: u32| {
        format!(
            r#"(data (i32.const 200) "{path}")
               (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
                 (if (call $set_property (i32.const 100) (i32.const 2) (i32.const 100) (i32.const 2)) (then unreachable))
                 (if (call $get_property (i32.const 200) (i32.const {}) (i32.const 8) (i32.const 12)) (then unreachable))
                 (if (i32.ne (i32.load (i32.const 12)) (i32.const {len})) (then unreachable))
                 (i32.const 0)) (data (i32.const 100) "my")"#,
            path.replace("\\00", "0").len()
        )
    };
    for (path, len) in [
        ("source\\00address", 14),
        ("connection\\00mtls", 1),
        ("plugin_name", 5),
        ("plugin_root_id", 4),
        ("plugin_vm_id", 2),
        ("my", 2),
    ] {
        open(&mut one(&check(path, len)));
    }
    let nothing = check("request\\00nothing", 0).replace("(then unreachable)", "(then (return (i32.const 1)))");
    let opening = one(&nothing).open(&mut request(), Rc::new(Facts));
    assert!(matches!(opening, Opening::Failed { cause: Cause::Paused, .. }));
}

#[test]
fn what_no_cluster_answers_is_answered_as_envoy_does() {
    open(&mut one(r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (if (i32.ne (call $http_call (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 8)) (i32.const 2)) (then unreachable))
             (if (i32.ne (call $grpc_call (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 8)) (i32.const 4)) (then unreachable))
             (if (i32.ne (call $foreign (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 12)) (i32.const 1)) (then unreachable))
             (if (i32.ne (call $fd_read (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0)) (i32.const 52)) (then unreachable))
             (i32.const 0))"#));
}

#[test]
fn guest_metrics_reach_the_registry() {
    let host = host();
    let body = r#"(data (i32.const 100) "verdicts.refused")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (if (call $define_metric (i32.const 0) (i32.const 100) (i32.const 16) (i32.const 8)) (then unreachable))
          (if (call $increment_metric (i32.load (i32.const 8)) (i64.const 3)) (then unreachable))
          (if (i32.ne (call $increment_metric (i32.load (i32.const 8)) (i64.const -3)) (i32.const 2)) (then unreachable))
          (if (i32.ne (call $increment_metric (i32.const 400) (i64.const 3)) (i32.const 1)) (then unreachable))
          (i32.const 1))"#;
    let filter = host.build(spec(module(body))).unwrap();
    let registry = prometheus::Registry::new();
    registry.register(host.collector()).unwrap();
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    assert!(
        text.contains(r#"bawaba_guest_verdicts_refused_total{filter="guest",metric="verdicts.refused"} 3"#),
        "{text}"
    );
    assert!(text.contains(r#"bawaba_filter_vms_created_total{filter="guest"} 1"#), "{text}");
    assert_eq!((filter.metrics().vms_created, filter.metrics().vms), (1, 0));
}

#[test]
fn a_stream_ends_with_log_done_and_delete_in_envoys_order() {
    // Each callback must find the counter that the one before left.
    let step = |name: &str, result: &str, n: u32| {
        format!(
            r#"(func (export "{name}") (param i32) {result}
                 (if (i32.eq (local.get 0) (i32.const 2)) (then
                   (if (i32.ne (global.get $step) (i32.const {n})) (then unreachable))
                   (global.set $step (i32.const {}))))
                 {})"#,
            n + 1,
            if result.is_empty() { "" } else { "(i32.const 1)" }
        )
    };
    let body = format!(
        "(global $step (mut i32) (i32.const 0)) {} {} {}",
        step("proxy_on_log", "", 0),
        step("proxy_on_done", "(result i32)", 1),
        step("proxy_on_delete", "", 2)
    );
    let host = host();
    let mut chain = chain(&host, vec![spec(module(&body))]);
    let stream = open(&mut chain);
    chain.close(stream);
    assert_eq!(chain.chain().filters()[0].metrics().traps, 0);
    assert_eq!(chain.vms(), 1);
}

#[test]
fn a_filter_without_stream_callbacks_costs_no_call() {
    let mut chain = one("");
    let mut stream = open(&mut chain);
    assert_eq!(send(&mut chain, &mut stream, b"x").unwrap(), b"x");
    assert_eq!((chain.vms(), chain.chain().filters()[0].metrics().calls), (0, 0));
    chain.tick(Instant::now());
}
