//! Drives a [`Scanner`]: on a thread of its own, because it reads files and sleeps between.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use super::{Scanner, Seen};

/// Without news for this long, what was written is complete. An editor's steps are microseconds apart.
const QUIET: Duration = Duration::from_millis(20);

/// So many noisy quiets in a row are enough waiting: somebody writes all the time.
const NOISY_MAX: u32 = 15;

/// How often the directory is read without news: symlinks that lead outside, network file systems.
const RESCAN: Duration = Duration::from_secs(2);

/// How often a stop is noticed.
const STOP_POLL: Duration = Duration::from_millis(250);

/// A followed directory; dropping it ends the thread.
#[derive(Debug)]
pub struct Following {
    stop: Arc<AtomicBool>,
    wake: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // A full queue wakes it as well.
        let _woken = self.wake.try_send(());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("directory thread panicked");
        }
    }
}

/// Follows a directory: the first thing sent is all that is there, then each change.
///
/// # Errors
/// The thread cannot be made. A system without inotify only makes it slower.
pub fn follow(root: &Path, excluded: Option<&Path>, seen: mpsc::Sender<Seen>) -> io::Result<Following> {
    let stop = Arc::new(AtomicBool::new(false));
    // One is enough: it says "look", not what happened.
    let (wake, news) = sync_channel(1);
    let watcher = watch(root, excluded, wake.clone());
    let mut follower = Follower {
        scanner: Scanner::new(root, excluded),
        root: root.to_owned(),
        news,
        seen,
        stop: Arc::clone(&stop),
        last: None,
    };
    let thread = std::thread::Builder::new().name("weft-directory".to_owned()).spawn(move || {
        // Held for as long as the thread lives.
        let _watcher = watcher;
        follower.run();
    })?;
    Ok(Following { stop, wake, thread: Some(thread) })
}

/// Asks the kernel for news. `None`: it gives none, and only rescans find changes.
fn watch(root: &Path, excluded: Option<&Path>, wake: SyncSender<()>) -> Option<notify::RecommendedWatcher> {
    let excluded: Vec<PathBuf> =
        excluded.into_iter().flat_map(|path| [Some(path.to_owned()), path.canonicalize().ok()]).flatten().collect();
    let ours = move |path: &PathBuf| !excluded.iter().any(|excluded| path.starts_with(excluded));
    let tell = move |event: notify::Result<notify::Event>| {
        let worth = match event {
            Ok(event) => !event.kind.is_access() && (event.paths.is_empty() || event.paths.iter().any(&ours)),
            Err(_) => true,
        };
        if worth {
            // A full queue already says "look".
            let _told = wake.try_send(());
        }
    };
    let watched = notify::recommended_watcher(tell).and_then(|mut watcher| {
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watched
        .inspect_err(|error| tracing::warn!(%error, root = %root.display(), "no news from the kernel, rescanning only"))
        .ok()
}

struct Follower {
    scanner: Scanner,
    root: PathBuf,
    news: Receiver<()>,
    seen: mpsc::Sender<Seen>,
    stop: Arc<AtomicBool>,
    /// The problems that were told last.
    last: Option<Vec<super::FileProblem>>,
}

impl Follower {
    fn run(&mut self) {
        let mut rescan = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            let now = Instant::now();
            let due = self.scanner.due().is_some_and(|due| now >= due);
            if now >= rescan || due {
                let Some(()) = self.scan() else { return };
                rescan = Instant::now() + RESCAN;
            }
            let next = self.scanner.due().map_or(rescan, |due| due.min(rescan));
            let wait = next.saturating_duration_since(Instant::now()).min(STOP_POLL);
            match self.news.recv_timeout(wait) {
                Ok(()) => {
                    self.settle();
                    rescan = Instant::now();
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The watcher is gone; its place is taken by rescans.
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Waits until nobody writes.
    fn settle(&self) {
        for _ in 0..NOISY_MAX {
            if self.news.recv_timeout(QUIET).is_err() {
                return;
            }
        }
    }

    /// `None`: nobody listens any more.
    fn scan(&mut self) -> Option<()> {
        let seen = self.scanner.scan(Instant::now());
        if self.last.as_ref() != Some(&seen.problems) {
            for problem in seen.problems.iter().filter(|p| !self.last.as_ref().is_some_and(|last| last.contains(p))) {
                if problem.ignored {
                    tracing::info!(root = %self.root.display(), %problem, "document is not ours");
                } else {
                    tracing::warn!(root = %self.root.display(), %problem, "document refused, last good version stays");
                }
            }
        } else if seen.events.is_empty() {
            return Some(());
        }
        self.last = Some(seen.problems.clone());
        self.send(seen)
    }

    /// Waits for room, but not through a stop.
    fn send(&self, mut seen: Seen) -> Option<()> {
        loop {
            seen = match self.seen.try_send(seen) {
                Ok(()) => return Some(()),
                Err(TrySendError::Closed(_)) => return None,
                Err(TrySendError::Full(seen)) => seen,
            };
            if self.stop.load(Ordering::Acquire) {
                return None;
            }
            std::thread::park_timeout(QUIET);
        }
    }
}
