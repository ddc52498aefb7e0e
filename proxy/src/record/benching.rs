//! A registry full of series, for the benchmark of a scrape.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;
use weft_model::{ClientAddr, OriginalDst, WorkloadName};
use weft_runtime::clock::WallClock;

use super::facts::{Direction, HttpFacts, Protocol, Traffic};
use super::metrics::Registry;

/// Series of one worker, each of a client of its own.
pub struct Series(Arc<Registry>);

impl Series {
    /// So many series that a page has about as many lines of samples.
    pub fn with_samples(samples: usize) -> Self {
        let registry = Arc::new(Registry::new(&WallClock::system()));
        let series = Self(registry);
        let count = || {
            let mut page = String::new();
            series.write(&mut page);
            page.lines().filter(|line| !line.starts_with('#')).count()
        };
        let shard = series.0.shard();
        let client = ([127, 0, 0, 1], 1).into();
        for n in 0.. {
            let mut traffic = Traffic::new(Direction::Inbound, Protocol::Http1);
            traffic.source = Some(WorkloadName::new("shop", &format!("w{n}")));
            let mut facts = HttpFacts::new(traffic, ClientAddr(client), OriginalDst(client), Instant::now());
            facts.status = Some(200);
            shard.request(&facts, Instant::now(), None);
            if count() >= samples {
                break;
            }
        }
        series
    }

    /// Writes the page.
    pub fn write(&self, page: &mut String) {
        self.0.write(page);
    }
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Series")
    }
}
