//! Times in buckets of three percent, so that a million of them take no more room than one.

use std::time::Duration;

/// Buckets for each doubling.
const STEPS: u64 = 32;

/// How often each time occurred.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: Duration,
}

impl Histogram {
    pub fn add(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket_of(nanoseconds);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.max = self.max.max(time);
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn max(&self) -> Duration {
        self.max
    }

    /// The time that this part of all took at most, up to three percent too long; zero if there are none.
    pub fn quantile(&self, part: f64) -> Duration {
        let wanted = (self.total as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (bucket, &count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return Duration::from_nanos(end_of(bucket)).min(self.max);
            }
        }
        self.max
    }
}

/// The first buckets are a nanosecond each; from there on every doubling has as many.
fn bucket_of(value: u64) -> usize {
    let doublings = u64::from((value | 1).ilog2().saturating_sub(STEPS.ilog2()));
    let within = value >> doublings;
    usize::try_from(doublings * STEPS + within).expect("there are fewer than 2,000 buckets")
}

/// The last value of a bucket.
fn end_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let doublings = (bucket / STEPS).saturating_sub(1);
    let within = bucket - doublings * STEPS;
    ((u128::from(within + 1) << doublings) - 1).min(u128::from(u64::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_never_wider_than_a_32nd_of_its_values() {
        for value in (0..64).flat_map(|power| [0, 1, 7].map(|more| (1u64 << power) + more)) {
            let end = end_of(bucket_of(value));
            assert!(end >= value && end - value <= value / 32, "{value} {end}");
        }
        assert_eq!(bucket_of(u64::MAX), bucket_of(u64::MAX - 1));
    }

    #[test]
    fn quantiles_are_those_of_the_times() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.99), Duration::ZERO);
        (1..=1000).for_each(|n| histogram.add(Duration::from_micros(n)));
        for (part, exact) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let time = histogram.quantile(part).as_secs_f64() * 1e6;
            assert!((time / exact - 1.0).abs() < 0.04, "{part}: {time}");
        }
        assert_eq!(
            (histogram.total(), histogram.max()),
            (1000, Duration::from_millis(1))
        );
    }
}
