//! The order in which a trust anchor is replaced, as a value: it decides, and touches no file, clock or network.
//!
//! `Steady` → (begin) → `Overlap`: both anchors are trusted, the old one signs, until every proxy knows both → (switch)
//! → `Retiring`: both are trusted, the new one signs, until every proxy still knows both and every leaf that the old
//! one signed has expired → (retire) → `Steady`.

use weft_tls::AnchorId;

/// How far the replacement of the trust anchor is. Times are seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Both are trusted; the old one signs.
    Overlap {
        /// The one that signs.
        old: AnchorId,
        /// The one that will.
        new: AnchorId,
    },
    /// Both are trusted; the new one signs.
    Retiring {
        /// The one that goes.
        old: AnchorId,
        /// When the last leaf that it signed has expired.
        leaves_gone_unix_s: u64,
    },
    /// Nothing is being replaced.
    Steady,
}

/// What is known about the proxies at the moment of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgements {
    /// Known proxies that have not acknowledged the bundle in force. A proxy that is away counts for as long as its
    /// leaf could still be valid.
    pub pending: usize,
    /// Other replicas of the control plane that give out another bundle, or of whose proxies nothing is known.
    pub replicas: usize,
}

impl Acknowledgements {
    /// Whether all that must have come has come.
    fn is_complete(self) -> bool {
        self.pending == 0 && self.replicas == 0
    }
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take the old anchor out of the bundle.
    Retire,
    /// Let the new issuer sign.
    Switch,
    /// Nothing: see why with [`Rotation::waits_for`].
    Wait,
}

impl Rotation {
    /// The state's name, as the admin page says it: `Steady`, `Overlap` or `Retiring`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overlap { .. } => "Overlap",
            Self::Retiring { .. } => "Retiring",
            Self::Steady => "Steady",
        }
    }

    /// What holds in this state, in words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Overlap { .. } => "both anchors are trusted, the old one's issuer signs",
            Self::Retiring { .. } => "both anchors are trusted, the new one's issuer signs",
            Self::Steady => "one issuer signs, nothing is being replaced",
        }
    }

    /// The anchor that is to go.
    pub const fn old(self) -> Option<AnchorId> {
        match self {
            Self::Overlap { old, .. } | Self::Retiring { old, .. } => Some(old),
            Self::Steady => None,
        }
    }

    /// The step that may be made now.
    pub fn step(self, acknowledgements: Acknowledgements, now_unix_s: u64) -> Step {
        match self {
            Self::Overlap { .. } if acknowledgements.is_complete() => Step::Switch,
            // The second is the last one in which the leaf is valid (RFC 5280 §4.1.2.5), so it has to be over.
            Self::Retiring { leaves_gone_unix_s, .. }
                if acknowledgements.is_complete() && now_unix_s > leaves_gone_unix_s =>
            {
                Step::Retire
            }
            Self::Overlap { .. } | Self::Retiring { .. } | Self::Steady => Step::Wait,
        }
    }

    /// What keeps it from the next step, for an operator; empty where nothing does.
    pub fn waits_for(self, acknowledgements: Acknowledgements, now_unix_s: u64) -> String {
        let Acknowledgements { pending, replicas } = acknowledgements;
        let mut reasons = Vec::new();
        if !matches!(self, Self::Steady) && pending > 0 {
            reasons.push(format!("{pending} proxies to acknowledge the trust bundle"));
        }
        if !matches!(self, Self::Steady) && replicas > 0 {
            reasons.push(format!("{replicas} replicas of the control plane to tell of their proxies"));
        }
        if let Self::Retiring { leaves_gone_unix_s, .. } = self
            && now_unix_s <= leaves_gone_unix_s
        {
            reasons.push(format!(
                "{} s until the old anchor's last leaf has expired",
                leaves_gone_unix_s - now_unix_s + 1
            ));
        }
        reasons.join(" and ")
    }
}

#[cfg(test)]
mod tests {
    use super::{Acknowledgements, Rotation, Step};
    use weft_tls::AnchorId;
    use weft_tls::testing::TestCa;

    const NONE: Acknowledgements = Acknowledgements { pending: 0, replicas: 0 };
    const SOME: Acknowledgements = Acknowledgements { pending: 2, replicas: 0 };
    const DEAF: Acknowledgements = Acknowledgements { pending: 0, replicas: 1 };

    fn anchors() -> (AnchorId, AnchorId) {
        let id = |name| TestCa::new(name).bundle().anchors()[0].id();
        (id("old"), id("new"))
    }

    #[test]
    fn each_step_waits_for_all_that_it_must() {
        let (old, new) = anchors();
        let overlap = Rotation::Overlap { old, new };
        let retiring = Rotation::Retiring { old, leaves_gone_unix_s: 100 };
        for (state, acknowledgements, now, step) in [
            (Rotation::Steady, NONE, 1_000, Step::Wait),
            (overlap, SOME, 0, Step::Wait),
            (overlap, DEAF, 0, Step::Wait),
            (overlap, NONE, 0, Step::Switch),
            (retiring, NONE, 99, Step::Wait),
            (retiring, NONE, 100, Step::Wait),
            (retiring, SOME, 101, Step::Wait),
            (retiring, DEAF, 101, Step::Wait),
            (retiring, NONE, 101, Step::Retire),
        ] {
            assert_eq!(state.step(acknowledgements, now), step, "{state:?} {acknowledgements:?} {now}");
            let shown = [state.name(), if state.old().is_some() { "old" } else { "" }];
            let expected = match state {
                Rotation::Overlap { .. } => ["Overlap", "old"],
                Rotation::Retiring { .. } => ["Retiring", "old"],
                Rotation::Steady => ["Steady", ""],
            };
            assert_eq!(shown, expected);
            let says_why = !state.waits_for(acknowledgements, now).is_empty();
            assert_eq!(says_why, step == Step::Wait && state != Rotation::Steady, "{state:?} {now}");
        }
    }
}
