//! Chance that can be repeated, and hashes that every edge computes alike.

use std::sync::atomic::{AtomicU64, Ordering};

/// SplitMix64's step: the golden ratio of 64 bits.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Numbers from a seed, drawn by any number of threads without waiting: the same seed and order of draws give the same
/// numbers. Never for secrets.
#[derive(Debug)]
pub struct Chance(AtomicU64);

impl Chance {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next number. O(1).
    pub fn next(&self) -> u64 {
        mix(self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP))
    }

    /// The next number below `bound`, even to within 2⁻⁶⁴ × `bound`; 0 for a bound of 0. O(1).
    pub fn below(&self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// The finalizer of SplitMix64: every bit of the input moves every bit of the output.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// FNV-1a with a finalizer: stable across processes and versions, as every edge must choose alike.
pub fn hash_of(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3));
    mix(fnv)
}

/// -log2(u / 2⁶⁴) with 32 bits after the point, for `u` above 0: integers only, so that every machine agrees. O(32).
pub(crate) fn cost_of(u: u64) -> u64 {
    let u = u.max(1);
    let whole = u64::from(u.leading_zeros());
    // 1 ≤ x < 2, with 63 bits after the point.
    let mut x = u << whole;
    let mut fraction = 0_u64;
    for _ in 0..32 {
        let square = (u128::from(x) * u128::from(x)) >> 63;
        fraction <<= 1;
        if square >= 1 << 64 {
            fraction |= 1;
            x = (square >> 1) as u64;
        } else {
            x = square as u64;
        }
    }
    ((whole + 1) << 32) - fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_the_logarithm() {
        for u in [1, 2, 3, 1 << 20, u64::MAX / 7, u64::MAX / 3, u64::MAX - 1, u64::MAX, 1 << 63, (1 << 63) - 1] {
            let exact = 64.0 - (u as f64).log2();
            let cost = cost_of(u) as f64 / (1_u64 << 32) as f64;
            assert!((cost - exact).abs() < 1e-8, "{u}: {cost} for {exact}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (a, b) = (Chance::new(7), Chance::new(7));
        for _ in 0..100 {
            let drawn = a.below(10);
            assert_eq!(drawn, b.below(10));
            assert!(drawn < 10);
        }
        assert_eq!(a.below(0), 0);
    }
}
