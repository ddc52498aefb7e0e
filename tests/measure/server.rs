//! The application behind the mesh: answers each GET on a kept connection, and never reads the body of a POST.

use std::net::TcpListener as StdListener;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Serves until the process ends, on a thread of its own.
pub(crate) fn start(listener: StdListener) -> anyhow::Result<()> {
    listener.set_nonblocking(true).context("setting up the server's socket")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("building a runtime")?;
    let serve = move || runtime.block_on(accept(listener));
    std::thread::Builder::new().name("server".to_owned()).spawn(serve).context("starting the server").map(drop)
}

async fn accept(listener: StdListener) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream) {
    let mut pending = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        pending.extend_from_slice(piece.get(..read).unwrap_or_default());
        if pending.starts_with(b"POST") {
            // The connection stays open and nobody reads it.
            return std::future::pending().await;
        }
        while let Some(end) = pending.windows(HEAD_END.len()).position(|window| window == HEAD_END) {
            pending.drain(..end + HEAD_END.len());
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}
