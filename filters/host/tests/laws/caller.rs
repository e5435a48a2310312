//! A guest that calls whatever host function its message names, with whatever arguments: the way in for
//! arbitrary input. The fuzz target of the host drives the same guest.

use std::cell::RefCell;
use std::rc::Rc;

use bawaba_filter_host::*;

/// Every host function of the three ABI versions and what WASI has of effect, with its parameters
/// (`i` is 32 bits, `I` is 64).
pub(crate) const FUNCTIONS: [(&str, &str, &str); 51] = [
    ("env", "proxy_log", "iii"),
    ("env", "proxy_get_log_level", "i"),
    ("env", "proxy_get_status", "iii"),
    ("env", "proxy_set_property", "iiii"),
    ("env", "proxy_get_property", "iiii"),
    ("env", "proxy_send_local_response", "iiiiiiii"),
    ("env", "proxy_get_shared_data", "iiiii"),
    ("env", "proxy_set_shared_data", "iiiii"),
    ("env", "proxy_register_shared_queue", "iii"),
    ("env", "proxy_resolve_shared_queue", "iiiii"),
    ("env", "proxy_dequeue_shared_queue", "iii"),
    ("env", "proxy_enqueue_shared_queue", "iii"),
    ("env", "proxy_get_header_map_value", "iiiii"),
    ("env", "proxy_add_header_map_value", "iiiii"),
    ("env", "proxy_replace_header_map_value", "iiiii"),
    ("env", "proxy_remove_header_map_value", "iii"),
    ("env", "proxy_get_header_map_pairs", "iii"),
    ("env", "proxy_set_header_map_pairs", "iii"),
    ("env", "proxy_get_header_map_size", "ii"),
    ("env", "proxy_get_buffer_status", "iii"),
    ("env", "proxy_get_buffer_bytes", "iiiii"),
    ("env", "proxy_set_buffer_bytes", "iiiii"),
    ("env", "proxy_http_call", "iiiiiiiiii"),
    ("env", "proxy_grpc_call", "iiiiiiiiiiii"),
    ("env", "proxy_grpc_stream", "iiiiiiiii"),
    ("env", "proxy_grpc_close", "i"),
    ("env", "proxy_grpc_cancel", "i"),
    ("env", "proxy_grpc_send", "iiii"),
    ("env", "proxy_set_tick_period_milliseconds", "i"),
    ("env", "proxy_get_current_time_nanoseconds", "i"),
    ("env", "proxy_define_metric", "iiii"),
    ("env", "proxy_increment_metric", "iI"),
    ("env", "proxy_record_metric", "iI"),
    ("env", "proxy_get_metric", "ii"),
    ("env", "proxy_set_effective_context", "i"),
    ("env", "proxy_done", ""),
    ("env", "proxy_call_foreign_function", "iiiiii"),
    ("env", "proxy_continue_stream", "i"),
    ("env", "proxy_close_stream", "i"),
    ("env", "proxy_get_configuration", "ii"),
    ("env", "proxy_continue_request", ""),
    ("env", "proxy_continue_response", ""),
    ("env", "proxy_clear_route_cache", ""),
    ("wasi_snapshot_preview1", "fd_write", "iiii"),
    ("wasi_snapshot_preview1", "fd_read", "iiii"),
    ("wasi_snapshot_preview1", "fd_fdstat_get", "ii"),
    ("wasi_snapshot_preview1", "environ_sizes_get", "ii"),
    ("wasi_snapshot_preview1", "args_sizes_get", "ii"),
    ("wasi_snapshot_preview1", "clock_time_get", "iIi"),
    ("wasi_snapshot_preview1", "random_get", "ii"),
    ("wasi_snapshot_preview1", "poll_oneoff", "iiii"),
];

/// Bytes of one call in a message: its number, three bytes of nothing, and fourteen words.
pub(crate) const CALL_BYTES: usize = 60;

/// A call whose number is past the functions writes its words into memory, at the first of them.
fn guest() -> String {
    let mut text = String::from("(module ");
    for (index, (module, name, parameters)) in FUNCTIONS.iter().enumerate() {
        let types: String = parameters.chars().map(|c| if c == 'I' { "i64 " } else { "i32 " }).collect();
        text += &format!(r#"(import "{module}" "{name}" (func $f{index} (param {types}) (result i32)))"#);
    }
    let mut steps = String::new();
    for (index, (_, _, parameters)) in FUNCTIONS.iter().enumerate() {
        let mut arguments = String::new();
        let mut offset = 4;
        for parameter in parameters.chars() {
            let (load, bytes) = if parameter == 'I' { ("i64.load", 8) } else { ("i32.load", 4) };
            arguments += &format!("({load} offset={offset} (local.get $at))");
            offset += bytes;
        }
        steps += &format!(
            "(if (i32.eq (local.get $number) (i32.const {index})) (then (drop (call $f{index} {arguments}))))"
        );
    }
    text += &format!(
        r#"(memory (export "memory") 2) (func (export "proxy_abi_version_0_2_1"))
        (global $heap (mut i32) (i32.const 65536))
        (func (export "malloc") (param $size i32) (result i32)
          (if (i32.gt_u (local.get $size) (i32.const 16384)) (then (return (i32.const 0))))
          (global.set $heap (i32.add (i32.const 65536) (i32.and (i32.add (global.get $heap) (i32.const 4096)) (i32.const 32767))))
          (global.get $heap))
        (func $run (param $kind i32)
          (local $at i32) (local $end i32) (local $number i32)
          (if (call $f20 (local.get $kind) (i32.const 0) (i32.const 8192) (i32.const 8) (i32.const 12)) (then (return)))
          ;; The message moves out of the allocator's way.
          (if (i32.gt_u (i32.load (i32.const 12)) (i32.const 8192)) (then (return)))
          (memory.copy (i32.const 118784) (i32.load (i32.const 8)) (i32.load (i32.const 12)))
          (local.set $at (i32.const 118784))
          (local.set $end (i32.add (local.get $at) (i32.load (i32.const 12))))
          (loop $next
            (if (i32.le_u (i32.add (local.get $at) (i32.const {CALL_BYTES})) (local.get $end)) (then
              (local.set $number (i32.load8_u (local.get $at)))
              {steps}
              (if (i32.ge_u (local.get $number) (i32.const {})) (then
                (memory.copy (i32.and (i32.load offset=4 (local.get $at)) (i32.const 65535))
                  (i32.add (local.get $at) (i32.const 8)) (i32.const 52))))
              (local.set $at (i32.add (local.get $at) (i32.const {CALL_BYTES})))
              (br $next)))))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))
        (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (call $run (i32.const 0)) (local.get 2))
        (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (call $run (i32.const 1)) (i32.const 0))
        (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32) (call $run (i32.const 4)))
        (func (export "proxy_on_grpc_receive") (param i32 i32 i32) (call $run (i32.const 5))))"#,
        FUNCTIONS.len()
    );
    text
}

/// Takes every call, and says of each what the message says.
#[derive(Default)]
struct Taken(RefCell<Vec<CalloutId>>);

impl Callouts for Taken {
    fn http(&self, id: CalloutId, _: HttpCall) -> Result<(), CalloutRefusal> {
        self.0.borrow_mut().push(id);
        Ok(())
    }
    fn grpc_call(&self, id: CalloutId, _: GrpcCall, _: Vec<u8>) -> Result<(), CalloutRefusal> {
        self.0.borrow_mut().push(id);
        Ok(())
    }
    fn grpc_stream(&self, id: CalloutId, _: GrpcCall) -> Result<(), CalloutRefusal> {
        self.0.borrow_mut().push(id);
        Ok(())
    }
    fn grpc_send(&self, _: CalloutId, _: Vec<u8>, _: bool) {}
    fn grpc_close(&self, _: CalloutId) {}
    fn cancel(&self, _: CalloutId) {}
}

struct Nothing;

impl Properties for Nothing {
    fn property(&self, _: &[&str]) -> Option<Vec<u8>> {
        None
    }
}

/// The guest on one thread. What it is fed may end its streams, and nothing else.
pub(crate) struct Caller {
    chain: WorkerChain,
    taken: Rc<Taken>,
}

impl Caller {
    /// With a host of its own.
    pub(crate) fn new() -> Self {
        let limits = HostLimits { vms_max: 4, shared_keys_max: 64, queues_max: 16, ..HostLimits::default() };
        let host = Host::new(limits).expect("a host");
        let spec = FilterSpec {
            name: "caller".into(),
            module: wat::parse_str(guest()).expect("a module"),
            settings: Vec::new(),
            vm_configuration: Vec::new(),
            vm_id: String::new(),
            root_id: String::new(),
            on_failure: OnFailure::Deny,
            limits: FilterLimits { log_lines_per_second_max: 0, ..FilterLimits::default() },
        };
        let taken = Rc::new(Taken::default());
        let chain = Chain::new(1, vec![host.build(spec).expect("a filter")]).attach_with(taken.clone());
        Caller { chain, taken }
    }

    /// Feeds a message to the body callbacks of both ways, and to what is told of each call that it makes.
    pub(crate) fn feed(&mut self, message: &[u8]) {
        let chain = &mut self.chain;
        let mut stream = chain.begin(Rc::new(Nothing), StreamKind::Http);
        let head = |list: [(&str, &str); 2]| Part::Headers { headers: list.into_iter().collect(), ends: false };
        let data = || Part::Data { data: message.to_vec(), ends: true };
        let mut ends = Vec::new();
        for (way, part) in [
            (Way::Request, head([(":method", "POST"), (":path", "/")])),
            (Way::Request, data()),
            (Way::Response, head([(":status", "200"), ("a", "b")])),
            (Way::Response, data()),
        ] {
            ends.push(chain.push(&mut stream, way, part));
        }
        for (index, id) in self.taken.0.take().into_iter().enumerate() {
            chain.callout_event(id, CalloutEvent::GrpcMessage(message.to_vec()));
            let event = match index % 2 {
                0 => CalloutEvent::Http { headers: Headers::new(), body: message.to_vec(), trailers: Headers::new() },
                _ => CalloutEvent::HttpReset,
            };
            chain.callout_event(id, event);
            chain.callout_event(id, CalloutEvent::GrpcClose { status: 2, message: String::new() });
        }
        ends.push(chain.wake(&mut stream));
        while chain.pull(&mut stream, Way::Request).is_some() || chain.pull(&mut stream, Way::Response).is_some() {}
        chain.close(stream);
        for end in ends.into_iter().filter_map(Result::err) {
            assert!(!matches!(end, StreamEnd::Denied { cause: Cause::Trap | Cause::Memory, .. }), "{end:?}");
        }
        assert_eq!(chain.chain().filters()[0].metrics().traps, 0, "the guest itself never traps");
    }
}
