//! The end of a relay: who is told what, with which close code, and what is logged and counted.

use std::time::Duration;

use bawaba_channels::close::CloseCode;
use bawaba_channels::frame;
use bawaba_channels::reason::Reason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::lane::LaneEnd;
use super::{Relay, Side};
use crate::chain::Ended;
use crate::downstream::Stream;
use crate::jitter::Jitter;
use crate::worker::SessionSummary;

/// How long a goodbye may take to be written.
const GOODBYE: Duration = Duration::from_millis(500);
/// Most reads of what a client still sends behind its session's end.
const READ_AWAY_MAX: usize = 2048;

/// How a relay came to its end.
pub(super) enum End {
    /// Both peers have ended their sides.
    Over,
    /// The edge ends it.
    Ours(CloseCode, &'static str),
    /// A peer broke RFC 6455, or its socket broke.
    Lane(Side, LaneEnd),
}

impl Relay {
    pub(super) async fn finish(mut self, end: End) {
        let (code, what): (Option<CloseCode>, String) = match end {
            End::Over => (None, "both sides ended".into()),
            End::Ours(code, reason) => {
                self.goodbye(Some((code, reason)), Some((CloseCode::GOING_AWAY, reason))).await;
                (Some(code), reason.into())
            }
            End::Lane(side, end) => self.broken(side, end).await,
        };
        if let Some(code) = code {
            self.worker.shared.metrics.closed(code);
        }
        let code = code.map_or(0, |code| code.0);
        let SessionSummary { context, opened_at } = &self.control.summary;
        let age_s = opened_at.elapsed().as_secs();
        tracing::info!(session = %context.session, route = self.chain.route().name(), code, reason = %what, age_s, "session closed");
    }

    /// Says what is due to the peers after one of them, or a filter, broke the session.
    async fn broken(&mut self, side: Side, end: LaneEnd) -> (Option<CloseCode>, String) {
        let away = Some((CloseCode::GOING_AWAY, "the other side is gone"));
        let what = match &end {
            LaneEnd::Read(error) | LaneEnd::Write(error) => error.to_string(),
            LaneEnd::Frame(error) => error.to_string(),
            LaneEnd::Chain(ended) => format!("{ended:?}"),
        };
        let code = match (side, &end) {
            (Side::Inbound, LaneEnd::Frame(error)) => {
                let code = error.close_code();
                self.goodbye(Some((code, what.as_str())), away).await;
                Some(code)
            }
            (Side::Outbound, LaneEnd::Frame(error)) => {
                let reason = "the service broke the protocol";
                self.goodbye(Some((CloseCode::INTERNAL, reason)), Some((error.close_code(), what.as_str()))).await;
                Some(CloseCode::INTERNAL)
            }
            (_, LaneEnd::Chain(Ended::Failed(_))) => {
                self.worker.shared.metrics.refused(Reason::EdgeFilterFailed);
                let reason = "edge.filter_failed: a policy could not judge";
                self.goodbye(Some((CloseCode::INTERNAL, reason)), away).await;
                Some(CloseCode::INTERNAL)
            }
            (_, LaneEnd::Chain(Ended::Closed(_))) => {
                self.goodbye(Some((CloseCode::POLICY, "closed by a policy")), away).await;
                Some(CloseCode::POLICY)
            }
            // The client is gone: only the service is left to be told.
            (Side::Inbound, LaneEnd::Read(_)) | (Side::Outbound, LaneEnd::Write(_)) => {
                self.goodbye(None, away).await;
                None
            }
            // The service is gone.
            (Side::Outbound, LaneEnd::Read(_)) | (Side::Inbound, LaneEnd::Write(_)) => {
                self.goodbye(Some((CloseCode::INTERNAL, "the service is gone")), None).await;
                Some(CloseCode::INTERNAL)
            }
        };
        (code, what)
    }

    /// Writes a Close frame to each peer that is to have one and can take one, and ends both sockets.
    async fn goodbye(&mut self, to_client: Option<(CloseCode, &str)>, to_service: Option<(CloseCode, &str)>) {
        if let Some((code, reason)) = to_client
            && self.outbound.is_at_border()
            && !self.outbound.is_closed()
        {
            let mut close = Vec::new();
            frame::encode_close(&mut close, code, reason, None);
            self.outbound.put(&close);
        }
        if let Some((code, reason)) = to_service
            && self.inbound.is_at_border()
            && !self.inbound.is_closed()
        {
            let mut close = Vec::new();
            frame::encode_close(&mut close, code, reason, Some(Jitter::new().mask()));
            self.inbound.put(&close);
        }
        let (to_client, to_service) = (self.outbound.take_waiting(), self.inbound.take_waiting());
        let (client, service) = (&mut self.client, &mut self.service);
        let told_client = async {
            client.write_all(&to_client).await?;
            client.flush().await?;
            client.shutdown().await
        };
        let told_service = async {
            service.write_all(&to_service).await?;
            service.shutdown().await
        };
        // Whoever takes nothing now is not waited for.
        let (a, b) = tokio::join!(timeout(GOODBYE, told_client), timeout(GOODBYE, told_service));
        if !matches!((a, b), (Ok(Ok(())), Ok(Ok(())))) {
            tracing::debug!(session = %self.control.summary.context.session, "a peer did not take its goodbye");
        }
        // What a client still sends is read away: the kernel would answer it with a reset, which overtakes the Close.
        let limit = self.worker.shared.config.timeouts.close;
        drop(timeout(limit, read_away(&mut self.client)).await);
    }
}

async fn read_away(client: &mut Stream) -> std::io::Result<()> {
    let mut scratch = [0; 1024];
    for _ in 0..READ_AWAY_MAX {
        if client.read(&mut scratch).await? == 0 {
            break;
        }
    }
    Ok(())
}
