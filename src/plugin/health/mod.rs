//! `health`: `/health` says OK for as long as the process lives. No link in the chain.
//!
//! Every second the process asks itself, as the kubelet would, and counts how long that took: a process that is
//! overloaded shows there first.

mod probe;

#[cfg(test)]
mod tests;

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::chain::plugin::Plugin;
use crate::corefile::address::read_listen_address;
use crate::corefile::args::{Args, GoDuration, unknown_option};
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::Directive;
use crate::plugin::health::probe::{HealthMetrics, Probe};
use crate::plugin::{BuildError, Config, Context, OptionSpec, Spec};
use crate::server::assembly::{Assembly, HttpEndpoint, OnBindFailure, Quiet};
use crate::server::http::{not_found, text};

/// What is known about `health`.
pub static SPEC: Spec = Spec {
    name: "health",
    summary: "answers liveness probes over HTTP",
    options: OPTIONS,
    parse,
};

const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "lameduck",
        syntax: "lameduck DURATION",
        default: "0",
        help: "serves on for so long after the signal to stop, so that clients have time to go elsewhere",
    },
    OptionSpec {
        name: "quiet",
        syntax: "quiet DURATION [PATIENCE]",
        default: "3s 20s with `lameduck`, else 0",
        help: "then serves on until no query has come for DURATION, at most PATIENCE after the signal",
    },
];

/// Where `lameduck` says that clients need time. With the 5 s that what is in flight may take, it ends within the 30 s that
/// Kubernetes gives a Pod.
const QUIET_DEFAULT: Quiet = Quiet {
    time: Duration::from_secs(3),
    patience: Duration::from_secs(20),
};

const PATH: &str = "/health";

const PORT_DEFAULT: u16 = 8080;

/// What the `health` directives of a block say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HealthConfig {
    address: SocketAddr,
    lameduck: Duration,
    quiet: Option<Quiet>,
}

/// As in CoreDNS the last of several directives counts, value by value; we warn.
fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    let mut config = HealthConfig {
        address: (Ipv6Addr::UNSPECIFIED, PORT_DEFAULT).into(),
        lameduck: Duration::ZERO,
        quiet: None,
    };
    for (place, directive) in context.directives.iter().enumerate() {
        if place > 0 {
            context.faults.push(Diagnostic::warning(
                directive.name.span,
                "`health` stands twice in this server block",
                "what it says replaces what the one above says",
            ));
        }
        let address = read_listen_address(directive, &mut config.address);
        context.faults.note(address);
        for option in directive.options() {
            let read = config.read_option(option);
            context.faults.note(read);
        }
    }
    (context.faults.error_count() == errors).then(|| Box::new(config) as _)
}

impl HealthConfig {
    fn read_option(&mut self, option: &Directive) -> Result<(), Diagnostic> {
        let mut args = Args::of(option);
        match option.name.text.as_str() {
            "lameduck" => self.lameduck = duration(&mut args)?,
            "quiet" => {
                let time = duration(&mut args)?;
                let mut patience = QUIET_DEFAULT.patience;
                if args.peek().is_some() {
                    patience = duration(&mut args)?;
                }
                self.quiet = Some(Quiet { time, patience });
            }
            _ => return Err(unknown_option("health", option, SPEC.option_names())),
        }
        args.finish()
    }

    fn quiet(&self) -> Quiet {
        match self.quiet {
            Some(quiet) => quiet,
            None if self.lameduck > Duration::ZERO => QUIET_DEFAULT,
            None => Quiet::default(),
        }
    }
}

fn duration(args: &mut Args<'_>) -> Result<Duration, Diagnostic> {
    const EXPECTED: &str = "a duration such as 5s";
    let span = args.peek().map_or(args.span(), |word| word.span);
    let given: GoDuration = args.take_as(EXPECTED)?;
    given.to_duration().ok_or_else(|| {
        let message = format!("`{given}` is negative");
        Diagnostic::error(span, message, format!("expected {EXPECTED}"))
    })
}

impl Config for HealthConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let plan = &mut *assembly.generation;
        plan.lameduck = plan.lameduck.max(self.lameduck);
        let quiet = self.quiet();
        plan.quiet.time = plan.quiet.time.max(quiet.time);
        plan.quiet.patience = plan.quiet.patience.max(quiet.patience);
        plan.http.push(HttpEndpoint {
            plugin: SPEC.name,
            address: self.address,
            on_bind_failure: OnBindFailure::Fatal,
            handler: Arc::new(|_, uri| match uri.path() {
                PATH => text(StatusCode::OK, "OK"),
                _ => not_found(),
            }),
        });
        let metrics = assembly.process.metrics.families::<HealthMetrics>();
        // Port 0 is whatever the system picked, which only tests want; there is nobody to ask.
        if self.address.port() != 0 {
            let probe = Probe::new(self.address, metrics);
            plan.after_serving.push(Box::pin(probe.run()));
        }
        Ok(Vec::new())
    }
}
