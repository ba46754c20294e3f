//! Tests of what `loop` makes of an upstream, with upstreams that exist only here.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::plugin::testing::{self, Bed, Below};
use crate::server::assembly::{TakenOut, Task};

/// Follows a script, one letter a probe: `l`oops, is `c`lear, is `s`ilent; the last letter goes on for ever.
struct Scripted {
    watch: Arc<Watch>,
    script: Mutex<Vec<u8>>,
    asked: AtomicUsize,
    out: Arc<AtomicUsize>,
    /// Whether it was out at each probe.
    history: Mutex<Vec<bool>>,
    origin: Name,
}

impl Scripted {
    fn new(watch: &Arc<Watch>, script: &str) -> Self {
        Self {
            watch: Arc::clone(watch),
            script: Mutex::new(script.bytes().rev().collect()),
            asked: AtomicUsize::new(0),
            out: Arc::default(),
            history: Mutex::default(),
            origin: Name::root(),
        }
    }
}

impl Upstream for Scripted {
    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 53], 53).into()
    }

    fn file(&self) -> Option<&Path> {
        Some(Path::new("/etc/resolv.conf"))
    }

    fn origin(&self) -> &Name {
        &self.origin
    }

    fn ask(&self, qname: &Name, _qtype: RecordType) -> Task<bool> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let is_out = self.out.load(Ordering::Relaxed) > 0;
        self.history.lock().unwrap().push(is_out);
        let mut script = self.script.lock().unwrap();
        let letter = if script.len() > 1 {
            script.pop().unwrap()
        } else {
            script[0]
        };
        if letter == b'l' {
            self.watch.notice(qname.as_ref(), self.address());
        }
        Box::pin(async move { letter != b's' })
    }

    fn take_out(&self) -> TakenOut {
        TakenOut::new(&self.out)
    }
}

/// Looks after an upstream until that ends; returns it with the metrics.
fn look_after(script: &str) -> (Scripted, String) {
    let bed = Bed::new();
    let watch = Arc::<Watch>::default();
    let upstream = Scripted::new(&watch, script);
    let guard = Guard {
        watch,
        zone: Name::root(),
        server: "dns://:53".into(),
        exit: false,
        metrics: bed.process.metrics.families(),
        pace: Pace {
            retry: Duration::ZERO,
            tries: 30,
            again: Duration::ZERO,
        },
    };
    bed.runtime.block_on(guard.look_after(&upstream));
    let metrics = bed.metrics();
    (upstream, metrics)
}

#[test]
fn an_upstream_that_is_clear_is_probed_once() {
    let (upstream, _) = look_after("c");
    assert_eq!(upstream.asked.into_inner(), 1);
}

#[test]
fn an_upstream_that_is_silent_is_probed_thirty_times() {
    let (upstream, _) = look_after("s");
    assert_eq!(upstream.asked.into_inner(), 30);
}

#[test]
fn one_probe_that_comes_back_is_no_loop() {
    let (upstream, metrics) = look_after("lc");
    assert_eq!(*upstream.history.lock().unwrap(), [false, false]);
    assert!(!metrics.contains("fingerpost_loop_detected_total"));
}

#[test]
fn a_loop_takes_the_upstream_out_until_it_is_clear() {
    let (upstream, metrics) = look_after("llslllc");
    let history = upstream.history.lock().unwrap().clone();
    assert_eq!(history, [false, false, true, true, true, true, true]);
    assert_eq!(upstream.out.load(Ordering::Relaxed), 0);
    let labels = "{server=\"dns://:53\",to=\"127.0.0.53:53\"}";
    for line in [
        format!("fingerpost_loop_detected_total{labels} 1\n"),
        format!("fingerpost_loop_upstream_disabled{labels} 0\n"),
    ] {
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[test]
fn a_query_that_is_no_probe_passes() {
    let zones = Bed::new().chain(&SPEC, "loop", Below::Address);
    let reply = testing::ask(&zones, "a.org", RecordType::HINFO);
    assert_eq!(reply, "NOERROR: a.org. 60 A 192.0.2.1");
}

#[test]
fn a_probe_that_comes_back_is_answered_and_goes_no_further() {
    let watch = Arc::<Watch>::default();
    let guard = LoopGuard {
        watch: Arc::clone(&watch),
    };
    let zones = testing::zones(".", vec![Arc::new(guard), Arc::new(Below::Address)]);
    let probe = watch.probe(Name::root().as_ref()).unwrap();
    let name = probe.name.to_string().to_uppercase();
    assert_eq!(testing::ask(&zones, &name, RecordType::HINFO), "NXDOMAIN");
    assert_eq!(probe.seen_from(), Some(testing::arrival().client));
}

#[test]
fn probes_lie_below_what_is_forwarded_and_what_is_served() {
    let bed = Bed::new();
    let watch = Arc::<Watch>::default();
    let zone_for = |zone: &str, origin: &str| {
        let mut upstream = Scripted::new(&watch, "c");
        upstream.origin = Name::from_text(origin).unwrap();
        let guard = Guard {
            watch: Arc::clone(&watch),
            zone: Name::from_text(zone).unwrap(),
            server: "dns://:53".into(),
            exit: false,
            metrics: bed.process.metrics.families(),
            pace: PACE,
        };
        guard.zone_for(&upstream).map(ToString::to_string)
    };
    assert_eq!(zone_for(".", "corp.org").as_deref(), Some("corp.org."));
    assert_eq!(zone_for("a.org", ".").as_deref(), Some("a.org."));
    assert_eq!(zone_for("a.org", "b.org"), None);
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    for (text, expected) in [
        ("loop now", "error: `loop` takes no `now` @ now"),
        ("loop {\nexit now\n}", "error: `exit` takes no `now` @ now"),
        (
            "loop {\nexti\n}",
            "error: `loop` has no option `exti` @ exti",
        ),
        (
            "loop\nloop",
            "error: `loop` stands twice in this server block @ loop",
        ),
    ] {
        assert_eq!(testing::faults(&SPEC, text), [expected], "{text}");
    }
    assert!(testing::faults(&SPEC, "loop {\nexit\n}").is_empty());
}
