//! Whether a failed attempt is followed by another: what is safe, what a policy asks for, and what a service may cost.
//!
//! What was provably not processed is always safe to send again. The rest is the policy's to ask for, and even then only
//! for methods that are idempotent, unless the policy says otherwise too. The caller asks [`may_retry`] first and then
//! takes the retry from the [`Budget`]; it never retries once a byte of the response has gone to the client.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use weft_model::policy::{RetryBudget, RetryPolicy};

use crate::ticks::{Epoch, fraction};

/// Further attempts for what was not processed, where no policy asks for more: enough to get past a zone's worth of
/// endpoints that are just going away. The budget bounds the sum.
pub const UNPROCESSED_RETRIES_MAX: u32 = 3;

/// The first pause where no policy names one (Linkerd's value); ten times that is the longest.
pub const BACKOFF_DEFAULT: Duration = Duration::from_millis(25);

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response ends with this gRPC status.
    Grpc(u16),
    /// The connection broke, or the stream was reset, after the request was sent and before a response.
    Reset,
    /// A reused connection was closed by the server before a byte of the response: mostly it had been idle too long
    /// (RFC 9112 §9.3.1). Not a mesh TLS stream without its `close_notify`: that is a peer that died.
    ReusedClosed,
    /// The response begins with this status.
    Status(StatusCode),
    /// It took longer than one attempt may.
    TimedOut,
    /// The server provably did nothing: the connection failed, `REFUSED_STREAM`, GOAWAY below the stream, `app-connect`.
    Unprocessed,
}

/// What is left of the request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// A part was sent and not kept.
    Lost,
    /// All of it can be sent again: nothing was taken from it yet, or what was is kept.
    Whole,
}

/// An attempt that failed.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// How it ended.
    pub outcome: Outcome,
    /// The request's method.
    pub method: &'a Method,
    /// What the rule asks for.
    pub policy: Option<&'a RetryPolicy>,
    /// How many retries came before.
    pub retries: u32,
    /// What is left of the body.
    pub replay: Replay,
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try another endpoint after this pause, if the budget gives a retry.
    Retry {
        /// How long to wait.
        after: Duration,
    },
    /// Answer with what there is.
    Stop(StopCause),
}

/// Why there is no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopCause {
    /// As many as may be were made.
    Attempts,
    /// The body cannot be sent again.
    Body,
    /// The method is not idempotent, and the request may have been processed.
    Method,
    /// Nobody asks for a retry of this outcome.
    Outcome,
}

/// Decides whether an attempt may be followed by another. `roll` spreads the pause.
pub fn may_retry(attempt: &Attempt<'_>, roll: u64) -> Decision {
    let asked = attempt.policy.filter(|policy| asks_for(policy, attempt.outcome));
    let unprocessed = attempt.outcome == Outcome::Unprocessed;
    let idempotent = is_idempotent(attempt.method);
    let forced = asked.is_some_and(|policy| policy.non_idempotent);
    let stop = if unprocessed || forced {
        None
    } else if attempt.outcome == Outcome::ReusedClosed || asked.is_some() {
        (!idempotent).then_some(StopCause::Method)
    } else {
        Some(StopCause::Outcome)
    };
    let policy_max = attempt.policy.map_or(0, |policy| policy.attempts);
    let safe = unprocessed || (attempt.outcome == Outcome::ReusedClosed && idempotent);
    let max = if safe { policy_max.max(UNPROCESSED_RETRIES_MAX) } else { policy_max };
    match stop {
        Some(cause) => Decision::Stop(cause),
        None if attempt.replay == Replay::Lost => Decision::Stop(StopCause::Body),
        None if attempt.retries >= max => Decision::Stop(StopCause::Attempts),
        // Another endpoint, and nothing was done: there is nothing to wait for.
        None if safe && attempt.retries == 0 => Decision::Retry { after: Duration::ZERO },
        None => {
            let base = attempt.policy.map_or(BACKOFF_DEFAULT, |policy| policy.backoff);
            Decision::Retry { after: backoff(base, attempt.retries, roll) }
        }
    }
}

/// The pause before the retry that follows `retries` others: between the base doubled each time and twice that, and
/// never more than ten times the base.
pub fn backoff(base: Duration, retries: u32, roll: u64) -> Duration {
    let shortest = base.saturating_mul(1 << retries.min(16)).min(base.saturating_mul(5));
    shortest.saturating_add(fraction(shortest, roll))
}

/// Whether sending a request twice means the same as sending it once (RFC 9110 §9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

fn asks_for(policy: &RetryPolicy, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Grpc(code) => policy.grpc_codes.contains(&code),
        Outcome::Reset | Outcome::ReusedClosed | Outcome::TimedOut => policy.on_reset,
        Outcome::Status(status) => policy.status_codes.contains(&status.as_u16()),
        Outcome::Unprocessed => true,
    }
}

/// How far back the budget looks (Gateway API's and Linkerd's value).
pub const BUDGET_WINDOW: Duration = Duration::from_secs(10);

const SLOTS: usize = 10;

/// What retries cost a service, over all workers and the last [`BUDGET_WINDOW`]. The limits are given with each
/// question, so that counts outlive a change of policy.
#[derive(Debug)]
pub struct Budget {
    epoch: Epoch,
    /// Requests, by second; every request writes here, so one atomic word each: 32 bits of second, 32 of count.
    requests: [AtomicU64; SLOTS],
    /// Retries, by second. A mutex, because reading all and adding one must be one step for the budget to be exact;
    /// only retries take it, and they are few.
    retries: Mutex<[u64; SLOTS]>,
}

impl Budget {
    /// Nothing was spent yet.
    pub fn new(now: Instant) -> Self {
        Self { epoch: Epoch::new(now), requests: Default::default(), retries: Mutex::new([0; SLOTS]) }
    }

    /// Counts a request (not its retries). **Cost:** one atomic update.
    pub fn deposit(&self, now: Instant) {
        let second = self.second(now);
        if let Some(slot) = self.requests.get(slot(second)) {
            slot.update(Ordering::Relaxed, Ordering::Relaxed, |word| counted(word, second));
        }
    }

    /// Takes a retry, if there is one: retries of the window stay within the share of its requests plus the floor.
    pub fn withdraw(&self, limits: &RetryBudget, now: Instant) -> bool {
        let second = self.second(now);
        let requests: u64 = self.requests.iter().map(|slot| live(slot.load(Ordering::Relaxed), second)).sum();
        let floor = u64::from(limits.min_per_second) * BUDGET_WINDOW.as_secs();
        let most = requests * u64::from(limits.percent) / 100 + floor;
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let spent: u64 = retries.iter().map(|&word| live(word, second)).sum();
        if spent >= most {
            return false;
        }
        if let Some(slot) = retries.get_mut(slot(second)) {
            *slot = counted(*slot, second);
        }
        true
    }

    fn second(&self, now: Instant) -> u64 {
        // Seconds start at 1, so that a slot that was never written is from before the window.
        self.epoch.ms(now) / 1000 + 1 + SLOTS_U64
    }
}

const SLOTS_U64: u64 = SLOTS as u64;

fn slot(second: u64) -> usize {
    usize::try_from(second % SLOTS_U64).unwrap_or(0)
}

/// The count of a slot, if it belongs to the window that ends with `second`.
fn live(word: u64, second: u64) -> u64 {
    let written = word >> 32;
    if second.saturating_sub(written) < SLOTS_U64 { word & COUNT_MAX } else { 0 }
}

/// A slot with one more in `second`; what it held from an earlier round is forgotten.
fn counted(word: u64, second: u64) -> u64 {
    let written = word >> 32;
    // A worker whose clock reading is behind counts into the newer round.
    if written >= second { written << 32 | ((word & COUNT_MAX) + 1).min(COUNT_MAX) } else { second << 32 | 1 }
}

const COUNT_MAX: u64 = (1 << 32) - 1;

#[cfg(test)]
mod tests;
