//! Connections that end when their client stalls.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Accepts connections.
pub(super) struct Connections {
    listener: TcpListener,
    timeout: Duration,
    places: Arc<Semaphore>,
}

impl Connections {
    /// At most `max_open` connections at once, which end when a client does not send a request, or does not read an answer, for
    /// this time. Further clients wait to be accepted.
    pub(super) fn new(listener: TcpListener, max_open: usize, timeout: Duration) -> Self {
        Self { listener, timeout, places: Arc::new(Semaphore::new(max_open)) }
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.expect("a semaphore that is never closed");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Parts of a stream are sent at once.
        let _slower = stream.set_nodelay(true);
        let (client, timeout) = (Client::new(), self.timeout);
        let silence = Box::pin(sleep(timeout));
        (Connection { stream, timeout, client, silence, pause: None, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The side of a connection that handlers know: they say when a request is answered.
#[derive(Debug, Clone)]
pub(super) struct Client(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Requests that are being answered: then the client has nothing to send.
    num_answered: usize,
    /// When the connection began, the last answer ended, or a part of it was taken.
    last: Instant,
}

/// A request that is being answered, until it is dropped.
pub(super) struct Answering(Client);

impl Client {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State { num_answered: 0, last: Instant::now() })))
    }

    /// Marks a request as being answered.
    pub(super) fn answering(&self) -> Answering {
        self.state().num_answered += 1;
        Answering(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state();
        (state.num_answered, state.last) = (state.num_answered - 1, Instant::now());
    }
}

impl Connected<IncomingStream<'_, Connections>> for Client {
    fn connect_info(stream: IncomingStream<'_, Connections>) -> Self {
        stream.io().client.clone()
    }
}

/// A connection to a client.
pub(super) struct Connection {
    stream: TcpStream,
    timeout: Duration,
    client: Client,
    /// Ends when a request should be there.
    silence: Pin<Box<Sleep>>,
    /// Ends when the client should have read.
    pause: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// Fails if the client should have sent a request by now.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let last = {
            let state = self.client.state();
            if state.num_answered > 0 {
                return Poll::Pending;
            }
            state.last
        };
        self.silence.as_mut().reset(last + self.timeout);
        self.silence.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Passes the result of a write on, or fails if the client has not read for too long.
    fn poll_written<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.client.state().last = Instant::now();
            self.pause = None;
            return written;
        }
        let end = Instant::now() + self.timeout;
        let pause = self.pause.get_or_insert_with(|| Box::pin(sleep_until(end)));
        pause.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => self.poll_silence(context),
            read => read,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.poll_written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.poll_written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_beyond_the_bound_waits_until_another_has_left() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut connections = Connections::new(listener, 1, Duration::from_secs(60));
            let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
            let (open, _) = connections.accept().await;
            assert!(tokio::time::timeout(Duration::from_millis(50), connections.accept()).await.is_err());
            drop(open);
            connections.accept().await;
        });
    }
}
