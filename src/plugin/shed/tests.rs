use super::*;
use crate::corefile::diagnostic::Severity;
use crate::plugin::PLUGINS;
use crate::plugin::testing::bench::{Ask, Bench, Link, fault};
use crate::wire::code::RecordType;

/// A link that is another plugin.
fn link(name: &'static str) -> Link {
    let spec = PLUGINS.iter().find(|spec| spec.name == name);
    Link::Corefile(spec.expect("it is registered"), name)
}

fn bench() -> Bench {
    Bench::new(vec![Link::Corefile(&SPEC, "shed"), link("whoami")])
}

fn ask(is_crowded: bool, protocol: Protocol) -> Ask {
    let mut ask = Ask::new("a.org", RecordType::A);
    ask.arrival.is_crowded = is_crowded;
    ask.arrival.protocol = protocol;
    ask
}

#[test]
fn a_query_by_a_crowded_socket_is_dropped_in_silence_and_counted() {
    let bench = bench();
    assert!(bench.try_send(&ask(true, Protocol::Udp)).is_none());
    assert!(bench.try_send(&ask(true, Protocol::Udp)).is_none());
    let label = r#"{reason="query",server="dns://:53"}"#;
    assert_eq!(
        bench.metrics("coredns_shed"),
        [format!("coredns_shed_dropped_total{label} 2")]
    );
}

#[test]
fn a_query_by_a_socket_with_room_passes() {
    let bench = bench();
    assert!(bench.send(&ask(false, Protocol::Udp)).has_aa());
    assert_eq!(bench.metrics("coredns_shed"), [""; 0]);
}

#[test]
fn tcp_passes_whatever_the_socket_holds() {
    assert!(bench().send(&ask(true, Protocol::Tcp)).has_aa());
}

#[test]
fn what_is_dropped_is_counted_by_nobody_else() {
    let bench = Bench::new(vec![
        Link::Corefile(&SPEC, "shed"),
        link("prometheus"),
        link("whoami"),
    ]);
    assert!(bench.try_send(&ask(true, Protocol::Udp)).is_none());
    assert_eq!(bench.metrics("coredns_dns_requests_total"), [""; 0]);
}

#[test]
fn both_reasons_are_shown_from_the_start_where_a_block_has_it() {
    let bench = bench();
    let lost = lost_replies(&bench.process.metrics, &bench.zones).expect("a block has it");
    lost.inc();
    assert_eq!(
        bench.metrics("coredns_shed"),
        [
            r#"coredns_shed_dropped_total{reason="query",server="dns://:53"} 0"#,
            r#"coredns_shed_dropped_total{reason="response",server="dns://:53"} 1"#,
        ]
    );
    let without = Bench::new(vec![link("whoami")]);
    assert!(lost_replies(&without.process.metrics, &without.zones).is_none());
    assert_eq!(without.metrics("coredns_shed"), [""; 0]);
}

#[test]
fn anything_beyond_its_name_is_a_fault() {
    for (text, expected) in [
        ("shed 512", "`shed` takes no `512` @ 512"),
        (
            "shed {\n depth 5\n}",
            "`shed` has no option `depth` @ depth",
        ),
        (
            "shed\nshed",
            "`shed` stands twice in this server block @ shed",
        ),
    ] {
        assert_eq!(fault(&SPEC, text), expected);
    }
}

#[test]
fn a_block_that_is_not_plain_dns_may_not_have_it() {
    let text = b"tls://.:853 .:53 {\n shed\n whoami\n}\n";
    let (corefile, mut faults) =
        crate::corefile::parser::parse(std::path::Path::new("Corefile"), text);
    crate::plugin::configure::configure(&corefile, &mut faults);
    let errors: Vec<_> = faults
        .iter()
        .filter(|fault| fault.severity == Severity::Error)
        .map(|fault| (corefile.place(fault.span), fault.message.as_str()))
        .collect();
    assert_eq!(
        errors,
        [(
            "Corefile:2:2".to_owned(),
            "`shed` does nothing for `tls://`"
        )]
    );
}
