//! The module of the table: in each phase it makes that phase's calls and notes the status of each and, where
//! it matters, what it was given. `/transcript` gives the notes away.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What each row's call answered, as text.
pub(crate) type Answers = BTreeMap<String, String>;

const IMPORTS: &[(&str, usize)] = &[
    ("log", 3),
    ("get_log_level", 1),
    ("get_status", 3),
    ("set_property", 4),
    ("get_property", 4),
    ("send_local_response", 8),
    ("get_shared_data", 5),
    ("set_shared_data", 5),
    ("register_shared_queue", 3),
    ("resolve_shared_queue", 5),
    ("dequeue_shared_queue", 3),
    ("enqueue_shared_queue", 3),
    ("get_header_map_value", 5),
    ("add_header_map_value", 5),
    ("replace_header_map_value", 5),
    ("remove_header_map_value", 3),
    ("get_header_map_pairs", 3),
    ("set_header_map_pairs", 3),
    ("get_header_map_size", 2),
    ("get_buffer_status", 3),
    ("get_buffer_bytes", 5),
    ("set_buffer_bytes", 5),
    ("http_call", 10),
    ("grpc_call", 12),
    ("grpc_stream", 9),
    ("grpc_close", 1),
    ("grpc_cancel", 1),
    ("grpc_send", 4),
    ("set_tick_period_milliseconds", 1),
    ("get_current_time_nanoseconds", 1),
    ("define_metric", 4),
    ("get_metric", 2),
    ("set_effective_context", 1),
    ("done", 0),
    ("call_foreign_function", 6),
    ("continue_stream", 1),
    ("close_stream", 1),
];

/// Where the pointer and the length of an answer go.
const OUT: &str = "(i32.const 8) (i32.const 12)";
const NOTES: u32 = 0x20000;

/// A row: phase, name, call, and whether what it was given is noted too.
struct Row {
    phase: &'static str,
    name: String,
    call: String,
    given: bool,
}

pub(crate) struct Table {
    rows: Vec<Row>,
    data: String,
    next: usize,
}

/// Phases in the order in which a stream meets them; each is gone through once.
const PHASES: [(&str, usize, Option<i32>); 9] = [
    ("on_vm_start", 2, Some(1)),
    ("on_configure", 2, Some(1)),
    ("on_request_headers", 3, Some(0)),
    ("on_request_body", 3, Some(0)),
    ("on_response_headers", 3, Some(0)),
    ("on_response_body", 3, Some(0)),
    ("on_log", 1, None),
    ("on_done", 1, Some(1)),
    ("on_delete", 1, None),
];

impl Table {
    /// `(i32.const ptr) (i32.const len)` of a text in the module's memory.
    fn text(&mut self, text: &str) -> String {
        let at = self.next;
        self.next += text.len() + 1;
        let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        let _ = write!(self.data, r#"(data (i32.const {at}) "{escaped}")"#);
        format!("(i32.const {at}) (i32.const {})", text.len())
    }

    fn row(&mut self, phase: &'static str, name: &str, call: String, given: bool) {
        self.rows.push(Row { phase, name: format!("{phase}: {name}"), call, given });
    }

    fn status(&mut self, phase: &'static str, name: &str, call: String) {
        self.row(phase, name, call, false);
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|row| row.name.as_str())
    }

    pub(crate) fn module(&self) -> Vec<u8> {
        let mut text = String::from("(module ");
        for (name, parameters) in IMPORTS {
            let _ = write!(
                text,
                r#"(import "env" "proxy_{name}" (func ${name} (param {}) (result i32)))"#,
                "i32 ".repeat(*parameters)
            );
        }
        text += r#"(import "env" "proxy_increment_metric" (func $increment_metric (param i32 i64) (result i32)))
                   (import "env" "proxy_record_metric" (func $record_metric (param i32 i64) (result i32)))"#;
        let _ = write!(
            text,
            r#"(memory (export "memory") 4) (func (export "proxy_abi_version_0_2_1")) {}
            (global $heap (mut i32) (i32.const 65536)) (global $notes (mut i32) (i32.const {NOTES})) (global $phases (mut i32) (i32.const 0))
            (func (export "proxy_on_memory_allocate") (param $size i32) (result i32) (local $at i32)
              (local.set $at (global.get $heap))
              (global.set $heap (i32.and (i32.add (i32.add (local.get $at) (local.get $size)) (i32.const 8)) (i32.const -8)))
              (local.get $at))
            (func $note (param i32) (i32.store8 (global.get $notes) (local.get 0)) (global.set $notes (i32.add (global.get $notes) (i32.const 1))))
            (func $given
              (i32.store (global.get $notes) (i32.load (i32.const 12)))
              (memory.copy (i32.add (global.get $notes) (i32.const 4)) (i32.load (i32.const 8)) (i32.load (i32.const 12)))
              (global.set $notes (i32.add (i32.add (global.get $notes) (i32.const 4)) (i32.load (i32.const 12)))))"#,
            self.data
        );
        for (number, (phase, parameters, result)) in PHASES.iter().enumerate() {
            let mut steps = String::new();
            for row in self.rows.iter().filter(|row| row.phase == *phase) {
                let given = if row.given { "(call $given)" } else { "" };
                let _ = write!(
                    steps,
                    "(i32.store (i32.const 8) (i32.const 0)) (i32.store (i32.const 12) (i32.const 0))
                     (call $note ({})) {given}\n",
                    row.call
                );
            }
            let (ty, result) = match result {
                Some(result) => ("(result i32)", format!("(i32.const {result})")),
                None => ("", String::new()),
            };
            let give_away = if *phase == "on_request_headers" { GIVE_AWAY } else { "" };
            let _ = write!(
                text,
                r#"(func (export "proxy_{phase}") (param {}) {ty}
                  (global.set $heap (i32.const 65536)) {give_away}
                  (if (i32.eqz (i32.and (global.get $phases) (i32.const {bit}))) (then
                    (global.set $phases (i32.or (global.get $phases) (i32.const {bit})))
                    (call $note (i32.const {number})) {steps}))
                  {result})"#,
                "i32 ".repeat(*parameters),
                bit = 1 << number,
            );
        }
        text += r#"(func (export "proxy_on_context_create") (param i32 i32)))"#;
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The notes by row.
    pub(crate) fn read(&self, mut notes: &[u8]) -> Answers {
        let mut answers = Answers::new();
        let mut take = |len: usize| {
            let (taken, rest) = notes.split_at(len);
            notes = rest;
            (taken.to_vec(), rest.is_empty())
        };
        let mut over = false;
        while !over {
            let (number, _) = take(1);
            let phase = PHASES[usize::from(number[0])].0;
            for row in self.rows.iter().filter(|row| row.phase == phase) {
                let mut answer;
                let status;
                (status, over) = take(1);
                answer = format!("status {}", status[0]);
                if row.given {
                    let len = take(4).0;
                    let len = u32::from_le_bytes(len.try_into().expect("four bytes"));
                    let given;
                    (given, over) = take(len as usize);
                    let _ = write!(answer, ", {:?}", String::from_utf8_lossy(&given));
                }
                answers.insert(row.name.clone(), answer);
            }
        }
        answers
    }
}

/// The second request is given the notes.
const GIVE_AWAY: &str = r#"
  (if (i32.and (global.get $phases) (i32.const 4)) (then
    (drop (call $send_local_response (i32.const 200) (i32.const 0) (i32.const 0)
      (i32.const 131072) (i32.sub (global.get $notes) (i32.const 131072)) (i32.const 0) (i32.const 0) (i32.const -1)))
    (return (i32.const 1))))"#;

/// All rows.
pub(crate) fn table() -> Table {
    let mut table = Table { rows: Vec::new(), data: String::new(), next: 1024 };
    let t = &mut table;
    for (phase, _, _) in PHASES {
        everywhere(t, phase);
    }
    configured(t);
    stored(t);
    bodies(t);
    table
}

fn word(value: i64) -> String {
    format!("(i32.const {value})")
}

/// Calls that have a defined answer in any phase.
fn everywhere(t: &mut Table, phase: &'static str) {
    let (one, value, absent) = (t.text("x-one"), t.text("1"), t.text("absent"));
    for map in 0..9 {
        t.status(phase, &format!("pairs of map {map}"), format!("call $get_header_map_pairs {} {OUT}", word(map)));
        t.status(
            phase,
            &format!("absent value of map {map}"),
            format!("call $get_header_map_value {} {absent} {OUT}", word(map)),
        );
        t.status(
            phase,
            &format!("size of map {map}"),
            format!("call $get_header_map_size {} (i32.const 16)", word(map)),
        );
        t.row(
            phase,
            &format!("x-one of map {map}"),
            format!("call $get_header_map_value {} {one} {OUT}", word(map)),
            true,
        );
        t.status(
            phase,
            &format!("removing from map {map}"),
            format!("call $remove_header_map_value {} {absent}", word(map)),
        );
    }
    // Kinds of trailers are left out: to write to them behind the end of a body makes them.
    for map in [0, 2, 4, 6, 8] {
        t.status(
            phase,
            &format!("adding to map {map}"),
            format!("call $add_header_map_value {} {absent} {value}", word(map)),
        );
        t.row(
            phase,
            &format!("what was added to map {map}"),
            format!("call $get_header_map_value {} {absent} {OUT}", word(map)),
            true,
        );
        t.status(
            phase,
            &format!("replacing in map {map}"),
            format!("call $replace_header_map_value {} {absent} {one}", word(map)),
        );
        t.status(
            phase,
            &format!("removing what was added to map {map}"),
            format!("call $remove_header_map_value {} {absent}", word(map)),
        );
    }
    for buffer in 0..10 {
        t.row(
            phase,
            &format!("buffer {buffer}"),
            format!("call $get_buffer_bytes {} (i32.const 0) (i32.const 6) {OUT}", word(buffer)),
            true,
        );
        t.row(
            phase,
            &format!("buffer {buffer} past its end"),
            format!("call $get_buffer_bytes {} (i32.const 99) (i32.const 6) {OUT}", word(buffer)),
            true,
        );
        t.status(
            phase,
            &format!("status of buffer {buffer}"),
            format!("call $get_buffer_status {} (i32.const 16) (i32.const 20)", word(buffer)),
        );
        t.status(
            phase,
            &format!("buffer {buffer} to nowhere"),
            format!(
                "call $get_buffer_bytes {} (i32.const 0) (i32.const 6) (i32.const -1) (i32.const 12)",
                word(buffer)
            ),
        );
    }
    let name = t.text("plugin_name");
    let (root, vm, none) = (t.text("plugin_root_id"), t.text("plugin_vm_id"), t.text("nothing\0here"));
    for (what, path) in [
        ("plugin_name", name),
        ("plugin_root_id", root),
        ("plugin_vm_id", vm),
        ("no property", none),
        ("the empty path", "(i32.const 0) (i32.const 0)".into()),
    ] {
        t.row(phase, what, format!("call $get_property {path} {OUT}"), true);
    }
    if phase != "on_vm_start" && phase != "on_configure" {
        for path in [
            "request\0path",
            "request\0url_path",
            "request\0method",
            "request\0host",
            "request\0scheme",
            "request\0protocol",
            "request\0headers\0x-one",
            "connection\0mtls",
        ] {
            let at = t.text(path);
            t.row(phase, &path.replace('\0', "."), format!("call $get_property {at} {OUT}"), true);
        }
    }
    t.status(phase, "a path out of memory", format!("call $get_property (i32.const -4) (i32.const 8) {OUT}"));
    t.status(phase, "log of no level", "call $log (i32.const 9) (i32.const 0) (i32.const 0)".into());
    t.status(phase, "log out of memory", "call $log (i32.const 0) (i32.const -4) (i32.const 8)".into());
    t.status(phase, "log level", "call $get_log_level (i32.const 16)".into());
    t.status(phase, "log level to nowhere", "call $get_log_level (i32.const -1)".into());
    t.status(phase, "the clock", "call $get_current_time_nanoseconds (i32.const 16)".into());
    t.row(phase, "call status", "call $get_status (i32.const 16) (i32.const 8) (i32.const 12)".into(), true);
    t.status(phase, "http call to no cluster", format!("call $http_call {absent} (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 9) (i32.const 16)"));
    t.status(phase, "grpc call to no cluster", format!("call $grpc_call {absent} {one} {one} (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 9) (i32.const 16)"));
    t.status(
        phase,
        "grpc stream to no cluster",
        format!("call $grpc_stream {absent} {one} {one} (i32.const 0) (i32.const 0) (i32.const 16)"),
    );
    for token in [4, 5, 6, 7] {
        t.status(phase, &format!("closing call {token}"), format!("call $grpc_close {}", word(token)));
        t.status(phase, &format!("cancelling call {token}"), format!("call $grpc_cancel {}", word(token)));
        t.status(
            phase,
            &format!("sending to call {token}"),
            format!("call $grpc_send {} {one} (i32.const 0)", word(token)),
        );
    }
    t.status(phase, "no foreign function", format!("call $call_foreign_function {absent} {one} {OUT}"));
    t.status(phase, "done", "call $done".into());
    t.status(phase, "acting for no context", "call $set_effective_context (i32.const 7777)".into());
    for kind in [4, 9] {
        t.status(phase, &format!("continuing stream {kind}"), format!("call $continue_stream {}", word(kind)));
        t.status(phase, &format!("closing stream {kind}"), format!("call $close_stream {}", word(kind)));
    }
    t.status(phase, "no tick", "call $set_tick_period_milliseconds (i32.const 0)".into());
}

/// Metrics are defined while the module is configured.
fn configured(t: &mut Table) {
    let phase = "on_configure";
    let name = t.text("probe.metric");
    for kind in 0..4 {
        t.status(
            phase,
            &format!("defining a metric of kind {kind}"),
            format!("call $define_metric {} {name} (i32.const {})", word(kind), 32 + 4 * kind),
        );
    }
    for kind in 0..3 {
        let id = format!("(i32.load (i32.const {}))", 32 + 4 * kind);
        t.status(phase, &format!("incrementing {kind}"), format!("call $increment_metric {id} (i64.const 3)"));
        t.status(phase, &format!("decrementing {kind}"), format!("call $increment_metric {id} (i64.const -1)"));
        t.status(phase, &format!("recording {kind}"), format!("call $record_metric {id} (i64.const 5)"));
        t.status(phase, &format!("reading {kind}"), format!("call $get_metric {id} (i32.const 16)"));
    }
    for id in [400, 401, 402, 403] {
        t.status(
            phase,
            &format!("incrementing unknown {id}"),
            format!("call $increment_metric {} (i64.const 1)", word(id)),
        );
        t.status(phase, &format!("recording unknown {id}"), format!("call $record_metric {} (i64.const 1)", word(id)));
        t.status(phase, &format!("reading unknown {id}"), format!("call $get_metric {} (i32.const 16)", word(id)));
    }
}

/// Shared data, queues and what is stored on the stream.
fn stored(t: &mut Table) {
    let phase = "on_request_headers";
    let (key, value, name) = (t.text("key"), t.text("value"), t.text("queue"));
    t.status(phase, "no shared data", format!("call $get_shared_data {key} {OUT} (i32.const 16)"));
    t.status(phase, "setting shared data", format!("call $set_shared_data {key} {value} (i32.const 0)"));
    t.row(phase, "shared data", format!("call $get_shared_data {key} {OUT} (i32.const 16)"), true);
    t.status(
        phase,
        "a stale cas",
        format!("call $set_shared_data {key} {value} (i32.add (i32.load (i32.const 16)) (i32.const 100))"),
    );
    t.status(phase, "the right cas", format!("call $set_shared_data {key} {value} (i32.load (i32.const 16))"));
    t.status(
        phase,
        "shared data to nowhere",
        format!("call $get_shared_data {key} (i32.const -1) (i32.const 12) (i32.const 16)"),
    );
    let vm = t.text("the-vm");
    t.status(phase, "no queue", format!("call $resolve_shared_queue {vm} {name} (i32.const 20)"));
    t.status(phase, "a new queue", format!("call $register_shared_queue {name} (i32.const 20)"));
    t.status(phase, "the queue", format!("call $resolve_shared_queue {vm} {name} (i32.const 24)"));
    t.status(
        phase,
        "the queue of our own vm",
        format!("call $resolve_shared_queue (i32.const 0) (i32.const 0) {name} (i32.const 24)"),
    );
    t.status(phase, "an empty queue", format!("call $dequeue_shared_queue (i32.load (i32.const 20)) {OUT}"));
    t.status(phase, "an item", format!("call $enqueue_shared_queue (i32.load (i32.const 20)) {value}"));
    t.row(phase, "the item", format!("call $dequeue_shared_queue (i32.load (i32.const 24)) {OUT}"), true);
    t.status(phase, "an item for no queue", format!("call $enqueue_shared_queue (i32.const 999) {value}"));
    t.status(phase, "no queue's item", format!("call $dequeue_shared_queue (i32.const 999) {OUT}"));
    let own = t.text("our.own");
    t.status(phase, "storing", format!("call $set_property {own} {value}"));
    for later in [phase, "on_response_body", "on_log"] {
        t.row(later, "what was stored", format!("call $get_property {own} {OUT}"), true);
    }
    t.status("on_configure", "storing without a stream", format!("call $set_property {own} {value}"));
    let (host, upper, authority) = (t.text("host"), t.text("X-ONE"), t.text(":authority"));
    for (what, name) in [("host", host), ("X-ONE", upper), (":authority", authority)] {
        t.row(phase, what, format!("call $get_header_map_value (i32.const 0) {name} {OUT}"), true);
    }
    let two = t.text("x-two");
    t.row("on_response_headers", "x-two", format!("call $get_header_map_value (i32.const 2) {two} {OUT}"), true);
    t.row("on_log", "x-two", format!("call $get_header_map_value (i32.const 2) {two} {OUT}"), true);
}

/// Edits of a body: Envoy's three shapes and no other.
fn bodies(t: &mut Table) {
    let (mark, same) = (t.text("!"), t.text("abcdefghij"));
    for (phase, kind) in [("on_request_body", 0), ("on_response_body", 1)] {
        let set = |start: i64, len: i64, text: &str| {
            format!("call $set_buffer_bytes {} {} {} {text}", word(kind), word(start), word(len))
        };
        let all = || format!("call $get_buffer_bytes {} (i32.const 0) (i32.const -1) {OUT}", word(kind));
        t.row(phase, "the body", all(), true);
        t.status(phase, "a middle", set(3, 2, &mark));
        t.status(phase, "a beginning", set(0, 3, &mark));
        t.status(phase, "out of memory", set(0, 0, "(i32.const -4) (i32.const 8)"));
        t.status(phase, "in front", set(0, 0, &mark));
        t.row(phase, "the body with something in front", all(), true);
        t.status(phase, "in its place", set(0, 11, &same));
        t.status(phase, "behind", set(10, 0, if kind == 1 { &mark } else { "(i32.const 0) (i32.const 0)" }));
        t.row(phase, "the body at last", all(), true);
        t.status(
            phase,
            "into another's",
            format!("call $set_buffer_bytes {} (i32.const 0) (i32.const 0) {mark}", word(1 - kind)),
        );
    }
    for phase in ["on_configure", "on_request_headers", "on_log"] {
        for buffer in [0, 1, 6, 7, 8] {
            t.status(
                phase,
                &format!("writing to buffer {buffer}"),
                format!("call $set_buffer_bytes {} (i32.const 0) (i32.const 0) {mark}", word(buffer)),
            );
        }
    }
}
