//! Who takes more than a share, by name: in a log line and in a metric with few rows.
//!
//! A row lives from a client's first refusal to a minute after its last. There are never more than [`ROWS_MAX`], so a
//! flood from forged addresses fills neither the metric nor the log; who is refused most stays.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use crate::net::service::Seldom;
use crate::telemetry::exposition::{Draft, Kind};
use crate::telemetry::metrics::Families;

/// Clients that are named at a time.
pub const ROWS_MAX: usize = 8;

/// From the last refusal to the end of a row, and from one line about a client to the next.
const ROW_LIFE: Duration = Duration::from_secs(60);

const NAME: &str = "fingerpost_limited_client_queries";
const HELP: &str = "queries refused to a client that takes more than its share, until a minute after the last; the \
                    worst few clients only";
const LABELS: &[&str] = &["client", "resource"];

/// What a client had too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A UDP receive queue.
    Queue,
    /// Places for queries that wait.
    InFlight,
}

impl Resource {
    fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::InFlight => "in_flight",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Row {
    client: IpAddr,
    resource: Resource,
    refused: u64,
    last: Instant,
    logged: Option<Instant>,
}

/// The clients that are limited now, or were a moment ago.
#[derive(Debug, Default)]
pub struct Offenders {
    rows: Arc<Mutex<Vec<Row>>>,
    log: Seldom,
}

impl Offenders {
    /// `count` more queries of the client were refused. Never waits: what comes while somebody else has the list, is
    /// left out.
    pub fn note(&self, client: IpAddr, resource: Resource, count: u64, now: Instant) {
        let Ok(mut rows) = self.rows.try_lock() else {
            return;
        };
        let Some(row) = row_of(&mut rows, client, resource, count, now) else {
            return;
        };
        row.refused += count;
        row.last = now;
        let is_due = row
            .logged
            .is_none_or(|logged| now.saturating_duration_since(logged) >= ROW_LIFE);
        if !is_due || !self.log.is_due(now) {
            return;
        }
        row.logged = Some(now);
        drop(rows);
        match resource {
            Resource::Queue => tracing::warn!(
                "client `{client}` sends more than its share: while the receive queue is full the excess is dropped"
            ),
            Resource::InFlight => tracing::warn!(
                "client `{client}` has more than its share of queries in flight: the excess is answered SERVFAIL"
            ),
        }
    }
}

impl Row {
    fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < ROW_LIFE
    }
}

/// The client's row; a new one takes the place of one that is over, or of the least. None if all are worse than it.
fn row_of(
    rows: &mut Vec<Row>,
    client: IpAddr,
    resource: Resource,
    count: u64,
    now: Instant,
) -> Option<&mut Row> {
    rows.retain(|row| row.is_alive(now));
    let is_own = |row: &Row| row.client == client && row.resource == resource;
    let index = match rows.iter().position(is_own) {
        Some(index) => index,
        None => {
            let row = Row {
                client,
                resource,
                refused: 0,
                last: now,
                logged: None,
            };
            if rows.len() == ROWS_MAX {
                // A newcomer wears the least row down, so one that lasts gets in and passers-by do not.
                let least = (0..ROWS_MAX).min_by_key(|&index| rows[index].refused)?;
                rows[least].refused = rows[least].refused.saturating_sub(count);
                if rows[least].refused > 0 {
                    return None;
                }
                rows.swap_remove(least);
            }
            rows.push(row);
            rows.len() - 1
        }
    };
    rows.get_mut(index)
}

impl Families for Offenders {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let this = Self::default();
        let labels = LABELS.iter().map(|&label| label.to_owned()).collect();
        registry.register(Box::new(Shown {
            rows: Arc::clone(&this.rows),
            desc: Desc::new(NAME.into(), HELP.into(), labels, HashMap::new())?,
        }))?;
        Ok(this)
    }
}

/// The list as Prometheus reads it.
struct Shown {
    rows: Arc<Mutex<Vec<Row>>>,
    desc: Desc,
}

impl Collector for Shown {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let rows = self
            .rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        vec![family_of(&rows, Instant::now())]
    }
}

fn family_of(rows: &[Row], now: Instant) -> MetricFamily {
    let mut draft = Draft::new(NAME, HELP, LABELS, Kind::Gauge);
    for row in rows.iter().filter(|row| row.is_alive(now)) {
        let client = row.client.to_string();
        #[expect(
            clippy::cast_precision_loss,
            reason = "the format knows floats only; exact up to 2^53"
        )]
        draft.gauge(&[&client, row.resource.as_str()], row.refused as f64);
    }
    draft.into_family()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::logging::captured;

    fn client(number: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + number).to_be_bytes())
    }

    fn shown(offenders: &Offenders, now: Instant) -> Vec<(String, f64)> {
        let family = family_of(&offenders.rows.lock().unwrap(), now);
        let rows = family.get_metric().iter();
        rows.map(|row| {
            let client = row.get_label()[0].value().to_owned();
            (client, row.get_gauge().get_value())
        })
        .collect()
    }

    #[test]
    fn a_client_is_named_until_a_minute_after_its_last_refusal() {
        let (offenders, now) = (Offenders::default(), Instant::now());
        offenders.note(client(1), Resource::InFlight, 2, now);
        offenders.note(client(1), Resource::InFlight, 3, now);
        assert_eq!(shown(&offenders, now), [("10.0.0.1".to_owned(), 5.0)]);
        let later = now + ROW_LIFE;
        assert_eq!(shown(&offenders, later), []);
        offenders.note(client(2), Resource::Queue, 1, later);
        assert_eq!(offenders.rows.lock().unwrap().len(), 1);
    }

    #[test]
    fn the_worst_stay_among_any_number_of_passers_by() {
        let (offenders, now) = (Offenders::default(), Instant::now());
        for round in 0..1000 {
            offenders.note(client(1), Resource::Queue, 100, now);
            for number in 0..10 {
                let passer_by = client(1000 + 10 * round + number);
                offenders.note(passer_by, Resource::Queue, 1, now);
            }
        }
        let shown = shown(&offenders, now);
        assert!(shown.len() <= ROWS_MAX);
        assert!(shown.contains(&("10.0.0.1".to_owned(), 100_000.0)));
    }

    #[test]
    fn a_client_is_logged_once_a_minute() {
        let (offenders, now) = (Offenders::default(), Instant::now());
        let log = captured(|| {
            for second in 0..61 {
                let now = now + Duration::from_secs(second);
                offenders.note(client(1), Resource::InFlight, 1, now);
            }
        });
        assert_eq!(log.lines().count(), 2, "{log}");
        assert!(log.starts_with("[WARNING] client `10.0.0.1` has more than its share"));
    }
}
