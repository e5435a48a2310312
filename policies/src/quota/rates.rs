//! What is spent: messages, subscribes, orders, deliveries. Counted for whoever shares the allowance, in one value.

use alloc::vec::Vec;

use super::code::{Reader, put};
use super::{Day, Limit, Limits, Refused};
use crate::{Reason, UnixNanos};

pub(super) const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_MINUTE: u64 = 60 * NANOS_PER_SECOND;

/// What was spent. A plain value: whoever keeps it decides who shares it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// `None` before the first message, when the bucket is full.
    messages: Option<Bucket>,
    subscribes: Option<Bucket>,
    /// The minute of the last order, and how many orders it saw.
    minute: (u64, u32),
    /// The day of the last order, and how many orders it saw.
    orders: (u32, u32),
    /// The day of the last delivery.
    delivered_day: u32,
    delivered: Delivered,
}

/// What was delivered to clients, or may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Messages.
    pub messages: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// A token bucket in exact integers: one event is 10^9 nano-events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    level: u64,
    at: UnixNanos,
}

/// How fast a bucket fills: this many nano-events per `per` nanoseconds.
#[derive(Clone, Copy)]
struct Fill {
    rate: u32,
    burst: u32,
    /// A second or a minute.
    per_seconds: u64,
}

impl Bucket {
    /// Takes one event.
    fn take(slot: &mut Option<Self>, fill: Fill, now: UnixNanos, reason: Reason) -> Result<(), Refused> {
        // u32 * 10^9 * 60 < 2^68: levels are kept in nano-events, gains are computed in u128.
        let full = u64::from(fill.burst) * NANOS_PER_SECOND;
        let bucket = slot.unwrap_or(Self { level: full, at: now });
        // A clock that steps back refills nothing, and must not refill the same time twice later.
        let at = bucket.at.max(now);
        let elapsed = u128::from(at.0 - bucket.at.0);
        let gained = elapsed * u128::from(fill.rate) / u128::from(fill.per_seconds);
        let level = (u128::from(bucket.level) + gained).min(u128::from(full)) as u64;
        // The part of a nano-event that the division dropped is not lost: time moves on only by what was counted.
        let counted = if level == full { at } else { bucket.counted(gained, fill) };
        if let Some(rest) = level.checked_sub(NANOS_PER_SECOND) {
            *slot = Some(Self { level: rest, at: counted });
            return Ok(());
        }
        *slot = Some(Self { level, at: counted });
        if fill.rate == 0 || fill.burst == 0 {
            return Err(Refused::for_good(reason));
        }
        let missing = u128::from(NANOS_PER_SECOND - level) * u128::from(fill.per_seconds);
        let wait = missing.div_ceil(u128::from(fill.rate)) as u64 + (counted.0.max(now.0) - now.0);
        let already = now.0.saturating_sub(counted.0);
        Err(Refused::after_nanos(reason, wait.saturating_sub(already)))
    }

    fn counted(self, gained: u128, fill: Fill) -> UnixNanos {
        let nanos = (gained * u128::from(fill.per_seconds)).div_ceil(u128::from(fill.rate.max(1)));
        UnixNanos(self.at.0.saturating_add(nanos as u64))
    }
}

impl Rates {
    /// Takes one message from a client.
    ///
    /// # Errors
    /// [`Reason::QuotaMessages`] with the time until one would pass.
    pub fn message(&mut self, limits: &Limits, now: UnixNanos) -> Result<(), Refused> {
        let Limit::AtMost(rate) = limits.messages_per_second else { return Ok(()) };
        let Limit::AtMost(burst) = limits.messages_burst else { return Ok(()) };
        Bucket::take(&mut self.messages, Fill { rate, burst, per_seconds: 1 }, now, Reason::QuotaMessages)
    }

    /// Takes one request to subscribe.
    ///
    /// # Errors
    /// [`Reason::QuotaSubscriptions`] with the time until one would pass.
    pub fn subscribe(&mut self, limits: &Limits, now: UnixNanos) -> Result<(), Refused> {
        let Limit::AtMost(rate) = limits.subscribes_per_minute else { return Ok(()) };
        let fill = Fill { rate, burst: rate, per_seconds: 60 };
        Bucket::take(&mut self.subscribes, fill, now, Reason::QuotaSubscriptions)
    }

    /// Takes one order, in the minute of the clock (UTC) and in the day of its exchange. The share of the narrower
    /// limit that is used with it, in hundredths, where it is the first to reach 80.
    ///
    /// # Errors
    /// [`Reason::QuotaOrders`] with the time until the next minute, or the next day. Nothing was taken.
    pub fn order(&mut self, limits: &Limits, day: Day, now: UnixNanos) -> Result<bool, Refused> {
        // A clock that steps back stays in the window that was reached: none is counted from zero twice.
        let minute = self.minute.0.max(now.0 / NANOS_PER_MINUTE);
        let in_minute = if minute == self.minute.0 { self.minute.1 } else { 0 };
        let number = self.orders.0.max(day.number);
        let in_day = if number == self.orders.0 { self.orders.1 } else { 0 };
        for limit in [limits.orders_per_minute, limits.orders_per_day] {
            if limit == Limit::AtMost(0) {
                return Err(Refused::for_good(Reason::QuotaOrders));
            }
        }
        if limits.orders_per_day.left(in_day) == 0 {
            return Err(Refused::after_nanos(Reason::QuotaOrders, day.next_at.0.saturating_sub(now.0).max(1)));
        }
        if limits.orders_per_minute.left(in_minute) == 0 {
            let next = (minute + 1).saturating_mul(NANOS_PER_MINUTE);
            return Err(Refused::after_nanos(Reason::QuotaOrders, next - now.0));
        }
        self.minute = (minute, in_minute.saturating_add(1));
        self.orders = (number, in_day.saturating_add(1));
        Ok(limits.orders_per_day.is_first_warned(in_day, self.orders.1))
    }

    /// Takes an allowance of deliveries for a day: as much of `wanted` as is left. The second part says whether this
    /// is the first allowance beyond 80 hundredths of a limit.
    ///
    /// # Errors
    /// [`Reason::QuotaMessages`] or [`Reason::QuotaBytes`] with the time until the next day, when nothing is left.
    pub fn deliver(
        &mut self,
        limits: &Limits,
        wanted: Delivered,
        day: Day,
        now: UnixNanos,
    ) -> Result<(Delivered, bool), Refused> {
        let number = self.delivered_day.max(day.number);
        let used = if number == self.delivered_day { self.delivered } else { Delivered::default() };
        let wait = day.next_at.0.saturating_sub(now.0).max(1);
        let messages = limits.delivered_messages_per_day.left_of(used.messages, 1);
        let bytes = limits.delivered_kib_per_day.left_of(used.bytes, 1024);
        if messages == 0 {
            return Err(Refused::after_nanos(Reason::QuotaMessages, wait));
        }
        if bytes == 0 {
            return Err(Refused::after_nanos(Reason::QuotaBytes, wait));
        }
        let granted = Delivered { messages: wanted.messages.min(messages), bytes: wanted.bytes.min(bytes) };
        self.delivered_day = number;
        self.delivered = Delivered {
            messages: used.messages.saturating_add(granted.messages),
            bytes: used.bytes.saturating_add(granted.bytes),
        };
        let warned = limits.delivered_messages_per_day.is_first_warned_of(used.messages, self.delivered.messages, 1)
            || limits.delivered_kib_per_day.is_first_warned_of(used.bytes, self.delivered.bytes, 1024);
        Ok((granted, warned))
    }

    /// Gives back what was allowed on this day and not delivered.
    pub fn undelivered(&mut self, unspent: Delivered, day: u32) {
        if day == self.delivered_day {
            self.delivered.messages = self.delivered.messages.saturating_sub(unspent.messages);
            self.delivered.bytes = self.delivered.bytes.saturating_sub(unspent.bytes);
        }
    }

    /// The last instant at which this value differs from an empty one; then it need not be kept.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for bucket in [self.messages, self.subscribes] {
            put(out, bucket.map_or(u64::MAX, |bucket| bucket.level));
            put(out, bucket.map_or(0, |bucket| bucket.at.0));
        }
        put(out, self.minute.0);
        put(out, u64::from(self.minute.1));
        put(out, u64::from(self.orders.0));
        put(out, u64::from(self.orders.1));
        put(out, u64::from(self.delivered_day));
        put(out, self.delivered.messages);
        put(out, self.delivered.bytes);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Option<Self> {
        let mut bucket = || {
            let (level, at) = (from.u64()?, from.u64()?);
            Some((level != u64::MAX).then_some(Bucket { level, at: UnixNanos(at) }))
        };
        let (messages, subscribes) = (bucket()?, bucket()?);
        Some(Self {
            messages,
            subscribes,
            minute: (from.u64()?, from.u32()?),
            orders: (from.u32()?, from.u32()?),
            delivered_day: from.u32()?,
            delivered: Delivered { messages: from.u64()?, bytes: from.u64()? },
        })
    }

    /// Whether it can be forgotten: its buckets are full again and its windows are over.
    pub(super) fn is_over(&self, now: UnixNanos) -> bool {
        const TWO_DAYS: u64 = 2 * 86_400 * NANOS_PER_SECOND;
        let newest = [self.messages, self.subscribes].into_iter().flatten().map(|bucket| bucket.at.0).max();
        let day = u64::from(self.orders.0.max(self.delivered_day)) * 86_400 * NANOS_PER_SECOND;
        newest.unwrap_or(0).max(day).max(self.minute.0 * NANOS_PER_MINUTE).saturating_add(TWO_DAYS) < now.0
    }
}
