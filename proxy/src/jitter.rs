//! Small random numbers: jitter for timers, masking keys for trunks. Never for secrets.

use std::time::Duration;

/// SplitMix64: 8 bytes of state, good enough to spread timers and mask frames.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// Seeded by the operating system.
    pub fn new() -> Self {
        let mut seed = [0; 8];
        // Without entropy the spread is only less random; nothing secret hangs on it.
        if getrandom::fill(&mut seed).is_err() {
            seed = std::process::id().to_ne_bytes().repeat(2).try_into().unwrap_or([7; 8]);
        }
        Self(u64::from_ne_bytes(seed))
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A masking key (RFC 6455, 5.3).
    pub fn mask(&mut self) -> [u8; 4] {
        (self.next_u64() as u32).to_ne_bytes()
    }

    /// Evenly between zero and `below`.
    pub fn up_to(&mut self, below: Duration) -> Duration {
        let nanos = u64::try_from(below.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.next_u64().checked_rem(nanos).unwrap_or(0))
    }

    /// `around` give or take a tenth, so that many timers do not fire together.
    pub fn around(&mut self, around: Duration) -> Duration {
        around - around / 10 + self.up_to(around / 5)
    }
}

/// The finalizer of SplitMix64: every bit of the input moves every bit of the output.
pub const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
