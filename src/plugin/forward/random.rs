//! Random numbers that nobody outside can foresee: message IDs, ports, and which upstream is first.
//!
//! They come from the operating system's generator, drawn in one call for many queries and used once.

use std::cell::RefCell;
use std::time::Duration;

use crate::plugin::BuildError;

/// Octets drawn at once: 64 queries of an ID and a port.
const POOL: usize = 256;

struct Pool {
    octets: [u8; POOL],
    used: usize,
}

thread_local! {
    static DRAWN: RefCell<Pool> = const { RefCell::new(Pool { octets: [0; POOL], used: POOL }) };
}

/// Makes sure that there is a generator, so that later draws cannot fail.
pub(super) fn check() -> Result<(), BuildError> {
    getrandom::fill(&mut [0; 1]).map_err(|error| BuildError(format!("no random numbers: {error}")))
}

/// Any number.
pub(super) fn number() -> u16 {
    DRAWN.with_borrow_mut(|pool| {
        if pool.used + 2 > POOL {
            getrandom::fill(&mut pool.octets).expect("`check` has seen the generator work");
            pool.used = 0;
        }
        let [high, low] = [pool.octets[pool.used], pool.octets[pool.used + 1]];
        // What was used is not kept.
        pool.octets[pool.used..pool.used + 2].fill(0);
        pool.used += 2;
        u16::from_be_bytes([high, low])
    })
}

/// A number below `count`, which is from 1 to 65535; each as likely as any other.
pub(super) fn below(count: usize) -> usize {
    if count <= 1 {
        return 0;
    }
    let fair = 65_536 - 65_536 % count;
    loop {
        let number = usize::from(number());
        if number < fair {
            return number % count;
        }
    }
}

/// A time from three quarters of `most` to all of it. What begins together and lasts so long does not end together.
pub(super) fn shortened(most: Duration) -> Duration {
    most - most / 1024 * u32::try_from(below(257)).expect("it is below 257")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shortened_is_spread_over_a_quarter() {
        let most = Duration::from_secs(64);
        let times: Vec<Duration> = (0..1000).map(|_| shortened(most)).collect();
        let (least, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(48) && *last <= most);
        // A thousand draws that all miss a tenth of the range: one run in 10^45.
        assert!(*last - *least > Duration::from_secs(13));
        assert_eq!(shortened(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn ids_are_spread_evenly_and_do_not_follow_one_another() {
        const DRAWS: usize = 1 << 20;
        let mut buckets = [0u32; 256];
        let (mut last, mut near) = (0u16, 0);
        for _ in 0..DRAWS {
            let number = number();
            buckets[usize::from(number >> 8)] += 1;
            near += u32::from(number.wrapping_sub(last) < 256);
            last = number;
        }
        let expected = (DRAWS / 256) as f64;
        let chi: f64 = buckets
            .iter()
            .map(|&count| (f64::from(count) - expected).powi(2) / expected)
            .sum();
        // 255 degrees of freedom: above 400 in less than one run of 10^8.
        assert!(chi < 400.0, "chi squared {chi}");
        assert!(f64::from(near) < 2.0 * expected, "{near} near the last one");
    }

    #[test]
    fn a_draw_below_a_number_reaches_each_and_none_beyond() {
        let mut seen = [false; 5];
        for _ in 0..1000 {
            seen[below(5)] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(below(1), 0);
    }
}
