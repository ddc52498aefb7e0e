//! Endpoints that move, and who has heard of it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use weft_cli::world::Stopwatch;

use crate::figure::Samples;

/// Endpoints that move, by where they are then. No address is moved to twice.
#[derive(Debug, Default)]
pub(crate) struct Moves(Mutex<HashMap<String, Move>>);

#[derive(Debug)]
struct Move {
    since: Stopwatch,
    /// After how many ms each proxy had acknowledged it.
    after: Vec<f64>,
}

impl Moves {
    /// An endpoint is about to move.
    pub(crate) fn begin(&self, to: &str) {
        self.lock().insert(to.to_owned(), Move { since: Stopwatch::start(), after: Vec::new() });
    }

    /// A proxy was told of these endpoints.
    pub(crate) fn hear<'a>(&self, told: impl Iterator<Item = &'a str>) {
        let mut moves = self.lock();
        for addr in told {
            if let Some(moved) = moves.get_mut(addr) {
                moved.after.push(moved.since.elapsed().as_secs_f64() * 1e3);
            }
        }
    }

    /// How many proxies were told of one.
    pub(crate) fn heard(&self, to: &str) -> usize {
        self.lock().get(to).map_or(0, |moved| moved.after.len())
    }

    /// After how many ms each proxy knew of each endpoint.
    pub(crate) fn delays(&self) -> Samples {
        let mut delays = Samples::default();
        for after in self.lock().values().flat_map(|moved| &moved.after) {
            delays.add(*after);
        }
        delays
    }

    /// What a proxy that panicked leaves behind is whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Move>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
