//! `prometheus [ADDRESS] { runtime_metrics | tls CONFIGFILE }`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use prometheus::TextEncoder;

use crate::chain::plugin::Plugin;
use crate::corefile::address::read_listen_address;
use crate::corefile::args::{Args, unknown_option};
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::Directive;
use crate::plugin::prometheus::gauges::{ProcessMetrics, RuntimeMetrics};
use crate::plugin::prometheus::{Prometheus, SPEC};
use crate::plugin::{BuildError, Config, Context, OptionSpec};
use crate::server::assembly::{Assembly, HttpEndpoint, OnBindFailure};
use crate::server::http::{not_found, text};
use crate::server::process::Process;
use crate::telemetry::logging::LogMetrics;

const PATH: &str = "/metrics";

const PORT_DEFAULT: u16 = 9153;

/// The text format as CoreDNS names it.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

pub(in crate::plugin::prometheus) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "runtime_metrics",
        syntax: "runtime_metrics",
        default: "off",
        help: "shows how busy the asynchronous runtime is",
    },
    OptionSpec {
        name: "tls",
        syntax: "tls CONFIGFILE",
        default: "plain HTTP",
        help: "serves metrics over TLS; not built yet",
    },
];

/// What a `prometheus` directive says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PrometheusConfig {
    address: SocketAddr,
    runtime_metrics: bool,
}

pub(in crate::plugin::prometheus) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    let directive = context.once();
    let mut config = PrometheusConfig {
        address: (Ipv4Addr::LOCALHOST, PORT_DEFAULT).into(),
        runtime_metrics: false,
    };
    let address = read_listen_address(directive, &mut config.address);
    context.faults.note(address);
    let mut has_tls = false;
    for option in directive.options() {
        let result = match option.name.text.as_str() {
            "runtime_metrics" => {
                config.runtime_metrics = true;
                Args::of(option).finish()
            }
            "tls" => tls(option, std::mem::replace(&mut has_tls, true)),
            _ => Err(unknown_option("prometheus", option, SPEC.option_names())),
        };
        context.faults.note(result);
    }
    (context.faults.error_count() == errors).then(|| Box::new(config) as _)
}

/// Always a fault: of the option, or that it is not built.
fn tls(option: &Directive, again: bool) -> Result<(), Diagnostic> {
    if again {
        return Err(Diagnostic::error(
            option.name.span,
            "`tls` stands twice in this `prometheus`",
            "only once",
        ));
    }
    let mut args = Args::of(option);
    args.take("a web configuration file")?;
    args.finish()?;
    let what = "`prometheus` option `tls`";
    Err(Diagnostic::not_built(option.span(), what))
}

impl Config for PrometheusConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let metrics = &assembly.process.metrics;
        metrics.families::<ProcessMetrics>();
        metrics.families::<LogMetrics>();
        if self.runtime_metrics {
            let runtime = &assembly.process.runtime;
            metrics.families::<RuntimeMetrics>().watch(runtime);
        }
        let link = Prometheus::new(metrics.families());
        let process = Arc::clone(assembly.process);
        assembly.generation.http.push(HttpEndpoint {
            plugin: SPEC.name,
            address: self.address,
            // As in CoreDNS: a server that cannot be watched still serves.
            on_bind_failure: OnBindFailure::Log,
            handler: Arc::new(move |_, uri| match uri.path() {
                PATH => exposition(&process),
                _ => not_found(),
            }),
        });
        Ok(vec![Arc::new(link)])
    }
}

fn exposition(process: &Process) -> Response<Bytes> {
    let families = process.metrics.registry().gather();
    match TextEncoder::new().encode_to_string(&families) {
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Ok(body) => {
            let mut reply = text(StatusCode::OK, body);
            let format = HeaderValue::from_static(TEXT_FORMAT);
            reply.headers_mut().insert(CONTENT_TYPE, format);
            reply
        }
    }
}
