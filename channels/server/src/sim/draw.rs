//! Random draws that are the same on every machine and in every version: SplitMix64.

/// One round of SplitMix64's finaliser over a key and a part (Steele, Lea, Flood, 2014).
pub(super) const fn mix(key: u64, part: u64) -> u64 {
    let mut z = key ^ part.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A run of draws.
pub(super) struct Draw {
    state: u64,
}

impl Draw {
    pub(super) const fn new(key: u64) -> Self {
        Self { state: key }
    }

    const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state, 0)
    }

    /// A number in `0..bound` (bound 0 counts as 1), even to within bound / 2^64.
    pub(super) const fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * if bound == 0 { 1 } else { bound } as u128) >> 64) as u64
    }

    /// True `permille` times in a thousand.
    pub(super) const fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }
}
