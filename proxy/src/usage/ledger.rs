//! The ledger on disk: records by number, each chained to the one before it by SHA-256, in one redb file. Append-only: it
//! has no way to change a record, and a change by other hands breaks the chain at its place.

use std::path::Path;
use std::sync::Mutex;

use redb::{Database, ReadOnlyDatabase, ReadableDatabase, ReadableTable, TableDefinition};
use sha2::{Digest, Sha256};

use super::Record;

/// Number to hash and JSON.
const RECORDS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("usage");
const HASH_BYTES: usize = 32;

type Hash = [u8; HASH_BYTES];

/// See the module.
pub struct Ledger {
    store: Store,
    /// Number and hash of the newest record.
    newest: Mutex<(u64, Hash)>,
}

enum Store {
    Writable(Database),
    ReadOnly(ReadOnlyDatabase),
}

/// A record as it was found.
#[derive(Debug)]
pub struct Found {
    /// Its number, from 1.
    pub number: u64,
    /// The record, if it can be read.
    pub record: Result<Record, String>,
    /// Whether it is what was written, behind what was written before it.
    pub chained: bool,
    hash: Hash,
}

impl Found {
    /// Its hash, in hex, as [`Ledger::head`] gives that of the newest.
    pub fn hash(&self) -> String {
        hex(&self.hash)
    }
}

impl Ledger {
    /// Opens a ledger to write to; made if it is not there.
    pub fn open(file: &Path) -> Result<Self, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("usage ledger {}: {error}", file.display());
        let database = Database::create(file).map_err(|error| wrong(&error))?;
        let write = database.begin_write().map_err(|error| wrong(&error))?;
        write.open_table(RECORDS).map_err(|error| wrong(&error))?;
        write.commit().map_err(|error| wrong(&error))?;
        Self::new(Store::Writable(database)).map_err(|error| wrong(&error))
    }

    /// Opens a ledger to read; a running edge has it for itself.
    pub fn read_only(file: &Path) -> Result<Self, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("usage ledger {}: {error}", file.display());
        // A file that an edge left in the middle of something is repaired by whoever opens it next.
        let store = match ReadOnlyDatabase::open(file) {
            Ok(database) => Store::ReadOnly(database),
            Err(_) => Store::Writable(Database::open(file).map_err(|error| wrong(&error))?),
        };
        Self::new(store).map_err(|error| wrong(&error))
    }

    fn new(store: Store) -> Result<Self, String> {
        let ledger = Self { store, newest: Mutex::new((0, [0; HASH_BYTES])) };
        let newest = ledger.last()?;
        *ledger.newest.lock().map_err(|error| error.to_string())? = newest;
        Ok(ledger)
    }

    fn last(&self) -> Result<(u64, Hash), String> {
        let read = self.begin_read()?;
        let table = read.open_table(RECORDS).map_err(|error| error.to_string())?;
        let last = table.last().map_err(|error| error.to_string())?;
        Ok(match last {
            Some((number, value)) => (number.value(), split(value.value()).0),
            None => (0, [0; HASH_BYTES]),
        })
    }

    fn begin_read(&self) -> Result<redb::ReadTransaction, String> {
        match &self.store {
            Store::Writable(database) => database.begin_read(),
            Store::ReadOnly(database) => database.begin_read(),
        }
        .map_err(|error| error.to_string())
    }

    /// Appends records; they are on disk when this returns.
    pub fn append(&self, records: &[Record]) -> Result<(), String> {
        let Store::Writable(database) = &self.store else { return Err("it was opened to be read".into()) };
        let mut newest = self.newest.lock().map_err(|error| error.to_string())?;
        let (mut number, mut hash) = *newest;
        let write = database.begin_write().map_err(|error| error.to_string())?;
        {
            let mut table = write.open_table(RECORDS).map_err(|error| error.to_string())?;
            for record in records {
                let json = serde_json::to_vec(record).map_err(|error| error.to_string())?;
                number += 1;
                hash = chain(&hash, number, &json);
                let value = [hash.as_slice(), &json].concat();
                table.insert(number, value.as_slice()).map_err(|error| error.to_string())?;
            }
        }
        write.commit().map_err(|error| error.to_string())?;
        *newest = (number, hash);
        Ok(())
    }

    /// Reads every record in order, and whether the chain holds there.
    pub fn each(&self, mut each: impl FnMut(Found)) -> Result<(), String> {
        let read = self.begin_read()?;
        let table = read.open_table(RECORDS).map_err(|error| error.to_string())?;
        let (mut before, mut expected) = ([0; HASH_BYTES], 1);
        for row in table.range(0..).map_err(|error| error.to_string())? {
            let (number, value) = row.map_err(|error| error.to_string())?;
            let number = number.value();
            let (hash, json) = split(value.value());
            let chained = number == expected && hash == chain(&before, number, json);
            let record = serde_json::from_slice(json).map_err(|error| error.to_string());
            each(Found { number, record, chained, hash });
            (before, expected) = (hash, number + 1);
        }
        Ok(())
    }

    /// The hash of the newest record, in hex: whoever keeps it elsewhere sees whether the end was cut off.
    pub fn head(&self) -> (u64, String) {
        let (number, hash) = self.newest.lock().map_or((0, [0; HASH_BYTES]), |newest| *newest);
        (number, hex(&hash))
    }
}

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn chain(before: &Hash, number: u64, json: &[u8]) -> Hash {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(number.to_le_bytes());
    hash.update(json);
    hash.finalize().into()
}

fn split(value: &[u8]) -> (Hash, &[u8]) {
    value.split_first_chunk().map_or(([0; HASH_BYTES], value), |(hash, json)| (*hash, json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Kind;

    fn file(name: &str) -> std::path::PathBuf {
        let file = std::env::temp_dir().join(format!("bawaba-ledger-{}-{name}.redb", std::process::id()));
        let _ = std::fs::remove_file(&file);
        file
    }

    fn record(user: &str) -> Record {
        Record { kind: Some(Kind::Session), at: 7, user: user.into(), ..Record::default() }
    }

    fn broken(ledger: &Ledger) -> Vec<u64> {
        let mut broken = Vec::new();
        ledger.each(|found| broken.extend((!found.chained).then_some(found.number))).unwrap();
        broken
    }

    #[test]
    fn what_was_written_is_there_after_a_restart_and_chained() {
        let file = file("restart");
        let ledger = Ledger::open(&file).unwrap();
        ledger.append(&[record("a"), record("b")]).unwrap();
        drop(ledger);
        let ledger = Ledger::open(&file).unwrap();
        ledger.append(&[record("c")]).unwrap();
        let mut users = Vec::new();
        ledger.each(|found| users.push(found.record.unwrap().user)).unwrap();
        assert_eq!(users, ["a", "b", "c"]);
        assert_eq!(broken(&ledger), [0_u64; 0]);
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_record_that_was_changed_removed_or_put_in_is_found_and_named() {
        let file = file("tampered");
        let ledger = Ledger::open(&file).unwrap();
        ledger.append(&["a", "b", "c", "d", "e"].map(record)).unwrap();
        drop(ledger);
        let change = |number: u64, value: Option<&[u8]>| {
            let database = Database::create(&file).unwrap();
            let write = database.begin_write().unwrap();
            {
                let mut table = write.open_table(RECORDS).unwrap();
                let old = table.remove(number).unwrap().map(|value| value.value().to_vec());
                if let Some(value) = value {
                    let hash = old.map_or([0; HASH_BYTES].to_vec(), |old| old[..HASH_BYTES].to_vec());
                    table.insert(number, [hash.as_slice(), value].concat().as_slice()).unwrap();
                }
            }
            write.commit().unwrap();
        };
        let forged = serde_json::to_vec(&record("mallory")).unwrap();
        change(3, Some(&forged));
        assert_eq!(broken(&Ledger::read_only(&file).unwrap()), [3]);
        change(2, None);
        // The one after the gap has no predecessor; the forged one is that one.
        assert_eq!(broken(&Ledger::read_only(&file).unwrap()), [3]);
        change(9, Some(&forged));
        assert_eq!(broken(&Ledger::read_only(&file).unwrap()), [3, 9]);
        std::fs::remove_file(file).unwrap();
    }
}
