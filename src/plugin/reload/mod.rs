//! `reload`: watches the Corefile. No link in the chain: this says how often, the server does it.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounter, IntGaugeVec, Opts, Registry};

use crate::chain::plugin::Plugin;
use crate::corefile::args::{Args, GoDuration};
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::Directive;
use crate::plugin::{BuildError, Config, Context, Spec};
use crate::server::assembly::{Assembly, ReloadSettings};
use crate::telemetry::metrics::Families;

/// What is known about `reload`.
pub static SPEC: Spec = Spec {
    name: "reload",
    summary: "watches the Corefile and switches to a changed one without a gap",
    options: &[],
    parse,
};

const INTERVAL_DEFAULT: Duration = Duration::from_secs(30);

const INTERVAL_MIN: Duration = Duration::from_secs(2);

const JITTER_DEFAULT: Duration = Duration::from_secs(15);

const JITTER_MIN: Duration = Duration::from_secs(1);

/// `coredns_reload_*`.
pub struct ReloadMetrics {
    failed: IntCounter,
    version: IntGaugeVec,
}

impl Families for ReloadMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let this = Self {
            failed: IntCounter::new(
                "coredns_reload_failed_total",
                "changed Corefiles that could not be put into force",
            )?,
            version: IntGaugeVec::new(
                Opts::new(
                    "coredns_reload_version_info",
                    "the hash of the configuration that a reload tried last; always 1",
                ),
                &["hash", "value"],
            )?,
        };
        registry.register(Box::new(this.failed.clone()))?;
        registry.register(Box::new(this.version.clone()))?;
        Ok(this)
    }
}

impl ReloadMetrics {
    /// A changed Corefile could not be put into force.
    pub fn count_failure(&self) {
        self.failed.inc();
    }

    /// Shows the SHA-512 (in hex) of the configuration that a reload tries, in place of the last one.
    pub fn show_version(&self, sha512: &str) {
        self.version.reset();
        self.version.with_label_values(&["sha512", sha512]).set(1);
    }
}

/// What a `reload` directive says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReloadConfig {
    settings: ReloadSettings,
}

/// As in CoreDNS the first of several directives counts; we warn of the others.
fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    let directive = context.directives[0];
    for again in &context.directives[1..] {
        context.faults.push(Diagnostic::warning(
            again.name.span,
            "`reload` stands twice in this server block",
            "the one above counts",
        ));
    }
    let settings = settings(directive);
    let settings = context.faults.note(settings);
    for option in directive.options() {
        context
            .faults
            .push(crate::corefile::args::unknown_option("reload", option, []));
    }
    let settings = settings?;
    (context.faults.error_count() == errors).then(|| Box::new(ReloadConfig { settings }) as _)
}

fn settings(directive: &Directive) -> Result<ReloadSettings, Diagnostic> {
    let mut args = Args::of(directive);
    let interval = duration(&mut args, INTERVAL_DEFAULT, |interval| {
        (interval < INTERVAL_MIN).then_some("at least 2s")
    })?;
    let jitter = duration(&mut args, JITTER_DEFAULT, |jitter| {
        (!jitter.is_zero() && jitter < JITTER_MIN).then_some("0, or at least 1s")
    })?;
    args.finish()?;
    Ok(ReloadSettings {
        interval,
        jitter: jitter.min(interval / 2),
    })
}

/// The next word, or `default` if there is none. `wrong` says what it has to be instead.
fn duration(
    args: &mut Args<'_>,
    default: Duration,
    wrong: impl Fn(Duration) -> Option<&'static str>,
) -> Result<Duration, Diagnostic> {
    let Some(word) = args.peek() else {
        return Ok(default);
    };
    let given: GoDuration = args.take_as("a duration such as 30s")?;
    let fault = |expected: &str| {
        let message = format!("`{}` is too short", word.text);
        Diagnostic::error(word.span, message, format!("expected {expected}"))
    };
    let duration = given.to_duration().ok_or_else(|| fault("at least 2s"))?;
    match wrong(duration) {
        Some(expected) => Err(fault(expected)),
        None => Ok(duration),
    }
}

impl Config for ReloadConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        // Registered here so that the counter stands at 0 before anything fails.
        assembly.process.metrics.families::<ReloadMetrics>();
        assembly.generation.reload = Some(self.settings);
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::{Bed, config, faults};

    fn built(text: &str) -> (u64, u64) {
        let mut bed = Bed::new();
        bed.build(&*config(&SPEC, text)).unwrap();
        let settings = bed.plan.reload.unwrap();
        (settings.interval.as_secs(), settings.jitter.as_secs())
    }

    #[test]
    fn the_interval_is_30_seconds_give_or_take_half_of_15() {
        assert_eq!(built("reload"), (30, 15));
        assert_eq!(built("reload 1m"), (60, 15));
        assert_eq!(built("reload 2m 40s"), (120, 40));
        assert_eq!(built("reload 10s 0"), (10, 0));
    }

    #[test]
    fn the_jitter_is_half_of_the_interval_at_most() {
        assert_eq!(built("reload 10s"), (10, 5));
        assert_eq!(built("reload 10s 1h"), (10, 5));
    }

    #[test]
    fn what_is_wrong_is_said_where_it_stands() {
        for (text, fault) in [
            ("reload 1s", "error: `1s` is too short @ 1s"),
            ("reload -5s", "error: `-5s` is too short @ -5s"),
            ("reload 5s 10ms", "error: `10ms` is too short @ 10ms"),
            (
                "reload soon",
                "error: `soon` is not a duration such as 30s @ soon",
            ),
            ("reload 5s 5s 5s", "error: `reload` takes no `5s` @ 5s"),
            ("reload {\nx\n}", "error: `reload` has no option `x` @ x"),
            (
                "reload\nreload",
                "warning: `reload` stands twice in this server block @ reload",
            ),
        ] {
            assert_eq!(faults(&SPEC, text), [fault], "{text}");
        }
    }

    #[test]
    fn metrics_start_at_no_failure_and_no_version_and_show_the_last_version_only() {
        let mut bed = Bed::new();
        bed.build(&*config(&SPEC, "reload")).unwrap();
        let metrics = bed.metrics();
        assert!(metrics.contains("coredns_reload_failed_total 0\n"));
        assert!(!metrics.contains("version_info"));
        let reload = bed.process.metrics.families::<ReloadMetrics>();
        reload.count_failure();
        reload.show_version("aa");
        reload.show_version("bb");
        let metrics = bed.metrics();
        assert!(metrics.contains("coredns_reload_failed_total 1\n"));
        assert!(metrics.contains("coredns_reload_version_info{hash=\"sha512\",value=\"bb\"} 1\n"));
        assert!(!metrics.contains("\"aa\""));
    }
}
