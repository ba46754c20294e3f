//! Tests of what the Corefile may say.

use std::net::SocketAddr;
use std::time::Duration;

use crate::corefile::args::FromWord;
use crate::plugin::forward::SPEC;
use crate::plugin::forward::budget::Rate;
use crate::plugin::forward::config::{ForwardConfig, Health, Stanza, Transport};
use crate::plugin::forward::policy::Policy;
use crate::plugin::forward::tls::TlsFiles;
use crate::plugin::testing;
use crate::wire::code::Rcode;
use crate::wire::name::Name;

fn stanzas(text: &str) -> Vec<Stanza> {
    let config: Box<dyn std::any::Any> = testing::config(&SPEC, text);
    let config = config.downcast::<ForwardConfig>().unwrap();
    config.stanzas
}

fn faults(option: &str) -> Vec<String> {
    testing::faults(&SPEC, &format!("forward . 192.0.2.1 {{\n{option}\n}}"))
}

#[test]
fn every_option_is_read() {
    let text = "forward Example.ORG 192.0.2.1 tls://192.0.2.2:54 /etc/resolv.conf {
        except a.example.org b.example.org
        except C.example.org
        force_tcp
        prefer_udp
        expire 20s
        max_age 1m
        max_idle_conns 7
        read_timeout 1500ms
        max_fails 3
        max_connect_attempts 4
        health_check 2s no_rec domain Probe.example.org
        policy sequential
        max_concurrent 1000
        next NXDOMAIN refused
        next_on_nodata
        failover servfail notimpl
        packet_budget 900/s
        hedge
        deny_private corp.example.org
        deny_private D.example.org 10.in-addr.arpa
        failfast_all_unhealthy_upstreams
        source_address 127.0.0.2
        tls cert.pem key.pem ca.pem
        tls_servername dns.example.org
        doh_method GET
        resolver 192.0.2.3 [2001:db8::1]:5353 2001:db8::2
    }";
    let stanza = stanzas(text).remove(0);
    let name = |text| Name::from_text(text).unwrap();
    assert_eq!(stanza.from, name("example.org"));
    let except = ["a.example.org", "b.example.org", "c.example.org"].map(name);
    assert_eq!(stanza.except, except);
    assert_eq!(stanza.targets.len(), 3);
    let transport = Transport {
        force_tcp: true,
        prefer_udp: true,
        expire: Duration::from_secs(20),
        max_age: Some(Duration::from_secs(60)),
        max_idle_conns: 7,
        read_timeout: Duration::from_millis(1500),
        source: Some([127, 0, 0, 2].into()),
        packet_budget: Rate::from_word("900/s"),
        health: Health {
            interval: Duration::from_secs(2),
            recursion_desired: false,
            domain: name("probe.example.org"),
        },
    };
    assert_eq!(stanza.transport, transport);
    let files = TlsFiles {
        identity: Some(("cert.pem".into(), "key.pem".into())),
        authority: Some("ca.pem".into()),
    };
    assert_eq!(stanza.tls, files);
    assert_eq!(stanza.server_name.unwrap().to_str(), "dns.example.org");
    assert_eq!(stanza.doh_method, "GET");
    let resolvers = ["192.0.2.3:53", "[2001:db8::1]:5353", "[2001:db8::2]:53"];
    let shown = |address: &SocketAddr| address.to_string();
    let read: Vec<_> = stanza.resolvers.iter().map(shown).collect();
    assert_eq!(read, resolvers);
    assert_eq!(stanza.max_fails, 3);
    assert_eq!(stanza.max_connect_attempts, Some(4));
    assert_eq!(stanza.policy, Policy::Sequential);
    assert_eq!(stanza.max_concurrent, 1000);
    assert_eq!(stanza.next, [Rcode::NXDOMAIN, Rcode::REFUSED]);
    assert_eq!(stanza.failover, [Rcode::SERVFAIL, Rcode::NOTIMP]);
    assert!(stanza.next_on_nodata && stanza.failfast && stanza.hedge);
    let allowed = ["corp.example.org", "d.example.org", "10.in-addr.arpa"].map(name);
    assert_eq!(stanza.deny_private.unwrap().allowed, allowed);
}

#[test]
fn each_directive_is_a_stanza_in_its_place() {
    let text = "forward a.org 192.0.2.1\nforward . 192.0.2.2 {\npolicy round_robin\n}";
    let policies: Vec<_> = stanzas(text).iter().map(|stanza| stanza.policy).collect();
    assert_eq!(policies, [Policy::Random, Policy::RoundRobin]);
}

#[test]
fn what_coredns_refuses_is_refused_at_its_word() {
    for (option, expected) in [
        (
            "policy fastest",
            "error: `fastest` is not `random`, `round_robin`, `sequential` or `lowest_latency` @ fastest",
        ),
        (
            "packet_budget 900",
            "error: `900` is not a number of packets from 1/s to 100000/s @ 900",
        ),
        (
            "expire -5s",
            "error: `-5s` is not a duration of 0 or more @ -5s",
        ),
        (
            "expire 10",
            "error: `10` is not a duration such as 10s @ 10",
        ),
        (
            "max_age 5s",
            "error: `max_age` is less than `expire` @ max_age 5s",
        ),
        (
            "max_idle_conns -1",
            "error: `-1` is not a number, 0 or more @ -1",
        ),
        (
            "max_concurrent many",
            "error: `many` is not a number, 0 or more @ many",
        ),
        ("read_timeout 0", "error: `0` is not a duration above 0 @ 0"),
        (
            "max_fails -1",
            "error: `-1` is not a number from 0 to 4294967295 @ -1",
        ),
        (
            "max_connect_attempts",
            "error: `max_connect_attempts` needs a number from 0 to 4294967295 @ max_connect_attempts",
        ),
        (
            "health_check",
            "error: `health_check` needs a duration such as 10s @ health_check",
        ),
        (
            "health_check 1s rec",
            "error: `health_check` has no option `rec` @ rec",
        ),
        (
            "health_check 1s domain a..b",
            "error: `a..b` is not a name @ a..b",
        ),
        ("force_tcp yes", "error: `force_tcp` takes no `yes` @ yes"),
        (
            "next",
            "error: `next` needs one or more rcodes such as NXDOMAIN @ next",
        ),
        ("next OK", "error: `OK` is not an rcode @ OK"),
        ("next RCODE3", "error: `RCODE3` is not an rcode @ RCODE3"),
        (
            "failover NOERROR",
            "error: `NOERROR` is no reason to ask the next upstream @ NOERROR",
        ),
        (
            "source_address eth0",
            "error: `eth0` is not an IP address @ eth0",
        ),
        ("except", "error: `except` needs one or more zones @ except"),
        ("hedge 20ms", "error: `hedge` takes no `20ms` @ 20ms"),
        ("deny_private a..b", "error: `a..b` is not a zone @ a..b"),
        (
            "tls a b c d",
            "error: `tls` takes at most a certificate, a key and a CA @ d",
        ),
        (
            "tls_servername dns..org",
            "error: `dns..org` is no name of a server @ dns..org",
        ),
        (
            "doh_method PUT",
            "error: `PUT` is not a method for queries @ PUT",
        ),
        (
            "resolver dns.org",
            "error: `dns.org` is not an IP address, with or without a port @ dns.org",
        ),
        (
            "timeout 5s",
            "error: `forward` has no option `timeout` @ timeout",
        ),
    ] {
        assert_eq!(faults(option), [expected], "{option}");
    }
}

#[test]
fn what_is_missing_or_too_much_in_the_line_is_said() {
    let sixteen = (1..=16)
        .map(|last| format!(" 192.0.2.{last}"))
        .collect::<String>();
    for (line, expected) in [
        (
            "forward",
            "error: `forward` needs a zone such as `.` and at least one upstream such as 192.0.2.1:53 @ forward",
        ),
        (
            "forward .",
            "error: `forward` needs an upstream address such as 192.0.2.1:53 @ forward .",
        ),
        ("forward . \"\"", "error: `` is not an address @ \"\""),
        (
            &format!("forward .{sixteen}"),
            "error: more than 15 upstreams: 16 @ 192.0.2.16",
        ),
    ] {
        assert_eq!(testing::faults(&SPEC, line), [expected], "{line}");
    }
}

#[test]
fn all_faults_of_a_directive_are_told_at_once() {
    let text = "forward . quic://192.0.2.1 {\npolicy x\nexpire y\n}";
    assert_eq!(testing::faults(&SPEC, text).len(), 3);
}

#[test]
fn tls_takes_a_ca_a_certificate_and_its_key_or_all_three() {
    let files = |option: &str| {
        let text = format!("forward . tls://192.0.2.1 {{\n{option}\n}}");
        stanzas(&text).remove(0).tls
    };
    assert_eq!(files("tls"), TlsFiles::default());
    assert_eq!(files("tls ca").authority, Some("ca".into()));
    let identity = Some(("cert".into(), "key".into()));
    assert_eq!(files("tls cert key").identity, identity);
    assert_eq!(files("tls cert key").authority, None);
}

#[test]
fn tls_without_an_upstream_over_tls_is_warned_of() {
    assert_eq!(
        faults("tls_servername dns.quad9.net"),
        ["warning: `tls_servername` is of no use here @ tls_servername dns.quad9.net"]
    );
}

#[test]
fn one_name_for_all_upstreams_and_one_of_its_own_contradict() {
    let text = "forward . tls://9.9.9.9%dns.quad9.net {\ntls_servername a.org\n}";
    let faults = testing::faults(&SPEC, text);
    assert!(
        faults
            .iter()
            .any(|fault| fault.contains("`dns.quad9.net` is a second name")),
        "{faults:?}"
    );
}
