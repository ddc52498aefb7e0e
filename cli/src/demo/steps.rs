//! What the demo claims, in the order it is shown.

mod canary;
mod denied;
mod killed;
mod mutual;
mod orders;
mod outage;
mod rotation;
mod under_load;

use super::screen::Screen;
use super::shop::Shop;

/// One claim.
pub(super) struct Step {
    /// The claim.
    pub(super) title: &'static str,
    /// Proves it; returns the figures that did.
    pub(super) run: fn(&mut Shop<'_>, &mut Screen) -> anyhow::Result<String>,
}

pub(super) const ALL: &[Step] = &[
    Step { title: "real orders flow", run: orders::run },
    Step { title: "everything is mutually authenticated", run: mutual::run },
    Step { title: "killed instances cost no request (policy)", run: killed::with_policy },
    Step { title: "without the policy they cost some", run: killed::without_policy },
    Step { title: "a canary goes from 0 to 100 %", run: canary::run },
    Step { title: "who may not call is refused, and told why", run: denied::run },
    Step { title: "certificates and anchor rotate under load", run: rotation::run },
    Step { title: "the control plane dies and comes back", run: outage::run },
];
