//! The serial of what is served: a time, and the number of a version.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970 of the last change that this process saw; 0 before the first. It never goes back, whatever the
/// clock does.
///
/// CoreDNS has it so. Two changes within one second would have one serial, and who copied the zone between them would
/// not learn of the second: so a change moves a serial on that a copy was taken with.
#[derive(Default)]
pub(in crate::cluster) struct Serial {
    value: AtomicU32,
    taken: AtomicBool,
}

impl Serial {
    /// The serial as it is.
    pub(in crate::cluster) fn get(&self) -> u32 {
        self.value.load(Ordering::Acquire)
    }

    /// The serial for a copy of the content that is begun after this: it holds all that the serial stands for, and any
    /// later change has another.
    pub(in crate::cluster) fn take(&self) -> u32 {
        self.taken.store(true, Ordering::SeqCst);
        self.value.load(Ordering::SeqCst)
    }

    /// The content has changed.
    pub(in crate::cluster) fn move_on(&self) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // Serials wrap (RFC 1982).
        #[expect(
            clippy::cast_possible_truncation,
            reason = "serials are counted modulo 2^32"
        )]
        self.move_to(now.as_secs() as u32);
    }

    fn move_to(&self, now: u32) {
        let taken = self.taken.swap(false, Ordering::SeqCst);
        self.value
            .update(Ordering::SeqCst, Ordering::SeqCst, |value| {
                let least = value.wrapping_add(u32::from(taken));
                let is_newer = now.wrapping_sub(least) < 1 << 31;
                if value == 0 || is_newer { now } else { least }
            });
    }

    #[cfg(test)]
    pub(in crate::cluster) fn reset(&self) {
        self.value.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_one_second_differ_only_for_those_who_copied_between_them() {
        let serial = Serial::default();
        serial.move_to(100);
        serial.move_to(100);
        assert_eq!(serial.take(), 100);
        serial.move_to(100);
        assert_eq!(serial.get(), 101);
        serial.move_to(100);
        assert_eq!(serial.get(), 101);
        serial.move_to(105);
        assert_eq!(serial.take(), 105);
        serial.move_to(200);
        assert_eq!(serial.get(), 200);
    }

    #[test]
    fn a_serial_never_goes_back_and_wraps() {
        let serial = Serial::default();
        serial.move_to(u32::MAX);
        serial.move_to(u32::MAX - 10);
        assert_eq!(serial.take(), u32::MAX);
        serial.move_to(u32::MAX - 10);
        assert_eq!(serial.get(), 0);
        let serial = Serial::default();
        serial.move_to(u32::MAX);
        serial.move_to(5);
        assert_eq!(serial.get(), 5);
    }
}
