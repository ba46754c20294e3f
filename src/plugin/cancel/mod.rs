//! `cancel`: gives a query up after a while.

use std::sync::Arc;
use std::time::Duration;

use crate::chain::exchange::Exchange;
use crate::chain::plugin::{Passes, Plugin, Step};
use crate::corefile::args::{Args, GoDuration, read_as};
use crate::corefile::diagnostic::Diagnostic;
use crate::plugin::{BuildError, Config, Context, Spec};
use crate::server::assembly::Assembly;

/// `cancel`
pub static SPEC: Spec = Spec {
    name: "cancel",
    summary: "gives a query up after a while",
    options: &[],
    parse,
};

/// A little more than the 5 s that most clients wait.
const TIMEOUT_DEFAULT: Duration = Duration::from_millis(5001);

const EXPECTED: &str = "a duration above zero, such as `5001ms`";

#[derive(Debug)]
struct CancelConfig {
    timeout: Duration,
}

fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let mut whole = true;
    let mut timeout = TIMEOUT_DEFAULT;
    // As in CoreDNS it may stand more than once; the last one counts.
    for directive in context.directives {
        whole &= context.has_no_options(directive);
        match context.faults.note(read_timeout(Args::of(directive))) {
            Some(value) => timeout = value,
            None => whole = false,
        }
    }
    whole.then(|| Box::new(CancelConfig { timeout }) as Box<dyn Config>)
}

fn read_timeout(mut args: Args<'_>) -> Result<Duration, Diagnostic> {
    let Some(word) = args.peek() else {
        return Ok(TIMEOUT_DEFAULT);
    };
    args.take(EXPECTED)?;
    args.finish()?;
    read_as::<GoDuration>(word, EXPECTED)?
        .to_duration()
        .filter(|timeout| !timeout.is_zero())
        .ok_or_else(|| {
            Diagnostic::error(
                word.span,
                format!("`{}` leaves no time for an answer", word.text),
                format!("expected {EXPECTED}"),
            )
        })
}

impl Config for CancelConfig {
    fn build(&self, _assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        Ok(vec![Arc::new(Cancel {
            timeout: self.timeout,
        })])
    }
}

struct Cancel {
    timeout: Duration,
}

impl Plugin for Cancel {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Replies
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        // A duration past what a clock can hold is no limit at all.
        exchange.state.deadline = exchange.arrival().received.checked_add(self.timeout);
        Step::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::bench::{Bench, Link, fault};
    use crate::wire::code::{Rcode, RecordType};

    /// Never answers.
    struct Silent;

    impl Plugin for Silent {
        fn name(&self) -> &'static str {
            "silent"
        }

        fn query(&self, _exchange: &mut Exchange<'_>) -> Step {
            Step::Defer(Box::pin(std::future::pending()))
        }
    }

    #[test]
    fn a_query_that_nobody_answers_in_time_fails() {
        let bench = Bench::new(vec![
            Link::Corefile(&SPEC, "cancel 1ms"),
            Link::Made(Arc::new(Silent)),
        ]);
        assert_eq!(bench.ask("a.org", RecordType::A).rcode(), Rcode::SERVFAIL);
    }

    #[test]
    fn an_answer_in_time_is_not_touched() {
        let bench = Bench::new(vec![
            Link::Corefile(&SPEC, "cancel"),
            Link::Corefile(&crate::plugin::whoami::SPEC, "whoami"),
        ]);
        assert_eq!(bench.ask("a.org", RecordType::A).rcode(), Rcode::NOERROR);
    }

    #[test]
    fn durations_that_leave_no_time_are_faults() {
        for (text, expected) in [
            ("cancel 0", "`0` leaves no time for an answer @ 0"),
            ("cancel -1s", "`-1s` leaves no time for an answer @ -1s"),
            (
                "cancel 5",
                "`5` is not a duration above zero, such as `5001ms` @ 5",
            ),
            ("cancel 5s 6s", "`cancel` takes no `6s` @ 6s"),
        ] {
            assert_eq!(fault(&SPEC, text), expected);
        }
    }
}
