//! Random bytes for guests, from the operating system.

/// Fills `place`; false when the operating system has no randomness to give.
pub(crate) fn fill(place: &mut [u8]) -> bool {
    getrandom::fill(place).is_ok()
}
