//! Metric families put together by hand, for collectors that count in arrays.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

/// What kind of family it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations in buckets.
    Histogram,
}

/// A family while it is filled.
pub struct Draft {
    family: MetricFamily,
    labels: &'static [&'static str],
    metrics: Vec<Metric>,
}

impl Draft {
    /// An empty one.
    pub fn new(name: &str, help: &str, labels: &'static [&'static str], kind: Kind) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(match kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        Self {
            family,
            labels,
            metrics: Vec::new(),
        }
    }

    /// Adds a counter. Values stand in the order of the labels.
    #[expect(
        clippy::cast_precision_loss,
        reason = "the format knows floats only; exact up to 2^53"
    )]
    pub fn count(&mut self, values: &[&str], count: u64) {
        let mut counter = Counter::default();
        counter.set_value(count as f64);
        let mut metric = self.labelled(values);
        metric.set_counter(counter);
        self.metrics.push(metric);
    }

    /// Adds a gauge.
    pub fn gauge(&mut self, values: &[&str], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = self.labelled(values);
        metric.set_gauge(gauge);
        self.metrics.push(metric);
    }

    /// Adds a histogram unless it is empty. There is one more bucket than bounds: for what is above all of them.
    pub fn histogram(&mut self, values: &[&str], bounds: &[f64], buckets: &[u64], sum: f64) {
        let count: u64 = buckets.iter().sum();
        if count == 0 {
            return;
        }
        let mut below = 0;
        let buckets = bounds.iter().zip(buckets).map(|(&bound, &more)| {
            below += more;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(below);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum);
        let mut metric = self.labelled(values);
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    fn labelled(&self, values: &[&str]) -> Metric {
        debug_assert_eq!(self.labels.len(), values.len());
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let mut pairs: Vec<LabelPair> = self.labels.iter().zip(values).map(pair).collect();
        // In text, labels stand in alphabetical order.
        pairs.sort_by(|a, b| a.name().cmp(b.name()));
        Metric::from_label(pairs)
    }

    /// The family; one without metrics is left out of the text.
    pub fn into_family(mut self) -> MetricFamily {
        self.family.set_metric(self.metrics);
        self.family
    }
}
