//! Waiting until clients have gone elsewhere.
//!
//! Between the signal to stop and the moment when nobody sends us queries any more lies what Kubernetes takes to tell every
//! node: some tenths of a second mostly, many seconds in a cluster that is busy. No fixed time fits both, so after the lame
//! duck time we listen.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::corefile::args::GoDuration;
use crate::server::assembly::Quiet;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// How much has been heard, in no unit, and who was heard last.
type Heard = (u64, Option<IpAddr>);

/// Waits until the lame duck time is over and nothing has been heard for `quiet.time`; for the latter no longer than
/// `quiet.patience`. All three begin now.
pub(in crate::server) async fn wait_for_quiet(
    lameduck: Duration,
    quiet: Quiet,
    heard: impl Fn() -> Heard,
) {
    let began = Instant::now();
    if quiet.time.is_zero() {
        tokio::time::sleep(lameduck).await;
        return;
    }
    let mut told = false;
    let (mut known, mut last) = heard();
    let mut since = began;
    let time = GoDuration::from(quiet.time);
    let patience = GoDuration::from(quiet.patience);
    loop {
        let now = Instant::now();
        let is_over = now - began >= lameduck;
        if is_over && now - since >= quiet.time {
            return;
        }
        if is_over && now - began >= quiet.patience {
            let last = last.map_or_else(|| "nobody".to_owned(), |last| last.to_string());
            tracing::warn!(
                "queries still arrive {patience} after the signal, the last from `{last}`: stopping all the same"
            );
            return;
        }
        if is_over && !std::mem::replace(&mut told, true) {
            tracing::info!(
                "serving on until no query has come for {time}, at most {patience} after the signal"
            );
        }
        let end = (since + quiet.time).min(began + quiet.patience);
        let end = end.max(began + lameduck).min(now + LOOK);
        tokio::time::sleep_until(end).await;
        let (more, client) = heard();
        if more != known {
            (known, last, since) = (more, client, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::logging::LineSubscriber;
    use crate::telemetry::logging::TestLog;
    use std::sync::Arc;

    const QUIET: Quiet = Quiet {
        time: Duration::from_secs(3),
        patience: Duration::from_secs(20),
    };

    /// How long it waits if clients send until so many seconds after the signal.
    async fn waits(lameduck: u64, clients_send: u64) -> (u128, String) {
        let log = TestLog::new();
        let _logging =
            tracing::subscriber::set_default(LineSubscriber::new(Arc::clone(&log.lines)));
        let began = Instant::now();
        let heard = || {
            // A query every tenth of a second.
            let sent = began.elapsed().min(Duration::from_secs(clients_send));
            let count = u64::try_from(sent.as_millis() / 100).unwrap();
            (count, Some(IpAddr::from([192, 0, 2, 1])))
        };
        wait_for_quiet(Duration::from_secs(lameduck), QUIET, heard).await;
        (began.elapsed().as_millis(), log.text())
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_asks_nobody_is_waited_for_beyond_the_lame_duck_time() {
        assert_eq!(waits(5, 0).await, (5000, String::new()));
        assert_eq!(waits(5, 1).await, (5000, String::new()));
        assert_eq!(waits(0, 0).await.0, 3000);
    }

    #[tokio::test(start_paused = true)]
    async fn as_long_as_clients_ask_they_are_served() {
        let (waited, log) = waits(5, 8).await;
        assert!((11_000..11_200).contains(&waited), "{waited}");
        assert_eq!(
            log,
            "[INFO] serving on until no query has come for 3s, at most 20s after the signal\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_goes_is_named_and_not_waited_for() {
        let (waited, log) = waits(5, 60).await;
        assert_eq!(waited, 20_000);
        assert!(log.ends_with(
            "[WARNING] queries still arrive 20s after the signal, the last from `192.0.2.1`: stopping all the same\n"
        ), "{log}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lame_duck_time_beyond_the_patience_is_waited_out_and_no_more() {
        assert_eq!(waits(30, 60).await.0, 30_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_time_of_zero_waits_for_nobody() {
        let began = Instant::now();
        let lameduck = Duration::from_secs(5);
        wait_for_quiet(lameduck, Quiet::default(), || {
            unreachable!("nobody listens")
        })
        .await;
        assert_eq!(began.elapsed(), lameduck);
    }
}
