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
use crate::server::assembly::{Assembly, HttpEndpoint, OnBindFailure};
use crate::server::http::{not_found, text};

/// What is known about `health`.
pub static SPEC: Spec = Spec {
    name: "health",
    summary: "answers liveness probes over HTTP",
    options: OPTIONS,
    parse,
};

const OPTIONS: &[OptionSpec] = &[OptionSpec {
    name: "lameduck",
    syntax: "lameduck DURATION",
    default: "0",
    help: "serves on for so long after the signal to stop, so that clients have time to go elsewhere",
}];

const PATH: &str = "/health";

const PORT_DEFAULT: u16 = 8080;

/// What the `health` directives of a block say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HealthConfig {
    address: SocketAddr,
    lameduck: Duration,
}

/// As in CoreDNS the last of several directives counts, value by value; we warn.
fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    let mut config = HealthConfig {
        address: (Ipv6Addr::UNSPECIFIED, PORT_DEFAULT).into(),
        lameduck: Duration::ZERO,
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
        const EXPECTED: &str = "a duration such as 5s";
        if option.name.text != "lameduck" {
            return Err(unknown_option("health", option, SPEC.option_names()));
        }
        let mut args = Args::of(option);
        let span = args.peek().map_or(args.span(), |word| word.span);
        let given: GoDuration = args.take_as(EXPECTED)?;
        self.lameduck = given.to_duration().ok_or_else(|| {
            let message = format!("`{given}` is negative");
            Diagnostic::error(span, message, format!("expected {EXPECTED}"))
        })?;
        args.finish()
    }
}

impl Config for HealthConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let plan = &mut *assembly.generation;
        plan.lameduck = plan.lameduck.max(self.lameduck);
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
