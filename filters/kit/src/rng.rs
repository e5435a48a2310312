//! Masking keys and ping payloads: a small generator, seeded by the shell from the host's randomness.
//!
//! Knows no source of randomness itself, so a test that fixes the seed fixes every byte.

/// SplitMix64. Masking keys need to be unpredictable to the page that chose the payload (RFC 6455, 10.3),
/// not to the server that reads them; the 64-bit state behind a stream is never shown.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A masking key.
    pub(crate) const fn mask(&mut self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.next().to_le_bytes();
        [a, b, c, d]
    }
}
