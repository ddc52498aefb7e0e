//! How a connection ends whose peer is trusted no longer: not where it stands, but within [`DISTRUSTED_MAX`]. First it takes
//! no more than what is on its way, then it is closed when idle, and last it is cut.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::connect::DISTRUSTED_MAX;

/// How long an idle connection is left open after the removal: its client's proxy learns of it too and closes first, so
/// that no request crosses our close (a guess: the control plane tells all proxies within tens of milliseconds).
const QUIET: Duration = Duration::from_secs(2);

/// How far the end of a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Business as usual.
    #[default]
    Open,
    /// The next answer is the last.
    LastAnswer,
    /// An idle connection is closed.
    IdleClosed,
}

/// Told by the story of a connection to those who serve requests on it.
#[derive(Debug, Default)]
pub(crate) struct Farewell {
    phase: Cell<Phase>,
    changed: Notify,
}

impl Farewell {
    /// Leads the connection to its end, which is when this resolves. **Cancel:** leaves it in the phase it is in.
    pub(crate) async fn say(&self) {
        self.enter(Phase::LastAnswer);
        sleep(QUIET).await;
        self.enter(Phase::IdleClosed);
        sleep(DISTRUSTED_MAX.saturating_sub(QUIET)).await;
    }

    /// Whether the client is to be told that this connection takes no more. **Cost:** one load.
    pub(crate) fn is_said(&self) -> bool {
        self.phase.get() >= Phase::LastAnswer
    }

    /// Resolves when it is said. **Cancel:** loses nothing.
    pub(crate) async fn said(&self) {
        self.reached(Phase::LastAnswer).await;
    }

    /// Resolves when an idle connection is to be closed. **Cancel:** loses nothing.
    pub(crate) async fn idle_closed(&self) {
        self.reached(Phase::IdleClosed).await;
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.changed.notify_waiters();
    }

    async fn reached(&self, phase: Phase) {
        // One thread: nothing changes between the look and the first poll of the wait.
        while self.phase.get() < phase {
            self.changed.notified().await;
        }
    }
}
