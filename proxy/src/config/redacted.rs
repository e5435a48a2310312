//! The configuration as operators may see it. Secrets live in files, of which only the names are told; filter
//! settings may hold anything, so only their keys are.

use serde_json::{Value, json};

use super::Config;

impl Config {
    /// As JSON, without anything that could be a secret.
    pub fn redacted(&self) -> Value {
        let seconds = |duration: std::time::Duration| duration.as_secs_f64();
        let (limits, timeouts) = (&self.limits, &self.timeouts);
        json!({
            "edge": {
                "name": self.edge.name, "workers": self.edge.workers, "log_format": self.edge.log_format,
                "drain_window_s": seconds(self.edge.drain_window),
                "state_directory": self.edge.state_directory.as_ref().map(|path| path.display().to_string()),
                "revisions_kept_max": self.edge.revisions_kept_max,
            },
            "listener": self.listener.iter().map(|listener| json!({
                "address": listener.address.to_string(), "tls": listener.tls.is_some(), "h2c": listener.h2c,
            })).collect::<Vec<_>>(),
            "identity": {
                "keys": self.identity.key.iter().map(|key| json!({
                    "kid": key.kid, "algorithm": key.algorithm, "file": key.file.display().to_string(),
                })).collect::<Vec<_>>(),
                "jwks_file": self.identity.jwks_file.as_ref().map(|file| file.display().to_string()),
                "issuer": self.identity.issuer, "audience": self.identity.audience,
                "leeway_s": seconds(self.identity.leeway),
            },
            "limits": {
                "sessions_max": limits.sessions_max,
                "sessions_per_address_max": limits.sessions_per_address_max,
                "handshakes_max": limits.handshakes_max,
                "request_head_bytes_max": limits.request_head_bytes_max,
                "message_bytes_max": limits.message_bytes_max,
                "relay_message_bytes_max": limits.relay_message_bytes_max,
                "outbox_bytes_max": limits.outbox_bytes_max,
                "log_bytes_max": limits.log_bytes_max,
                "symbols_per_session_max": limits.symbols_per_session_max,
            },
            "timeouts": {
                "request_head_s": seconds(timeouts.request_head), "connect_s": seconds(timeouts.connect),
                "ping_interval_s": seconds(timeouts.ping_interval), "heartbeat_s": seconds(timeouts.heartbeat),
                "close_s": seconds(timeouts.close), "relay_idle_s": seconds(timeouts.relay_idle),
                "write_stall_s": seconds(timeouts.write_stall),
            },
            "cluster": self.cluster.iter().map(|(name, cluster)| (name.clone(), json!({
                "endpoints": cluster.endpoints, "path": cluster.path, "health_path": cluster.health.path,
            }))).collect::<serde_json::Map<_, _>>(),
            "filter": self.filter.iter().map(|(name, filter)| (name.clone(), json!({
                "module": filter.module.display().to_string(),
                "settings": filter.settings.keys().collect::<Vec<_>>(),
                "settings_file": filter.settings_file.as_ref().map(|file| file.display().to_string()),
                "digest": filter.digest,
                "signature_key": filter.signature_key.as_ref().map(|file| file.display().to_string()),
                "callback_budget_s": seconds(filter.callback_budget), "memory_bytes_max": filter.memory_bytes_max,
                "shadow": filter.shadow.is_some(), "canary_percent": filter.canary.as_ref().map(|canary| canary.percent),
            }))).collect::<serde_json::Map<_, _>>(),
            "route": self.route.iter().map(|route| json!({
                "name": route.name, "host": route.host, "path": route.path, "filters": route.filters,
                "authenticate": route.authenticate, "origins": route.origins, "channel": route.channel,
                "relay": route.relay.as_ref().map(|relay| json!({"cluster": relay.cluster, "http": relay.http})),
            })).collect::<Vec<_>>(),
        })
    }
}
