//! Guests for the tests, written in WAT and built here: a frame with an allocator and all that a
//! module must export, into which a test puts the callbacks that it is about.

use std::rc::Rc;
use std::sync::Arc;

use bawaba_filter_host::*;

/// Everything that a test may import, each under its name without `proxy_`.
const IMPORTS: &str = r#"
(import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
(import "env" "proxy_get_buffer_bytes" (func $get_buffer (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_set_buffer_bytes" (func $set_buffer (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_get_buffer_status" (func $buffer_status (param i32 i32 i32) (result i32)))
(import "env" "proxy_get_header_map_pairs" (func $get_pairs (param i32 i32 i32) (result i32)))
(import "env" "proxy_get_header_map_value" (func $get_header (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_add_header_map_value" (func $add_header (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_replace_header_map_value" (func $replace_header (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_remove_header_map_value" (func $remove_header (param i32 i32 i32) (result i32)))
(import "env" "proxy_get_property" (func $get_property (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_set_property" (func $set_property (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_send_local_response" (func $respond (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_close_stream" (func $close (param i32) (result i32)))
(import "env" "proxy_set_effective_context" (func $act_for (param i32) (result i32)))
(import "env" "proxy_set_tick_period_milliseconds" (func $tick_every (param i32) (result i32)))
(import "env" "proxy_get_shared_data" (func $get_shared (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_set_shared_data" (func $set_shared (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_define_metric" (func $define_metric (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_increment_metric" (func $increment_metric (param i32 i64) (result i32)))
(import "env" "proxy_http_call" (func $http_call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_call_foreign_function" (func $foreign (param i32 i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_grpc_call" (func $grpc_call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_continue_stream" (func $go_on (param i32) (result i32)))
(import "env" "proxy_grpc_stream" (func $grpc_stream (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_grpc_send" (func $grpc_send (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_grpc_cancel" (func $grpc_cancel (param i32) (result i32)))
(import "env" "proxy_grpc_close" (func $grpc_close (param i32) (result i32)))
(import "env" "proxy_get_status" (func $get_status (param i32 i32 i32) (result i32)))
(import "env" "proxy_set_header_map_pairs" (func $set_pairs (param i32 i32 i32) (result i32)))
(import "env" "proxy_get_header_map_size" (func $map_size (param i32 i32) (result i32)))
(import "env" "proxy_register_shared_queue" (func $register_queue (param i32 i32 i32) (result i32)))
(import "env" "proxy_resolve_shared_queue" (func $resolve_queue (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_enqueue_shared_queue" (func $enqueue (param i32 i32 i32) (result i32)))
(import "env" "proxy_dequeue_shared_queue" (func $dequeue (param i32 i32 i32) (result i32)))
(import "env" "proxy_record_metric" (func $record_metric (param i32 i64) (result i32)))
(import "env" "proxy_get_metric" (func $get_metric (param i32 i32) (result i32)))
(import "env" "proxy_get_log_level" (func $log_level (param i32) (result i32)))
(import "env" "proxy_get_current_time_nanoseconds" (func $now (param i32) (result i32)))
(import "env" "proxy_done" (func $done (result i32)))
(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
"#;

const ALLOCATOR: &str = r#"
(global $heap (mut i32) (i32.const 4096))
(func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
  (local $at i32)
  (local.set $at (global.get $heap))
  (if (i32.gt_u (i32.add (local.get $at) (local.get $size)) (i32.const 60000))
    (then (local.set $at (i32.const 4096)) (global.set $heap (i32.const 4096))))
  (global.set $heap (i32.add (local.get $at) (local.get $size)))
  (local.get $at))
"#;

/// A module with the given functions and data.
pub(crate) fn module(body: &str) -> Vec<u8> {
    module_with_allocator(ALLOCATOR, body)
}

pub(crate) fn module_with_allocator(allocator: &str, body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module {IMPORTS} (memory (export "memory") 1) {allocator}
           (func (export "proxy_abi_version_0_2_1")) {body})"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

pub(crate) fn host() -> Arc<Host> {
    Host::new(HostLimits { vms_max: 16, ..Default::default() }).unwrap()
}

pub(crate) fn spec(module: Vec<u8>) -> FilterSpec {
    FilterSpec {
        name: "guest".into(),
        module,
        settings: b"settings".to_vec(),
        vm_configuration: b"vm".to_vec(),
        vm_id: "vm".into(),
        root_id: "root".into(),
        on_failure: OnFailure::Deny,
        limits: FilterLimits::default(),
    }
}

pub(crate) fn chain(host: &Host, specs: Vec<FilterSpec>) -> WorkerChain {
    let filters = specs.into_iter().map(|spec| host.build(spec).unwrap()).collect();
    Chain::new(1, filters).attach()
}

/// One filter alone.
pub(crate) fn one(body: &str) -> WorkerChain {
    chain(&host(), vec![spec(module(body))])
}

pub(crate) struct Facts;

impl Properties for Facts {
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        match path {
            ["source", "address"] => Some(b"192.0.2.1:4242".to_vec()),
            ["connection", "mtls"] => Some(vec![0]),
            _ => None,
        }
    }
}

pub(crate) fn request() -> Headers {
    [(":method", "GET"), (":path", "/ws"), (":authority", "example.test"), ("x-who", "client")].into_iter().collect()
}

pub(crate) fn open(chain: &mut WorkerChain) -> ChainStream {
    match chain.open(&mut request(), Rc::new(Facts)) {
        Opening::Stream(stream) => stream,
        Opening::Refused(response) => panic!("refused: {response:?}"),
        Opening::Failed { filter, cause } => panic!("{filter} failed: {cause}"),
    }
}

pub(crate) fn send(chain: &mut WorkerChain, stream: &mut ChainStream, data: &[u8]) -> Result<Vec<u8>, StreamEnd> {
    let mut data = data.to_vec();
    chain.request_data(stream, &mut data).map(|()| data)
}

pub(crate) fn denied(cause: Cause) -> StreamEnd {
    StreamEnd::Denied { filter: "guest".into(), cause }
}

/// A body callback that runs `code` on data only, not on the empty callback of the handshake.
pub(crate) fn on_data(code: &str) -> String {
    format!(
        r#"(func (export "proxy_on_request_body") (param $context i32) (param $size i32) (param $end i32) (result i32)
             (if (i32.eqz (local.get $size)) (then (return (i32.const 0)))) {code})"#
    )
}

/// `(i32.const …)` for each.
pub(crate) fn words(values: &[i64]) -> String {
    values.iter().map(|value| format!("(i32.const {value}) ")).collect()
}

/// Traps unless a call answers this status.
pub(crate) fn expect(status: u32, call: &str) -> String {
    format!("(if (i32.ne ({call}) (i32.const {status})) (then unreachable))\n")
}

/// A callback that does `code` and returns `result` (or nothing).
pub(crate) fn callback(name: &str, parameters: usize, code: &str, result: Option<i32>) -> String {
    let (ty, result) = match result {
        Some(result) => ("(result i32)", format!("(i32.const {result})")),
        None => ("", String::new()),
    };
    format!(r#"(func (export "proxy_{name}") (param {}) {ty} {code} {result})"#, "i32 ".repeat(parameters))
}
