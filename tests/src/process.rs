//! A child process whose output is kept, waited on by line, and shown when its test fails.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::{Deadline, PATIENCE, by};

/// Lines shown of a process's output when its test fails.
const SHOWN_LINES: usize = 200;

#[derive(Default)]
struct Output {
    lines: Vec<String>,
    /// Streams (stdout, stderr) that have not ended.
    open: u8,
}

type Shared = Arc<(Mutex<Output>, Condvar)>;

/// A running child. Killed by its own pid, and reaped, when it goes out of scope.
pub struct Process {
    name: String,
    child: Child,
    output: Shared,
    readers: Vec<JoinHandle<()>>,
    started: Instant,
}

impl Process {
    /// Starts `command` with its output captured; `name` is what failures call it.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}: {command:?}"));
        let output = Shared::default();
        output.0.lock().unwrap().open = 2;
        let readers = vec![
            follow(child.stdout.take().expect("stdout is piped"), &output),
            follow(child.stderr.take().expect("stderr is piped"), &output),
        ];
        Self { name: name.into(), child, output, readers, started: Instant::now() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Waits until `find` finds something in a line that the process has written or writes, on either stream.
    ///
    /// Panics, with the output, if the process ends or the deadline passes first.
    pub fn line<T>(&self, what: &str, deadline: Deadline, find: impl Fn(&str) -> Option<T>) -> T {
        let (lock, more) = &*self.output;
        let mut output = lock.lock().unwrap();
        let mut looked = 0;
        loop {
            if let Some(found) = output.lines[looked..].iter().find_map(|line| find(line)) {
                return found;
            }
            looked = output.lines.len();
            let left = deadline.left();
            let (Some(left), true) = (left, output.open > 0) else {
                let ended = if output.open == 0 { "ended" } else { "went on" };
                let shown = output.lines.join("\n");
                drop(output);
                panic!("{} {ended} without {what}:\n{shown}", self.name);
            };
            output = more.wait_timeout(output, left).unwrap().0;
        }
    }

    /// Waits for a line `…listening on ADDRESS`, and returns the address.
    pub fn listening(&self) -> std::net::SocketAddr {
        self.line("saying where it listens", by(PATIENCE), |line| address_after(line, "listening on "))
    }

    /// Everything that it has written so far.
    pub fn output(&self) -> String {
        self.output.0.lock().unwrap().lines.join("\n")
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Kills it as a crash would (SIGKILL), and reaps it.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Sends a signal to this process, by its pid.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _ = kill_process(pid.expect("a child has a pid"), signal);
    }

    /// Waits for it to end: its status and its whole output.
    pub fn ended(&mut self, deadline: Deadline) -> (ExitStatus, String) {
        let (lock, more) = &*self.output;
        let mut output = lock.lock().unwrap();
        while output.open > 0 {
            let Some(left) = deadline.left() else {
                let shown = output.lines.join("\n");
                drop(output);
                panic!("{} did not end in time:\n{shown}", self.name);
            };
            output = more.wait_timeout(output, left).unwrap().0;
        }
        let text = output.lines.join("\n");
        drop(output);
        (self.child.wait().expect("a child can be waited for"), text)
    }

    /// CPU time it has used, user and system, from `/proc`, in seconds. Resolution: one kernel tick (10 ms).
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.pid())
    }

    /// Resident memory, in bytes, from `/proc`.
    pub fn resident_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * rustix::param::page_size() as u64
    }
}

/// CPU time of a process, user and system, in seconds.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second field is the name, in parentheses, and may hold spaces: count from behind it.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// The socket address that follows `mark` in `line`.
pub fn address_after(line: &str, mark: &str) -> Option<std::net::SocketAddr> {
    let rest = line.split_once(mark)?.1;
    let legal = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '[' | ']');
    let end = rest.find(|c| !legal(c)).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

fn follow(stream: impl Read + Send + 'static, output: &Shared) -> JoinHandle<()> {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(lines.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            output.0.lock().unwrap().lines.push(text);
            output.1.notify_all();
        }
        output.0.lock().unwrap().open -= 1;
        output.1.notify_all();
    })
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        if std::thread::panicking() {
            let output = self.output.0.lock().unwrap();
            let from = output.lines.len().saturating_sub(SHOWN_LINES);
            eprintln!("--- {} (last {SHOWN_LINES} lines)", self.name);
            for line in &output.lines[from..] {
                eprintln!("{line}");
            }
        }
    }
}
