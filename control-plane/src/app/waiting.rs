//! The time before there is an issuer that somebody else makes: the process lives, is not ready, and says what it waits for.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::sleep;
use weft_runtime::admin::{Admin, AdminServer};
use weft_runtime::signal::Signals;

use super::AppError;
use crate::config::Config;
use crate::kubernetes::issuer::EVERY;
use crate::metrics::Metrics;

/// Waits for an issuer.
pub(super) struct Waiting<'a> {
    config: &'a Config,
    metrics: &'a Arc<Metrics>,
    /// There from the first time that it has to be waited.
    room: Option<Room>,
}

/// What there is of the process while it waits.
struct Room {
    admin: AdminServer,
    why: watch::Sender<String>,
    signals: Signals,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(config: &'a Config, metrics: &'a Arc<Metrics>) -> Self {
        Self { config, metrics, room: None }
    }

    /// Waits for a while, and says why.
    ///
    /// # Errors
    /// The process is asked to end, or there can be no pages.
    pub(super) async fn wait(&mut self, why: String) -> Result<(), AppError> {
        let room = match &mut self.room {
            Some(room) => room,
            none => none.insert(Room::open(self.config, self.metrics)?),
        };
        self.metrics.set_issuer_refused(true);
        if *room.why.borrow() != why {
            tracing::error!(why, "there is no issuer of certificates yet: waiting for it");
            room.why.send_replace(why.clone());
        }
        // Neither loses anything.
        tokio::select! {
            _signal = room.signals.next() => Err(AppError::NoIssuer { why }),
            () = sleep(EVERY) => Ok(()),
        }
    }

    /// Ends the wait, and makes room for the pages of a control plane that serves.
    pub(super) async fn end(self) {
        if let Some(room) = self.room {
            // It joins a thread.
            drop(tokio::task::spawn_blocking(move || drop(room.admin)).await);
        }
        self.metrics.set_issuer_refused(false);
    }
}

impl Room {
    fn open(config: &Config, metrics: &Arc<Metrics>) -> Result<Self, AppError> {
        let signals = Signals::install().map_err(AppError::Signals)?;
        let (why, said) = watch::channel(String::new());
        let admin = pages(config, Arc::clone(metrics), said).map_err(AppError::Listen)?;
        Ok(Self { admin, why, signals })
    }
}

fn pages(config: &Config, metrics: Arc<Metrics>, why: watch::Receiver<String>) -> io::Result<AdminServer> {
    let (shown, secret) = (why.clone(), config.issuer_secret.clone());
    let builder = Admin::builder()
        .metrics(move |out| metrics.write(out))
        .ready(move || Err(vec![format!("an issuer of certificates: {}", *why.borrow())]))
        .json("/rotation", weft_runtime::admin::Access::Anyone, move || {
            serde_json::json!({"issuerSecret": {"name": secret, "problem": *shown.borrow()}}).to_string()
        });
    builder.bind(&config.admin)?.start()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use clap::Parser as _;

    use super::*;
    use crate::config::RawConfig;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_lives_is_not_ready_and_says_for_what() {
        let args = ["a", "--source=kubernetes", "--ca-dir=/ca", "--issuer-secret=weft-issuer", "--admin=127.0.0.1:0"];
        let config = Config::new(RawConfig::try_parse_from(args).unwrap()).unwrap();
        let metrics = Metrics::new();
        let mut waiting = Waiting::new(&config, &metrics);
        waiting.wait("tls.crt is missing".to_owned()).await.unwrap();
        let addr = waiting.room.as_ref().unwrap().admin.addrs()[0];
        let get = |path: &str| {
            let mut tcp = TcpStream::connect(addr).unwrap();
            write!(tcp, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            tcp.read_to_string(&mut answer).unwrap();
            answer
        };
        assert!(get("/live").starts_with("HTTP/1.1 200"));
        let ready = get("/ready");
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("tls.crt is missing"), "{ready}");
        assert!(get("/rotation").contains(r#""problem":"tls.crt is missing""#));
        assert!(get("/metrics").contains("weft_control_plane_issuer_secret_refused 1"));
        waiting.end().await;
        assert!(TcpStream::connect(addr).is_err());
    }
}
