//! Keeps the node's files as they should be: whoever rewrites the CNI configuration, we are back in it at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use weft_init::told;
use weft_runtime::drain::Drain;

use crate::host::{Host, HostError};

/// How often to look though nothing was heard: the kernel does not tell of everything on every file system.
const RESCAN: Duration = Duration::from_secs(5);

/// How the node stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The configuration that has us in its chain, if one has.
    pub(crate) file: Option<String>,
}

/// Keeps them until the drain begins. Tells how the node stands, and counts what it had to write.
pub(crate) async fn keep(
    host: Host,
    program: PathBuf,
    standing: watch::Sender<Standing>,
    written: Counter,
    drain: Drain,
) {
    let (wake, mut woken) = mpsc::channel(1);
    let _watchers = [&host.configurations, &host.programs].map(|directory| follow(directory, wake.clone()));
    let (host, program) = (Arc::new(host), Arc::new(program));
    let mut said = None;
    loop {
        let (host, program) = (Arc::clone(&host), Arc::clone(&program));
        let looked = spawn_blocking(move || look(&host, &program)).await;
        let failure = match looked {
            Ok(Ok((file, is_new))) => {
                if is_new {
                    written.inc();
                    tracing::info!(file, "the plugin was put into the chain");
                }
                standing.send_if_modified(|standing| replace(standing, Standing { file: Some(file) }));
                None
            }
            Ok(Err(error)) => Some(error),
            // It has panicked, and was told.
            Err(_) => None,
        };
        let text = failure.as_ref().map(|error| told(error));
        if let Some(text) = &text {
            standing.send_if_modified(|standing| replace(standing, Standing::default()));
            // Once, not every five seconds.
            if said.as_ref() != Some(text) {
                tracing::warn!(error = text, "the plugin is not in the chain");
            }
        }
        said = text;
        // Nothing is lost: the next look sees all that has changed.
        tokio::select! {
            () = drain.draining() => return,
            _ = woken.recv() => {}
            () = sleep(RESCAN) => {}
        }
    }
}

/// The program first: a chain must never name what is not there.
fn look(host: &Host, program: &Path) -> Result<(String, bool), HostError> {
    if host.put_program(program)? {
        tracing::info!(directory = %host.programs.display(), "the program was put in place");
    }
    host.join().map(|joined| (joined.file, joined.is_new))
}

fn replace(standing: &mut Standing, new: Standing) -> bool {
    let is_other = *standing != new;
    *standing = new;
    is_other
}

/// Asks the kernel for news. `None`: it gives none, and only looking now and then finds changes.
fn follow(directory: &Path, wake: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let tell = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // A full queue already says "look".
            let _told = wake.try_send(());
        }
    };
    let watched = notify::recommended_watcher(tell).and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watched
        .inspect_err(|error| tracing::warn!(%error, directory = %directory.display(), "no news from the kernel, rescanning only"))
        .ok()
}
