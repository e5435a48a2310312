//! `/endpoints` of the admin listener: what serves, and endpoints that an operator (or a script of theirs) adds to those
//! of the configuration. Kept in memory: after a restart the configuration and the other sources count alone.

use bawaba_routing::Announced;
use http::{Method, Response, StatusCode};
use pingora_core::protocols::http::ServerSession;
use serde_json::{Value, json};

use super::{json_page, page};
use crate::cluster::{self, Cluster};
use crate::generation::Generation;
use crate::listener::Door;
use crate::revision::Trouble;

/// The name of this source.
const SOURCE: &str = "admin";
/// A list of endpoints.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Every endpoint of every cluster, those that drain among them.
pub(super) fn all(generation: &Generation) -> Value {
    Value::Object(generation.clusters.iter().map(|(name, cluster)| (name.clone(), of(cluster))).collect())
}

fn of(cluster: &Cluster) -> Value {
    cluster.endpoints().iter().chain(&cluster.leaving()).map(|endpoint| cluster::shown(endpoint)).collect()
}

/// Answers a request for `/endpoints/NAME`.
pub(super) async fn answer(door: &Door, session: &mut ServerSession, method: &Method, name: &str) -> Response<Vec<u8>> {
    let generation = door.shared.generation();
    let Some(cluster) = generation.clusters.get(name) else {
        return refuse(
            404,
            &Trouble::new("the path", format!("there is no cluster \"{name}\""), "GET /endpoints lists them"),
        );
    };
    match *method {
        Method::GET | Method::HEAD => {}
        Method::PUT => {
            let body = match super::filters::body(session, BODY_BYTES_MAX).await {
                Ok(body) => body,
                Err(declined) => return refuse(declined.status, &declined.trouble),
            };
            match read(&body) {
                Ok(endpoints) => cluster.announce(SOURCE, endpoints),
                Err(what) => {
                    let advice = "send a JSON array of \"host:port\" or {\"address\": \"host:port\", \"weight\": 2, …}";
                    return refuse(400, &Trouble::new("the body", what, advice));
                }
            }
        }
        Method::DELETE => cluster.retract(SOURCE),
        _ => {
            let what = format!("{method} is not for this page");
            let mut refused = refuse(405, &Trouble::new("the method", what, "use GET, PUT or DELETE"));
            refused.headers_mut().insert(http::header::ALLOW, http::HeaderValue::from_static("GET, PUT, DELETE"));
            return refused;
        }
    }
    json_page(&of(cluster))
}

fn read(body: &[u8]) -> Result<Vec<Announced>, String> {
    let endpoints: Vec<Announced> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    match endpoints.iter().find(|endpoint| !crate::check::is_host_and_port(&endpoint.address)) {
        Some(wrong) => Err(format!("\"{}\" is no endpoint: write host:port", wrong.address)),
        None => Ok(endpoints),
    }
}

fn refuse(status: u16, trouble: &Trouble) -> Response<Vec<u8>> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    page(status, "application/json", json!({ "error": trouble }).to_string().into_bytes())
}
