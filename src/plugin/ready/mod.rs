//! `ready`: `/ready` says OK once every plugin that has to wait for something has it. No link in the chain.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;

use crate::chain::plugin::Plugin;
use crate::corefile::address::read_listen_address;
use crate::corefile::args::{Args, unknown_option};
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::Directive;
use crate::plugin::{BuildError, Config, Context, OptionSpec, Spec};
use crate::server::assembly::{Assembly, HttpEndpoint, OnBindFailure};
use crate::server::http::{not_found, text};
use crate::server::process::Readiness;

/// What is known about `ready`.
pub static SPEC: Spec = Spec {
    name: "ready",
    summary: "answers readiness probes over HTTP",
    options: OPTIONS,
    parse,
};

const OPTIONS: &[OptionSpec] = &[OptionSpec {
    name: "monitor",
    syntax: "monitor until-ready|continuously",
    default: "until-ready",
    help: "whether a plugin that was ready once is asked again",
}];

const PATH: &str = "/ready";

const PORT_DEFAULT: u16 = 8181;

/// How often a plugin is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Monitor {
    /// Until it was ready once.
    UntilReady,
    /// At every request.
    Continuously,
}

/// What a `ready` directive says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ReadyConfig {
    address: SocketAddr,
    monitor: Monitor,
}

fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    let directive = context.once();
    let mut config = ReadyConfig {
        address: (Ipv6Addr::UNSPECIFIED, PORT_DEFAULT).into(),
        monitor: Monitor::UntilReady,
    };
    let address = read_listen_address(directive, &mut config.address);
    context.faults.note(address);
    for option in directive.options() {
        let read = config.read_option(option);
        context.faults.note(read);
    }
    (context.faults.error_count() == errors).then(|| Box::new(config) as _)
}

impl ReadyConfig {
    fn read_option(&mut self, option: &Directive) -> Result<(), Diagnostic> {
        const EXPECTED: &str = "`until-ready` or `continuously`";
        if option.name.text != "monitor" {
            return Err(unknown_option("ready", option, SPEC.option_names()));
        }
        let mut args = Args::of(option);
        let word = args.take(EXPECTED)?;
        self.monitor = match word.text.as_str() {
            "until-ready" => Monitor::UntilReady,
            "continuously" => Monitor::Continuously,
            other => {
                return Err(Diagnostic::error(
                    word.span,
                    format!("`{other}` is not a way to monitor"),
                    format!("expected {EXPECTED}"),
                ));
            }
        };
        args.finish()
    }
}

impl Config for ReadyConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let process = Arc::clone(assembly.process);
        let watch = Watch {
            monitor: self.monitor,
            once_ready: Mutex::default(),
        };
        assembly.generation.http.push(HttpEndpoint {
            plugin: SPEC.name,
            address: self.address,
            // As in CoreDNS: a server that cannot be probed still serves.
            on_bind_failure: OnBindFailure::Log,
            handler: Arc::new(move |_, uri| {
                if uri.path() != PATH {
                    return not_found();
                }
                let missing = watch.missing(&process.readiness);
                let (code, mut body) = if missing.is_empty() {
                    (StatusCode::OK, "OK".to_owned())
                } else {
                    tracing::info!(target: "plugin/ready", "Plugins not ready: \"{missing}\"");
                    (StatusCode::SERVICE_UNAVAILABLE, missing)
                };
                if is_verbose(uri) {
                    body = explanation(&process.readiness, &body);
                }
                text(code, body)
            }),
        });
        Ok(Vec::new())
    }
}

/// `/ready?verbose`
fn is_verbose(uri: &http::Uri) -> bool {
    let mut words = uri.query().unwrap_or_default().split('&');
    words.any(|word| word == "verbose" || word.starts_with("verbose="))
}

/// A line for each condition, marked as the API server marks its own, then what there is to say in short.
fn explanation(readiness: &Readiness, summary: &str) -> String {
    let mut lines = String::new();
    for (plugin, condition) in readiness.conditions() {
        lines.push_str(if condition.holds { "[+]" } else { "[-]" });
        lines.push_str(&plugin);
        lines.push_str(": ");
        lines.push_str(&condition.name);
        if !condition.detail.is_empty() {
            lines.push_str(" (");
            lines.push_str(&condition.detail);
            lines.push(')');
        }
        lines.push('\n');
    }
    lines.push_str(summary);
    lines.push('\n');
    lines
}

/// What one generation remembers between two requests.
struct Watch {
    monitor: Monitor,
    once_ready: Mutex<BTreeSet<String>>,
}

impl Watch {
    /// The names of those that are not ready, sorted, parted by commas.
    fn missing(&self, readiness: &Readiness) -> String {
        let mut missing = readiness.missing();
        if self.monitor == Monitor::UntilReady {
            let mut once_ready = self
                .once_ready
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let ready = readiness.names().into_iter();
            once_ready.extend(ready.filter(|name| !missing.contains(name)));
            missing.retain(|name| !once_ready.contains(name));
        }
        missing.join(",")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use http::{Method, Uri};

    use super::*;
    use crate::plugin::testing::{Bed, config, faults};
    use crate::server::process::{Condition, Conditions};
    use crate::telemetry::logging::captured;

    /// A server where `a` and `b` have to be ready, and what `/ready` says.
    struct Ready {
        bed: Bed,
        a: Arc<AtomicBool>,
        b: Arc<AtomicBool>,
    }

    impl Ready {
        fn new(text: &str) -> Self {
            let mut bed = Bed::new();
            bed.build(&*config(&SPEC, text)).unwrap();
            let flags = [false; 2].map(|ready| Arc::new(AtomicBool::new(ready)));
            let probe = |name: &str, flag: &Arc<AtomicBool>| {
                let flag = Arc::clone(flag);
                let probe: crate::server::process::ReadyProbe =
                    Arc::new(move || flag.load(Ordering::Relaxed));
                (name.to_owned(), probe)
            };
            let [a, b] = flags;
            bed.process
                .readiness
                .replace(vec![probe("b", &b), probe("a", &a)]);
            Self { bed, a, b }
        }

        fn ask(&self) -> String {
            self.ask_for(PATH)
        }

        fn ask_for(&self, path: &'static str) -> String {
            let endpoint = &self.bed.plan.http[0];
            let reply = (endpoint.handler)(&Method::GET, &Uri::from_static(path));
            let body = String::from_utf8_lossy(reply.body()).into_owned();
            format!("{} {body}", reply.status().as_u16())
        }
    }

    #[test]
    fn the_names_of_those_that_are_missing_are_told_and_logged() {
        let ready = Ready::new("ready");
        let log = captured(|| assert_eq!(ready.ask(), "503 a,b"));
        assert_eq!(log, "[INFO] plugin/ready: Plugins not ready: \"a,b\"\n");
        ready.a.store(true, Ordering::Relaxed);
        assert_eq!(ready.ask(), "503 b");
        ready.b.store(true, Ordering::Relaxed);
        let log = captured(|| assert_eq!(ready.ask(), "200 OK"));
        assert_eq!(log, "");
    }

    #[test]
    fn who_wants_to_know_is_told_each_condition() {
        let ready = Ready::new("ready");
        let condition = |name: &str, holds: bool, detail: &str| Condition {
            name: name.to_owned(),
            holds,
            detail: detail.to_owned(),
        };
        let all = vec![
            condition("fed", true, ""),
            condition("watered", false, "no water; last drink 3 s ago"),
        ];
        let conditions: Conditions = Arc::new(move || all.clone());
        let readiness = &ready.bed.process.readiness;
        readiness.explain(vec![("a".to_owned(), conditions)]);
        let told = "[+]a: fed\n[-]a: watered (no water; last drink 3 s ago)\n";
        assert_eq!(ready.ask_for("/ready?verbose"), format!("503 {told}a,b\n"));
        assert_eq!(ready.ask_for("/ready?other"), "503 a,b");
        ready.a.store(true, Ordering::Relaxed);
        ready.b.store(true, Ordering::Relaxed);
        assert_eq!(
            ready.ask_for("/ready?x=y&verbose=1"),
            format!("200 {told}OK\n")
        );
    }

    #[test]
    fn a_plugin_that_was_ready_once_is_not_asked_again() {
        let ready = Ready::new("ready");
        ready.a.store(true, Ordering::Relaxed);
        assert_eq!(ready.ask(), "503 b");
        ready.a.store(false, Ordering::Relaxed);
        ready.b.store(true, Ordering::Relaxed);
        assert_eq!(ready.ask(), "200 OK");
    }

    #[test]
    fn a_plugin_is_asked_every_time_if_monitored_continuously() {
        let ready = Ready::new("ready {\nmonitor continuously\n}");
        ready.a.store(true, Ordering::Relaxed);
        ready.b.store(true, Ordering::Relaxed);
        assert_eq!(ready.ask(), "200 OK");
        ready.a.store(false, Ordering::Relaxed);
        assert_eq!(ready.ask(), "503 a");
    }

    #[test]
    fn the_port_is_8181_and_a_taken_one_is_a_log_line() {
        let ready = Ready::new("ready");
        let endpoint = &ready.bed.plan.http[0];
        assert_eq!(endpoint.address.to_string(), "[::]:8181");
        assert_eq!(endpoint.on_bind_failure, OnBindFailure::Log);
        let reply = (endpoint.handler)(&Method::GET, &Uri::from_static("/health"));
        assert_eq!(reply.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn what_is_wrong_is_said_where_it_stands() {
        for (text, fault) in [
            (
                "ready\nready",
                "error: `ready` stands twice in this server block @ ready",
            ),
            ("ready :1 :2", "error: `ready` takes no `:2` @ :2"),
            ("ready 8181", "error: `8181` has no port @ 8181"),
            (
                "ready {\nmonitor\n}",
                "error: `monitor` needs `until-ready` or `continuously` @ monitor",
            ),
            (
                "ready {\nmonitor always\n}",
                "error: `always` is not a way to monitor @ always",
            ),
            (
                "ready {\nmonitor continuously x\n}",
                "error: `monitor` takes no `x` @ x",
            ),
            (
                "ready {\nmonitors x\n}",
                "error: `ready` has no option `monitors` @ monitors",
            ),
        ] {
            assert_eq!(faults(&SPEC, text), [fault], "{text}");
        }
    }
}
