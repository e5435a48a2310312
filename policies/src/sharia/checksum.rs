//! The checksum of a list: over what it says, not over how its file is written.
//!
//! Text of lines that end in a line feed: `bawaba-list-1`, id, board, exchanges joined by commas, then the nanoseconds of
//! effective_from, effective_to and review_by, then a line for each entry with isin, exchange, symbol, status and purification,
//! set apart by tabs. What is absent is `-`.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::list::{Entry, List, Status};
use crate::UnixNanos;

impl List {
    /// SHA-256 as 64 hexadecimal digits.
    pub fn checksum(&self) -> String {
        let instant = |at: Option<UnixNanos>| at.map_or_else(absent, |at| at.0.to_string());
        let mut hash = Sha256::new();
        hash.update(format!(
            "bawaba-list-1\n{}\n{}\n{}\n{}\n{}\n{}\n",
            self.id,
            self.board,
            self.exchanges.join(","),
            self.effective_from.0,
            instant(self.effective_to),
            instant(self.review_by),
        ));
        for entry in &self.entries {
            hash.update(line(entry));
        }
        hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

fn absent() -> String {
    "-".into()
}

fn line(entry: &Entry) -> String {
    let or_absent = |text: &Option<String>| text.clone().unwrap_or_else(absent);
    format!(
        "{}\t{}\t{}\t{}\t{}\n",
        entry.security.isin.as_ref().map_or("-", |isin| isin.as_str()),
        or_absent(&entry.security.exchange),
        or_absent(&entry.security.symbol),
        match entry.status {
            Status::Compliant => "compliant",
            Status::NotCompliant => "not_compliant",
            Status::Doubtful => "doubtful",
            Status::UnderReview => "under_review",
            Status::InsufficientData => "insufficient_data",
        },
        entry.purification.map_or_else(absent, |share| share.to_string()),
    )
}
