//! What a callback costs. Prints the machine and nanoseconds; asserts nothing.
//! `cargo bench -p bawaba-filter-host` (with a module of your own: `-- PATH.wasm [SETTINGS]`).

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use bawaba_filter_host::*;

const ALLOCATOR: &str = r#"(memory (export "memory") 2) (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) (i32.const 4096))"#;

struct Nothing;

impl Properties for Nothing {
    fn property(&self, _: &[&str]) -> Option<Vec<u8>> {
        None
    }
}

fn main() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let threads = std::thread::available_parallelism().map_or(0, |n| n.get());
    println!("machine: {}, {threads} threads", cpu.trim_start_matches([':', '\t', ' ']));
    let host = Host::new(HostLimits::default()).unwrap();

    let nothing = format!(
        r#"(module {ALLOCATOR} (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 0)))"#
    );
    bytes("no-op body callback, 200 B", &host, nothing.clone().into_bytes(), b"", &[0x5a; 200], 1);
    starts("no-op module", &host, nothing.into_bytes(), b"");
    let copy = format!(
        r#"(module (import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
           (import "env" "proxy_set_buffer_bytes" (func $set (param i32 i32 i32 i32 i32) (result i32))) {ALLOCATOR}
           (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
             (drop (call $get (i32.const 0) (i32.const 0) (local.get 1) (i32.const 8) (i32.const 12)))
             (drop (call $set (i32.const 0) (i32.const 0) (local.get 1) (i32.load (i32.const 8)) (i32.load (i32.const 12))))
             (i32.const 0)))"#
    );
    bytes("read and replace, 200 B", &host, copy.clone().into_bytes(), b"", &[0x5a; 200], 1);
    bytes("read and replace, 16 KiB", &host, copy.into_bytes(), b"", &[0x5a; 16 << 10], 1);

    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    if let Some(path) = arguments.next() {
        let settings = arguments.next().unwrap_or_else(|| "{}".to_owned()).into_bytes();
        let module = std::fs::read(&path).unwrap();
        let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
        let frame = text_frame(200);
        bytes(&format!("{name}, one 200 B frame"), &host, module.clone(), &settings, &frame, 1);
        let chunk: Vec<u8> = std::iter::repeat_n(&frame, 80).flatten().copied().collect();
        bytes(&format!("{name}, 80 frames in 16 KiB, each"), &host, module.clone(), &settings, &chunk, 80);
        starts(&name, &host, module, &settings);
    }
}

/// A masked text frame of a client's ping, `len` bytes in all.
fn text_frame(len: usize) -> Vec<u8> {
    let payload = format!("{:<width$}", r#"{"type":"ping","id":12}"#, width = len - 8);
    let mut frame = vec![0x81, 0x80 | 126];
    frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload.as_bytes());
    frame
}

fn filter(host: &Host, module: Vec<u8>, settings: &[u8]) -> Filter {
    let module = if module.starts_with(b"\0asm") { module } else { wat::parse_bytes(&module).unwrap().into_owned() };
    let spec = FilterSpec {
        name: "bench".into(),
        module,
        settings: settings.to_vec(),
        vm_configuration: Vec::new(),
        vm_id: String::new(),
        root_id: String::new(),
        on_failure: OnFailure::Deny,
        limits: FilterLimits::default(),
    };
    host.build(spec).unwrap_or_else(|error| panic!("{error}"))
}

/// A handshake of an unscreened, professional user.
fn request() -> Headers {
    let claims = "eyJzdWIiOiJ1MSIsInRpZXIiOiJwcm9mZXNzaW9uYWwiLCJleHAiOjQwMDAwMDAwMDAsImV4Y2hhbmdlcyI6WyJFR1giLCJBRFgiXSwiaXNsYW1pYyI6eyJtb2RlIjoib2ZmIn19";
    [
        (":method", "GET"),
        (":path", "/ws"),
        (":authority", "edge"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", "tradsys.v3.json"),
        ("x-bawaba-claims", claims),
    ]
    .into_iter()
    .collect()
}

fn open(chain: &mut WorkerChain) -> ChainStream {
    match chain.open(&mut request(), Rc::new(Nothing)) {
        Opening::Stream(mut stream) => {
            let mut response =
                [(":status", "101"), ("sec-websocket-protocol", "tradsys.v3.json")].into_iter().collect();
            chain.response_headers(&mut stream, &mut response).unwrap_or_else(|end| panic!("{end:?}"));
            stream
        }
        Opening::Refused(response) => {
            panic!("refused: {} {}", response.status, String::from_utf8_lossy(&response.body))
        }
        Opening::Failed { cause, .. } => panic!("failed: {cause}"),
    }
}

fn bytes(what: &str, host: &Host, module: Vec<u8>, settings: &[u8], data: &[u8], messages: u32) {
    let mut chain = Chain::new(1, vec![filter(host, module, settings)]).attach();
    let mut stream = open(&mut chain);
    let mut buffer = Vec::with_capacity(data.len());
    let mut best = f64::INFINITY;
    for _ in 0..40 {
        let rounds = 20_000 / messages;
        let began = Instant::now();
        for _ in 0..rounds {
            buffer.clear();
            buffer.extend_from_slice(data);
            chain.request_data(&mut stream, black_box(&mut buffer)).unwrap();
        }
        best = best.min(began.elapsed().as_nanos() as f64 / f64::from(rounds * messages));
    }
    println!("{what:<52} {best:>9.1} ns");
}

/// A fresh worker's first stream pays for its VM; the second does not.
fn starts(what: &str, host: &Host, module: Vec<u8>, settings: &[u8]) {
    let chain = Chain::new(1, vec![filter(host, module, settings)]);
    let mut best = [f64::INFINITY; 2];
    for _ in 0..500 {
        let mut worker = chain.attach();
        for best in &mut best {
            let began = Instant::now();
            let stream = open(&mut worker);
            *best = best.min(began.elapsed().as_nanos() as f64 / 1000.0);
            worker.close(stream);
        }
    }
    println!("{:<52} {:>9.1} µs", format!("{what}, a new VM and its first stream"), best[0]);
    println!("{:<52} {:>9.1} µs", format!("{what}, one more stream"), best[1]);
}
