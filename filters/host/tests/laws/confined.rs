//! What guests cannot do: none blocks its thread longer than its budget, none harms another stream,
//! none passes a message unjudged unless its configuration says so.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bawaba_filter_host::*;
use proptest::prelude::*;

use crate::guest::*;

/// Traps on a body that begins with `!`, loops on `@`, eats memory on `#`; otherwise upper-cases nothing
/// and appends how often this VM was called, so that a fresh VM can be told from an old one.
fn mishaps() -> String {
    format!(
        r#"(global $calls (mut i32) (i32.const 48)) (global $first (mut i32) (i32.const 0))
        {}
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#,
        on_data(
            r#"(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
            (i32.store8 (i32.const 90) (global.get $calls))
            (drop (call $set_buffer (i32.const 0) (i32.const -1) (i32.const 0) (i32.const 90) (i32.const 1)))
            (drop (call $get_buffer (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8) (i32.const 12)))
            (global.set $first (i32.load8_u (i32.load (i32.const 8))))
            (if (i32.eq (global.get $first) (i32.const 33)) (then unreachable))
            (if (i32.eq (global.get $first) (i32.const 64)) (then (loop $ever (br $ever))))
            (if (i32.eq (global.get $first) (i32.const 35)) (then
              (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
              unreachable))
            (i32.const 0)"#
        )
    )
}

fn quick(module: Vec<u8>) -> FilterSpec {
    let mut spec = spec(module);
    spec.limits.callback_budget = Duration::from_millis(20);
    spec.limits.start_budget = Duration::from_millis(200);
    spec.limits.memory_bytes_max = 4 << 20;
    spec
}

#[test]
fn a_mishap_ends_its_own_stream_and_the_others_never_notice() {
    for (poison, cause) in [(b"!", Cause::Trap), (b"@", Cause::Budget), (b"#", Cause::Memory)] {
        let mut chain = chain(&host(), vec![quick(module(&mishaps()))]);
        let (mut good, mut bad) = (open(&mut chain), open(&mut chain));
        chain.response_headers(&mut good, &mut [(":status", "101")].into_iter().collect()).unwrap();
        assert_eq!(send(&mut chain, &mut good, b"a").unwrap(), b"a1");
        let began = Instant::now();
        assert_eq!(send(&mut chain, &mut bad, poison), Err(denied(cause)));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        chain.close(bad);
        assert_eq!(chain.vms(), 0, "the VM is thrown away");
        assert_eq!(send(&mut chain, &mut good, b"b").unwrap(), b"b1", "a fresh VM judges");
        assert_eq!(send(&mut chain, &mut good, b"c").unwrap(), b"c2");
        chain.close(good);
        let metrics = chain.chain().filters()[0].metrics();
        assert_eq!((metrics.traps, metrics.denied, metrics.reattached, metrics.vms, metrics.streams), (1, 1, 1, 1, 0));
        assert_eq!(metrics.budget_exceeded, u64::from(cause == Cause::Budget));
        assert_eq!(metrics.memory_exceeded, u64::from(cause == Cause::Memory));
    }
}

#[test]
fn on_failure_allow_passes_the_message_as_it_came() {
    let mut spec = quick(module(&mishaps()));
    spec.on_failure = OnFailure::Allow;
    let mut chain = chain(&host(), vec![spec]);
    let mut stream = open(&mut chain);
    assert_eq!(send(&mut chain, &mut stream, b"!x").unwrap(), b"!x", "without what the guest had appended");
    assert_eq!(send(&mut chain, &mut stream, b"y").unwrap(), b"y1");
    assert_eq!(chain.chain().filters()[0].metrics().passed_unjudged, 1);
}

#[test]
fn repeated_failure_rests_and_denies_meanwhile() {
    let mut chain = chain(&host(), vec![quick(module(&mishaps()))]);
    let mut causes = Vec::new();
    for _ in 0..12 {
        match chain.open(&mut request(), Rc::new(Facts)) {
            Opening::Stream(mut stream) => {
                causes.push(send(&mut chain, &mut stream, b"!").unwrap_err());
                chain.close(stream);
            }
            Opening::Failed { cause, filter } => causes.push(StreamEnd::Denied { filter, cause }),
            Opening::Refused(_) => panic!(),
        }
    }
    assert_eq!(causes[0], denied(Cause::Trap));
    assert_eq!(causes[11], denied(Cause::Resting));
}

/// Runs until the header says so: the second VM of the chain gets another verdict from the same request.
#[test]
fn a_stream_attaches_again_with_the_headers_as_its_filter_first_met_them() {
    let editor = r#"(data (i32.const 100) "x-who") (data (i32.const 110) "edited")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $replace_header (i32.const 0) (i32.const 100) (i32.const 5) (i32.const 110) (i32.const 6)))"#;
    let reader = format!(
        r#"(data (i32.const 100) "x-who")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $get_header (i32.const 0) (i32.const 100) (i32.const 5) (i32.const 8) (i32.const 12)))
          (i32.ne (i32.load (i32.const 12)) (i32.const 6)))
        {}"#,
        on_data("(if (i32.eq (local.get $size) (i32.const 1)) (then unreachable)) (i32.const 0)")
    );
    let mut chain = chain(&host(), vec![quick(module(editor)), quick(module(&reader))]);
    let (mut stream, mut poison) = (open(&mut chain), open(&mut chain));
    assert!(send(&mut chain, &mut poison, b"!").is_err());
    assert_eq!(send(&mut chain, &mut stream, b"good").unwrap(), b"good");
    assert_eq!(chain.chain().filters()[1].metrics().reattached, 1);
}

#[test]
fn a_swap_moves_an_open_stream_to_the_new_chain_with_its_handshake() {
    let host = host();
    let stamp = |text: &str| {
        let body = format!(
            r#"(data (i32.const 100) "{text}") {}
            (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
              (if (i32.ne (local.get 1) (i32.const 2)) (then unreachable)) (i32.const 0))"#,
            on_data(
                "(drop (call $set_buffer (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 4))) (i32.const 0)"
            )
        );
        host.build(spec(module(&body))).unwrap()
    };
    let mut old = Chain::new(1, vec![stamp("old ")]).attach();
    let mut stream = open(&mut old);
    old.response_headers(&mut stream, &mut [(":status", "101"), ("a", "b")].into_iter().collect()).unwrap();
    assert_eq!(send(&mut old, &mut stream, b"x").unwrap(), b"old x");
    let mut new = Chain::new(2, vec![stamp("new ")]).attach();
    let Opening::Stream(mut moved) = new.reopen(&stream) else { panic!() };
    assert_eq!(moved.token(), stream.token());
    old.close(stream);
    drop(old);
    assert_eq!(send(&mut new, &mut moved, b"x").unwrap(), b"new x");
    // A chain that no longer wants the stream says so, and nothing of it stays.
    let refuse = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (drop (call $respond (i32.const 403) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1))) (i32.const 1))"#;
    let mut strict = Chain::new(3, vec![host.build(spec(module(refuse))).unwrap()]).attach();
    assert!(matches!(strict.reopen(&moved), Opening::Refused(response) if response.status == 403));
    assert_eq!(strict.chain().filters()[0].metrics().streams, 1, "only the one that is open");
}

#[test]
fn a_thousand_swaps_leave_no_vm_behind() {
    let host = host();
    let filter = host.build(spec(module(&mishaps()))).unwrap();
    let mut worker = Chain::new(0, vec![filter.clone()]).attach();
    let mut stream = open(&mut worker);
    for generation in 1..=1000 {
        let mut next = Chain::new(generation, vec![filter.clone()]).attach();
        let Opening::Stream(moved) = next.reopen(&stream) else { panic!("generation {generation}") };
        worker.close(std::mem::replace(&mut stream, moved));
        worker = next;
        assert_eq!(send(&mut worker, &mut stream, b"a").unwrap(), b"a1");
    }
    let metrics = filter.metrics();
    assert_eq!((metrics.vms, metrics.streams, metrics.vms_created), (1, 1, 1002));
}

fn build(module: Vec<u8>) -> String {
    host().build(quick(module)).expect_err("must not build").to_string()
}

#[test]
fn a_module_that_cannot_run_is_refused_with_an_exact_message() {
    assert_eq!(
        build(b"GIF89a".to_vec()),
        "not a WebAssembly module: it begins with 47 49 46 38 39 61, a module begins with 00 61 73 6d 01 00 00 00"
    );
    let whole = module("");
    assert!(build(whole[..whole.len() / 2].to_vec()).starts_with("the module does not compile: "));
    let wat = |text: &str| wat::parse_str(text).unwrap();
    let frame = r#"(memory (export "memory") 1) (func (export "malloc") (param i32) (result i32) (i32.const 64)) (func (export "proxy_abi_version_0_2_1"))"#;
    assert_eq!(
        build(wat("(module (func (export \"proxy_abi_version_0_3_0\")))")),
        "the module exports no known proxy-wasm ABI version (found proxy_abi_version_0_3_0; known: 0.2.1, 0.2.0, 0.1.0)"
    );
    assert_eq!(
        build(wat(&format!("(module (import \"env\" \"proxy_teleport\" (func)) {frame})"))),
        "the module imports `env.proxy_teleport`, which no proxy-wasm host offers"
    );
    let wrong_import = build(wat(&format!("(module (import \"env\" \"proxy_log\" (func (param i64))) {frame})")));
    assert!(wrong_import.starts_with("`env.proxy_log` has the wrong signature"), "{wrong_import}");
    assert_eq!(
        build(module(r#"(func (export "proxy_on_tick") (param i64))"#)),
        "`proxy_on_tick` has the wrong signature: expected (i32) -> (), found (i64) -> ()"
    );
    assert_eq!(
        build(wat("(module (func (export \"proxy_abi_version_0_2_0\")))")),
        "the module does not export `memory`"
    );
    let refuses = r#"(data (i32.const 100) "no board EGX35") (func (export "proxy_on_configure") (param i32 i32) (result i32)
        (drop (call $log (i32.const 4) (i32.const 100) (i32.const 14))) (i32.const 0))"#;
    assert_eq!(
        build(module(refuses)),
        "the module refused its settings in `proxy_on_configure`; it said: no board EGX35"
    );
    assert_eq!(
        build(module(r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32) unreachable)"#)),
        "the module failed in `proxy_on_vm_start`: trap"
    );
    let began = Instant::now();
    assert_eq!(
        build(module("(func $ever (loop $l (br $l))) (start $ever)")),
        "the module failed in `start`: cpu_budget"
    );
    assert!(began.elapsed() < Duration::from_secs(5));
    let big = wat(&format!("(module {})", frame.replace("\"memory\") 1", "\"memory\") 1000")));
    assert!(build(big).starts_with("the module cannot be instantiated: "));
}

#[test]
fn old_abis_run_too() {
    let frame = |version: &str, parameters: &str| {
        let text = format!(
            r#"(module (memory (export "memory") 1) (func (export "malloc") (param i32) (result i32) (i32.const 64)) (func (export "{version}"))
               (import "env" "proxy_get_configuration" (func (param i32 i32) (result i32)))
               (func (export "proxy_on_request_headers") (param {parameters}) (result i32) (i32.const 0)))"#
        );
        // Imports must come first in WAT.
        let import = r#"(import "env" "proxy_get_configuration" (func (param i32 i32) (result i32)))"#;
        wat::parse_str(text.replace(import, "").replace("(module ", &format!("(module {import} "))).unwrap()
    };
    for (version, parameters) in [("proxy_abi_version_0_1_0", "i32 i32"), ("proxy_abi_version_0_2_0", "i32 i32 i32")] {
        open(&mut chain(&host(), vec![spec(frame(version, parameters))]));
    }
}

#[test]
fn an_allocator_that_calls_the_host_or_lies_harms_only_itself() {
    // Asks for the body again, which needs the allocator: it is not entered twice.
    let nested = r#"(func (export "malloc") (param i32) (result i32)
        (if (i32.ne (call $set_buffer (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 0) (i32.const 3)) (i32.const 2)) (then unreachable))
        (if (i32.ne (call $get_property (i32.const 200) (i32.const 12) (i32.const 16) (i32.const 20)) (i32.const 6)) (then unreachable))
        (i32.const 1024)) (data (i32.const 200) "plugin_vm_id")"#;
    let read = on_data(
        "(if (call $get_buffer (i32.const 0) (i32.const 0) (i32.const 99) (i32.const 8) (i32.const 12)) (then unreachable))
         (if (i32.ne (i32.load (i32.const 12)) (local.get $size)) (then unreachable)) (i32.const 0)",
    );
    let mut quiet = chain(&host(), vec![quick(module_with_allocator(nested, &read))]);
    let mut stream = open(&mut quiet);
    assert_eq!(send(&mut quiet, &mut stream, b"data").unwrap(), b"data");
    for address in ["0", "65535", "-1"] {
        let lies = format!(r#"(func (export "malloc") (param i32) (result i32) (i32.const {address}))"#);
        let expects_6 = on_data(
            "(if (i32.ne (call $get_buffer (i32.const 0) (i32.const 0) (i32.const 99) (i32.const 8) (i32.const 12)) (i32.const 6)) (then unreachable)) (i32.const 0)",
        );
        let mut chain = chain(&host(), vec![quick(module_with_allocator(&lies, &expects_6))]);
        let mut stream = open(&mut chain);
        assert_eq!(send(&mut chain, &mut stream, b"data").unwrap(), b"data");
    }
    let traps = r#"(func (export "malloc") (param i32) (result i32) unreachable)"#;
    let mut chain = chain(&host(), vec![quick(module_with_allocator(traps, &read))]);
    let mut stream = open(&mut chain);
    assert_eq!(send(&mut chain, &mut stream, b"data"), Err(denied(Cause::Trap)));
}

#[test]
fn a_guest_cannot_grow_the_hosts_memory_without_bound() {
    let append = on_data(
        "(loop $more (br_if $more (i32.eqz (call $set_buffer (i32.const 0) (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 60000)))))
         (i32.const 0)",
    );
    let mut spec = quick(module(&append));
    spec.limits.body_bytes_max = 1 << 20;
    spec.limits.callback_budget = Duration::from_secs(5);
    let mut appending = chain(&host(), vec![spec]);
    let mut stream = open(&mut appending);
    assert!(send(&mut appending, &mut stream, b"x").unwrap().len() <= 1 << 20);

    let mut spec = quick(module(&on_data("(i32.const 1)")));
    spec.limits.held_bytes_max = 8;
    let mut holding = chain(&host(), vec![spec]);
    let mut stream = open(&mut holding);
    assert_eq!(send(&mut holding, &mut stream, b"12345678").unwrap(), b"");
    assert_eq!(send(&mut holding, &mut stream, b"9"), Err(denied(Cause::Held)));
}

/// A guest that hands the bytes of its message to a host function as arguments.
fn forwarder(function: &str, arguments: usize, wide: bool) -> Vec<u8> {
    let load = |n: usize| format!("(i32.load (i32.const {}))", 2048 + 4 * n);
    let mut list: Vec<String> = (0..arguments).map(load).collect();
    if wide {
        list.push(format!("(i64.load (i32.const {}))", 2048 + 4 * arguments));
    }
    module(&on_data(&format!(
        r#"(if (call $get_buffer (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 8) (i32.const 12)) (then (return (i32.const 0))))
           (memory.copy (i32.const 2048) (i32.load (i32.const 8)) (i32.load (i32.const 12)))
           (drop (call ${function} {})) (i32.const 0)"#,
        list.join(" ")
    )))
}

fn argument() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(u32::MAX), 0u32..16, 65_500u32..65_540, 2_040u32..2_120, any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_argument_of_a_host_call_harms_the_host(calls in proptest::collection::vec(proptest::collection::vec(argument(), 14), 24)) {
        thread_local! {
            static CHAINS: Vec<std::cell::RefCell<WorkerChain>> = {
                let host = Host::new(HostLimits { vms_max: 64, ..Default::default() }).unwrap();
                [
                    ("log", 3, false), ("get_buffer", 5, false), ("set_buffer", 5, false), ("buffer_status", 3, false),
                    ("get_pairs", 3, false), ("get_header", 5, false), ("add_header", 5, false), ("replace_header", 5, false),
                    ("remove_header", 3, false), ("get_property", 4, false), ("set_property", 4, false), ("respond", 8, false),
                    ("close", 1, false), ("act_for", 1, false), ("get_shared", 5, false), ("set_shared", 5, false),
                    ("define_metric", 4, false), ("increment_metric", 1, true), ("http_call", 10, false), ("foreign", 6, false),
                    ("grpc_call", 12, false), ("fd_write", 4, false), ("fd_read", 4, false), ("tick_every", 1, false),
                ]
                .into_iter()
                .map(|(function, arguments, wide)| std::cell::RefCell::new(chain(&host, vec![quick(forwarder(function, arguments, wide))])))
                .collect()
            };
        }
        CHAINS.with(|chains| {
            for (chain, arguments) in chains.iter().zip(&calls) {
                let mut chain = chain.borrow_mut();
                let message: Vec<u8> = arguments.iter().flat_map(|word| word.to_le_bytes()).collect();
                let mut stream = match chain.open(&mut request(), Rc::new(Facts)) {
                    Opening::Stream(stream) => stream,
                    _ => panic!("the VM is healthy"),
                };
                // A status, a close or an answer: never a trap, never a panic.
                let end = send(&mut chain, &mut stream, &message);
                assert!(!matches!(end, Err(StreamEnd::Denied { .. })), "{end:?} on {arguments:?}");
                chain.close(stream);
            }
        });
    }
}

/// Words that are often right: small numbers, kinds, places of the message and of what was written into memory.
fn words_of_a_call() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![0u32..9, 0u32..200, 118_700u32..119_400, 131_000u32..131_200, any::<u32>()];
    (0u8..56, proptest::collection::vec(word, 14)).prop_map(|(number, words)| {
        let words = words.into_iter().flat_map(u32::to_le_bytes);
        [number, 0, 0, 0].into_iter().chain(words).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// The body of the fuzz target `can_a_guest_harm_the_host`, bounded.
    #[test]
    fn no_host_function_of_any_version_harms_the_host_whatever_the_memory_says(calls in proptest::collection::vec(words_of_a_call(), 1..48)) {
        thread_local! {
            static CALLER: std::cell::RefCell<crate::caller::Caller> = std::cell::RefCell::new(crate::caller::Caller::new());
        }
        CALLER.with_borrow_mut(|caller| caller.feed(&calls.concat()));
    }
}
