//! What is asked, and what must be found.
//!
//! The names are those of Kubernetes' conformance tests for DNS (the cluster, Services, headless Services, host name and
//! subdomain, ExternalName, reverse), and those that people practice with: the same short name from two namespaces, and
//! names that look right and are not.

use std::path::Path;

use serde_json::{Value, json};

use crate::e2e::bed::Bed;
use crate::e2e::client::{ALL, Client, Found};
use crate::e2e::report::Report;

/// Addresses of the Service `wide`: more than 512 octets take, fewer than 1,232.
const WIDE: u8 = 50;

/// Addresses of the Service `huge`: more than 1,232 octets take.
const HUGE: u8 = 100;

/// A pod of namespace `default`, and one of `payroll`.
const A: &str = "client-a";
const B: &str = "client-b";

/// Who asks, for what, and what is there. Nothing: the name does not exist.
const QUESTIONS: &[(&str, &str, &[&str])] = &[
    // Practice.
    (A, "web-service", &["10.96.10.1"]),
    (A, "web-service.default", &["10.96.10.1"]),
    (A, "web-service.default.svc", &["10.96.10.1"]),
    (A, "web-service.default.svc.cluster.local", &["10.96.10.1"]),
    (A, "web-service.payroll", &["10.96.20.1"]),
    (A, "web-service.payroll.svc.cluster.local", &["10.96.20.1"]),
    (A, "10-244-2-5.apps.pod.cluster.local", &["10.244.2.5"]),
    (A, "10-244-2-5.apps.pod", &["10.244.2.5"]),
    (A, "web-service.default.pod", &[]),
    (A, "web-service.payroll.svc.cluster", &[]),
    (A, "nothing", &[]),
    (B, "web-service", &["10.96.20.1"]),
    (B, "web-service.default", &["10.96.10.1"]),
    (B, "web-service.payroll", &["10.96.20.1"]),
    // The cluster.
    (A, "kubernetes", &["10.96.0.1"]),
    (B, "kubernetes", &[]),
    (B, "kubernetes.default", &["10.96.0.1"]),
    (B, "kubernetes.default.svc", &["10.96.0.1"]),
    (B, "kubernetes.default.svc.cluster.local", &["10.96.0.1"]),
    (A, "kube-dns.kube-system", &["10.96.0.10"]),
    // Services: of two families, headless, host name and subdomain, one that is not ready.
    (B, "api.apps", &["10.96.30.1", "fd00:10:96::30"]),
    (A, "db.apps", &["10.244.2.10", "10.244.2.11"]),
    (A, "db-0.db.apps", &["10.244.2.10"]),
    (B, "db-1.db.apps.svc.cluster.local", &["10.244.2.11"]),
    (A, "db-2.db.apps", &[]),
    (A, "db-0.apps", &[]),
    // ExternalName: into the cluster, and out of it.
    (B, "reports", &["10.96.10.1"]),
    (A, "reports.payroll.svc.cluster.local", &["10.96.10.1"]),
    (A, "docs.payroll", &["192.0.2.10"]),
    // Outside.
    (A, "example.com", &["192.0.2.10"]),
    (B, "www.example.com", &["192.0.2.11"]),
    (A, "nothing.example.com", &[]),
    // Reverse.
    (A, "10.96.10.1", &["web-service.default.svc.cluster.local"]),
    (B, "10.244.2.10", &["db-0.db.apps.svc.cluster.local"]),
    (A, "10.96.0.1", &["kubernetes.default.svc.cluster.local"]),
    (B, "192.0.2.10", &[]),
];

/// Records by type, asked over UDP and over TCP.
const RECORDS: &[(&str, &str, &[&str])] = &[
    (
        "web-service.default.svc.cluster.local",
        "A",
        &["10.96.10.1"],
    ),
    ("web-service.default.svc.cluster.local", "AAAA", &[]),
    ("api.apps.svc.cluster.local", "AAAA", &["fd00:10:96::30"]),
    (
        "_http._tcp.web-service.default.svc",
        "SRV",
        &["0 100 80 web-service.default.svc.cluster.local."],
    ),
    (
        "_postgres._tcp.db.apps.svc",
        "SRV",
        &[
            "0 50 5432 db-0.db.apps.svc.cluster.local.",
            "0 50 5432 db-1.db.apps.svc.cluster.local.",
        ],
    ),
    (
        "reports.payroll.svc",
        "CNAME",
        &["web-service.default.svc.cluster.local."],
    ),
    ("docs.payroll.svc", "CNAME", &["example.com."]),
    ("dns-version.cluster.local", "TXT", &["\"1.1.0\""]),
    (
        "1.20.96.10.in-addr.arpa",
        "PTR",
        &["web-service.payroll.svc.cluster.local."],
    ),
];

/// The EndpointSlices of `wide` and `huge`, which have no pods.
pub fn slices() -> [Value; 2] {
    [("wide", WIDE), ("huge", HUGE)].map(|(name, count)| {
        let endpoints: Vec<Value> = addresses(name)
            .take(count.into())
            .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 80}],
        })
    })
}

fn addresses(name: &str) -> impl Iterator<Item = String> {
    let third = if name == "wide" { 1 } else { 2 };
    (1..=255).map(move |last| format!("10.250.{third}.{last}"))
}

/// Every question from every client, and every record.
pub fn ask_all(bed: &Bed, report: &mut Report, when: &str) {
    ask(bed, report, when);
    for flag in ["+notcp", "+tcp"] {
        let wrong = |&(name, qtype, expected): &(&str, &str, &[&str])| {
            let found = bed.dig(A, &[flag, name, qtype]);
            (found.as_deref() != Ok(&owned(expected)[..]))
                .then(|| format!("{name} {qtype}: {found:?}, not {expected:?}"))
        };
        let wrong: Vec<String> = RECORDS.iter().filter_map(wrong).collect();
        let count = RECORDS.len();
        report.check(&format!("dig {flag}, {count} records{when}"), none(&wrong));
    }
}

/// Every question from every client.
pub fn ask(bed: &Bed, report: &mut Report, when: &str) {
    for client in ALL {
        let wrong = wrong_for(bed, client, |found, expected| {
            found.as_deref() == Ok(expected)
        });
        let (client, count) = (client.name(), QUESTIONS.len());
        report.check(&format!("{client}, {count} names{when}"), none(&wrong));
    }
}

/// The same while not every query gets a reply: a client may give up, but what it does find must be right.
///
/// glibc may also find nothing: where a query of its search list gets no reply, it leaves the list and asks the name as it
/// stands, which is rightly denied.
pub fn ask_for_nothing_wrong(bed: &Bed, report: &mut Report, when: &str) {
    for client in ALL {
        let wrong = wrong_for(bed, client, |found, expected| match found {
            Ok(found) if found.is_empty() && client == Client::Glibc => true,
            Ok(found) => found == expected,
            Err(_) => true,
        });
        let name = format!("{}, no wrong answer{when}", client.name());
        report.check(&name, none(&wrong));
    }
}

/// The questions of which this does not hold.
fn wrong_for(
    bed: &Bed,
    client: Client,
    holds: impl Fn(&Result<Found, String>, &[String]) -> bool,
) -> Vec<String> {
    let wrong = |&(pod, name, expected): &(&str, &str, &[&str])| {
        let found = bed.find(client, pod, name);
        (!holds(&found, &owned(expected)))
            .then(|| format!("{name} in {pod}: {found:?}, not {expected:?}"))
    };
    QUESTIONS.iter().filter_map(wrong).collect()
}

/// Answers that need more than 512 octets, or a connection.
pub fn ask_long(bed: &Bed, report: &mut Report) {
    for (name, count) in [("wide", WIDE), ("huge", HUGE)] {
        let mut all: Found = addresses(name).take(count.into()).collect();
        all.sort();
        for client in ALL {
            let found = bed.find(client, A, &format!("{name}.apps"));
            let is_right = match (&found, client.takes_long_replies()) {
                (Ok(found), true) => *found == all,
                (Ok(found), false) => {
                    !found.is_empty() && found.iter().all(|one| all.contains(one))
                }
                (Err(_), _) => false,
            };
            let count = if client.takes_long_replies() {
                "all"
            } else {
                "some"
            };
            let name = format!("{}, {count} of {} addresses", client.name(), all.len());
            report.check(&name, said(is_right, || format!("{found:?}")));
        }
    }
}

/// Where 53/TCP is denied: what must be found all the same, and that it is denied indeed.
pub fn ask_without_tcp(bed: &Bed, report: &mut Report) {
    let denied = bed.dig(A, &["+tcp", "web-service.default.svc.cluster.local"]);
    let is_denied = denied.is_err();
    report.check(
        "53/TCP is denied",
        said(is_denied, || format!("{denied:?}")),
    );
    ask(bed, report, " without TCP");
    let found = bed
        .find(Client::Go, A, "wide.apps")
        .map(|found| found.len());
    let is_right = found == Ok(WIDE.into());
    let name = format!("Go, all of {WIDE} addresses in one datagram of EDNS");
    report.check(&name, said(is_right, || format!("{found:?}")));
    // A reply that says it is cut, with what fits: not silence.
    let words = ["+ignore", "+noedns", "huge.apps.svc.cluster.local"];
    let found = bed.dig(A, &words).map(|found| found.len());
    let is_right = matches!(found, Ok(20..=29));
    report.check(
        "dig, a cut reply with what fits",
        said(is_right, || format!("{found:?}")),
    );
}

/// Changes that must show in answers.
pub fn ask_after_changes(bed: &Bed, report: &mut Report) {
    let docs = "/api/v1/namespaces/payroll/services/guide";
    let shows = |qtype: &str, name: &str, expected: &str| {
        bed.wait_until(expected, || {
            let found = bed.dig(B, &[name, qtype])?;
            said(found == [expected], || format!("{found:?}"))
        })
    };
    let patch = json!({"spec": {"externalName": "www.example.com"}});
    let changed = bed.demand("PATCH", docs, Some(&patch));
    let shown = changed.and_then(|_| shows("CNAME", "guide.payroll.svc", "www.example.com."));
    report.check("an ExternalName that changes", shown);
    let patch = json!({"spec": {
        "type": "ClusterIP", "externalName": null, "ports": [{"name": "http", "port": 80}],
    }});
    let changed = bed.demand("PATCH", docs, Some(&patch));
    let shown = changed.and_then(|object| {
        shows(
            "A",
            "guide.payroll.svc",
            object["spec"]["clusterIP"].as_str().unwrap_or("an address"),
        )
    });
    report.check("an ExternalName that becomes a ClusterIP", shown);
    let deleted = bed.delete_pod("apps", "db-1");
    let pod = deleted.and_then(|pod| {
        shows("A", "db.apps.svc", "10.244.2.10")?;
        Ok(pod)
    });
    let is_gone = pod.as_ref().map(drop).map_err(Clone::clone);
    report.check("a headless Service that loses a pod", is_gone);
    let shown = pod.and_then(|pod| {
        bed.demand("POST", "/api/v1/namespaces/apps/pods", Some(&pod))?;
        bed.wait_until("two addresses", || {
            let found = bed.dig(B, &["db.apps.svc"])?;
            said(found.len() == 2, || format!("{found:?}"))
        })
    });
    report.check("a headless Service that gets it back", shown);
}

/// A new Service, which is there soon.
pub fn ask_for_new(bed: &Bed, report: &mut Report, name: &str) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    });
    let made = bed.demand(
        "POST",
        "/api/v1/namespaces/default/services",
        Some(&service),
    );
    let shown = made.and_then(|object| {
        let address = object["spec"]["clusterIP"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        bed.wait_until(&address, || {
            let found = bed.find(Client::Glibc, A, name)?;
            said(found == [address.as_str()], || format!("{found:?}"))
        })
    });
    report.check(&format!("a new Service, {name}"), shown);
}

/// The names that are asked under load, as `load` reads them.
pub fn write_names(path: &Path) -> Result<(), String> {
    let names = "\
web-service.default.svc.cluster.local A
web-service.payroll.svc.cluster.local A
api.apps.svc.cluster.local AAAA
db.apps.svc.cluster.local A
nothing.default.svc.cluster.local A
_http._tcp.web-service.default.svc.cluster.local SRV
example.com A
1.10.96.10.in-addr.arpa PTR
";
    super::container::write(path, names)
}

/// An error unless it is right.
pub fn said(is_right: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if is_right { Ok(()) } else { Err(otherwise()) }
}

fn none(wrong: &[String]) -> Result<(), String> {
    said(wrong.is_empty(), || wrong.join("; "))
}

fn owned(words: &[&str]) -> Found {
    words.iter().map(|&word| word.to_owned()).collect()
}
