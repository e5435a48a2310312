//! A connection as Pingora reads HTTP from it, which the listener can take back whole.
//!
//! Pingora asks only for a stream that reads and writes; this one also keeps what was read of the request head, so
//! that a WebSocket or a rebuilt request begins with exactly the bytes that followed it, and bounds that head.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{SslDigest, TlsStream};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::downstream::Downstream;

/// What has been read of a request head; shared between the stream, which Pingora owns, and the listener.
pub struct Head {
    bytes_max: usize,
    state: Mutex<HeadState>,
}

#[derive(Default)]
struct HeadState {
    /// `Some` while a head is being read.
    bytes: Option<Vec<u8>>,
    is_over: bool,
}

impl Head {
    /// A head of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, state: Mutex::default() })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, HeadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is about to be read.
    pub fn begin(&self) {
        self.state().bytes = Some(Vec::new());
    }

    /// The request has been read (or given up); everything that was read since [`Self::begin`].
    pub fn end(&self) -> Vec<u8> {
        self.state().bytes.take().unwrap_or_default()
    }

    /// Whether anything of the request has arrived.
    pub fn has_begun(&self) -> bool {
        self.state().bytes.as_ref().is_some_and(|bytes| !bytes.is_empty())
    }

    /// Whether the head was longer than its limit.
    pub fn is_over(&self) -> bool {
        self.state().is_over
    }

    /// The reader wants more: refused once the limit is reached, as the head is then longer.
    fn admit_more(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.bytes.as_ref().is_some_and(|bytes| bytes.len() > self.bytes_max) {
            state.is_over = true;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request head is over its limit"));
        }
        Ok(())
    }

    fn took(&self, bytes: &[u8]) {
        if let Some(kept) = &mut self.state().bytes {
            kept.extend_from_slice(bytes);
        }
    }
}

/// TCP or TLS.
pub enum Transport {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<L4Stream>>),
}

/// See the file's description.
pub struct Inbound {
    transport: Transport,
    head: Arc<Head>,
    /// Read while looking for HTTP/2's preface, to be read again.
    peeked: Vec<u8>,
    fd: UniqueIDType,
    digest: Arc<SocketDigest>,
}

impl Inbound {
    /// Over `transport`, whose socket has this descriptor.
    pub fn new(transport: Transport, fd: UniqueIDType, head: Arc<Head>) -> Self {
        Self { transport, head, peeked: Vec::new(), fd, digest: Arc::new(SocketDigest::from_raw_fd(fd)) }
    }

    /// The stream as workers take it. Nothing may have been peeked and not read.
    pub fn into_downstream(self) -> io::Result<Downstream> {
        Ok(match self.transport {
            Transport::Tcp(tcp) => Downstream::Tcp(tcp.into_std()?),
            Transport::Tls(tls) => Downstream::Tls(tls),
        })
    }
}

/// The descriptor of a socket, by which Pingora tells connections apart.
pub fn descriptor(tcp: &TcpStream) -> UniqueIDType {
    tcp.as_raw_fd()
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl AsyncRead for Inbound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.head.admit_more()?;
        let before = buf.filled().len();
        if this.peeked.is_empty() {
            ready!(match &mut this.transport {
                Transport::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
                Transport::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            })?;
        } else {
            let count = this.peeked.len().min(buf.remaining());
            buf.put_slice(&this.peeked[..count]);
            this.peeked.drain(..count);
        }
        this.head.took(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Inbound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Transport::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[async_trait]
impl Shutdown for Inbound {
    async fn shutdown(&mut self) {
        // The peer may be gone already; there is nothing left to do for it.
        drop(AsyncWriteExt::shutdown(self).await);
    }
}

impl UniqueID for Inbound {
    fn id(&self) -> UniqueIDType {
        self.fd
    }
}

impl Ssl for Inbound {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        match &self.transport {
            Transport::Tcp(_) => None,
            Transport::Tls(tls) => tls.get_ssl_digest(),
        }
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match &self.transport {
            Transport::Tcp(_) => None,
            Transport::Tls(tls) => tls.selected_alpn_proto(),
        }
    }
}

impl GetTimingDigest for Inbound {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Inbound {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Inbound {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

/// What every HTTP/2 connection begins with (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[async_trait]
impl Peek for Inbound {
    /// Reads while the bytes are those of HTTP/2's preface, so that a short HTTP/1.1 request is not waited on. What
    /// is not filled stays zero, which is no preface.
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        let mut seen = 0;
        while seen < buf.len() && seen < HTTP2_PREFACE.len() && buf[..seen] == HTTP2_PREFACE[..seen] {
            let count = self.read(&mut buf[seen..]).await?;
            if count == 0 {
                break;
            }
            seen += count;
        }
        self.peeked = buf[..seen].to_vec();
        Ok(true)
    }
}
