//! Ways in for the benchmarks of `bench/`: what is not a decision of `weft-proxy-core` and yet grows. Nothing else calls them.

pub use crate::record::benching::Series;
