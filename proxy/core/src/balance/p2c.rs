//! Draws the two candidates of "power of two choices", weights respected.
//!
//! Where all weights are equal the two are different. Otherwise each is drawn by weight (alias method, Vose 1991), and
//! they may be the same: with two different ones out of two, weights would mean nothing. Cost then compares requests in
//! flight per weight, so that idle and loaded endpoints alike get their weight's share.

use crate::ticks::{below, mix};

/// How candidates are drawn from a set.
#[derive(Debug)]
pub(crate) struct Sampler {
    len: u64,
    /// Empty where all weights are equal.
    alias: Box<[Slot]>,
    /// The sum of the weights.
    total: u64,
}

/// One slot of the alias table: itself for draws below `keep` (out of the sum of the weights), else `other`.
#[derive(Clone, Copy, Debug)]
struct Slot {
    keep: u64,
    other: usize,
}

impl Sampler {
    pub(crate) fn of(weights: &[u32]) -> Self {
        let len = u64::try_from(weights.len()).unwrap_or(u64::MAX);
        let total = weights.iter().map(|&weight| u64::from(weight.max(1))).sum();
        let equal = weights.windows(2).all(|pair| matches!(pair, [a, b] if a == b));
        let alias = if equal { Box::default() } else { alias_table(weights, len, total) };
        Self { len, alias, total }
    }

    /// Two places, different if weights are equal and there are two.
    pub(crate) fn pair(&self, roll: u64) -> (usize, usize) {
        if !self.alias.is_empty() {
            return (self.one(roll), self.one(mix(roll)));
        }
        let one = below(roll, self.len);
        // Drawn from the others, then shifted past the first; the lower half of the roll is as good as the upper.
        let other = below(roll << 32, self.len.saturating_sub(1));
        let other = if other >= one && self.len > 1 { other + 1 } else { other };
        (place(one), place(other))
    }

    /// One place.
    pub(crate) fn one(&self, roll: u64) -> usize {
        let drawn = place(below(roll, self.len));
        match self.alias.get(drawn) {
            Some(slot) if below(roll << 32, self.total) >= slot.keep => slot.other,
            _ => drawn,
        }
    }

    /// Requests in flight per weight, where 1 is the mean weight.
    pub(crate) fn share(&self, in_flight: u32, weight: u32) -> f32 {
        if self.alias.is_empty() {
            return in_flight as f32;
        }
        let mean = self.total as f32 / self.len as f32;
        in_flight as f32 * mean / weight.max(1) as f32
    }
}

/// Everything scaled by the number of slots, so that it stays in whole numbers: a slot holds `total`.
fn alias_table(weights: &[u32], len: u64, total: u64) -> Box<[Slot]> {
    let mut left: Vec<u64> = weights.iter().map(|&weight| u64::from(weight.max(1)).saturating_mul(len)).collect();
    let mut slots: Vec<Slot> = (0..weights.len()).map(|at| Slot { keep: total, other: at }).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|&at| left.get(at).is_some_and(|&left| left < total));
    while let (Some(under), Some(&over)) = (small.pop(), large.last()) {
        let keep = left.get(under).copied().unwrap_or(total);
        if let Some(slot) = slots.get_mut(under) {
            *slot = Slot { keep, other: over };
        }
        if let Some(rest) = left.get_mut(over) {
            *rest -= total - keep;
            if *rest < total {
                large.pop();
                small.push(over);
            }
        }
    }
    slots.into()
}

fn place(drawn: u64) -> usize {
    usize::try_from(drawn).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Sampler;
    use crate::ticks::mix;
    use proptest::prelude::*;

    #[test]
    fn equal_weights_give_two_different_ones_evenly() {
        for len in [1usize, 2, 3, 7, 10_000] {
            let sampler = Sampler::of(&vec![4; len]);
            let mut seen = vec![0u32; len];
            for n in 0..20_000 {
                let (one, other) = sampler.pair(mix(n));
                assert!(one < len && other < len && (one != other || len == 1));
                seen[one] += 1;
                seen[other] += 1;
            }
            let mean = 40_000 / u32::try_from(len).unwrap();
            assert!(len > 10 || seen.iter().all(|&n| n.abs_diff(mean) < mean / 10), "{seen:?}");
        }
    }

    #[test]
    fn none_is_drawn_from_nothing_without_a_panic() {
        let sampler = Sampler::of(&[]);
        assert_eq!((sampler.pair(u64::MAX), sampler.one(u64::MAX)), ((0, 0), 0));
    }

    proptest! {
        #[test]
        fn weights_give_their_share(weights in proptest::collection::vec(1u32..20, 1..8)) {
            let sampler = Sampler::of(&weights);
            let mut seen = vec![0u32; weights.len()];
            let draws = 20_000;
            (0..draws).for_each(|n| seen[sampler.one(mix(n))] += 1);
            let total: u32 = weights.iter().sum();
            for (weight, seen) in weights.iter().zip(&seen) {
                let want = f64::from(*weight) / f64::from(total);
                let got = f64::from(*seen) / draws as f64;
                prop_assert!((want - got).abs() < 0.02, "{weights:?} {seen:?}");
            }
        }

        #[test]
        fn extreme_weights_do_not_overflow(weights in proptest::collection::vec(any::<u32>(), 0..50), roll: u64) {
            let sampler = Sampler::of(&weights);
            let (one, other) = sampler.pair(roll);
            prop_assert!(weights.is_empty() || (one < weights.len() && other < weights.len()));
        }
    }
}
