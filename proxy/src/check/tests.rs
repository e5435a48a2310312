//! What a configuration that is wrong is told: file, line, column, sentence, hint. Each case is a whole file.

use std::path::PathBuf;

use crate::config::load_source;
use crate::config::source::Source;

/// A file that is right, for cases to spoil: one replacement each.
const GOOD: &str = r#"[[listener]]
address = "127.0.0.1:8080"

[admin]
address = "127.0.0.1:9901"

[identity]

[[identity.key]]
algorithm = "HS256"
file = "secret"

[cluster.egx]
endpoints = ["10.0.0.1:7000"]

[cluster.quotes]
endpoints = ["quotes.internal:9000"]

[filter.sharia]
module = "sharia.wasm"
on_failure = "deny"

[[route]]
name = "markets"
path = "/ws"
filters = ["sharia"]
channel = { EGX = "egx" }

[[route]]
name = "quotes"
path = "/quotes/*"
relay = { cluster = "quotes", http = true }
"#;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bawaba-check-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("secret"), "0123456789abcdef0123456789abcdef\n").unwrap();
        std::fs::write(path.join("sharia.wasm"), b"\0asm\x01\0\0\0").unwrap();
        std::fs::write(path.join("text.wasm"), b"no module").unwrap();
        Self(path)
    }

    /// Every problem, as people read it, without the directory.
    fn problems(&self, text: &str) -> Vec<String> {
        let file = self.0.join("edge.toml");
        let problems = match load_source(Source::of_text(&file.display().to_string(), text)) {
            Ok(loaded) => loaded.warnings,
            Err(problems) => problems,
        };
        let directory = format!("{}/", self.0.display());
        problems.iter().map(|problem| problem.to_string().replace(&directory, "")).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[test]
fn a_file_that_is_right_is_told_nothing() {
    assert_eq!(Scratch::new("good").problems(GOOD), [""; 0]);
}

#[test]
fn every_mistake_is_told_where_it_is_and_what_to_do() {
    let scratch = Scratch::new("mistakes");
    let mut wrong = Vec::new();
    for (from, to, expected) in [
        (
            "[admin]\naddress",
            "[admin]\nadress",
            "edge.toml:5:1: error: unknown key \"adress\"\n  hint: did you mean \"address\"?",
        ),
        (
            "on_failure = \"deny\"\n",
            "",
            "edge.toml:19:1: error: the key \"on_failure\" is missing\n  hint: write on_failure = \"deny\" (what the filter could not judge is refused) or \"allow\" (it passes)",
        ),
        ("\"deny\"", "\"dny\"", "edge.toml:21:14: error: unknown value \"dny\"\n  hint: did you mean \"deny\"?"),
        (
            "\"deny\"",
            "\"allow\"",
            "edge.toml:21:1: error: sharia may not pass what it could not judge\n  hint: write on_failure = \"deny\"",
        ),
        (
            "\"sharia.wasm\"",
            "\"text.wasm\"",
            "edge.toml:20:1: error: text.wasm is no WebAssembly module\n  hint: scripts/build-filters writes the modules to target/filters",
        ),
        (
            "\"sharia.wasm\"",
            "\"missing.wasm\"",
            "edge.toml:20:1: error: missing.wasm cannot be read: No such file or directory (os error 2)",
        ),
        (
            "[\"sharia\"]",
            "[\"shariah\"]",
            "edge.toml:26:12: error: there is no filter \"shariah\"\n  hint: did you mean \"sharia\"?",
        ),
        (
            "{ EGX = \"egx\" }",
            "{ EGX = \"egxx\" }",
            "edge.toml:27:13: error: there is no cluster \"egxx\"\n  hint: did you mean \"egx\"?",
        ),
        (
            "{ EGX = \"egx\" }",
            "{ \"E X\" = \"egx\" }",
            "edge.toml:27:13: error: \"E X\" is no exchange: a symbol or exchange has 1 to 12 characters from A-Z, 0-9, '.', '_' and '-'",
        ),
        (
            "relay = { cluster = \"quotes\", http = true }",
            "",
            "edge.toml:29:1: error: route \"quotes\" must say where it leads: exactly one of channel and relay\n  hint: channel = { EGX = \"cluster\" } for our protocol, relay = { cluster = \"cluster\" } for an existing service",
        ),
        (
            "path = \"/quotes/*\"",
            "path = \"/quotes/*\"\nfilters = [\"sharia\"]",
            "edge.toml:33:31: error: filters do not judge plain HTTP yet, so a route with filters cannot let it pass\n  hint: remove http = true, or give plain HTTP a route of its own without filters",
        ),
        (
            "\"/quotes/*\"",
            "\"/quo*tes\"",
            "edge.toml:31:1: error: \"/quo*tes\" is no route path\n  hint: write an exact path (\"/ws\") or a prefix that ends in * (\"/api/*\")",
        ),
        (
            "\"10.0.0.1:7000\"",
            "\"10.0.0.1\"",
            "edge.toml:14:14: error: \"10.0.0.1\" is no endpoint\n  hint: write host:port, such as \"10.0.0.5:7000\" or \"egx-1.internal:7000\"",
        ),
        (
            "algorithm = \"HS256\"",
            "algorithm = \"HS384\"",
            "edge.toml:10:1: error: unknown algorithm \"HS384\": it must be HS256, RS256, ES256 or EdDSA",
        ),
        (
            "[[identity.key]]\nalgorithm = \"HS256\"\nfile = \"secret\"\n",
            "",
            "edge.toml:7:2: error: there is no key, but routes require tokens\n  hint: add [[identity.key]] with algorithm and file, or identity.jwks_file",
        ),
        (
            "[identity]\n",
            "[timeouts]\nping_interval = \"1x\"\n\n[identity]\n",
            "edge.toml:8:17: error: \"1x\" is no duration: write a whole number and a unit, such as \"250ms\", \"10s\", \"5m\" or \"1h\"",
        ),
        (
            "[identity]\n",
            "[timeouts]\nping_interval = \"60s\"\n\n[identity]\n",
            "edge.toml:8:1: error: ping_interval (60s) is not shorter than heartbeat (60s): every quiet client would be closed with 4408\n  hint: set heartbeat to about three times ping_interval",
        ),
        (
            "[identity]\n",
            "[limits]\nsessions_max = 0\n\n[identity]\n",
            "edge.toml:8:1: error: sessions_max is 0: nothing could pass",
        ),
        (
            "127.0.0.1:9901",
            "8.8.8.8:9901",
            "edge.toml:5:1: warning: the admin listener is open to other networks at 8.8.8.8:9901\n  hint: bind it to a loopback or private address: it tells names, endpoints and configuration without a password",
        ),
        ("127.0.0.1:9901", "127.0.0.1:8080", "edge.toml:5:1: error: 127.0.0.1:8080 is also a public listener"),
        (
            "filters = [\"sharia\"]\n",
            "",
            "edge.toml:19:9: warning: no route uses filter \"sharia\": it judges nothing\n  hint: name it in the filters of a route",
        ),
        (
            "on_failure = \"deny\"\n",
            "on_failure = \"deny\"\nshadow = {}\n",
            "edge.toml:22:1: error: the candidate is the same as the filter\n  hint: give it a module, settings or settings_file of its own",
        ),
        (
            "on_failure = \"deny\"\n",
            "on_failure = \"deny\"\nshadow = { settings = {} }\ncanary = { settings = {} }\n",
            "edge.toml:23:1: error: a filter has one candidate: it is a shadow or a canary\n  hint: shadow it first, and make it a canary once its differences are explained",
        ),
        (
            "on_failure = \"deny\"\n",
            "on_failure = \"deny\"\ncanary = { module = \"text.wasm\" }\n",
            "edge.toml:22:12: error: text.wasm is no WebAssembly module\n  hint: scripts/build-filters writes the modules to target/filters",
        ),
        (
            "on_failure = \"deny\"\n",
            "on_failure = \"deny\"\ncanary = { settings = {}, percent = 100 }\n",
            "edge.toml:22:27: error: percent must lie between 1 and 99\n  hint: for all sessions, make it the filter's module",
        ),
        (
            "on_failure = \"deny\"\n",
            "on_failure = \"deny\"\nsignature_key = \"secret\"\n",
            "edge.toml:22:1: error: secret holds no ed25519 public key (PEM): openssl pkey -in KEY -pubout writes one",
        ),
        (
            "[identity]\n",
            "[usage]\nfile = \"usage.redb\"\ntime_zone = \"Africa/Kairo\"\n\n[identity]\n",
            "edge.toml:9:1: error: no time zone is called \"Africa/Kairo\"\n  hint: write an IANA name such as \"Africa/Cairo\" or \"Asia/Dubai\"",
        ),
        (
            "[identity]\n",
            "[usage]\nfile = \"usage.redb\"\nqueue_max = 8\n\n[identity]\n",
            "edge.toml:9:1: error: queue_max must be at least 16: a session writes several records",
        ),
        ("name = \"quotes\"", "name = \"markets\"", "edge.toml:30:1: error: there are two routes named \"markets\""),
        ("[identity]\n", "[identity\n", "edge.toml:7:10: error: unclosed table, expected `]`"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let problems = scratch.problems(&GOOD.replacen(from, to, 1));
        if problems != [expected] {
            wrong.push(format!("{from} -> {to}\n  told:     {problems:?}\n  expected: {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_mistakes_are_told_at_once() {
    let scratch = Scratch::new("all");
    let unknown = GOOD.replace("name =", "nam =").replace("[admin]", "[admn]");
    let problems = scratch.problems(&unknown);
    assert_eq!(problems.iter().filter(|problem| problem.contains("unknown key")).count(), 3, "{problems:#?}");
    let meanings =
        GOOD.replace("[\"sharia\"]", "[\"nothing\"]").replace("10.0.0.1:7000", "here").replace("\"/ws\"", "\"ws\"");
    let problems = scratch.problems(&meanings);
    assert!(problems.iter().filter(|problem| problem.contains(": error: ")).count() >= 3, "{problems:#?}");
}

#[test]
fn a_digest_holds_a_filter_to_the_module_that_was_approved() {
    let scratch = Scratch::new("digest");
    let with = |digest: &str| GOOD.replace("on_failure", &format!("digest = \"{digest}\"\non_failure"));
    let actual = "93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476";
    assert_eq!(scratch.problems(&with(actual)), [""; 0]);
    let other = format!("0{}", &actual[1..]);
    let problems = scratch.problems(&with(&other));
    assert!(problems[0].contains(&format!("its sha-256 is {actual}")), "{problems:?}");
    assert!(scratch.problems(&with("abc"))[0].contains("64 hexadecimal digits"));
}
