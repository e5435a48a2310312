//! The cases that a module brings, held without a host: the file that `policy!(…, cases = "cases.json")` puts into the
//! module, and that a host holds it to before it judges.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Trial;
use crate::policy::Policy;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    law: String,
    #[serde(default)]
    settings: Map<String, Value>,
    claims: Option<Value>,
    refused: Option<Refused>,
    #[serde(default)]
    turns: Vec<Say>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    status: u16,
    code: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Say {
    client: Option<Value>,
    server: Option<Value>,
    to_server: Option<Vec<Value>>,
    to_client: Option<Vec<Value>>,
    closed: Option<u16>,
}

/// Holds policy `P` to its cases (a JSON array, see `docs/author-a-policy.md`).
///
/// # Panics
/// With the law of the first case that does not hold, and what came instead.
pub fn hold<P: Policy>(cases: &str) {
    let cases: Vec<Case> = serde_json::from_str(cases).expect("a JSON array of cases");
    for case in &cases {
        let law = &case.law;
        let settings = Value::from(case.settings.clone()).to_string();
        let claims = case.claims.as_ref().map(Value::to_string);
        let mut trial = match (Trial::<P>::open(&settings, claims.as_deref()), &case.refused) {
            (Ok(trial), None) => trial,
            (Ok(_), Some(_)) => panic!("{law}: the handshake passes"),
            (Err(answer), Some(refused)) => {
                let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                let code = body["code"].as_str();
                let is_code = refused.code.is_none() || refused.code.as_deref() == code;
                assert!(answer.status == refused.status && is_code, "{law}: refused with {} {body}", answer.status);
                continue;
            }
            (Err(answer), None) => panic!("{law}: the handshake is refused with {}", answer.status),
        };
        for (index, say) in case.turns.iter().enumerate() {
            let turn = match (&say.client, &say.server) {
                (Some(message), None) => trial.client_sends(&message.to_string()),
                (None, Some(message)) => trial.backend_sends(&message.to_string()),
                _ => panic!("{law}: exactly one of client and server speaks in a turn"),
            };
            let place = index + 1;
            for (who, wanted, found) in
                [("server", &say.to_server, &turn.backend), ("client", &say.to_client, &turn.client)]
            {
                let Some(wanted) = wanted else { continue };
                let same =
                    wanted.len() == found.len() && wanted.iter().zip(found).all(|(wanted, found)| holds(found, wanted));
                assert!(same, "{law}: turn {place}: the {who} gets {found:?}, and should get {wanted:?}");
            }
            assert_eq!(turn.closed, say.closed, "{law}: turn {place}: the code that the client is closed with");
        }
    }
}

/// Whether `found` has all that `wanted` has; of objects it may have more.
fn holds(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| found.get(key).is_some_and(|found| holds(found, wanted)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| holds(found, wanted))
        }
        _ => found == wanted,
    }
}
