//! Stands between two programs and can be told to fail.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What happens to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Requests arrive, answers do not.
    LoseAnswers,
    /// Everything passes.
    Pass,
    /// Nothing passes: connections are closed.
    Refuse,
}

pub(crate) struct Relay {
    addr: SocketAddr,
    target: watch::Sender<SocketAddr>,
    mode: watch::Sender<Mode>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (target, seen_target) = watch::channel(addr);
        let (mode, seen_mode) = watch::channel(Mode::Pass);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let target = *seen_target.borrow();
                connections.spawn(connection(client, target, seen_mode.clone()));
            }
        });
        Self { addr, target, mode, _tasks: tasks }
    }

    /// Stands before a program from now on; where it can be reached instead.
    pub(crate) fn before(&self, target: SocketAddr) -> SocketAddr {
        self.target.send_replace(target);
        self.addr
    }

    /// Changes what happens, to connections that are open too.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn connection(client: TcpStream, target: SocketAddr, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Refuse {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let ((mut from_client, to_client), (from_server, mut to_server)) = (client.into_split(), server.into_split());
    let answers = mode.clone();
    tokio::select! {
        _ = copy(&mut from_client, &mut to_server) => {}
        () = answer(from_server, to_client, answers) => {}
        _ = mode.wait_for(|mode| *mode == Mode::Refuse) => {}
    }
}

async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mode: watch::Receiver<Mode>) {
    let mut buffer = [0; 4096];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        if *mode.borrow() == Mode::Pass && to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}
