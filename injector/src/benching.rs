//! Ways in for the benchmarks of `bench/`. Nothing else calls them.

use std::sync::Arc;

use crate::metrics::Metrics;
use crate::patch::Installation;
use crate::webhook::Webhook;

/// The webhook without a way in.
#[derive(Debug)]
pub struct Admissions(Webhook);

impl Admissions {
    /// Of an installation.
    pub fn new(installation: Installation) -> Self {
        Self(Webhook { installation, metrics: Arc::new(Metrics::new()) })
    }

    /// An `AdmissionReview` with a question to one with the answer, both as they are on the wire.
    ///
    /// # Errors
    /// It is not the text of one.
    pub fn answer(&self, question: &[u8]) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&self.0.review(serde_json::from_slice(question)?))
    }
}
