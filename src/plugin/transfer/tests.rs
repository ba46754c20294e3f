//! What the whole server cannot show: faults of the Corefile, zones that are not complete, too many transfers, and when
//! NOTIFY is due. What a zone holds and who gets it: `tests/transfer.rs`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::notify::Notifier;
use super::*;
use crate::chain::content::ZoneRecord;
use crate::plugin::testing::bench::{Ask, Bench, Link, fault, runtime, wait_until};
use crate::plugin::testing::{faults, parse};
use crate::server::assembly::Links;
use crate::server::process::Process;
use crate::wire::name::ROOT;
use crate::wire::writer::SoaTimes;

/// Holds `a.org` with this serial, or not all of it yet.
struct Holder(Arc<Mutex<Option<u32>>>);

impl Plugin for Holder {
    fn name(&self) -> &'static str {
        "holder"
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn zones_held(&self) -> Vec<Name> {
        vec![Name::from_text("a.org").unwrap()]
    }

    fn content(&self, apex: NameRef<'_>) -> Held {
        let zone = Name::from_text("a.org").unwrap();
        if apex != zone.as_ref() {
            return Held::Nothing;
        }
        let Some(serial) = *self.0.lock().unwrap() else {
            return Held::Unready;
        };
        let times = SoaTimes {
            serial,
            refresh: 1,
            retry: 1,
            expire: 1,
            minimum: 1,
        };
        let record = ZoneRecord::address(apex, 5, [192, 0, 2, 1].into());
        Held::Content(ZoneContent {
            serial,
            soa: ZoneRecord::soa(apex, 5, ROOT, ROOT, times),
            records: Box::new(std::iter::repeat_n(record, 10_000)),
        })
    }
}

fn held(serial: Option<u32>) -> (Arc<Mutex<Option<u32>>>, Arc<dyn Plugin>) {
    let serial = Arc::new(Mutex::new(serial));
    (Arc::clone(&serial), Arc::new(Holder(serial)))
}

fn axfr() -> Ask {
    let mut ask = Ask::new("a.org", RecordType::AXFR);
    ask.arrival.protocol = Protocol::Tcp;
    ask
}

#[test]
fn several_stanzas_are_read_and_addresses_mean_port_53() {
    let (config, faults) = parse(
        &SPEC,
        "transfer {\n to 192.0.2.1 [2001:db8::1]:5353 ::ffff:192.0.2.2\n to *\n source 192.0.2.9\n}\ntransfer b.org A.org {\n to 2001:db8::2\n}",
    );
    let worst = faults.worst();
    assert_eq!(
        worst,
        Some(crate::corefile::diagnostic::Severity::Warning),
        "{faults:?}"
    );
    let config: Box<dyn std::any::Any> = config.unwrap();
    let config = config.downcast::<config::TransferConfig>().unwrap();
    let to: Vec<String> = config.stanzas[0]
        .to
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(to, ["192.0.2.1:53", "[2001:db8::1]:5353", "192.0.2.2:53"]);
    assert!(config.stanzas[0].anybody && !config.stanzas[1].anybody);
    assert_eq!(config.stanzas[0].source, Some([192, 0, 2, 9].into()));
    assert_eq!(format!("{:?}", config.stanzas[1].zones), "[b.org., a.org.]");
}

#[test]
fn faults_point_at_their_words() {
    for (text, expected) in [
        ("transfer", "`transfer` needs `to` @ transfer"),
        (
            "transfer {\n source 192.0.2.1\n}",
            "`transfer` needs `to` @ transfer",
        ),
        (
            "transfer {\n to *\n to\n}",
            "`to` needs an address such as 192.0.2.1 or [2001:db8::1]:53, or `*` @ to",
        ),
        (
            "transfer {\n to * ns1.a.org\n}",
            "`ns1.a.org` is not an address such as 192.0.2.1 or [2001:db8::1]:53, or `*` @ ns1.a.org",
        ),
        (
            "transfer {\n to 192.0.2.1:0\n}",
            "`192.0.2.1:0` is not an address such as 192.0.2.1 or [2001:db8::1]:53, or `*` @ 192.0.2.1:0",
        ),
        (
            "transfer {\n to 192.0.2.1\n source any\n}",
            "`any` is not an address such as 192.0.2.1 @ any",
        ),
        (
            "transfer {\n to 192.0.2.1\n source 192.0.2.1 192.0.2.2\n}",
            "`source` takes no `192.0.2.2` @ 192.0.2.2",
        ),
        (
            "transfer {\n to 192.0.2.1\n source 192.0.2.1\n source 192.0.2.2\n}",
            "`source` stands twice @ source",
        ),
        (
            "transfer {\n to 192.0.2.1\n form 192.0.2.1\n}",
            "`transfer` has no option `form` @ form",
        ),
    ] {
        let all = faults(&SPEC, text);
        let errors: Vec<_> = all
            .iter()
            .filter(|fault| fault.starts_with("error"))
            .collect();
        assert_eq!(errors, [&format!("error: {expected}")], "{text}");
    }
    assert_eq!(
        fault(&SPEC, "transfer {\n to *\n source 192.0.2.1\n}"),
        "warning: `source` is for NOTIFY, and `to` names nobody to send it to @ source"
    );
    assert_eq!(
        fault(&SPEC, "transfer {\n to 192.0.2.1\n source ::1\n}"),
        "warning: nothing can be sent from `::1` to `192.0.2.1` @ source"
    );
}

#[test]
fn the_nearest_zone_decides_by_labels_not_by_text() {
    let stanza = |zone: &str| Stanza {
        zones: vec![Name::from_text(zone).unwrap()],
        anybody: false,
        to: Vec::new(),
        source: None,
    };
    let stanzas = ["org", "zz.org", "a.example.org", "example.org"].map(stanza);
    let zone_of = |name: &str| {
        let name = Name::from_text(name).unwrap();
        stanza_of(&stanzas, name.as_ref()).map(|stanza| stanza.zones[0].to_string())
    };
    assert_eq!(zone_of("a.example.org").as_deref(), Some("a.example.org."));
    assert_eq!(zone_of("b.example.org").as_deref(), Some("example.org."));
    assert_eq!(zone_of("xa.example.org").as_deref(), Some("example.org."));
    assert_eq!(zone_of("counterexample.org").as_deref(), Some("org."));
    assert_eq!(zone_of("example.com"), None);
}

#[test]
fn a_zone_that_is_not_complete_is_not_sent() {
    let (serial, holder) = held(None);
    let bench = Bench::new(vec![
        Link::Corefile(&SPEC, "transfer {\n to *\n}"),
        Link::Made(holder),
    ]);
    let mut ask = axfr();
    ask.edns = Some((1232, false));
    let reply = bench.send(&ask);
    assert_eq!(reply.rcode(), Rcode::SERVFAIL);
    let not_ready = [0, 15, 0, 30, 0, 14];
    assert!(
        reply.octets.windows(6).any(|octets| octets == not_ready),
        "{:?}",
        reply.octets
    );
    *serial.lock().unwrap() = Some(1);
    assert_eq!(bench.send(&ask).rcode(), Rcode::NOERROR);
}

#[test]
fn transfers_past_the_bound_fail_at_once_and_are_counted() {
    let (_, holder) = held(Some(1));
    let bench = Bench::new(vec![
        Link::Corefile(&SPEC, "transfer {\n to *\n}"),
        Link::Made(holder),
    ]);
    let begin = || {
        let (ask, mut out) = (axfr(), Vec::new());
        match bench.zones.answer(&ask.octets(), ask.arrival, &mut out) {
            crate::chain::deferred::Outcome::Deferred(deferred) => {
                runtime().block_on(deferred.finish_all()).unwrap().rest
            }
            _ => None,
        }
    };
    let running: Vec<_> = (0..seats::TRANSFERS_PER_CLIENT_MAX)
        .map(|_| begin().unwrap())
        .collect();
    assert_eq!(bench.send(&axfr()).rcode(), Rcode::SERVFAIL);
    let running_now = format!("fingerpost_transfers_running {}", running.len());
    assert_eq!(bench.metrics("fingerpost_transfers_running"), [running_now]);
    drop(running);
    assert!(begin().is_some());
    wait_until(|| {
        bench.metrics("fingerpost_transfers_running") == ["fingerpost_transfers_running 0"]
    });
    let counted = bench.metrics("fingerpost_transfers_total");
    assert_eq!(
        counted,
        [
            format!(
                "fingerpost_transfers_total{{result=\"cut\"}} {}",
                seats::TRANSFERS_PER_CLIENT_MAX + 1
            ),
            "fingerpost_transfers_total{result=\"failed\"} 1".to_owned(),
        ]
    );
}

#[test]
fn a_change_is_told_at_once_and_more_of_them_together_later() {
    let (serial, holder) = held(None);
    let links = Links::default();
    links.set(&[holder]);
    let stanza = Stanza {
        zones: vec![Name::root()],
        anybody: true,
        to: vec![([192, 0, 2, 1], 53).into(), ([192, 0, 2, 2], 53).into()],
        source: None,
    };
    let metrics = Process::new(runtime())
        .metrics
        .families::<TransferMetrics>();
    let mut notifier = Notifier::new([stanza].into(), links, metrics);
    let start = Instant::now();
    let mut due = |seconds: u64| notifier.due(start + Duration::from_secs(seconds)).len();
    assert_eq!(due(0), 0, "the zone is not complete");
    *serial.lock().unwrap() = Some(1);
    assert_eq!((due(2), due(4)), (2, 0));
    *serial.lock().unwrap() = Some(2);
    assert_eq!(due(6), 0, "too soon");
    *serial.lock().unwrap() = Some(3);
    assert_eq!((due(12), due(60)), (2, 0));
    *serial.lock().unwrap() = Some(4);
    assert_eq!(due(61), 2);
}
