//! The rules, each with the reason why Envoy takes what is wrong without complaint.

use std::rc::Rc;

use bawaba_channels::wire::CLAIMS_HEADER;

use super::yaml::Node;
use super::{Lint, typed};

/// A filter of an HTTP chain.
struct Link<'a> {
    name: &'a str,
    kind: Kind,
    node: &'a Node,
}

#[derive(PartialEq, Eq)]
enum Kind {
    Wasm,
    Authentication,
    Other,
}

fn chain(node: Option<&Rc<Node>>) -> Vec<Link<'_>> {
    let items = node.map_or(&[][..], |node| node.items());
    items.iter().map(|item| link(item)).collect()
}

fn link(node: &Node) -> Link<'_> {
    let own = node.get("typed_config").and_then(|config| typed(config)).map(|(kind, _)| kind);
    let discovered = node.find(&["config_discovery", "type_urls"]).and_then(|urls| urls.items().first()?.text());
    let kind = match own.or(discovered).map(|kind| kind.rsplit('.').next().unwrap_or(kind)) {
        Some("Wasm") => Kind::Wasm,
        Some("JwtAuthentication") => Kind::Authentication,
        _ => Kind::Other,
    };
    Link { name: node.text_at(&["name"]).unwrap_or("(no name)"), kind, node }
}

impl Lint {
    /// A connection manager: which chain do its WebSockets take, and what does that chain hold?
    pub(super) fn connection_manager(&mut self, manager: &Node, path: &str) {
        let http = chain(manager.get("http_filters"));
        let upgrades = manager.get("upgrade_configs").map_or(&[][..], |node| node.items());
        let mut opens = false;
        for (index, upgrade) in upgrades.iter().enumerate() {
            let is_websocket =
                upgrade.text_at(&["upgrade_type"]).is_some_and(|kind| kind.eq_ignore_ascii_case("websocket"));
            if !is_websocket || upgrade.text_at(&["enabled"]) == Some("false") {
                continue;
            }
            opens = true;
            let own = chain(upgrade.get("filters"));
            let path = format!("{path}.upgrade_configs[{index}]");
            if own.is_empty() {
                self.judged(&http, upgrade, &path);
            } else {
                self.skipped(&http, &own, upgrade, &path);
                self.judged(&own, upgrade, &path);
            }
        }
        let has_filters = http.iter().any(|link| link.kind == Kind::Wasm);
        if opens {
            self.doors += 1;
        } else if has_filters {
            self.warning(
                manager.at,
                path,
                "no WebSocket opens here: upgrade_configs has no entry for websocket",
                "add upgrade_configs with upgrade_type: websocket, and the filters in its own chain",
            );
        }
        if has_filters {
            self.authenticated(&http, &format!("{path}.http_filters"));
        }
        if opens || has_filters {
            self.stripped(manager, path);
        }
        if opens {
            self.idle(manager, path);
            if let Some(routes) = manager.get("route_config") {
                self.routes(routes, &format!("{path}.route_config"));
            }
        }
    }

    /// A chain of its own in `upgrade_configs` takes the place of `http_filters`: what stands only there is skipped.
    fn skipped(&mut self, http: &[Link<'_>], own: &[Link<'_>], upgrade: &Node, path: &str) {
        let at = upgrade.get("filters").map_or(upgrade.at, |node| node.at);
        for link in http.iter().filter(|link| link.kind == Kind::Wasm) {
            if !own.iter().any(|other| other.kind == Kind::Wasm && other.name == link.name) {
                self.error(
                    at,
                    &format!("{path}.filters"),
                    format!(
                        "the filter \"{}\" stands in http_filters only: WebSockets take this chain and skip it",
                        link.name
                    ),
                    "put it into this chain too, in front of envoy.filters.http.router",
                );
            }
        }
    }

    /// The chain that WebSockets take.
    fn judged(&mut self, chain: &[Link<'_>], upgrade: &Node, path: &str) {
        if chain.iter().any(|link| link.kind == Kind::Wasm) {
            return self.authenticated(chain, &format!("{path}.filters"));
        }
        self.error(
            upgrade.at,
            path,
            "no proxy-wasm filter stands in the chain that WebSockets take: nothing is judged",
            "put the filters into upgrade_configs[].filters, in front of envoy.filters.http.router",
        );
    }

    /// Filters know of a user only what `jwt_authn` verified and wrote into the claims header, so it comes first.
    fn authenticated(&mut self, chain: &[Link<'_>], path: &str) {
        let Some(first) = chain.iter().position(|link| link.kind == Kind::Wasm) else { return };
        let Some(jwt) = chain[..first].iter().find(|link| link.kind == Kind::Authentication) else {
            let late = chain.iter().any(|link| link.kind == Kind::Authentication);
            let what = if late { "stands behind it" } else { "is missing" };
            return self.error(
                chain[first].node.at,
                path,
                format!("no token is checked before the filter \"{}\": jwt_authn {what}", chain[first].name),
                "put envoy.filters.http.jwt_authn first, with forward_payload_header: x-bawaba-claims",
            );
        };
        let Some((_, config)) = jwt.node.get("typed_config").and_then(|config| typed(config)) else { return };
        let providers = config.get("providers").map_or(&[][..], |node| node.entries());
        for (name, at, provider) in providers {
            let header = provider.text_at(&["forward_payload_header"]);
            if !header.is_some_and(|header| header.eq_ignore_ascii_case(CLAIMS_HEADER)) {
                self.error(
                    *at,
                    &format!("{path}[{}].providers.{name}", jwt.name),
                    "the verified claims do not reach the filters",
                    format!("write forward_payload_header: {CLAIMS_HEADER}"),
                );
            }
        }
        if config.get("rules").is_none_or(|rules| rules.items().is_empty()) {
            self.error(
                jwt.node.at,
                path,
                "jwt_authn has no rules: it lets every request through unverified",
                "add rules with match: { prefix: / } and requires",
            );
        }
    }

    /// Clients must not bring claims of their own: `jwt_authn` overwrites them only where it runs.
    fn stripped(&mut self, manager: &Node, path: &str) {
        let extensions = manager.get("early_header_mutation_extensions").map_or(&[][..], |node| node.items());
        let mut mutations = extensions
            .iter()
            .filter_map(|extension| Some(typed(extension.get("typed_config")?)?.1.get("mutations")?.items()))
            .flatten();
        if mutations.any(|mutation| removes_claims(mutation)) {
            return;
        }
        self.error(
            manager.at,
            path,
            format!("a client may bring its own {CLAIMS_HEADER}: nothing removes it before the filters read it"),
            "add early_header_mutation_extensions with remove_on_match: { key_matcher: { prefix: x-bawaba- } }",
        );
    }

    /// The default of five minutes ends quiet WebSockets.
    fn idle(&mut self, manager: &Node, path: &str) {
        if manager.get("stream_idle_timeout").is_none() {
            self.warning(
                manager.at,
                path,
                "stream_idle_timeout is not set: a WebSocket without traffic ends after five minutes",
                "set it above the server's ping interval, such as stream_idle_timeout: 90s",
            );
        }
    }

    /// A route's timeout counts until the answer has ended, which a WebSocket's does only with it: 15 s by default.
    pub(super) fn routes(&mut self, routes: &Node, path: &str) {
        let hosts = routes.get("virtual_hosts").map_or(&[][..], |node| node.items());
        for (h, host) in hosts.iter().enumerate() {
            let routes = host.get("routes").map_or(&[][..], |node| node.items());
            for (r, route) in routes.iter().enumerate() {
                let path = format!("{path}.virtual_hosts[{h}].routes[{r}]");
                self.unfiltered(route, &path);
                let Some(action) = route.get("route") else { continue };
                let refuses = action.get("upgrade_configs").is_some_and(|upgrades| {
                    upgrades.items().iter().any(|upgrade| upgrade.text_at(&["enabled"]) == Some("false"))
                });
                let timeout = action.text_at(&["timeout"]);
                if refuses || timeout.is_some_and(is_zero) {
                    continue;
                }
                let what = match timeout {
                    Some(timeout) => format!("the route ends every WebSocket after {timeout}"),
                    None => "the route has no timeout: Envoy's default of 15s ends WebSockets".to_owned(),
                };
                self.error(action.at, &format!("{path}.route"), what, "write timeout: 0s");
            }
        }
    }

    /// A route may switch filters off for itself.
    fn unfiltered(&mut self, route: &Node, path: &str) {
        let overrides = route.get("typed_per_filter_config").map_or(&[][..], |node| node.entries());
        for (name, at, config) in overrides {
            if config.text_at(&["disabled"]) == Some("true") {
                self.error(
                    *at,
                    &format!("{path}.typed_per_filter_config.{name}"),
                    format!("this route switches \"{name}\" off"),
                    "remove it, or give what needs no filter a listener of its own",
                );
            }
        }
    }

    /// One proxy-wasm filter: what happens when it fails, and how a new module reaches it.
    pub(super) fn filter(&mut self, filter: &Node, path: &str) {
        self.filters.insert(filter.at);
        let Some(config) = filter.get("config") else { return };
        let path = &format!("{path}.config");
        let name = config.text_at(&["name"]).unwrap_or("(no name)");
        let policy = config.get("failure_policy");
        let at = policy.map_or(config.at, |node| node.at);
        let opens = config.get("fail_open").filter(|node| node.text() == Some("true"));
        match policy.and_then(|node| node.text()) {
            _ if opens.is_some() => self.fails_open(opens.map_or(at, |node| node.at), path, name),
            Some("FAIL_OPEN" | "3") => self.fails_open(at, path, name),
            Some("FAIL_RELOAD" | "1") => {}
            _ => self.error(
                at,
                path,
                format!("after one trap the filter \"{name}\" refuses everything with 503 until somebody reloads it"),
                "write failure_policy: FAIL_RELOAD",
            ),
        }
        let module = config.find(&["vm_config", "code", "local", "filename"]);
        if let Some(module) = module
            && let Some(file) = module.text()
            && !is_versioned(file)
        {
            self.error(
                module.at,
                &format!("{path}.vm_config.code.local.filename"),
                format!("\"{file}\" names no version: Envoy does not notice a file rewritten under the same name"),
                "put the version or the module's digest into the file's name, such as sharia-3f9c2ab1.wasm",
            );
        }
    }

    fn fails_open(&mut self, at: super::At, path: &str, name: &str) {
        self.error(
            at,
            path,
            format!("when the filter \"{name}\" fails, everything passes unjudged"),
            "write failure_policy: FAIL_RELOAD",
        );
    }
}

/// Whether a header mutation takes the claims header out of requests.
fn removes_claims(mutation: &Node) -> bool {
    if mutation.text_at(&["remove"]).is_some_and(|name| name.eq_ignore_ascii_case(CLAIMS_HEADER)) {
        return true;
    }
    let Some(matcher) = mutation.find(&["remove_on_match", "key_matcher"]) else { return false };
    let text = |key| matcher.text_at(&[key]).map(str::to_ascii_lowercase);
    text("exact").is_some_and(|name| name == CLAIMS_HEADER)
        || text("prefix").is_some_and(|prefix| CLAIMS_HEADER.starts_with(&prefix))
        || text("suffix").is_some_and(|suffix| CLAIMS_HEADER.ends_with(&suffix))
        || text("contains").is_some_and(|part| CLAIMS_HEADER.contains(&part))
}

/// `0s`, `0`, `0.0s`.
fn is_zero(duration: &str) -> bool {
    duration.trim_end_matches('s').parse::<f64>().is_ok_and(|seconds| seconds == 0.0)
}

/// Whether a file's name, or the directory it lies in, tells one version from the next: a digest, or a number.
fn is_versioned(file: &str) -> bool {
    let mut parts = file.rsplit('/');
    let name = parts.next().unwrap_or(file);
    let is_digest = |part: &str| {
        part.len() >= 7 && part.bytes().all(|b| b.is_ascii_hexdigit()) && part.bytes().any(|b| b.is_ascii_digit())
    };
    let is_number = |part: &str| {
        let number = part.strip_prefix(['v', 'V']).unwrap_or(part);
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    };
    let stem = name.strip_suffix(".wasm").unwrap_or(name);
    stem.split(['-', '_', '.', '@']).skip(1).any(|part| is_digest(part) || is_number(part))
        || is_digest(stem)
        || parts.next().is_some_and(is_digest)
}
