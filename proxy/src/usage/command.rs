//! `bawaba usage`: reports and exports of a ledger, and whether it is what was written. Of an edge that runs, by its admin
//! listener, because the ledger is its alone.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use super::ledger::Ledger;
use super::report::{Form, Month, export, report, text};

/// What to do with a ledger.
#[derive(Subcommand)]
pub enum Command {
    /// Units, peaks and refusals of a month.
    Report {
        #[command(flatten)]
        from: From,
        /// Such as 2026-11.
        #[arg(long)]
        month: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Every record.
    Export {
        #[command(flatten)]
        from: From,
        /// In which form.
        #[arg(long, value_enum, default_value = "csv")]
        format: Form,
    },
    /// Whether every record is what was written, and which is not.
    Verify {
        #[command(flatten)]
        from: From,
        /// What an earlier `verify` said of its newest record, `41:9f86…`: it must still be there. Without it nobody
        /// can tell whether the end was cut off.
        #[arg(long)]
        kept: Option<String>,
    },
}

/// Where the ledger is.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct From {
    /// The file, when no edge runs on it.
    #[arg(long)]
    file: Option<PathBuf>,
    /// The admin listener of the edge that runs on it.
    #[arg(long)]
    admin: Option<SocketAddr>,
}

/// Runs the command; the answer goes to standard output.
pub fn run(command: &Command, zone: &str) -> anyhow::Result<()> {
    let (from, path) = match command {
        Command::Report { from, month, json } => (from, format!("/usage/report?month={month}&json={json}")),
        Command::Export { from, format } => (from, format!("/usage/export?json={}", *format == Form::Json)),
        Command::Verify { from, kept: None } => (from, "/usage/verify".to_owned()),
        Command::Verify { from, kept: Some(kept) } => (from, format!("/usage/verify?kept={kept}")),
    };
    let answer = match (&from.file, from.admin) {
        // Whatever is open at the end of a file is so no longer.
        (Some(file), _) => answer(&Ledger::read_only(file).map_err(anyhow::Error::msg)?, zone, &path, None),
        (None, Some(admin)) => get(admin, &path)?,
        (None, None) => bail!("say --file or --admin"),
    };
    let (sound, text) = match answer {
        Ok(text) => (true, text),
        Err(text) => (false, text),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    if sound { Ok(()) } else { bail!("the ledger does not say what was asked") }
}

/// The answer to a path of the admin listener; an error is what is wrong. `now` is when, if an edge runs on the ledger:
/// what is open is in use until then.
pub fn answer(ledger: &Ledger, zone: &str, path: &str, now: Option<i64>) -> Result<String, String> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let asked = |name: &str| {
        query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)).map(|(_, value)| value)
    };
    let json = asked("json") == Some("true");
    match path {
        "/usage/report" => {
            let month = Month::parse(asked("month").ok_or("say ?month=2026-11\n")?, zone)?;
            let report = report(ledger, &month, zone, now)?;
            Ok(if json {
                serde_json::to_string(&report).map_err(|error| error.to_string())? + "\n"
            } else {
                text(&report)
            })
        }
        "/usage/export" => export(ledger, if json { Form::Json } else { Form::Csv }),
        "/usage/verify" => verify(ledger, asked("kept")),
        _ => Err("there is /usage/report, /usage/export and /usage/verify\n".into()),
    }
}

fn verify(ledger: &Ledger, kept: Option<&str>) -> Result<String, String> {
    let wrong = "say the number and the hash of a record, as verify says them of the newest: kept=41:9f86\u{2026}\n";
    let number = |text: &str| text.parse::<u64>().ok();
    let kept = match kept.map(|kept| kept.split_once(':').and_then(|(at, hash)| Some((number(at)?, hash)))) {
        Some(None) => return Err(wrong.into()),
        Some(kept) => kept,
        None => None,
    };
    let (mut count, mut broken, mut is_there) = (0_u64, Vec::new(), kept.is_none());
    ledger.each(|found| {
        count += 1;
        is_there |= kept.is_some_and(|(number, hash)| found.number == number && found.hash() == hash);
        if !found.chained || found.record.is_err() {
            broken.push(found.number);
        }
    })?;
    let (newest, hash) = ledger.head();
    match (broken.is_empty(), kept.filter(|_| !is_there)) {
        (true, None) => Ok(format!("{count} records, each as it was written; the newest is {newest}:{hash}\n")),
        (true, Some((number, _))) => Err(format!(
            "{count} records, each chained to the one before, but record {number} is not there as it was kept: the ledger was \
             cut or written anew\n"
        )),
        (false, _) => {
            Err(format!("of {count} records, these are not what was written behind the one before: {broken:?}\n"))
        }
    }
}

fn get(admin: SocketAddr, path: &str) -> anyhow::Result<Result<String, String>> {
    let mut stream = TcpStream::connect(admin).with_context(|| format!("no edge answers at {admin}"))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the edge's answer cannot be read")?;
    let status = head.split(' ').nth(1).unwrap_or("");
    Ok(if status == "200" { Ok(body.to_owned()) } else { Err(body.to_owned()) })
}
