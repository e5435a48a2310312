use super::*;

const SHIPPED: &str = include_str!("../../../envoy/envoy.yaml");

fn problems(text: &str) -> Vec<String> {
    check_text(Path::new("envoy.yaml"), text).problems.iter().map(ToString::to_string).collect()
}

/// The shipped file, broken in one place.
fn broken(from: &str, to: &str) -> String {
    assert!(SHIPPED.contains(from), "the shipped file no longer holds {from:?}");
    SHIPPED.replace(from, to)
}

#[test]
fn the_shipped_file_is_right() {
    let report = check_text(Path::new("envoy.yaml"), SHIPPED);
    assert_eq!(problems(SHIPPED), Vec::<String>::new());
    assert_eq!((report.filters, report.doors), (3, 1));
}

#[test]
fn each_way_past_the_filters_is_found_where_it_stands() {
    let strip = "remove_on_match: { key_matcher: { prefix: x-bawaba- } }";
    // What is changed, where the finding must stand (the text of that line), what it says, what to do.
    let table: Vec<(&str, String, &str, &str, &str)> = vec![
        (
            "a filter in the outer chain only",
            broken(
                "                http_filters:\n",
                "                http_filters:\n                  - name: audit\n                    typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm }\n",
            ),
            "- &authenticate",
            "\"audit\" stands in http_filters only",
            "put it into this chain too",
        ),
        (
            "fail open",
            broken("failure_policy: FAIL_RELOAD", "failure_policy: FAIL_OPEN"),
            "failure_policy: FAIL_OPEN",
            "when the filter \"license\" fails, everything passes unjudged",
            "failure_policy: FAIL_RELOAD",
        ),
        (
            "fail open, the old key",
            broken("failure_policy: FAIL_RELOAD", "fail_open: true"),
            "fail_open: true",
            "everything passes unjudged",
            "failure_policy: FAIL_RELOAD",
        ),
        (
            "fail closed",
            broken("failure_policy: FAIL_RELOAD", "failure_policy: FAIL_CLOSED"),
            "failure_policy: FAIL_CLOSED",
            "after one trap",
            "failure_policy: FAIL_RELOAD",
        ),
        (
            "no failure policy",
            broken("                            failure_policy: FAIL_RELOAD\n", ""),
            "name: license",
            "after one trap",
            "failure_policy: FAIL_RELOAD",
        ),
        (
            "claims from outside",
            broken(strip, "remove_on_match: { key_matcher: { prefix: x-other- } }"),
            "\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager",
            "a client may bring its own x-bawaba-claims",
            "early_header_mutation_extensions",
        ),
        (
            "no token check",
            broken("http.jwt_authn.v3.JwtAuthentication", "http.cors.v3.Cors"),
            "- name: bawaba.license",
            "no token is checked before the filter \"bawaba.license\": jwt_authn is missing",
            "put envoy.filters.http.jwt_authn first",
        ),
        (
            "claims that do not arrive",
            broken("forward_payload_header: x-bawaba-claims", "forward_payload_header: x-claims"),
            "header_or_query:",
            "the verified claims do not reach the filters",
            "forward_payload_header: x-bawaba-claims",
        ),
        (
            "a token check without rules",
            broken("                          rules:\n", "                          unused:\n"),
            "- &authenticate",
            "jwt_authn has no rules",
            "add rules",
        ),
        (
            "the default timeout",
            broken(
                "                        - match: { path: /ws }\n                          route:\n                            cluster: egx\n                            timeout: 0s\n",
                "                        - match: { path: /ws }\n                          route:\n                            cluster: egx\n",
            ),
            "cluster: egx",
            "Envoy's default of 15s",
            "timeout: 0s",
        ),
        (
            "a timeout",
            broken("timeout: 0s", "timeout: 60s"),
            "cluster: adx",
            "ends every WebSocket after 60s",
            "timeout: 0s",
        ),
        (
            "one name for every version",
            broken("filters/sharia-0.1.0.wasm", "filters/sharia.wasm"),
            "filters/sharia.wasm",
            "names no version",
            "digest into the file's name",
        ),
        (
            "a route without its filters",
            broken(
                "                        - match: { path: /ws }\n",
                "                        - match: { path: /ws }\n                          typed_per_filter_config:\n                            bawaba.sharia: { disabled: true }\n",
            ),
            "bawaba.sharia: { disabled: true }",
            "switches \"bawaba.sharia\" off",
            "remove it",
        ),
        (
            "no idle timeout",
            broken("                stream_idle_timeout: 90s\n", ""),
            "\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager",
            "warning: static_resources",
            "stream_idle_timeout: 90s",
        ),
        (
            "no filter where WebSockets pass",
            broken("http.wasm.v3.Wasm", "http.cors.v3.Cors"),
            "- upgrade_type: websocket",
            "nothing is judged",
            "upgrade_configs[].filters",
        ),
    ];
    for (case, text, line, says, hint) in &table {
        let report = check_text(Path::new("envoy.yaml"), text);
        let lines: Vec<&str> = text.lines().collect();
        let found = report.problems.iter().find(|problem| {
            let at = problem.at.and_then(|(at, _)| lines.get(at - 1));
            let shown = problem.to_string();
            at.is_some_and(|at| at.contains(line)) && shown.contains(says) && shown.contains(hint)
        });
        assert!(found.is_some(), "{case}: {:#?}", problems(text));
    }
}

#[test]
fn what_is_no_envoy_configuration_is_no_clean_one() {
    for (text, says) in
        [("", "no proxy-wasm filter"), ("a: [", "this is no YAML"), ("listeners: []", "no proxy-wasm filter")]
    {
        let found = problems(text);
        assert!(found.len() == 1 && found[0].contains(says) && found[0].contains("error"), "{text:?}: {found:?}");
    }
}

#[test]
fn a_filter_that_is_discovered_or_wrapped_counts_like_any_other() {
    let text = r#"
"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
http_filters:
  - name: discovered
    config_discovery: { type_urls: [type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm] }
upgrade_configs:
  - upgrade_type: WebSocket
    filters:
      - name: wrapped
        typed_config:
          "@type": type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
          value: { config: { name: wrapped, failure_policy: FAIL_OPEN } }
"#;
    let found = problems(text).join("\n");
    for says in
        ["\"discovered\" stands in http_filters only", "when the filter \"wrapped\" fails", "jwt_authn is missing"]
    {
        assert!(found.contains(says), "{says}: {found}");
    }
}

#[test]
fn a_version_in_the_name_is_a_digest_or_a_number() {
    for (file, versioned) in [
        ("/etc/sharia-0.1.0.wasm", true),
        ("/etc/sharia-v3.wasm", true),
        ("/etc/sharia.3f9c2ab1.wasm", true),
        ("/etc/3f9c2ab1/sharia.wasm", true),
        ("/etc/3f9c2ab1.wasm", true),
        ("/etc/sharia.wasm", false),
        ("/etc/bawaba-2/sharia.wasm", false),
        ("/etc/sharia-facade.wasm", false),
    ] {
        let text = SHIPPED.replace("/etc/bawaba/filters/sharia-0.1.0.wasm", file);
        assert_eq!(problems(&text).is_empty(), versioned, "{file}");
    }
}
