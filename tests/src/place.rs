//! Where things lie: the repository, the binaries beside the running test, modules, Envoy, scratch directories.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// The directory with the binaries of the running test's own profile (`target/debug` or `target/release`).
fn binaries() -> &'static Path {
    static BINARIES: OnceLock<PathBuf> = OnceLock::new();
    BINARIES.get_or_init(|| {
        let test = std::env::current_exe().expect("a running test has a path");
        let directory = test
            .ancestors()
            .skip(1)
            .find(|directory| !directory.ends_with("deps"))
            .expect("a test lies in a directory")
            .to_path_buf();
        build(&directory);
        directory
    })
}

/// `cargo test -p bawaba-tests` alone does not build the binaries of other packages: do so, once for each test
/// process (a fraction of a second when they are fresh). `BAWABA_BUILT=1` says that the caller has done it.
fn build(directory: &Path) {
    if std::env::var_os("BAWABA_BUILT").is_some() {
        return;
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).args(["build", "--quiet", "--workspace", "--bins"]);
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.status().expect("cargo runs");
    assert!(built.success(), "the binaries under test do not build");
}

/// A binary of this workspace: `bawaba` or `bawaba-channel`.
pub fn binary(name: &str) -> PathBuf {
    let path = binaries().join(name);
    assert!(path.is_file(), "{} is missing: cargo build -p {name}", path.display());
    path
}

/// A filter's module, such as `filter("sharia")`; built from the sources if they changed.
pub fn filter(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        if std::env::var_os("BAWABA_BUILT").is_some() {
            return;
        }
        let built = Command::new(root().join("scripts/build-filters")).output().expect("scripts/build-filters runs");
        assert!(built.status.success(), "scripts/build-filters failed:\n{}", String::from_utf8_lossy(&built.stderr));
    });
    let path = root().join(format!("target/filters/{name}.wasm"));
    assert!(path.is_file(), "{} is missing: run scripts/build-filters", path.display());
    path
}

/// The Envoy binary: `ENVOY_BIN`, else what `scripts/setup envoy` put under `.cache/`, else `envoy` in `PATH`.
pub fn envoy() -> PathBuf {
    if let Some(path) = std::env::var_os("ENVOY_BIN") {
        return path.into();
    }
    let cached = root().join(".cache/bin/envoy");
    if cached.is_file() {
        return cached;
    }
    on_path("envoy").expect("no Envoy: run scripts/setup envoy, or set ENVOY_BIN")
}

/// The Python with the packages of `tests/python/requirements.txt`.
pub fn python() -> PathBuf {
    let cached = root().join(".cache/venv/bin/python");
    if cached.is_file() {
        return cached;
    }
    on_path("python3").expect("no Python: run scripts/setup python")
}

/// A program in `PATH`.
pub fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .chain(["/usr/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// A directory of one test's own, removed when it goes out of scope (kept, and named, if the test fails).
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new, empty directory.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bawaba-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("the temporary directory takes a new directory");
        Self(path)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in it and returns the path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("the scratch directory takes a file");
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
