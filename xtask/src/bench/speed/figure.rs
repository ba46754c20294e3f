//! What was measured, and its form in `benches/results`.

use serde_json::{Value, json};

use crate::load::Outcome;

/// One server on one path under one load: a sample for each round.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    pub path: String,
    pub load: String,
    pub server: String,
    pub rounds: Vec<Sample>,
}

/// One round. Times are microseconds, memory is megabytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    pub sent: f64,
    pub answered: f64,
    pub lost: f64,
    /// Replies with another RCODE than the right one.
    pub wrong: f64,
    /// What the generator could not send in time, and replies that it had no room for.
    pub skipped: f64,
    pub own_drops: f64,
    pub seconds: f64,
    /// Of the server, for each answered query.
    pub user: f64,
    pub kernel: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub resident: f64,
    pub peak: f64,
}

type Field = fn(&mut Sample) -> &mut f64;

/// Names in files, and how to get at each.
const FIELDS: [(&str, Field); 15] = [
    ("sent", |one| &mut one.sent),
    ("answered", |one| &mut one.answered),
    ("lost", |one| &mut one.lost),
    ("wrong", |one| &mut one.wrong),
    ("skipped", |one| &mut one.skipped),
    ("own_drops", |one| &mut one.own_drops),
    ("seconds", |one| &mut one.seconds),
    ("user_us", |one| &mut one.user),
    ("kernel_us", |one| &mut one.kernel),
    ("p50_us", |one| &mut one.p50),
    ("p90_us", |one| &mut one.p90),
    ("p99_us", |one| &mut one.p99),
    ("p999_us", |one| &mut one.p999),
    ("resident_mb", |one| &mut one.resident),
    ("peak_mb", |one| &mut one.peak),
];

impl Sample {
    /// From what the generator counted, the server's seconds in user space and in the kernel, and its memory.
    pub fn new(outcome: &Outcome, rcode: u8, cpu: [f64; 2], [resident, peak]: [f64; 2]) -> Self {
        let counts = &outcome.counts;
        let answered = counts.times.total() as f64;
        let right = counts.rcodes[usize::from(rcode & 15)] as f64;
        let microseconds = |part| outcome.milliseconds(part) * 1000.0;
        let [user, kernel] = cpu.map(|seconds| seconds * 1e6 / answered.max(1.0));
        Self {
            sent: counts.sent as f64,
            answered,
            lost: outcome.lost_by_server() as f64,
            wrong: answered - right,
            skipped: counts.skipped as f64,
            own_drops: outcome.own_drops as f64,
            seconds: outcome.elapsed.as_secs_f64(),
            user,
            kernel,
            p50: microseconds(0.5),
            p90: microseconds(0.9),
            p99: microseconds(0.99),
            p999: microseconds(0.999),
            resident,
            peak,
        }
    }

    /// Microseconds for each answered query.
    pub fn cpu(&self) -> f64 {
        self.user + self.kernel
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answered / self.seconds.max(1e-9)
    }

    /// The part of one core that it took.
    pub fn busy(&self) -> f64 {
        self.cpu() * self.rate() / 1e6
    }
}

impl Figure {
    /// The round in the middle, by what a query cost. User space's part of it is that of all rounds, for the kernel samples
    /// it seldom; latencies have a median each, for they move on their own.
    pub fn median(&self) -> Sample {
        let mut rounds = self.rounds.clone();
        let middle = rounds.len() / 2;
        rounds.sort_by(|a, b| a.cpu().total_cmp(&b.cpu()));
        let mut median = rounds.get(middle).copied().unwrap_or_default();
        let sum =
            |of: fn(&Sample) -> f64| rounds.iter().map(|one| of(one) * one.answered).sum::<f64>();
        let part = sum(|one| one.user) / sum(Sample::cpu).max(1e-9);
        (median.user, median.kernel) = (median.cpu() * part, median.cpu() * (1.0 - part));
        for (name, field) in FIELDS {
            if name.starts_with('p') && name.ends_with("_us") {
                let mut values: Vec<f64> = rounds.iter_mut().map(|one| *field(one)).collect();
                values.sort_by(f64::total_cmp);
                *field(&mut median) = values.get(middle).copied().unwrap_or(0.0);
            }
        }
        median
    }

    /// What a query cost, as a multiple of what it cost another server: the median of the rounds' own ratios, for the machine
    /// itself is faster in some rounds than in others.
    pub fn ratio_to(&self, other: &Self) -> f64 {
        if self.rounds.len() != other.rounds.len() {
            return self.median().cpu() / other.median().cpu();
        }
        let pairs = self.rounds.iter().zip(&other.rounds);
        let mut ratios: Vec<f64> = pairs.map(|(one, other)| one.cpu() / other.cpu()).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// From the lowest round to the highest, as a part of the median.
    pub fn spread(&self) -> f64 {
        let cpu = || self.rounds.iter().map(Sample::cpu);
        let (low, high) = (cpu().fold(f64::MAX, f64::min), cpu().fold(0.0, f64::max));
        (high - low) / self.median().cpu().max(1e-9)
    }

    pub fn to_json(&self) -> Value {
        let sample = |one: &Sample| {
            let mut one = *one;
            let fields = FIELDS.map(|(name, field)| {
                // Three digits behind the point are more than anybody can measure.
                let value = (*field(&mut one) * 1000.0).round() / 1000.0;
                (name.to_owned(), json!(value))
            });
            Value::Object(fields.into_iter().collect())
        };
        let rounds: Vec<Value> = self.rounds.iter().map(sample).collect();
        json!({"path": self.path, "load": self.load, "server": self.server, "rounds": rounds})
    }

    pub fn from_json(value: &Value) -> Option<Self> {
        let text = |name: &str| Some(value[name].as_str()?.to_owned());
        let sample = |value: &Value| {
            let mut sample = Sample::default();
            for (name, field) in FIELDS {
                *field(&mut sample) = value[name].as_f64()?;
            }
            Some(sample)
        };
        Some(Self {
            path: text("path")?,
            load: text("load")?,
            server: text("server")?,
            rounds: value["rounds"]
                .as_array()?
                .iter()
                .map(sample)
                .collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure() -> Figure {
        let sample = |cpu: f64, p99: f64| Sample {
            answered: 1000.0,
            seconds: 0.01,
            user: cpu / 4.0,
            kernel: cpu * 0.75,
            p99,
            ..Sample::default()
        };
        Figure {
            path: "cache".into(),
            load: "saturation".into(),
            server: "echo".into(),
            rounds: vec![sample(8.0, 10.0), sample(4.0, 90.0), sample(5.0, 20.0)],
        }
    }

    #[test]
    fn the_median_is_the_round_in_the_middle() {
        let median = figure().median();
        assert_eq!((median.cpu(), median.p99), (5.0, 20.0));
        assert_eq!((median.user, median.kernel), (1.25, 3.75));
        assert_eq!((median.rate(), median.busy()), (100_000.0, 0.5));
        assert_eq!(figure().spread(), 0.8);
    }

    #[test]
    fn a_ratio_is_that_of_rounds_with_each_other() {
        let (slow, mut fast) = (figure(), figure());
        for (one, factor) in fast.rounds.iter_mut().zip([2.0, 4.0, 8.0]) {
            one.user /= factor;
            one.kernel /= factor;
        }
        assert_eq!(slow.ratio_to(&fast), 4.0);
        fast.rounds.truncate(2);
        assert_eq!(slow.ratio_to(&fast), 5.0 / 4.0);
    }

    #[test]
    fn what_is_written_is_read_the_same() {
        assert_eq!(Figure::from_json(&figure().to_json()), Some(figure()));
        assert_eq!(Figure::from_json(&json!({"path": "a"})), None);
    }
}
