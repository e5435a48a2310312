//! Active health checks: one task per endpoint asks, the cluster judges. Knows no session and no trunk.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::{Cluster, Finding};
use crate::jitter::Jitter;

/// Most bytes of a health answer that are read: the status line is all that counts.
const ANSWER_BYTES_MAX: usize = 512;

/// Checks every endpoint of `cluster` until the cluster is dropped. Must run inside a tokio runtime.
pub fn watch(cluster: &Arc<Cluster>) {
    for endpoint in cluster.endpoints() {
        tokio::spawn(check_for_ever(Arc::downgrade(cluster), endpoint.index));
    }
}

async fn check_for_ever(cluster: Weak<Cluster>, index: usize) {
    let mut jitter = Jitter::new();
    loop {
        let Some(cluster_now) = cluster.upgrade() else { return };
        let Some(endpoint) = cluster_now.endpoints().get(index) else { return };
        let health = &cluster_now.settings.health;
        let finding = timeout(health.timeout, check(&endpoint.address, &health.path)).await.unwrap_or(Finding::Silent);
        cluster_now.note(index, finding);
        let pause = jitter.around(health.interval);
        let hurry = cluster_now.check_now.notified();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // A short breath, so that a flood of failures is one check and not a flood of checks.
            () = async { hurry.await; tokio::time::sleep(pause.min(Duration::from_millis(20))).await } => {}
        }
    }
}

/// One check: `GET path`, or a bare connect where the path is empty.
async fn check(address: &str, path: &str) -> Finding {
    let Ok(mut stream) = TcpStream::connect(address).await else { return Finding::Silent };
    if path.is_empty() {
        return Finding::Ready;
    }
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: bawaba-health\r\nconnection: close\r\n\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return Finding::Silent;
    }
    let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
    while answer.len() < ANSWER_BYTES_MAX && !answer.contains(&b'\n') {
        match stream.read_buf(&mut answer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match line.split(|byte| *byte == b' ').nth(1) {
        Some(b"200") => Finding::Ready,
        Some(_) => Finding::NotReady,
        None => Finding::Silent,
    }
}
