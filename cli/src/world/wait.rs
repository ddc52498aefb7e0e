//! Waiting for what happens in other processes, in real time, until somebody presses Ctrl-C.
//!
//! Every wait of this library goes through here, so that one flag ends them all and the world is taken down in the usual way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a condition is looked at: short against what is waited for, long against the cost of looking.
const GLANCE: Duration = Duration::from_millis(10);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Why a wait ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Ends every wait of this process, now and later.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Release);
}

/// Whether [`interrupt`] was called.
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Acquire)
}

/// Real time since it was started.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts one.
    #[expect(clippy::disallowed_methods, reason = "what is measured happens in other processes, in real time")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// How long ago that was.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Waits for a while.
///
/// # Errors
/// [`Interrupted`].
pub fn pause(length: Duration) -> anyhow::Result<()> {
    let watch = Stopwatch::start();
    while watch.elapsed() < length {
        if is_interrupted() {
            return Err(Interrupted.into());
        }
        sleep(GLANCE.min(length.saturating_sub(watch.elapsed())));
    }
    Ok(())
}

/// Asks again and again until there is an answer.
///
/// # Errors
/// There was none within the time; the error says what was waited for. Or [`Interrupted`].
pub fn wait_for<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let watch = Stopwatch::start();
    loop {
        if let Some(answer) = probe() {
            return Ok(answer);
        }
        if is_interrupted() {
            return Err(Interrupted.into());
        }
        anyhow::ensure!(watch.elapsed() < within, "{what}: not within {within:?}");
        sleep(GLANCE);
    }
}

#[expect(clippy::disallowed_methods, reason = "no worker of a runtime runs this")]
fn sleep(length: Duration) {
    std::thread::sleep(length);
}
