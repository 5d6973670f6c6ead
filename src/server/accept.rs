//! Connections: accepted here and not by a framework, because only here can the head of a request be bounded in bytes and
//! in time.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower_service::Service;

use super::limits::{HEAD_TIME, MAX_CONNECTIONS, MAX_HEAD_BYTES, MAX_HEADERS};

/// Where the server listens.
pub(super) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Listener {
    /// The address, unless it is a file.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            Listener::Unix(_) => None,
        }
    }
}

/// Answers connections until `stop` says so, then until those that are open are done.
pub(super) async fn serve(listener: Listener, app: Router, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while !*stop.borrow() {
        // A place first: who finds none waits in the system's queue.
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            () = stopped(&mut stop) => break,
        };
        let Ok(place) = place else { break };
        let taken = tokio::select! {
            taken = accept(&listener, app.clone(), (place, stop.clone())) => taken,
            () = stopped(&mut stop) => break,
        };
        if taken.is_err() {
            // No handles, or a peer that left already: neither passes by trying at once.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    drop(listener);
    // All places are back when nobody is left.
    let _ = places.acquire_many(MAX_CONNECTIONS as u32).await;
}

type Held = (OwnedSemaphorePermit, watch::Receiver<bool>);

async fn accept(listener: &Listener, app: Router, held: Held) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            // Tokens are small and go at once.
            stream.set_nodelay(true)?;
            tokio::spawn(answer(stream, app, held));
        }
        #[cfg(unix)]
        Listener::Unix(listener) => {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(answer(stream, app, held));
        }
    }
    Ok(())
}

/// Answers the requests of one connection, one after the other.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, app: Router, (place, mut stop): Held) {
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let mut app = app.clone();
        async move { Ok::<_, Infallible>(app.call(request.map(Body::new)).await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // Whatever a peer does wrong ends its own connection and nothing else.
    let is_stopped = tokio::select! {
        _ = connection.as_mut() => false,
        () = stopped(&mut stop) => true,
    };
    if is_stopped {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
    drop(place);
}

/// Waits until it is time to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
