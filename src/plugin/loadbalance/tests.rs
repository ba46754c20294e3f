//! One test a rule.

use std::collections::BTreeSet;
use std::fs;

use super::*;
use crate::plugin::testing::bench::{Ask, Bench, Link, runtime};
use crate::server::process::Process;
use crate::wire::name::Name;
use crate::wire::record::Section;
use crate::wire::writer::Owner;

type Script = Box<dyn Fn(&mut Exchange<'_>) + Send + Sync>;

/// The last link: writes what its script says.
struct Below(Script);

impl Plugin for Below {
    fn name(&self) -> &'static str {
        "below"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        (self.0)(exchange);
        Step::Answered
    }
}

fn bench(text: &'static str, script: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static) -> Bench {
    Bench::new(vec![
        Link::Corefile(&SPEC, text),
        Link::Made(Arc::new(Below(Box::new(script)))),
    ])
}

fn addresses(exchange: &mut Exchange<'_>, count: u8) {
    for last in 0..count {
        exchange
            .reply
            .a(Owner::Question, 5, [10, 0, 0, last].into());
    }
}

/// The replies to many queries, each with its records in order.
fn orders(bench: &Bench, qtype: RecordType) -> BTreeSet<Vec<String>> {
    let mut ask = Ask::new("web.example.org", qtype);
    ask.edns = Some((1232, false));
    (0..400).map(|_| bench.send(&ask).records()).collect()
}

fn sorted(records: &[String]) -> Vec<String> {
    let mut sorted = records.to_vec();
    sorted.sort();
    sorted
}

#[test]
fn every_order_comes_up_and_nothing_is_lost() {
    let orders = orders(
        &bench("loadbalance", |exchange| addresses(exchange, 3)),
        RecordType::A,
    );
    assert_eq!(orders.len(), 6);
    let sets: BTreeSet<_> = orders.iter().map(|records| sorted(records)).collect();
    assert_eq!(sets.len(), 1);
    assert_eq!(sets.iter().next().unwrap().len(), 3);
}

#[test]
fn aliases_stay_in_front_and_rrsets_apart() {
    let bench = bench("loadbalance round_robin", |exchange| {
        let end = Name::from_text("end.example.net").unwrap();
        let reply = &mut exchange.reply;
        reply.name_record(Owner::Question, RecordType::CNAME, 5, end.as_ref());
        for last in 1..3 {
            reply.a(Owner::Name(end.as_ref()), 5, [10, 0, 0, last].into());
        }
        for last in 1..3u16 {
            let address = [0xfd00, 0, 0, 0, 0, 0, 0, last].into();
            reply.aaaa(Owner::Name(end.as_ref()), 5, address);
        }
        reply.go_to(Section::Additional);
        // The first owner stands in full, the second one points to it.
        let glue = Name::from_text("glue.example.com").unwrap();
        for last in 3..5 {
            reply.a(Owner::Name(glue.as_ref()), 5, [10, 0, 0, last].into());
        }
        let other = Name::from_text("other.example.com").unwrap();
        reply.a(Owner::Name(other.as_ref()), 5, [10, 0, 0, 9].into());
    });
    let orders = orders(&bench, RecordType::ANY);
    assert_eq!(orders.len(), 8, "three pairs, each in two orders");
    for records in &orders {
        assert_eq!(
            records[0],
            "answer web.example.org. 5 IN CNAME end.example.net."
        );
        assert!(records[1].starts_with("answer end.example.net. 5 IN A 10.0.0."));
        assert!(records[3].starts_with("answer end.example.net. 5 IN AAAA fd00::"));
        assert!(records[5].starts_with("additional glue.example.com. 5 IN A 10.0.0."));
        assert_eq!(records[7], "additional other.example.com. 5 IN A 10.0.0.9");
        assert_eq!(sorted(records), sorted(orders.first().unwrap()));
    }
}

#[test]
fn errors_and_transfers_stay_as_they_are() {
    let refused = bench("loadbalance", |exchange| {
        exchange.reply.rcode = Rcode::REFUSED;
        addresses(exchange, 3);
    });
    assert_eq!(orders(&refused, RecordType::A).len(), 1);
    let zone = bench("loadbalance", |exchange| addresses(exchange, 3));
    assert_eq!(orders(&zone, RecordType::AXFR).len(), 1);
}

#[test]
fn preferred_networks_go_first_in_their_order() {
    let text = "loadbalance {\n prefer 10.0.0.4/31 10.0.0.2/31\n}";
    let bench = bench(text, |exchange| addresses(exchange, 6));
    let orders = orders(&bench, RecordType::A);
    assert_eq!(orders.len(), 8, "each pair in two orders");
    let last = |record: &String| record.chars().next_back().unwrap();
    for records in &orders {
        let lasts: String = records.iter().map(last).collect();
        for (part, expected) in [
            (&lasts[..2], ["45", "54"]),
            (&lasts[2..4], ["23", "32"]),
            (&lasts[4..], ["01", "10"]),
        ] {
            assert!(expected.contains(&part), "{lasts}");
        }
    }
}

#[test]
fn a_thousand_addresses_are_shuffled_before_they_are_cut() {
    let bench = bench("loadbalance", |exchange| {
        for last in 0..1000u16 {
            let [high, low] = last.to_be_bytes();
            exchange
                .reply
                .a(Owner::Question, 5, [10, 0, high, low].into());
        }
    });
    let seen: BTreeSet<String> = orders(&bench, RecordType::A)
        .into_iter()
        .flatten()
        .collect();
    assert!(seen.len() > 990, "{}", seen.len());
}

#[test]
fn all_records_are_wanted_where_some_of_them_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights");
    fs::write(&file, "").unwrap();
    let weighted = format!("loadbalance weighted {}", file.display());
    for (text, all) in [
        ("loadbalance", false),
        ("loadbalance {\n prefer 10.0.0.4/31\n}", true),
        (weighted.leak(), true),
    ] {
        let bench = bench(text, move |exchange| {
            assert_eq!(exchange.room() > 60_000, all, "{text}");
            addresses(exchange, 1);
        });
        bench.ask("web.example.org", RecordType::A);
    }
}

#[test]
fn weights_decide_which_address_is_first() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights");
    fs::write(&file, "WEB.example.org\n10.0.0.2 200\n10.0.0.0 1\n").unwrap();
    let text: &'static str =
        format!("loadbalance weighted {} {{\n reload 0\n}}", file.display()).leak();
    let bench = bench(text, |exchange| addresses(exchange, 3));
    let mut firsts = [0; 3];
    for _ in 0..400 {
        let records = bench.ask("web.example.org", RecordType::A).records();
        let first = records[0]
            .chars()
            .next_back()
            .unwrap()
            .to_digit(10)
            .unwrap();
        firsts[first as usize] += 1;
        assert_eq!(records.len(), 3);
    }
    // 200 of 202, each of the others 1 of 202.
    assert!(
        firsts[2] > 350 && firsts[0] < 50 && firsts[1] < 50,
        "{firsts:?}"
    );
    let mut ask = Ask::new("web.example.org", RecordType::ANY);
    ask.edns = Some((1232, false));
    assert!(
        bench.send(&ask).records()[0].ends_with("10.0.0.0"),
        "only A, AAAA and SRV"
    );
}

#[test]
fn a_file_that_is_missing_or_wrong_stops_the_start_unless_it_may_still_come() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong");
    fs::write(&wrong, "192.0.2.1 3\n").unwrap();
    let missing = folder.path().join("missing");
    for (path, reload, starts) in [
        (&missing, "0", false),
        (&missing, "1h", true),
        (&wrong, "1h", false),
    ] {
        let text = format!(
            "loadbalance weighted {} {{\n reload {reload}\n}}",
            path.display()
        );
        let config = crate::plugin::testing::config(&SPEC, &text);
        let process = Process::new(runtime());
        let mut plan = crate::server::assembly::Plan::default();
        let built = config.build(&mut crate::server::assembly::Assembly {
            process: &process,
            keys: &[],
            server: &"dns://:53".into(),
            root: std::path::Path::new(""),
            fingerprint_below: 0,
            generation: &mut plan,
        });
        assert_eq!(built.is_ok(), starts, "{text}");
        plan.stop.cancel();
    }
}
