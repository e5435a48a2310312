//! `bawaba demo` leaves nothing behind, however it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::path::PathBuf;
use std::process::Command;

use bawaba_tests::place::{binary, filter};
use bawaba_tests::process::Process;
use bawaba_tests::stack::path;
use bawaba_tests::{PATIENCE, by, until};
use rustix::process::Signal;

fn demo() -> Process {
    let filters = filter("sharia").parent().unwrap().to_owned();
    let mut command = Command::new(binary("bawaba"));
    command.args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--filters", &path(&filters)]);
    Process::spawn("bawaba demo", &mut command)
}

/// The processes that `parent` started, by their ids.
fn children(parent: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    children.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

/// Where it keeps its files.
fn directory(demo: &Process) -> PathBuf {
    std::env::temp_dir().join(format!("bawaba-demo-{}", demo.pid()))
}

/// Whether a channel server runs under this id: another program may have it since.
fn is_server(pid: &u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains("(bawaba-channel)") && !stat.contains(") Z ")
}

fn all_end(law: &str, servers: &[u32]) {
    until(law, by(PATIENCE), || (!servers.iter().any(is_server)).then_some(()));
}

#[test]
fn a_demo_that_is_killed_while_it_starts_leaves_no_server_running() {
    for started in 1..=3 {
        let mut demo = demo();
        let servers = until("servers are started", by(PATIENCE), || {
            let servers = children(demo.pid());
            (servers.len() >= started).then_some(servers)
        });
        demo.kill();
        all_end("its servers have ended", &servers);
        let _ = std::fs::remove_dir_all(directory(&demo));
    }
}

#[test]
fn a_demo_that_runs_ends_with_all_of_it_on_every_signal() {
    // All at once: each builds its filters.
    let demos = [Signal::INT, Signal::TERM, Signal::KILL].map(|signal| (signal, demo()));
    for (signal, mut demo) in demos {
        demo.line("saying that it listens", by(PATIENCE), |line| line.contains("end with Ctrl-C").then_some(()));
        let servers = children(demo.pid());
        assert_eq!(servers.len(), 3);
        let directory = directory(&demo);
        assert!(directory.is_dir());
        demo.signal(signal);
        demo.ended(by(PATIENCE));
        all_end("its servers have ended", &servers);
        // Who is killed cannot tidy up.
        assert_eq!(directory.exists(), signal == Signal::KILL);
        let _ = std::fs::remove_dir_all(directory);
    }
}

#[test]
fn a_demo_that_is_interrupted_while_it_starts_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut demo = demo();
        let servers =
            until("a server is started", by(PATIENCE), || Some(children(demo.pid())).filter(|s| !s.is_empty()));
        demo.signal(signal);
        demo.ended(by(PATIENCE));
        all_end("its servers have ended", &servers);
        assert!(!directory(&demo).exists(), "its files are gone");
    }
}
