//! Rules of `autopath`, one test each. Cases with a cluster are in `tests/kubernetes`.

use std::any::Any;
use std::io::Write;
use std::sync::{Arc, Mutex};

use super::*;
use crate::plugin::testing::bench::{Ask, Bench, Link, Reply, Upstream, runtime};
use crate::plugin::testing::faults;
use crate::server::process::Process;
use crate::wire::name::NameBuf;
use crate::wire::writer::SoaTimes;

/// Elements as a Pod of the namespace `shop` has them.
const SEARCH: [&str; 4] = [
    "shop.svc.cluster.local",
    "svc.cluster.local",
    "cluster.local",
    "corp.example",
];

fn name(text: &str) -> Name {
    Name::from_text(text).expect("a name")
}

fn autopath(zone: &str, search: &[&str]) -> Arc<Autopath> {
    let families = Process::new(runtime()).metrics.families();
    Arc::new(Autopath {
        zones: [name(zone)].into(),
        source: Source::File(search.iter().map(|text| name(text)).collect()),
        successes: Successes::new(families),
    })
}

/// What the plugins below have for a name.
#[derive(Clone, Copy)]
enum Has {
    Addresses(u8),
    Alias,
    NoData,
    NameError,
    Refused,
    Failure,
    Nothing,
}

fn answer(exchange: &mut Exchange<'_>, has: Has) {
    let reply = &mut exchange.reply;
    match has {
        Has::Addresses(count) => {
            for last in 0..count {
                reply.a(Owner::Question, 60, [192, 0, 2, last].into());
            }
        }
        Has::Alias => {
            let target = name("target.example");
            reply.name_record(Owner::Question, RecordType::CNAME, 30, target.as_ref());
            reply.a(Owner::Name(target.as_ref()), 60, [192, 0, 2, 0].into());
        }
        Has::NoData | Has::NameError => {
            if matches!(has, Has::NameError) {
                reply.rcode = Rcode::NXDOMAIN;
            }
            reply.go_to(Section::Authority);
            let (mname, times) = (
                name("ns.example"),
                SoaTimes {
                    serial: 1,
                    refresh: 2,
                    retry: 3,
                    expire: 4,
                    minimum: 5,
                },
            );
            reply.soa(Owner::Question, 5, mname.as_ref(), mname.as_ref(), times);
        }
        Has::Refused => reply.rcode = Rcode::SERVFAIL,
        Has::Failure => exchange.fail(Rcode::SERVFAIL, "nobody is there"),
        Has::Nothing => exchange.state.dropped = true,
    }
}

/// A server that has these names and no others, and the names that it was asked for.
struct Below {
    bench: Bench,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Below {
    /// With `waits`, names whose first label holds a `w` are not in memory.
    fn new(plugin: Arc<Autopath>, has: &'static [(&'static str, Has)]) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let upstream = Upstream::new(move |exchange, _| {
            let qname = exchange.query.qname().to_string();
            seen.lock().expect("nobody panics").push(qname.clone());
            let known = has
                .iter()
                .find(|(known, _)| qname.eq_ignore_ascii_case(known));
            let has = known.map_or(Has::NameError, |(_, has)| *has);
            if !qname.contains('w') {
                answer(exchange, has);
                return if exchange.state.dropped {
                    Step::Drop
                } else {
                    Step::Answered
                };
            }
            let below = exchange.query.message().to_vec();
            Step::Defer(Box::pin(async move {
                tokio::task::yield_now().await;
                later(&below, has)
            }))
        });
        let bench = Bench::new(vec![Link::Made(plugin), Link::Made(upstream)]);
        Self { bench, asked }
    }

    fn ask(&self, qname: &str) -> String {
        self.send(&Ask::new(qname, RecordType::A))
    }

    fn send(&self, ask: &Ask) -> String {
        let reply = self.bench.try_send(ask);
        reply.map_or_else(|| "dropped".into(), |reply| text(&reply))
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("nobody panics"))
    }
}

/// The same as [`answer`], as a verdict.
fn later(message: &[u8], has: Has) -> Verdict {
    let query = Query::parse(message).expect("a query");
    let mut out = Vec::new();
    match has {
        Has::Nothing => return Verdict::Drop,
        Has::Failure => {
            return Verdict::Fail(Failure {
                rcode: Rcode::SERVFAIL,
                error: "nobody is there".into(),
                extended_error: None,
            });
        }
        _ => {}
    }
    let zones = crate::plugin::testing::zones(".", Vec::new());
    let block = zones.blocks().next().expect("one").clone();
    let state = State::new(crate::plugin::testing::arrival());
    let qname = NameBuf::lower_of(query.qname());
    let mut exchange = Exchange::new(&query, &qname, state, &block, &zones, &mut out);
    answer(&mut exchange, has);
    exchange.reply.finish(&query, MESSAGE_MAX, None);
    Verdict::Reply(Answer {
        message: out,
        ..Answer::default()
    })
}

fn text(reply: &Reply) -> String {
    let records = reply.records().join("; ").replace(" IN ", " ");
    format!("{}: {records}", reply.rcode())
}

const FOUND: &str = "NOERROR: answer x.example.shop.svc.cluster.local. 60 CNAME x.example.; answer x.example. 60 A 192.0.2.0";

/// Case 225.
#[test]
fn elements_are_tried_in_order_until_one_has_the_name() {
    let below = Below::new(autopath(".", &SEARCH), &[("x.example.", Has::Addresses(1))]);
    assert_eq!(below.ask("x.example.shop.svc.cluster.local"), FOUND);
    assert_eq!(
        below.asked(),
        [
            "x.example.shop.svc.cluster.local.",
            "x.example.svc.cluster.local.",
            "x.example.cluster.local.",
            "x.example.corp.example.",
            "x.example."
        ]
    );
}

#[test]
fn what_the_first_element_has_is_the_reply_as_it_is() {
    let has = &[("x.shop.svc.cluster.local.", Has::Alias)];
    let below = Below::new(autopath(".", &SEARCH), has);
    // CoreDNS would write a second alias of the same owner (case 231).
    assert_eq!(
        below.ask("x.shop.svc.cluster.local"),
        "NOERROR: answer x.shop.svc.cluster.local. 30 CNAME target.example.; answer target.example. 60 A 192.0.2.0"
    );
    assert_eq!(below.asked().len(), 1);
}

#[test]
fn an_element_that_has_no_data_ends_the_search() {
    let has = &[
        ("x.svc.cluster.local.", Has::NoData),
        ("x.", Has::Addresses(1)),
    ];
    let below = Below::new(autopath(".", &SEARCH), has);
    let text = below.ask("x.shop.svc.cluster.local");
    assert!(
        text.starts_with("NOERROR: authority x.svc.cluster.local. 5 SOA"),
        "{text}"
    );
    assert_eq!(below.asked().len(), 2);
}

/// Case 226.
#[test]
fn where_no_element_has_the_name_the_first_denial_stands() {
    for qname in ["x.shop.svc.cluster.local", "w.shop.svc.cluster.local"] {
        let below = Below::new(autopath(".", &SEARCH), &[]);
        let text = below.ask(qname);
        assert!(
            text.starts_with(&format!("NXDOMAIN: authority {qname}. 5 SOA")),
            "{text}"
        );
        assert_eq!(below.asked().len(), 5);
    }
}

/// Case 232.
#[test]
fn a_failure_ends_the_search_and_a_servfail_that_was_said_is_the_answer() {
    for has in [Has::Failure, Has::Refused] {
        let known: &'static [(&'static str, Has)] = match has {
            Has::Failure => &[
                ("x.cluster.local.", Has::Failure),
                ("w.cluster.local.", Has::Failure),
            ],
            _ => &[
                ("x.cluster.local.", Has::Refused),
                ("w.cluster.local.", Has::Refused),
            ],
        };
        let below = Below::new(autopath(".", &SEARCH), known);
        for qname in ["x.shop.svc.cluster.local", "w.shop.svc.cluster.local"] {
            assert_eq!(below.ask(qname), "SERVFAIL: ");
            assert_eq!(below.asked().len(), 3);
        }
    }
    // Nobody knows whether the first element has the name: another one's must not take its place.
    let below = Below::new(
        autopath(".", &SEARCH),
        &[("x.shop.svc.cluster.local.", Has::Failure)],
    );
    assert_eq!(below.ask("x.shop.svc.cluster.local"), "SERVFAIL: ");
    assert_eq!(below.asked().len(), 1);
}

#[test]
fn what_is_dropped_stays_dropped() {
    let has = &[
        ("x.cluster.local.", Has::Nothing),
        ("w.cluster.local.", Has::Nothing),
    ];
    let below = Below::new(autopath(".", &SEARCH), has);
    assert_eq!(below.ask("x.shop.svc.cluster.local"), "dropped");
    assert_eq!(below.ask("w.shop.svc.cluster.local"), "dropped");
}

#[test]
fn what_has_to_be_fetched_is_waited_for() {
    let has = &[
        ("www.example.", Has::Addresses(2)),
        ("w.corp.example.", Has::Alias),
    ];
    let below = Below::new(autopath(".", &SEARCH), has);
    assert_eq!(
        below.ask("WWW.example.shop.svc.cluster.local"),
        "NOERROR: answer WWW.example.shop.svc.cluster.local. 60 CNAME WWW.example.; \
         answer WWW.example. 60 A 192.0.2.0; answer WWW.example. 60 A 192.0.2.1"
    );
    assert_eq!(
        below.ask("w.shop.svc.cluster.local"),
        "NOERROR: answer w.shop.svc.cluster.local. 30 CNAME w.corp.example.; \
         answer w.corp.example. 30 CNAME target.example.; answer target.example. 60 A 192.0.2.0"
    );
}

#[test]
fn only_names_below_the_first_element_are_searched_for() {
    let below = Below::new(autopath("cluster.local", &SEARCH), &[]);
    for qname in [
        // CoreDNS fails at the element itself (case 230).
        "shop.svc.cluster.local",
        "x.web.svc.cluster.local",
        "x.example",
    ] {
        assert!(below.ask(qname).starts_with("NXDOMAIN"), "{qname}");
        assert_eq!(below.asked().len(), 1, "{qname}");
    }
    let below = Below::new(autopath("example", &SEARCH), &[]);
    below.ask("x.shop.svc.cluster.local");
    assert_eq!(below.asked().len(), 1);
    let below = Below::new(autopath(".", &[]), &[]);
    below.ask("x.shop.svc.cluster.local");
    assert_eq!(below.asked().len(), 1);
}

#[test]
fn the_target_of_an_alias_is_not_searched_for() {
    let below = Below::new(autopath(".", &SEARCH), &[]);
    let mut ask = Ask::new("x.shop.svc.cluster.local", RecordType::A);
    ask.arrival.alias_depth = 1;
    below.send(&ask);
    assert_eq!(below.asked().len(), 1);
}

#[test]
fn names_keep_the_spelling_of_the_client_and_elements_that_of_the_server() {
    let has = &[("web.ns2.svc.cluster.local.", Has::Addresses(1))];
    let below = Below::new(autopath(".", &SEARCH), has);
    assert_eq!(
        below.ask("Web.NS2.SHOP.SVC.Cluster.Local"),
        "NOERROR: answer Web.NS2.SHOP.SVC.Cluster.Local. 60 CNAME Web.NS2.svc.cluster.local.; \
         answer Web.NS2.svc.cluster.local. 60 A 192.0.2.0"
    );
}

#[test]
fn a_reply_is_cut_to_what_its_client_takes_and_has_one_opt() {
    let has = &[("x.example.", Has::Addresses(100))];
    let below = Below::new(autopath(".", &SEARCH), has);
    let mut ask = Ask::new("x.example.shop.svc.cluster.local", RecordType::A);
    let reply = below.bench.send(&ask);
    assert!(reply.has_tc() && reply.octets.len() <= 512);
    ask.edns = Some((4096, true));
    ask.arrival.protocol = crate::chain::exchange::Protocol::Tcp;
    let reply = below.bench.send(&ask);
    assert_eq!((reply.has_tc(), reply.records().len()), (false, 101));
    let opts = Records::of_message(&reply.octets)
        .expect("a message")
        .flatten();
    let is_opt = |(_, record): &(Section, crate::wire::record::RecordRef<'_>)| {
        record.record_type == RecordType::OPT
    };
    assert_eq!(opts.filter(is_opt).count(), 1);
}

#[test]
fn names_that_are_found_are_counted_wherever_they_are() {
    let has = &[
        ("a.shop.svc.cluster.local.", Has::Addresses(1)),
        ("b.cluster.local.", Has::NoData),
        ("w.", Has::Addresses(1)),
    ];
    let plugin = autopath(".", &SEARCH);
    let below = Below::new(Arc::clone(&plugin), has);
    for first in ["a", "b", "w", "nope"] {
        below.ask(&format!("{first}.shop.svc.cluster.local"));
    }
    below.ask("elsewhere.example");
    assert_eq!(plugin.successes.of(&"dns://:53".into()).get(), 3);
}

#[test]
fn a_file_gives_its_search_domains() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "nameserver 192.0.2.1\nsearch Corp.example").expect("room");
    let text = format!("autopath {}", file.path().display());
    let bench = Bench::new(vec![
        Link::Corefile(&SPEC, text.leak()),
        Link::Made(Upstream::answering(|exchange, before| {
            answer(
                exchange,
                if before == 0 {
                    Has::NameError
                } else {
                    Has::Addresses(1)
                },
            );
        })),
    ]);
    let records = bench.ask("x.corp.example", RecordType::A).records();
    assert_eq!(records[0], "answer x.corp.example. 60 IN CNAME x.");
    assert_eq!(
        bench.metrics("coredns_autopath_success_total"),
        ["coredns_autopath_success_total{server=\"dns://:53\"} 1"]
    );
    let mut process = crate::plugin::testing::Bed::new();
    let config = crate::plugin::testing::config(&SPEC, "autopath /nowhere/resolv.conf");
    let Err(error) = process.build(&*config as &dyn crate::plugin::Config) else {
        panic!("there is no such file");
    };
    assert!(
        error.to_string().starts_with("`/nowhere/resolv.conf`: "),
        "{error}"
    );
    assert!((&*config as &dyn Any).is::<config::AutopathConfig>());
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    for (text, fault) in [
        (
            "autopath",
            "error: `autopath` needs a search path @ autopath",
        ),
        ("autopath a..b x", "error: `a..b` is not a zone @ a..b"),
        (
            "autopath x\nautopath y",
            "warning: only the last `autopath` of a server block counts @ autopath x",
        ),
        (
            "autopath @nope",
            "warning: there is no plugin `nope` in this server block @ @nope",
        ),
    ] {
        assert_eq!(faults(&SPEC, text), [fault], "{text}");
    }
}

/// Cases 233, 234 and 259: what only the whole server block shows.
#[test]
fn a_source_must_be_there_and_know_search_paths() {
    use crate::corefile::parser::parse_text;
    use crate::plugin::configure::configure;
    let kubernetes = "kubernetes cluster.local";
    for (lines, expected) in [
        (
            format!("autopath @kubernetes\n{kubernetes} {{\npods verified\n}}"),
            None,
        ),
        (
            format!("autopath @kubernetes\n{kubernetes} {{\npods insecure\n}}"),
            Some("2:10: warning: `autopath @kubernetes` needs `pods verified`"),
        ),
        (
            format!("autopath a.org @kubernetes\n{kubernetes}"),
            Some("2:16: warning: `autopath @kubernetes` needs `pods verified`"),
        ),
        (
            "autopath @kubernetes".to_owned(),
            Some("2:10: warning: there is no plugin `kubernetes` in this server block"),
        ),
        (
            "autopath @forward\nforward . 192.0.2.1".to_owned(),
            Some("2:10: error: `forward` knows no search paths"),
        ),
        (
            "autopath {\nx\n}".to_owned(),
            Some("2:1: error: `autopath` needs a search path"),
        ),
    ] {
        let (corefile, mut faults) = parse_text(&format!(". {{\n{lines}\n}}"));
        configure(&corefile, &mut faults);
        let shown: Vec<String> = faults
            .iter()
            .map(|fault| {
                let place = corefile.place(fault.span).replace("Corefile:", "");
                let severity = format!("{:?}", fault.severity).to_lowercase();
                format!("{place}: {severity}: {}", fault.message)
            })
            .collect();
        match expected {
            None => assert!(shown.is_empty(), "{shown:?}"),
            Some(expected) => assert!(shown.contains(&expected.to_owned()), "{shown:?}"),
        }
    }
}
