//! Compiled modules on disk, so that a restart compiles nothing. Loading compiled code is the one thing
//! here that the type system can't check: bytes from a file become instructions. Why a file is believed,
//! and what is checked before it is, stands in `docs/decisions`; all of it happens in this file, which
//! is the only one of the crate that may say `unsafe`.

#![allow(unsafe_code)]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::{Engine, Module};

const KEY_FILE: &str = "key";
const KEY_BYTES: usize = 32;
const MAC_BYTES: usize = 32;
const SUFFIX: &str = "cwasm";
/// Anyone but the owner.
const OTHERS: u32 = 0o077;
/// A module of 16 MiB compiles to several times that; a larger file is none of ours.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Files kept; past that the oldest go.
const FILES_MAX: usize = 64;

/// A directory of our own, and the key under which its files are sealed.
pub(crate) struct Cache {
    directory: PathBuf,
    key: [u8; KEY_BYTES],
}

impl Cache {
    /// Opens or makes the directory. Refused if it, or its key, could have been written by another user.
    pub(crate) fn open(directory: &Path) -> io::Result<Cache> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        private(&fs::symlink_metadata(directory)?, "directory")?;
        let path = directory.join(KEY_FILE);
        let key = match read_key(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = [0; KEY_BYTES];
                getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
                match write_whole(directory, &path, &[&key]) {
                    // Another process was first: its key is as good.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read_key(&path)?,
                    written => written.map(|()| key)?,
                }
            }
            key => key?,
        };
        Ok(Cache { directory: directory.to_owned(), key })
    }

    /// The compiled module, if this engine sealed it here before and nothing of it changed since.
    pub(crate) fn load(&self, engine: &Engine, wasm: &[u8]) -> Option<Module> {
        let name = name(engine, wasm);
        let path = self.directory.join(&name);
        let sealed = match read_private(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled module not used: it is compiled again");
                return None;
            }
            Ok(sealed) => sealed,
        };
        let found = sealed.split_first_chunk::<MAC_BYTES>().filter(|(mac, code)| same(mac, &self.mac(&name, code)));
        let Some((_, code)) = found else {
            tracing::warn!(path = %path.display(), "compiled module not used: it is not what was written here");
            return None;
        };
        // SAFETY: `deserialize` asks that the bytes come unchanged from `precompile_module` or `serialize` of a
        // compatible engine. They bear a MAC under a key that only this user can read, made by `store` below over
        // these bytes and over a name that tells the module's digest and the engine's compatibility hash. They are
        // read into memory first, so nobody changes them between the check and the use. (The engine checks its own
        // version and settings once more, and refuses others.)
        match unsafe { Module::deserialize(engine, code) } {
            Ok(module) => Some(module),
            Err(error) => {
                tracing::warn!(path = %path.display(), error = format!("{error:#}"), "compiled module not used");
                None
            }
        }
    }

    /// Keeps a compiled module. A failure costs the next start a compilation, no more.
    pub(crate) fn store(&self, engine: &Engine, wasm: &[u8], module: &Module) {
        let name = name(engine, wasm);
        let path = self.directory.join(&name);
        let written = module.serialize().map_err(|error| io::Error::other(format!("{error:#}"))).and_then(|code| {
            // A file that was no good is replaced, one that another process just wrote is the same.
            let _ = fs::remove_file(&path);
            write_whole(&self.directory, &path, &[&self.mac(&name, &code), &code])
        });
        match written {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                tracing::warn!(path = %path.display(), %error, "compiled module not kept");
            }
            _ => self.prune(),
        }
    }

    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let mut files: Vec<_> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.path().extension().is_some_and(|suffix| suffix == SUFFIX))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        files.sort();
        for (_, path) in files.iter().rev().skip(FILES_MAX) {
            // Another process may have been first.
            let _ = fs::remove_file(path);
        }
    }

    /// HMAC-SHA-256 (RFC 2104) over a file's name and its code.
    fn mac(&self, name: &str, code: &[u8]) -> [u8; MAC_BYTES] {
        let pad = |with: u8| {
            let mut block = [with; 64];
            block.iter_mut().zip(self.key).for_each(|(byte, key)| *byte ^= key);
            Sha256::new().chain_update(block)
        };
        let inner = pad(0x36).chain_update(name).chain_update([0]).chain_update(code).finalize();
        pad(0x5c).chain_update(inner).finalize().into()
    }
}

/// The digest of the module, and what compiled code depends on besides: the engine's version and settings.
fn name(engine: &Engine, wasm: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let digest = Sha256::digest(wasm);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}-{:016x}.{SUFFIX}", hasher.finish())
}

/// In a time that does not tell how much of it is right.
fn same(left: &[u8; MAC_BYTES], right: &[u8; MAC_BYTES]) -> bool {
    left.iter().zip(right).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Ours, and nobody else's to read or write.
fn private(metadata: &fs::Metadata, what: &str) -> io::Result<()> {
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    let kind = metadata.file_type();
    if kind.is_symlink() || (what == "directory") != kind.is_dir() {
        return refuse(format!("the {what} is something else or a link to it"));
    }
    let us = rustix::process::geteuid().as_raw();
    if metadata.uid() != us {
        return refuse(format!("the {what} belongs to user {}, this process is user {us}", metadata.uid()));
    }
    if metadata.mode() & OTHERS != 0 {
        return refuse(format!(
            "the {what} is open to others (mode {:o}): take their rights away",
            metadata.mode() & 0o777
        ));
    }
    Ok(())
}

fn read_private(path: &Path) -> io::Result<Vec<u8>> {
    // Not through a link, and the file that is checked is the file that is read.
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(no_follow).open(path)?;
    let metadata = file.metadata()?;
    private(&metadata, "file")?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is larger than any compiled module"));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let bytes = read_private(path)?;
    bytes.try_into().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the key file is not a key: remove it"))
}

/// Whole or not at all: a reader never sees half of it, and a file that is there stays.
fn write_whole(directory: &Path, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let new = directory.join(format!(".new-{:016x}", u64::from_ne_bytes(random)));
    let write = |mut file: File| {
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.sync_all()?;
        fs::hard_link(&new, path)
    };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = write(file);
    fs::remove_file(&new)?;
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const WASM: &[u8] = b"\0asm\x01\0\0\0";

    fn place(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("bawaba-aot-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn file(directory: &Path) -> PathBuf {
        let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        files.into_iter().find(|path| path.extension().is_some_and(|suffix| suffix == SUFFIX)).unwrap()
    }

    #[test]
    fn what_was_compiled_is_loaded_and_what_changed_since_is_not() {
        let (directory, engine) = (place("changed"), Engine::default());
        let cache = Cache::open(&directory).unwrap();
        assert!(cache.load(&engine, WASM).is_none());
        cache.store(&engine, WASM, &Module::new(&engine, WASM).unwrap());
        assert!(Cache::open(&directory).unwrap().load(&engine, WASM).is_some(), "also by the next process");
        let path = file(&directory);
        let good = fs::read(&path).unwrap();
        for at in [0, MAC_BYTES - 1, MAC_BYTES, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(cache.load(&engine, WASM).is_none(), "byte {at}");
        }
        for len in [0, 7, MAC_BYTES, good.len() - 1] {
            fs::write(&path, &good[..len]).unwrap();
            assert!(cache.load(&engine, WASM).is_none(), "{len} bytes");
        }
        cache.store(&engine, WASM, &Module::new(&engine, WASM).unwrap());
        assert!(cache.load(&engine, WASM).is_some(), "a bad file is replaced");
        // Another module's code under this name, and a file of another key.
        let other = place("other");
        let foreign = Cache::open(&other).unwrap();
        foreign.store(&engine, WASM, &Module::new(&engine, WASM).unwrap());
        fs::copy(file(&other), &path).unwrap();
        assert!(cache.load(&engine, WASM).is_none(), "sealed under another key");
        let renamed = good.clone();
        fs::write(directory.join(name(&engine, b"other")), renamed).unwrap();
        assert!(cache.load(&engine, b"other").is_none(), "the name is sealed too");
        for directory in [directory, other] {
            fs::remove_dir_all(directory).unwrap();
        }
    }

    #[test]
    fn a_place_that_others_can_write_is_refused() {
        let directory = place("open");
        Cache::open(&directory).unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&directory, 0o770);
        assert_eq!(Cache::open(&directory).err().map(|e| e.kind()), Some(io::ErrorKind::PermissionDenied));
        mode(&directory, 0o700);
        mode(&directory.join(KEY_FILE), 0o644);
        assert!(Cache::open(&directory).is_err(), "a key that others can read is none");
        mode(&directory.join(KEY_FILE), 0o600);
        fs::write(directory.join(KEY_FILE), b"short").unwrap();
        assert_eq!(Cache::open(&directory).err().map(|e| e.kind()), Some(io::ErrorKind::InvalidData));
        let link = place("link");
        std::os::unix::fs::symlink(&directory, &link).unwrap();
        assert!(Cache::open(&link).is_err(), "a link may lead anywhere");
        fs::remove_file(link).unwrap();
        fs::remove_dir_all(directory).unwrap();
    }
}
