//! A server process that is killed when its handle goes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long any wait may last; only a failure comes near it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running `bawaba-channel serve`.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    /// Where operators talk to it, if it was asked to listen for them.
    pub(crate) admin: Option<String>,
    /// Lines of its log.
    log: Receiver<String>,
}

impl Server {
    /// Starts a server on a free port and waits for its one line.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bawaba-channel"))
            .arg("serve")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, log) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| drop(lines.send(line))));
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let mut admin = String::new();
        if arguments.contains(&"--admin") {
            stdout.read_line(&mut admin).unwrap();
        }
        let Some(address) = line.trim().strip_prefix("listening on ") else {
            let _ = child.kill();
            panic!("no address but {line:?}; log: {:?}", log.iter().collect::<Vec<_>>());
        };
        let admin = admin.trim().strip_prefix("admin on ").map(str::to_owned);
        Self { address: address.to_owned(), admin, child, log }
    }

    /// A simulation that trades always, from a fixed instant.
    pub(crate) fn simulated(exchange: &str, anchor: &str, more: &[&str]) -> Self {
        let mut arguments = vec!["--exchange", exchange, "--round-the-clock", "--anchor", anchor];
        arguments.extend(more);
        Self::start(&arguments)
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end of the process.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the process goes on");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Waits for a line of the log that holds `part`.
    pub(crate) fn logged(&self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.log.recv_timeout(left).unwrap_or_else(|_| panic!("never logged: {part}"));
            if line.contains(part) {
                return line;
            }
        }
    }

    /// The raw answer to raw bytes, read to its end.
    pub(crate) fn raw(&self, request: &str) -> String {
        Self::raw_at(&self.address, request)
    }

    /// An operator's request; the raw answer.
    pub(crate) fn operate(&self, method: &str, path: &str, token: &str, body: &str) -> String {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n");
        Self::raw_at(self.admin.as_ref().unwrap(), &format!("{head}Content-Length: {length}\r\n\r\n{body}"))
    }

    fn raw_at(address: &str, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A server that refuses early may close before everything is written.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) fn get(&self, path: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file that goes when the handle goes.
pub(crate) struct TempFile(pub(crate) PathBuf);

impl TempFile {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bawaba-channel-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An anchor a few seconds back: far enough for some history, near enough to be caught up with at once.
pub(crate) fn recent_anchor() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    bawaba_channels::wire::Timestamp::from_millis((now - 5) as i64 * 1000).to_string()
}
