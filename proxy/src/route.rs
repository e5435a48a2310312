//! Which route a request takes: the first whose host and path match.

use std::sync::Arc;

use crate::generation::{Generation, Route};

/// The route for `host` (without port) and `path` (without query).
pub fn find<'a>(generation: &'a Generation, host: &str, path: &str) -> Option<&'a Arc<Route>> {
    generation.routes.iter().find(|route| matches(route.settings.host.as_deref(), &route.settings.path, host, path))
}

fn matches(route_host: Option<&str>, route_path: &str, host: &str, path: &str) -> bool {
    let path_matches = match route_path.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == route_path,
    };
    path_matches && route_host.is_none_or(|wanted| wanted.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_path_is_exact_or_a_prefix_that_ends_in_a_star() {
        for (route_host, route_path, host, path, expected) in [
            (None, "/ws", "any", "/ws", true),
            (None, "/ws", "any", "/ws/", false),
            (None, "/ws", "any", "/wsx", false),
            (None, "/api/*", "any", "/api/orders", true),
            (None, "/api/*", "any", "/api", false),
            (None, "/*", "any", "/", true),
            (Some("Data.Example.com"), "/ws", "data.example.com", "/ws", true),
            (Some("data.example.com"), "/ws", "example.com", "/ws", false),
        ] {
            assert_eq!(matches(route_host, route_path, host, path), expected, "{route_path} {path} at {host}");
        }
    }
}
