//! Two-phase shutdown as a value. The owner of a [`DrainSignal`] says when to finish and when to cut; everybody who
//! serves something has a [`Drain`], and takes a [`Hold`] for as long as it should be waited for.
//!
//! Works between threads and runtimes. It decides nothing about *how* a connection finishes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// How far the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Business as usual.
    Serving,
    /// Finish what you have.
    Draining,
    /// Drop what you have.
    Cut,
}

/// The side that ends things. Clones are the same signal.
#[derive(Clone, Debug)]
pub struct DrainSignal {
    phase: watch::Sender<Phase>,
    holds: Arc<Holds>,
}

/// The side that is told. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain {
    phase: watch::Receiver<Phase>,
    holds: Arc<Holds>,
}

/// Something that a drain waits for, until it is dropped.
#[derive(Debug)]
#[must_use = "a hold that is dropped at once holds nothing"]
pub struct Hold(Arc<Holds>);

#[derive(Debug, Default)]
struct Holds {
    count: AtomicUsize,
    /// Told each time the count falls to zero.
    none_left: Notify,
}

impl DrainSignal {
    /// Tells everybody to finish. Doing so again, or after the cut, changes nothing.
    pub fn begin(&self) {
        self.advance(Phase::Draining);
    }

    /// Tells everybody to stop now.
    pub fn cut(&self) {
        self.advance(Phase::Cut);
    }

    /// Tells everybody to finish, waits until no hold is left or the deadline has passed, then cuts. Returns how many
    /// holds were cut.
    ///
    /// **Cancel:** leaves the drain begun and nothing cut.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.begin();
        let timed_out = tokio::time::timeout(deadline, self.holds.none()).await.is_err();
        let left = if timed_out { self.holds() } else { 0 };
        self.cut();
        left
    }

    /// How many holds there are.
    pub fn holds(&self) -> usize {
        self.holds.count.load(Ordering::Acquire)
    }

    /// How far the end is.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < to;
            if forward {
                *phase = to;
            }
            forward
        });
    }
}

impl Drain {
    /// A signal and the first of those who are told.
    pub fn new() -> (DrainSignal, Self) {
        let (sender, receiver) = watch::channel(Phase::Serving);
        let holds = Arc::<Holds>::default();
        (DrainSignal { phase: sender, holds: Arc::clone(&holds) }, Self { phase: receiver, holds })
    }

    /// Resolves when a drain has begun; at once where it has. A signal that nobody holds any more counts as a cut.
    ///
    /// **Cancel:** loses nothing.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Resolves when what is left must be dropped.
    ///
    /// **Cancel:** loses nothing.
    pub async fn cut(&self) {
        self.reached(Phase::Cut).await;
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// How far the end is.
    pub fn phase(&self) -> Phase {
        if self.phase.has_changed().is_err() { Phase::Cut } else { *self.phase.borrow() }
    }

    /// Asks a drain to wait for something, until the hold is dropped.
    pub fn hold(&self) -> Hold {
        self.holds.count.fetch_add(1, Ordering::AcqRel);
        Hold(Arc::clone(&self.holds))
    }

    async fn reached(&self, phase: Phase) {
        // An error means that the signal is gone, which is the end as well.
        drop(self.phase.clone().wait_for(|now| *now >= phase).await);
    }
}

impl Clone for Hold {
    fn clone(&self) -> Self {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}

impl Holds {
    async fn none(&self) {
        loop {
            // Registered before the count is read, so a hold dropped in between is not missed.
            let mut none_left = std::pin::pin!(self.none_left.notified());
            none_left.as_mut().enable();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none_left.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::{Drain, Phase};

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_drain_without_holds_ends_at_once() {
        let (signal, drain) = Drain::new();
        let begun = tokio::time::Instant::now();
        assert_eq!(signal.drain(LONG).await, 0);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(drain.phase(), Phase::Cut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_the_last_hold() {
        let (signal, drain) = Drain::new();
        let (first, second) = (drain.hold(), drain.hold());
        let mut draining = std::pin::pin!(signal.drain(LONG));
        assert!(draining.as_mut().now_or_never().is_none());
        assert!(drain.is_draining());
        assert!(drain.cut().now_or_never().is_none());
        drop(first);
        assert!(draining.as_mut().now_or_never().is_none());
        drop(second);
        assert_eq!(draining.await, 0);
        assert!(drain.cut().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_at_the_deadline_is_cut() {
        let (signal, drain) = Drain::new();
        let _held = drain.hold();
        assert_eq!(signal.drain(LONG).await, 1);
        assert_eq!(drain.phase(), Phase::Cut);
    }

    #[tokio::test]
    async fn who_asks_late_is_told_at_once_and_phases_never_go_back() {
        let (signal, drain) = Drain::new();
        assert!(drain.draining().now_or_never().is_none());
        signal.cut();
        signal.begin();
        assert!(drain.clone().draining().now_or_never().is_some());
        assert_eq!(drain.phase(), Phase::Cut);
    }

    #[tokio::test]
    async fn a_signal_that_is_gone_is_a_cut() {
        let (signal, drain) = Drain::new();
        drop(signal);
        assert!(drain.cut().now_or_never().is_some());
        assert_eq!(drain.phase(), Phase::Cut);
    }

    #[test]
    fn holds_of_another_runtime_are_waited_for() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (signal, drain) = Drain::new();
        let hold = drain.hold();
        let other = std::thread::spawn(move || {
            runtime().block_on(async move {
                drain.draining().await;
                drop(hold);
                drain.cut().await;
            });
        });
        assert_eq!(runtime().block_on(signal.drain(LONG)), 0);
        other.join().unwrap();
    }
}
