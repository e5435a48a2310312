//! A client's byte stream, however it came: TCP, TLS, or a stream of an HTTP/2 connection.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Anything that reads and writes bytes and may move to a worker's thread.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

/// The byte stream of one client, after its handshake request and before the answer to it.
pub enum Downstream {
    /// Plain TCP, not yet registered with a runtime: the worker registers it with its own.
    Tcp(std::net::TcpStream),
    /// TLS over TCP.
    Tls(Box<dyn ByteStream>),
    /// One stream of an HTTP/2 connection: the listener's task answers the request with what `reply`
    /// brings and then copies between the stream and `bytes`.
    Http2 {
        /// Takes the answer to the request.
        reply: oneshot::Sender<HandshakeReply>,
        /// The bytes of the WebSocket.
        bytes: DuplexStream,
    },
}

/// The answer to a handshake: 101 (HTTP/1.1) or 200 (HTTP/2) to go on, anything else to refuse.
#[derive(Clone, Debug)]
pub struct HandshakeReply {
    /// Status; 101 is written as 200 on HTTP/2.
    pub status: u16,
    /// Headers, names in lower case, without `upgrade`, `connection` and `sec-websocket-accept` (the writer adds them).
    pub headers: Vec<(String, String)>,
    /// Body; empty when the WebSocket opens.
    pub body: Bytes,
}

/// A client's byte stream on its worker.
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// Anything else.
    Boxed(Box<dyn ByteStream>),
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Boxed(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Boxed(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Boxed(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Boxed(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
