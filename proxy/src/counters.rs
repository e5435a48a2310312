//! What one worker counts on the message path; summed over workers when someone asks.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident, $add:ident;)*) => {
        /// Counters of one worker. Written by that worker alone.
        #[derive(Debug, Default)]
        pub struct Counters { $($name: AtomicU64,)* }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counted { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            $($(#[$doc])* pub fn $add(&self, count: usize) {
                self.$name.fetch_add(count as u64, Ordering::Relaxed);
            })*

            /// Adds them to `sum`.
            pub fn sum_into(&self, sum: &mut Counted) {
                $(sum.$name += self.$name.load(Ordering::Relaxed);)*
            }
        }
    };
}

counters! {
    /// Messages from clients.
    messages_in, add_messages_in;
    /// Messages to clients.
    messages_out, add_messages_out;
    /// Bytes from clients.
    bytes_in, add_bytes_in;
    /// Bytes to clients.
    bytes_out, add_bytes_out;
    /// `gap` messages for slow readers.
    gaps, add_gaps;
    /// Subscriptions moved to a slower rate.
    degraded, add_degraded;
    /// Sessions closed as slow.
    slow, add_slow;
    /// Verdicts on public messages, one per cohort.
    judged, add_judged;
    /// Events from trunks.
    trunk_events, add_trunk_events;
    /// Trunks lost.
    trunks_lost, add_trunks_lost;
    /// Sessions moved to another generation's chain.
    moved, add_moved;
}
