//! One module calls every host function, in every phase of a request, in a real Envoy and in our host; what
//! each call answered must be the same, apart from the rows named in `DIFFERENCES`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

#[path = "host_functions/hosts.rs"]
mod hosts;
#[path = "host_functions/probe.rs"]
mod probe;

use std::process::Command;
use std::rc::Rc;

use bawaba_filter_host::{
    Chain, ChainStream, FilterLimits, FilterSpec, Host, HostLimits, OnFailure, Part, Properties, StreamKind, Way,
    WorkerChain,
};
use bawaba_tests::place::{Scratch, on_path, root};

const SETTINGS: &str = "the settings";
const VM_CONFIGURATION: &str = "the vm";
const REQUEST_BODY: &[u8] = b"0123456789";
const RESPONSE_BODY: &[u8] = b"abcdefghij";

/// Rows that may differ, and why.
const DIFFERENCES: &[(&str, &str)] =
    &[("buffer 8", "what a call brings: Envoy shows what was last read of another buffer")];

/// What filters may ask about the one request of this test.
struct Facts;

impl Properties for Facts {
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let text = match path {
            ["request", "path"] => "/probe?a=b",
            ["request", "url_path"] => "/probe",
            ["request", "method"] => "POST",
            ["request", "host"] => "probe.test",
            ["request", "scheme"] => "http",
            ["request", "protocol"] => "HTTP/1.1",
            ["request", "headers", "x-one"] => "1",
            ["connection", "mtls"] => "\0",
            _ => return None,
        };
        Some(text.as_bytes().to_vec())
    }
}

fn chain(module: Vec<u8>, root_id: &str) -> WorkerChain {
    let host = Host::new(HostLimits { vms_max: 8, ..HostLimits::default() }).unwrap();
    let spec = FilterSpec {
        name: "probe".into(),
        module,
        settings: SETTINGS.into(),
        vm_configuration: VM_CONFIGURATION.into(),
        vm_id: "the-vm".into(),
        root_id: root_id.into(),
        on_failure: OnFailure::Deny,
        limits: FilterLimits::default(),
    };
    Chain::new(1, vec![host.build(spec).unwrap()]).attach()
}

fn ours(module: Vec<u8>) -> Vec<u8> {
    let mut chain = chain(module, "the-root");
    let head = |list: &[(&str, &str)], ends| Part::Headers { headers: list.iter().copied().collect(), ends };
    let mut stream = chain.begin(Rc::new(Facts), StreamKind::Http);
    let request = [
        (":method", "POST"),
        (":path", "/probe?a=b"),
        (":authority", "probe.test"),
        (":scheme", "http"),
        ("x-one", "1"),
        ("content-length", "10"),
    ];
    let response = [(":status", "200"), ("content-length", "10"), ("x-two", "2")];
    for (way, part) in [
        (Way::Request, head(&request, false)),
        // As Envoy's HTTP/1 codec hands them on: the end of a body comes by itself.
        (Way::Request, Part::Data { data: REQUEST_BODY.to_vec(), ends: false }),
        (Way::Request, Part::Data { data: Vec::new(), ends: true }),
        (Way::Response, head(&response, false)),
        (Way::Response, Part::Data { data: RESPONSE_BODY.to_vec(), ends: false }),
        (Way::Response, Part::Data { data: Vec::new(), ends: true }),
    ] {
        chain.push(&mut stream, way, part).unwrap();
    }
    assert_eq!(body(&mut chain, &mut stream, Way::Response), [RESPONSE_BODY, b"!"].concat());
    chain.close(stream);
    let mut stream = chain.begin(Rc::new(Facts), StreamKind::Http);
    let transcript = [(":method", "GET"), (":path", "/transcript"), (":authority", "probe.test"), (":scheme", "http")];
    chain.push(&mut stream, Way::Request, head(&transcript, true)).unwrap();
    body(&mut chain, &mut stream, Way::Response)
}

fn body(chain: &mut WorkerChain, stream: &mut ChainStream, way: Way) -> Vec<u8> {
    std::iter::from_fn(|| chain.pull(stream, way))
        .flat_map(|part| if let Part::Data { data, .. } = part { data } else { Vec::new() })
        .collect()
}

fn envoys(scratch: &Scratch, module: &[u8]) -> Vec<u8> {
    let envoy = hosts::envoy(scratch, module, "the-root");
    let head =
        "POST /probe?a=b HTTP/1.1\r\nhost: probe.test\r\nx-one: 1\r\ncontent-length: 10\r\nconnection: close\r\n\r\n";
    let (_, body) = hosts::ask(envoy.address, &[head.as_bytes(), REQUEST_BODY].concat());
    assert!(body.starts_with(RESPONSE_BODY), "{}", String::from_utf8_lossy(&body));
    hosts::ask(envoy.address, b"GET /transcript HTTP/1.1\r\nhost: probe.test\r\nconnection: close\r\n\r\n").1
}

#[test]
fn every_host_function_answers_as_in_envoy() {
    let table = probe::table();
    let module = table.module();
    let scratch = Scratch::new();
    let (ours, envoys) = (table.read(&ours(module.clone())), table.read(&envoys(&scratch, &module)));
    assert!(ours.len() > 150, "{} rows", ours.len());
    let mut differ = Vec::new();
    for row in table.names() {
        let allowed = DIFFERENCES.iter().any(|(name, _)| row.ends_with(name));
        if !allowed && ours.get(row) != envoys.get(row) {
            let show = |answers: &probe::Answers| answers.get(row).cloned().unwrap_or_else(|| "not called".to_owned());
            differ.push(format!("{row}\n    ours:  {}\n    Envoy: {}", show(&ours), show(&envoys)));
        }
    }
    assert!(differ.is_empty(), "{} rows differ:\n{}", differ.len(), differ.join("\n"));
    for (name, _) in DIFFERENCES {
        let stands = table.names().any(|row| row.ends_with(name) && ours.get(row) != envoys.get(row));
        assert!(stands, "{name} no longer differs: take it off the list");
    }
}

/// The AssemblyScript filter, as its own toolchain builds it.
fn greeter(scratch: &Scratch) -> Vec<u8> {
    let place = root().join("tests/assemblyscript");
    let compiler = place.join("node_modules/assemblyscript/bin/asc");
    assert!(compiler.is_file(), "no AssemblyScript: run scripts/setup node");
    let module = scratch.path().join("greeter.wasm");
    let mut command = Command::new(on_path("node").expect("no Node.js: run scripts/setup node"));
    command.current_dir(&place).arg(compiler).args(["greeter.ts", "--optimize", "--runtime", "full"]);
    command.args(["--use", "abort=abort_proc_exit", "-b"]).arg(&module);
    let built = command.output().unwrap();
    assert!(module.is_file(), "{}", String::from_utf8_lossy(&built.stderr));
    std::fs::read(module).unwrap()
}

#[test]
fn a_module_in_assemblyscript_runs_the_same_in_both_hosts() {
    let scratch = Scratch::new();
    let module = greeter(&scratch);
    let mut chain = chain(module.clone(), "greeter");
    assert_eq!(chain.chain().filters()[0].abi_version(), "0.2.0", "as its toolchain exports");
    let mut stream = chain.begin(Rc::new(Facts), StreamKind::Http);
    let request = [(":method", "GET"), (":path", "/"), (":authority", "probe.test")];
    let request = Part::Headers { headers: request.into_iter().collect(), ends: true };
    chain.push(&mut stream, Way::Request, request).unwrap();
    let Some(Part::Headers { headers, .. }) = chain.pull(&mut stream, Way::Request) else { panic!() };
    assert_eq!(headers.get("x-seen-by"), Some(SETTINGS));
    let response = [(":status", "200"), ("content-length", "10")].into_iter().collect();
    chain.push(&mut stream, Way::Response, Part::Headers { headers: response, ends: false }).unwrap();
    let Some(Part::Headers { headers, .. }) = chain.pull(&mut stream, Way::Response) else { panic!() };
    assert_eq!((headers.get("hello"), headers.get("content-length")), (Some(SETTINGS), None));
    chain.push(&mut stream, Way::Response, Part::Data { data: RESPONSE_BODY.to_vec(), ends: true }).unwrap();
    assert_eq!(body(&mut chain, &mut stream, Way::Response), b"ABCDEFGHIJ");
    chain.close(stream);
    assert_eq!(chain.chain().filters()[0].metrics().traps, 0);

    let envoy = hosts::envoy(&scratch, &module, "greeter");
    let request = b"GET / HTTP/1.1\r\nhost: probe.test\r\nconnection: close\r\n\r\n";
    let (head, body) = hosts::ask(envoy.address, request);
    assert!(head.contains(&format!("hello: {SETTINGS}\r\n")), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("ABCDEFGHIJ"), "{}", String::from_utf8_lossy(&body));
}
