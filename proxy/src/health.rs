//! Active health checks: one task per endpoint asks and takes the time, the cluster judges. Knows no session and no trunk.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::cluster::{Cluster, Finding};
use crate::jitter::Jitter;

/// Most bytes of a health answer that are read: the status line is all that counts.
const ANSWER_BYTES_MAX: usize = 512;

/// How often endpoints are compared with each other.
const REVIEW_INTERVAL: Duration = Duration::from_secs(1);

/// Checks every endpoint of `cluster`, also those that are announced later, until the cluster is dropped. Must run
/// inside a tokio runtime.
pub fn watch(cluster: &Arc<Cluster>) {
    tokio::spawn(follow(Arc::downgrade(cluster), cluster.sets()));
}

/// Gives every endpoint of the set a task of its own.
async fn follow(cluster: Weak<Cluster>, mut sets: watch::Receiver<u64>) {
    let mut checks: HashMap<String, AbortHandle> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let Some(cluster_now) = cluster.upgrade() else { return };
        sets.mark_unchanged();
        let endpoints = cluster_now.endpoints();
        drop(cluster_now);
        let addresses: HashSet<&str> = endpoints.iter().map(|endpoint| endpoint.address.as_str()).collect();
        checks.retain(|address, check| {
            let stays = addresses.contains(address.as_str());
            if !stays {
                check.abort();
            }
            stays
        });
        for endpoint in &endpoints {
            if !checks.contains_key(&endpoint.address) {
                let check = tasks.spawn(check_for_ever(cluster.clone(), endpoint.address.clone()));
                checks.insert(endpoint.address.clone(), check);
            }
        }
        drop(endpoints);
        // Collects those that ended; the set ends with its cluster, and with this task all checks.
        loop {
            tokio::select! {
                Some(_) = tasks.join_next() => {}
                () = tokio::time::sleep(REVIEW_INTERVAL) => match cluster.upgrade() {
                    Some(cluster) => cluster.review(),
                    None => return,
                },
                changed = sets.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
            }
        }
    }
}

async fn check_for_ever(cluster: Weak<Cluster>, address: String) {
    let mut jitter = Jitter::new();
    let Some(cluster_now) = cluster.upgrade() else { return };
    let health = cluster_now.settings.health.clone();
    let check_now = Arc::clone(&cluster_now.check_now);
    // Held for a moment only: the checks of many endpoints must not keep each other's cluster alive.
    drop(cluster_now);
    loop {
        let begun = Instant::now();
        let finding = timeout(health.timeout, check(&address, &health.path)).await.unwrap_or(Finding::Silent);
        let Some(cluster_now) = cluster.upgrade() else { return };
        cluster_now.note(&address, finding, begun.elapsed());
        drop(cluster_now);
        let pause = jitter.around(health.interval);
        let hurry = check_now.notified();
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
