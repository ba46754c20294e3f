//! What we know is never kept, and entries stay with the block and the configuration that they came from.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::plugin::cache::budget::Budget;
use crate::plugin::cache::store::{Entries, Entry, Key};
use crate::plugin::cache::survey::View;
use crate::plugin::testing::bench::runtime;
use crate::server::process::Process;
use crate::wire::query::Query;

/// A table: owns `web.example.org` while it is there, else lets the query fall through.
#[derive(Default)]
struct Owning {
    is_there: AtomicBool,
}

impl Plugin for Owning {
    fn name(&self) -> &'static str {
        "table"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if !self.owns(exchange) {
            return Step::Next;
        }
        address(exchange, 60, 99);
        Step::Answered
    }

    fn owns(&self, exchange: &Exchange<'_>) -> bool {
        self.is_there.load(Ordering::SeqCst) && exchange.qname() == name("web.example.org").as_ref()
    }

    fn may_own(&self) -> bool {
        true
    }
}

fn links(text: &'static str, table: &Arc<Owning>, upstream: &Arc<Upstream>) -> Vec<Link> {
    vec![
        Link::Corefile(&SPEC, text),
        Link::Made(Arc::<Owning>::clone(table)),
        Link::Made(Arc::<Upstream>::clone(upstream)),
    ]
}

#[test]
fn a_name_that_appears_in_the_table_wins_over_what_is_kept_at_once() {
    for denied in [true, false] {
        let upstream = Upstream::answering(move |exchange, _| {
            if denied {
                exchange.reply.rcode = Rcode::NXDOMAIN;
                soa(exchange, 300, 300);
            } else {
                address(exchange, 300, 1);
            }
        });
        let table = Arc::new(Owning::default());
        let bench = Bench::new(links("cache 30", &table, &upstream));
        let start = start();
        bench.send(&ask_at(start, 0));
        table.is_there.store(true, Ordering::SeqCst);
        let reply = bench.send(&ask_at(start, 0));
        assert_eq!(
            reply.records(),
            ["answer web.example.org. 30 IN A 192.0.2.99"],
            "its TTL is cut as on any miss"
        );
        // And it leaves as fast as it came.
        table.is_there.store(false, Ordering::SeqCst);
        assert_ne!(bench.send(&ask_at(start, 0)).records(), reply.records());
        assert_eq!(upstream.asked(), 1, "what was kept before is still good");
    }
}

#[test]
fn an_owned_name_is_neither_looked_up_nor_kept_nor_counted() {
    let upstream = Upstream::answering(|exchange, _| address(exchange, 300, 1));
    let table = Arc::new(Owning::default());
    table.is_there.store(true, Ordering::SeqCst);
    let bench = Bench::new(links("cache 30", &table, &upstream));
    bench.send(&ask_at(start(), 0));
    let metrics = bench.metrics("coredns_cache_");
    assert!(
        metrics.iter().all(|line| line.ends_with(" 0")),
        "{metrics:#?}"
    );
    assert_eq!(upstream.asked(), 0);
}

#[test]
fn what_became_owned_while_the_upstream_was_asked_is_not_kept() {
    let table = Arc::new(Owning::default());
    let appears = Arc::clone(&table);
    let upstream = Upstream::answering(move |exchange, _| {
        appears.is_there.store(true, Ordering::SeqCst);
        address(exchange, 300, 1);
    });
    let bench = Bench::new(links("cache", &table, &upstream));
    let start = start();
    bench.send(&ask_at(start, 0));
    table.is_there.store(false, Ordering::SeqCst);
    bench.send(&ask_at(start, 0));
    assert_eq!(upstream.asked(), 2);
}

#[test]
fn an_entry_stays_with_the_configuration_it_came_from() {
    let upstream = Upstream::answering(|exchange, _| address(exchange, 300, 1));
    let process = Process::new(runtime());
    let build = |fingerprint, text| {
        let upstream = Link::Made(Arc::<Upstream>::clone(&upstream));
        Bench::within(
            &process,
            fingerprint,
            vec![Link::Corefile(&SPEC, text), upstream],
        )
    };
    let ask = ask_at(start(), 0);
    let before = build(1, "cache 30");
    before.send(&ask);
    // A reload that changes nothing keeps what is there, also once the old generation is gone.
    let same = build(1, "cache 30");
    drop(before);
    same.send(&ask);
    assert_eq!(upstream.asked(), 1);
    for (fingerprint, text) in [
        (2, "cache 30"),
        (1, "cache 20"),
        (1, "cache 30 example.org"),
    ] {
        let asked = upstream.asked();
        build(fingerprint, text).send(&ask);
        assert_eq!(upstream.asked(), asked + 1, "{text} above {fingerprint}");
    }
}

#[test]
fn all_caches_together_stay_within_the_budget_also_when_it_changes() {
    const BUDGET: u64 = 64 << 20;
    let budget = Budget::new(BUDGET);
    let counter = || prometheus::IntCounter::new("a", "b").unwrap();
    let entries = |capacity| Entries::new(&budget, [capacity; 2], [counter(), counter()]);
    // Rounded up to whole octets a shard.
    let slack = 64 << 10;
    let first = entries(10_000);
    let octets_max = || budget.weight_max();
    assert!(octets_max() >= 20_000 << 10 && octets_max() < BUDGET);
    let many: Vec<_> = (0..20).map(|_| entries(1_000_000)).collect();
    assert!(octets_max() <= BUDGET + slack, "{}", octets_max());
    for octets in [BUDGET / 4, 2 * BUDGET] {
        budget.set_octets(octets);
        assert!((octets..octets + slack).contains(&octets_max()), "{octets}");
    }
    drop(many);
    assert!(octets_max() >= 20_000 << 10, "and room comes back");
    drop(first);
    assert_eq!(octets_max(), 0);
}

#[test]
fn a_reload_changes_the_budget_once_it_serves_and_empties_no_cache() {
    let upstream = Upstream::answering(|exchange, _| address(exchange, 300, 1));
    let process = Process::new(runtime());
    let build = |memory| {
        let text: &'static str = format!("cache {{\n{memory}\n}}").leak();
        let upstream = Link::Made(Arc::<Upstream>::clone(&upstream));
        Bench::within(&process, 1, vec![Link::Corefile(&SPEC, text), upstream])
    };
    let mut serving = build(" memory 64Mi");
    let gauge = |bench: &Bench, name: &str| -> u64 {
        let lines = bench.metrics(name);
        lines[0].rsplit(' ').next().unwrap().parse().unwrap()
    };
    serving.send(&ask_at(start(), 0));
    assert_eq!(gauge(&serving, "fingerpost_cache_used_bytes"), 1024);
    for (memory, octets) in [(" memory 8Mi", 8 << 20), (" memory 1Gi", 1 << 30)] {
        let before = gauge(&serving, "fingerpost_cache_budget_bytes");
        let mut next = build(memory);
        assert_eq!(gauge(&next, "fingerpost_cache_budget_bytes"), before);
        for task in std::mem::take(&mut next.plan.after_serving) {
            runtime().block_on(task);
        }
        serving = next;
        assert_eq!(gauge(&serving, "fingerpost_cache_budget_bytes"), octets);
        serving.send(&ask_at(start(), 0));
        assert_eq!(upstream.asked(), 1, "the entry is still there");
    }
}

#[test]
fn capacity_bounds_the_entries_and_a_scan_does_not_drive_out_what_is_used() {
    let upstream = Upstream::answering(|exchange, _| address(exchange, 300, 1));
    let bench = bench("cache {\n success 1024\n}", &upstream);
    for _ in 0..3 {
        bench.ask("used.example.org", RecordType::A);
    }
    for number in 0..5000 {
        bench.ask(&format!("scan-{number}.example.org"), RecordType::A);
    }
    let asked = upstream.asked();
    bench.ask("used.example.org", RecordType::A);
    assert_eq!(upstream.asked(), asked);
    let sample = |name: &str| -> u64 {
        let lines = bench.metrics(name);
        let line = lines.iter().find(|line| line.contains("success")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(sample("coredns_cache_entries{") <= 1024 + 64);
    assert!(sample("coredns_cache_evictions_total{") >= 3900);
}

#[test]
fn what_is_over_is_forgotten_and_the_rest_is_not() {
    let counter = || prometheus::IntCounter::new("a", "b").unwrap();
    let entries = Entries::new(&Budget::new(64 << 20), [1024; 2], [counter(), counter()]);
    let start = start();
    let put = |qname: &str, ttl| {
        let ask = Ask::new(qname, RecordType::A).octets();
        let query = Query::parse(&ask).expect("a query");
        let view = View::of_message(&ask, query.question_octets()).expect("its question");
        let entry = Entry::new(view, [0, 0], ttl, true, start).expect("it has no records");
        let key = Key::of(&query);
        entries.success.put(&key, Arc::new(entry));
        key
    };
    let (short, long) = (put("short.example.org", 10), put("long.example.org", 100));
    let now = start + Duration::from_secs(10);
    entries.success.forget(|entry| entry.left(now).is_err());
    assert!(entries.success.find(&short).is_none() && entries.success.find(&long).is_some());
}
