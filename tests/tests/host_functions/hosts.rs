//! One module in a real Envoy, before a server that gives one answer to each request.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use bawaba_tests::place::Scratch;
use bawaba_tests::stack::Envoy;
use serde_json::json;

use super::{RESPONSE_BODY, SETTINGS, VM_CONFIGURATION};

/// A server that gives one answer to each request.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut got = Vec::new();
            let mut buffer = [0; 4096];
            // The module put the response's text into the request's body; a GET has none.
            while !(got.ends_with(RESPONSE_BODY) || got.starts_with(b"GET") && got.ends_with(b"\r\n\r\n")) {
                match socket.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(len) => got.extend_from_slice(&buffer[..len]),
                }
            }
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\nx-two: 2\r\nconnection: close\r\n\r\n";
            let _ = socket.write_all(&[head.as_bytes(), RESPONSE_BODY].concat());
        }
    });
    address
}

/// Envoy with the module as its one filter.
pub(crate) fn envoy(scratch: &Scratch, module: &[u8], root_id: &str) -> Envoy {
    let path = scratch.write("probe.wasm", module);
    let text = |text: &str| json!({ "@type": "type.googleapis.com/google.protobuf.StringValue", "value": text });
    let wasm = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {
            "name": "probe", "root_id": root_id, "configuration": text(SETTINGS),
            "vm_config": {
                "runtime": "envoy.wasm.runtime.v8", "vm_id": "the-vm", "configuration": text(VM_CONFIGURATION),
                "code": { "local": { "filename": path } },
            },
        },
    });
    let upstream = upstream();
    let socket = |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    let config = json!({
        "admin": { "address": socket(0) },
        "static_resources": {
            "listeners": [{ "name": "http", "address": socket(0), "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": "probe",
                    "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
                        { "match": { "prefix": "/" }, "route": { "cluster": "up" } }] }] },
                    "http_filters": [
                        { "name": "probe", "typed_config": wasm },
                        { "name": "router", "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }],
                },
            }] }] }],
            "clusters": [{ "name": "up", "type": "STATIC", "load_assignment": { "cluster_name": "up", "endpoints": [
                { "lb_endpoints": [{ "endpoint": { "address": socket(upstream.port()) } }] }] } }],
        },
    });
    Envoy::serve(&scratch.write("envoy.json", config.to_string()))
}

/// The head and the body of the answer to a request that closes its connection.
pub(crate) fn ask(address: SocketAddr, request: &[u8]) -> (String, Vec<u8>) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(bawaba_tests::PATIENCE)).unwrap();
    socket.write_all(request).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let body = answer.split_off(at);
    let head = String::from_utf8(answer).unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    (head, body)
}
