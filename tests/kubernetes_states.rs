//! Rules of `kubernetes` that no single question to the cluster of `tests/kubernetes` shows: other objects, options,
//! messages and states. Numbers are those of the list of rules, as in `tests/kubernetes/cases`.
#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/in_process.rs"]
mod in_process;
#[path = "support/program.rs"]
#[allow(dead_code, reason = "each test uses its part of the support")]
mod program;

use fingerpost::chain::exchange::Protocol;
use fingerpost::wire::code::RecordType;
use fingerpost::wire::name::Name;
use in_process::{Server, shown};

const OBJECTS: &str = r#"
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: ns1, labels: {team: a}}}
- {apiVersion: v1, kind: Namespace, metadata: {name: ns2}}
- {apiVersion: v1, kind: Service, metadata: {namespace: ns1, name: web}, spec: {clusterIP: 10.0.1.1, ports: [{port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {namespace: ns1, name: labeled, labels: {app: x}}, spec: {clusterIP: 10.0.1.2}}
- {apiVersion: v1, kind: Service, metadata: {namespace: ns2, name: web}, spec: {clusterIP: 10.0.2.1}}
- {apiVersion: v1, kind: Service, metadata: {namespace: ns1, name: inside}, spec: {clusterIP: 10.0.127.5}}
- {apiVersion: v1, kind: Service, metadata: {namespace: ns1, name: outside}, spec: {clusterIP: 10.0.128.5}}
- {apiVersion: v1, kind: Pod, metadata: {namespace: ns1, name: p}, status: {podIP: 10.1.0.1}}
- apiVersion: v1
  kind: Service
  metadata: {namespace: ns1, name: early}
  spec: {clusterIP: None, publishNotReadyAddresses: true, ports: [{port: 80}]}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {namespace: ns1, name: early-1, labels: {kubernetes.io/service-name: early}}
  endpoints: [{addresses: [10.1.0.7], conditions: {ready: true, serving: false}}]
- apiVersion: v1
  kind: Service
  metadata: {namespace: ns1, name: extnx}
  spec: {type: ExternalName, externalName: nx.example.com}
- apiVersion: v1
  kind: Service
  metadata: {namespace: ns1, name: extbig}
  spec: {type: ExternalName, externalName: big.example.com}
"#;

/// A server of these objects. `kubernetes` lies below an authority for example.com.
struct World {
    server: Server,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(zones: &str, options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("objects.yaml"), OBJECTS).unwrap();
        let big: String = (0..60)
            .map(|last| format!("192.0.2.{last} big.example.com\n"))
            .collect();
        std::fs::write(path("hosts"), big).unwrap();
        let server = Server::new(&format!(
            ". {{\nhosts {} example.com {{\nno_reverse\n}}\nkubernetes {zones} {{\nmanifests {}\n{options}\n}}\n}}\n",
            path("hosts"),
            path("objects.yaml"),
        ));
        Self {
            server,
            _folder: folder,
        }
    }

    /// RCODE, and the data of the answers.
    fn ask(&self, qname: &str, qtype: RecordType) -> (String, Vec<String>) {
        outcome(&self.server, qname, qtype)
    }
}

fn outcome(server: &Server, qname: &str, qtype: RecordType) -> (String, Vec<String>) {
    let shown = shown(&server.ask(qname, qtype));
    let data = |record: &String| record.splitn(4, ' ').nth(3).unwrap().to_owned();
    (shown.rcode, shown.sections[0].iter().map(data).collect())
}

fn ok(data: &[&str]) -> (String, Vec<String>) {
    (
        "NOERROR".to_owned(),
        data.iter().map(|&text| text.to_owned()).collect(),
    )
}

fn denied() -> (String, Vec<String>) {
    ("NXDOMAIN".to_owned(), Vec::new())
}

/// Case 69.
#[test]
fn what_is_published_before_it_is_ready_is_answered() {
    let world = World::new("cluster.local", "");
    assert_eq!(
        world.ask("early.ns1.svc.cluster.local.", RecordType::A),
        ok(&["10.1.0.7"])
    );
}

/// Case 83.
#[test]
fn an_alias_whose_target_is_denied_stands_alone_and_is_no_denial() {
    let world = World::new("cluster.local", "");
    let answer = world.ask("extnx.ns1.svc.cluster.local.", RecordType::A);
    assert_eq!(answer, ok(&["nx.example.com."]));
}

/// A query with these two octets of flags, and what stands behind its question.
fn message(qname: &str, flags: [u8; 2], class: u16, additional: &[u8]) -> Vec<u8> {
    let count = u8::from(!additional.is_empty());
    let mut message = vec![0x12, 0x34, flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0, count];
    message.extend_from_slice(Name::from_text(qname).unwrap().as_ref().as_wire());
    message.extend_from_slice(&RecordType::A.0.to_be_bytes());
    message.extend_from_slice(&class.to_be_bytes());
    message.extend_from_slice(additional);
    message
}

const WEB: &str = "web.ns1.svc.cluster.local.";

/// Case 87.
#[test]
fn a_target_that_does_not_fit_truncates_the_reply() {
    let world = World::new("cluster.local", "");
    let query = message("extbig.ns1.svc.cluster.local.", [1, 0], 1, &[]);
    let reply = world.server.send(&query, Protocol::Udp);
    assert!(reply.len() <= 512 && reply[2] & 0x02 != 0, "TC");
    let reply = world.server.send(&query, Protocol::Tcp);
    assert!(reply[2] & 0x02 == 0 && shown(&reply).sections[0].len() == 61);
}

/// Case 115.
#[test]
fn class_ch_is_refused_without_authority() {
    let world = World::new("cluster.local", "");
    let reply = world
        .server
        .send(&message("cluster.local.", [1, 0], 3, &[]), Protocol::Udp);
    assert_eq!(
        (shown(&reply).rcode.as_str(), reply[2] & 0x04),
        ("REFUSED", 0)
    );
}

/// Case 117. Options are not echoed, and the payload size is ours: `docs/deviations.md` has the RFCs.
#[test]
fn a_client_that_sends_options_gets_a_bare_opt_with_its_do() {
    let world = World::new("cluster.local", "");
    // OPT, 4096 octets, DO; NSID, a cookie, a client subnet.
    let opt = b"\0\0\x29\x10\0\0\0\x80\0\0\x1b\0\x03\0\0\0\x0a\0\x0812345678\0\x08\0\x07\0\x01\x18\0\xc0\0\x02";
    let reply = world
        .server
        .send(&message(WEB, [1, 0], 1, opt), Protocol::Udp);
    assert!(
        reply.ends_with(b"\0\0\x29\x04\xd0\0\0\x80\0\0\0"),
        "{reply:?}"
    );
}

/// Case 118.
#[test]
fn cd_and_rd_are_the_clients() {
    let world = World::new("cluster.local", "");
    for (rd, cd) in [(0, 0x10), (1, 0), (1, 0x10), (0, 0)] {
        let reply = world
            .server
            .send(&message(WEB, [rd, cd], 1, &[]), Protocol::Udp);
        assert_eq!((reply[2] & 1, reply[3] & 0x10), (rd, cd));
    }
}

/// Case 163.
#[test]
fn labels_choose_services_and_pods_and_leave_namespaces() {
    let world = World::new("cluster.local", "pods verified\nlabels app=x");
    assert_eq!(world.ask(WEB, RecordType::A), denied());
    assert_eq!(
        world.ask("labeled.ns1.svc.cluster.local.", RecordType::A),
        ok(&["10.0.1.2"])
    );
    assert_eq!(world.ask("ns2.svc.cluster.local.", RecordType::A), ok(&[]));
    assert_eq!(
        world.ask("10-1-0-1.ns1.pod.cluster.local.", RecordType::A),
        denied()
    );
}

/// Cases 164 and 165.
#[test]
fn namespace_labels_choose_names_and_leave_pointers() {
    let world = World::new("cluster.local in-addr.arpa", "namespace_labels team=a");
    assert_eq!(world.ask(WEB, RecordType::A), ok(&["10.0.1.1"]));
    assert_eq!(
        world.ask("web.ns2.svc.cluster.local.", RecordType::A),
        denied()
    );
    assert_eq!(world.ask("ns2.svc.cluster.local.", RecordType::A), denied());
    let pointer = world.ask("1.2.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(pointer, ok(&["web.ns2.svc.cluster.local."]));
}

/// Case 172.
#[test]
fn a_network_among_the_zones_is_its_reverse_zones() {
    let world = World::new("cluster.local 10.0.0.0/17", "");
    let pointer = world.ask("5.127.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(pointer, ok(&["inside.ns1.svc.cluster.local."]));
    for third in 0..128 {
        let apex = world.ask(&format!("{third}.0.10.in-addr.arpa."), RecordType::SOA);
        assert_eq!((apex.0.as_str(), apex.1.len()), ("NOERROR", 1), "{third}");
    }
    // Nobody's: the chain ends.
    let beyond = world.ask("5.128.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(beyond.0, "SERVFAIL");
}

/// A server whose API server nobody is at; it does not wait.
fn unsynced(options: &str) -> Server {
    let nobody = program::free_port();
    Server::new(&format!(
        ". {{\nkubernetes cluster.local in-addr.arpa {{\nendpoint http://127.0.0.1:{nobody}\nstartup_timeout 0\n\
         pods verified\n{options}\n}}\nwhoami\n}}\n"
    ))
}

/// Cases 174 and 175. TXT at the apex is NODATA here at all times (RFC 8020).
#[test]
fn before_the_first_lists_names_fail_and_what_is_fixed_does_not() {
    let server = unsynced("");
    for (qname, qtype) in [
        (WEB, RecordType::A),
        (WEB, RecordType::AAAA),
        (WEB, RecordType::SRV),
        (WEB, RecordType::TXT),
        (WEB, RecordType::NS),
        (WEB, RecordType::ANY),
        ("ns1.svc.cluster.local.", RecordType::A),
        ("foo.cluster.local.", RecordType::A),
        ("10-1-0-1.ns1.pod.cluster.local.", RecordType::A),
        ("1.1.0.10.in-addr.arpa.", RecordType::PTR),
    ] {
        let reply = server.ask(qname, qtype);
        let shown = shown(&reply);
        assert_eq!(
            (shown.rcode.as_str(), shown.flags[0]),
            ("SERVFAIL", true),
            "{qname} {qtype}"
        );
        assert_eq!(serial(&reply), Some(0), "{qname} {qtype}");
    }
    for (qname, qtype, answers) in [
        ("cluster.local.", RecordType::A, 0),
        ("cluster.local.", RecordType::TXT, 0),
        ("cluster.local.", RecordType::SOA, 1),
        ("svc.cluster.local.", RecordType::A, 0),
        ("dns-version.cluster.local.", RecordType::TXT, 1),
        (WEB, RecordType::SOA, 0),
    ] {
        let reply = server.ask(qname, qtype);
        let shown = shown(&reply);
        let found = (shown.rcode.as_str(), shown.sections[0].len());
        assert_eq!(found, ("NOERROR", answers), "{qname} {qtype}");
        assert!(matches!(serial(&reply), Some(0) | None), "{qname} {qtype}");
    }
    for (qname, qtype) in [
        ("cluster.local.", RecordType::NS),
        ("ns.dns.cluster.local.", RecordType::A),
    ] {
        assert_eq!(shown(&server.ask(qname, qtype)).rcode, "NOERROR", "{qname}");
    }
}

/// The serial of the SOA in a reply.
fn serial(reply: &[u8]) -> Option<u32> {
    use fingerpost::wire::record::{Records, expand_name};
    let mut records = Records::of_message(reply)
        .unwrap()
        .map(|record| record.unwrap().1);
    let soa = records.find(|record| record.record_type == RecordType::SOA)?;
    let (_, next) = expand_name(reply, soa.rdata_at).unwrap();
    let (_, next) = expand_name(reply, next).unwrap();
    fingerpost::wire::u32_at(reply, next)
}

/// Case 176.
#[test]
fn before_the_first_lists_fallthrough_goes_on_all_the_same() {
    let server = unsynced("fallthrough");
    // `whoami` answers whatever comes to it, with an address of the client among the additional records.
    let shown = shown(&server.ask(WEB, RecordType::A));
    assert_eq!(
        (shown.rcode.as_str(), shown.sections[2].is_empty()),
        ("NOERROR", false)
    );
}

/// Case 173.
#[test]
fn while_the_start_waits_for_the_first_lists_nobody_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (port, nobody) = (program::free_port(), program::free_port());
    let corefile = format!(
        ".:{port} {{\nkubernetes cluster.local {{\nendpoint http://127.0.0.1:{nobody}\nstartup_timeout 1h\n}}\n}}\n"
    );
    std::fs::write(folder.path().join("Corefile"), corefile).unwrap();
    let log = folder.path().join("log");
    let mut child = program::command()
        .current_dir(folder.path())
        .stdout(std::fs::File::create(&log).unwrap())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    program::wait_until("the start to wait", || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.contains("waiting for Kubernetes API before starting server")
    });
    let refused = std::net::TcpStream::connect(("127.0.0.1", port)).is_err();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(refused, "the port is open");
}
