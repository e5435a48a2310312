//! What was measured, as a Markdown table with the machine it was measured on.

use crate::load::ConnectTimes;

/// One proxy's figures.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) idle_bytes: f64,
    pub(crate) connect: ConnectTimes,
    /// CPU seconds per message, 200 connections with one message under way each; `None` where nothing is relayed.
    pub(crate) cpu_single: Option<f64>,
    /// The same, 50 connections with 64 messages under way each.
    pub(crate) cpu_batched: Option<f64>,
}

/// The rows; the one named `bawaba` is what the others are compared with.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
}

impl Table {
    pub(crate) fn markdown(&self, connections: usize) -> String {
        let ours = self.rows.iter().find(|row| row.name == "bawaba");
        let mut text = format!(
            "{}\n\n| proxy | idle KiB per connection | connect p50 / p99 ms at 100/s | CPU µs per message, 200 × window 1 \
             | CPU µs per message, 50 × window 64 | ratio to bawaba |\n|---|---|---|---|---|---|\n",
            machine(connections)
        );
        for row in &self.rows {
            let micros = |seconds: Option<f64>| seconds.map_or("–".into(), |s| format!("{:.2}", s * 1e6));
            let ratio = |mine: Option<f64>, ours: Option<f64>| match (mine, ours) {
                (Some(mine), Some(ours)) if ours > 0.0 => format!("{:.2}", mine / ours),
                _ => "–".into(),
            };
            text += &format!(
                "| {} {} | {:.1} | {:.2} / {:.2} | {} | {} | {} / {} |\n",
                row.name,
                row.version,
                row.idle_bytes / 1024.0,
                row.connect.p50.as_secs_f64() * 1e3,
                row.connect.p99.as_secs_f64() * 1e3,
                micros(row.cpu_single),
                micros(row.cpu_batched),
                ratio(row.cpu_single, ours.and_then(|o| o.cpu_single)),
                ratio(row.cpu_batched, ours.and_then(|o| o.cpu_batched)),
            );
        }
        text
    }
}

fn machine(connections: usize) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.split_once(':').map(|(_, value)| value.trim().to_owned()))
            .unwrap_or_else(|| "?".into())
    };
    let cpu = read("/proc/cpuinfo");
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let memory_kib: u64 = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    format!(
        "{} × {cores}, {} GiB, Linux {}, load average {}; loopback, one core for the proxy; {connections} idle connections, \
         messages of 128 bytes{}",
        field(&cpu, "model name"),
        memory_kib >> 20,
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split(' ').next().unwrap_or("?"),
        if cfg!(debug_assertions) { "; **development build, not for quoting**" } else { "" },
    )
}
