//! What `forward` does with upstreams over TLS.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

#[path = "support/authority.rs"]
mod authority;
#[path = "support/bed.rs"]
mod bed;
#[path = "support/program.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod program;
#[path = "support/secure.rs"]
mod secure;

use std::path::Path;
use std::time::Duration;

use authority::{Authority, Identity, authority_as_server, self_signed};
use bed::Bed;
use fingerpost::server::process::Process;
use fingerpost::wire::code::Rcode;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use program::{Program, ask};
use secure::{Habit, SecureUpstream, config, config_with};
use tokio_rustls::rustls::version::{TLS12, TLS13};

/// Waits for what must come about, as long as a busy machine may need.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("it comes about");
}

/// An authority, its file, and a folder for more.
struct Ground {
    authority: Authority,
    folder: tempfile::TempDir,
    ca: String,
}

impl Ground {
    fn new() -> Self {
        let authority = Authority::new();
        let folder = tempfile::tempdir().unwrap();
        let ca = authority.write(folder.path()).display().to_string();
        Self {
            authority,
            folder,
            ca,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// An upstream with a certificate for `dns.test`, behind `forward`.
    async fn one(&self, options: &str) -> (SecureUpstream, Bed) {
        let upstream = self.upstream(&["dns.test"]).await;
        let bed = Bed::new(&self.corefile(&upstream, options));
        (upstream, bed)
    }

    async fn upstream(&self, names: &[&str]) -> SecureUpstream {
        SecureUpstream::start(1, config(&self.authority.sign(names), None)).await
    }

    fn corefile(&self, upstream: &SecureUpstream, options: &str) -> String {
        let (to, ca) = (upstream.address, &self.ca);
        let name = if options.contains("tls_servername") {
            ""
        } else {
            "tls_servername dns.test"
        };
        let tls = if options.contains("tls ") {
            String::new()
        } else {
            format!("tls {ca}")
        };
        format!(". {{\nforward . tls://{to} {{\n{tls}\n{name}\nread_timeout 1s\n{options}\n}}\n}}")
    }
}

#[tokio::test]
async fn an_upstream_with_the_right_certificate_is_asked_as_dot() {
    let ground = Ground::new();
    let (upstream, bed) = ground.one("").await;
    assert_eq!(bed.ask("www.test").await.number(), 1);
    let session = upstream.sessions().remove(0);
    assert_eq!(session.protocol.as_deref(), Some(&b"dot"[..]));
    assert_eq!(session.name.as_deref(), Some("dns.test"));
    assert_eq!(session.certificate, None);
}

#[tokio::test]
async fn a_connection_is_kept_and_counted_as_tcp_tls() {
    let ground = Ground::new();
    let (upstream, bed) = ground.one("").await;
    bed.ask("a.test").await;
    bed.ask_over_tcp("b.test").await;
    bed.ask("c.test").await;
    let sessions = upstream.sessions();
    assert_eq!((sessions.len(), sessions[0].queries.len()), (1, 3));
    let count = |which: &str| {
        let to = upstream.address;
        bed.metric(&format!(
            "coredns_proxy_conn_cache_{which}_total{{proto=\"tcp-tls\",proxy_name=\"forward\",to=\"{to}\"}}"
        ))
    };
    assert_eq!((count("hits"), count("misses")), (2, 1));
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_no_attempt() {
    let ground = Ground::new();
    let (upstream, bed) = ground.one("max_connect_attempts 1").await;
    upstream.set(Habit::ClosesAfterReply);
    for _ in 0..3 {
        assert_eq!(bed.ask("www.test").await.number(), 1);
    }
    assert_eq!(upstream.sessions().len(), 3);
}

#[tokio::test]
async fn a_session_is_resumed() {
    let ground = Ground::new();
    let (upstream, bed) = ground.one("expire 0s").await;
    bed.ask("a.test").await;
    bed.ask("b.test").await;
    let resumed: Vec<_> = upstream
        .sessions()
        .iter()
        .map(|session| session.resumed)
        .collect();
    assert_eq!(resumed, [false, true]);
}

#[tokio::test]
async fn both_versions_of_tls_that_are_sound_are_spoken() {
    let ground = Ground::new();
    let (upstream, bed) = ground.one("expire 0s").await;
    let identity = ground.authority.sign(&["dns.test"]);
    for version in [&TLS12, &TLS13] {
        upstream.set_config(config_with(&identity, None, &[version]));
        assert_eq!(bed.ask("www.test").await.number(), 1, "{version:?}");
    }
}

#[tokio::test]
async fn without_a_name_the_address_is_verified() {
    let ground = Ground::new();
    let right = ground.upstream(&["127.0.0.1"]).await;
    let wrong = ground.upstream(&["127.0.0.2", "dns.test"]).await;
    let ask = async |upstream: &SecureUpstream| {
        let (to, ca) = (upstream.address, &ground.ca);
        let corefile = format!(". {{\nforward . tls://{to} {{\ntls {ca}\n}}\n}}");
        Bed::new(&corefile).ask("www.test").await.rcode()
    };
    assert_eq!(ask(&right).await, Rcode::NOERROR);
    assert_eq!(ask(&wrong).await, Rcode::SERVFAIL);
    assert!(wrong.sessions().is_empty(), "it got no query");
}

#[tokio::test]
async fn each_upstream_may_have_a_name_of_its_own() {
    let ground = Ground::new();
    let upstreams = [
        ground.upstream(&["one.test"]).await,
        ground.upstream(&["two.test"]).await,
    ];
    let [one, two] = upstreams.each_ref().map(|upstream| upstream.address.port());
    let bed = Bed::new(&format!(
        ". {{\nforward . tls://127.0.0.1%one.test:{one} tls://127.0.0.1%two.test:{two} {{\n\
         tls {}\npolicy round_robin\nmax_connect_attempts 1\n}}\n}}",
        ground.ca
    ));
    for turn in 0..4 {
        let rcode = bed.ask(&format!("{turn}.test")).await.rcode();
        assert_eq!(rcode, Rcode::NOERROR, "{turn}");
    }
    for (upstream, name) in upstreams.iter().zip(["one.test", "two.test"]) {
        let names = upstream.sessions();
        assert_eq!(names[0].name.as_deref(), Some(name));
    }
}

#[test]
fn a_certificate_that_is_not_right_is_refused_and_the_log_says_why() {
    let ground = Ground::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _context = runtime.enter();
    let start =
        |identity: Identity| runtime.block_on(SecureUpstream::start(1, config(&identity, None)));
    let cases = [
        (
            ground.authority.sign_until(&["dns.test"], 2001),
            "x509: certificate has expired or is not yet valid: it ended",
        ),
        (
            ground.authority.sign(&["other.test"]),
            "x509: certificate is valid for other.test, not dns.test",
        ),
        (
            self_signed(&["dns.test"]),
            "x509: certificate signed by unknown authority",
        ),
        (
            Authority::new().sign(&["dns.test"]),
            "x509: certificate signed by unknown authority: one of the same name did not sign it",
        ),
        (
            authority_as_server(&["dns.test"]),
            "x509: certificate is that of an authority (`CA:TRUE`), not of a server: it has to sign one",
        ),
    ]
    .map(|(identity, text)| (start(identity), text));
    let mut corefile = String::from(".:PORT {\nbind 127.0.0.1\nerrors\n");
    for (number, (upstream, _)) in cases.iter().enumerate() {
        let (to, ca) = (upstream.address, &ground.ca);
        corefile += &format!(
            "forward case{number}.test tls://{to} {{\ntls {ca}\ntls_servername dns.test\n}}\n"
        );
    }
    let program = Program::start(&(corefile + "}\n"));
    for (number, (upstream, text)) in cases.iter().enumerate() {
        let name = format!("www.case{number}.test");
        let reply = ask(program.port, &name, RecordType::A);
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        let to = upstream.address;
        let line = format!(
            "[ERROR] plugin/errors: 2 {name}. A: dial tcp-tls {to}: tls: failed to verify certificate: {text}"
        );
        program.wait_for_output(&line, 1);
        assert!(upstream.sessions().is_empty(), "{name}: it got no query");
    }
}

#[tokio::test]
async fn a_handshake_that_stalls_is_a_time_out() {
    let ground = Ground::new();
    let (upstream, bed) = ground.one("max_connect_attempts 1").await;
    upstream.set(Habit::StallsHandshake);
    let reply = bed.ask("www.test").await;
    assert_eq!(
        (reply.rcode(), reply.extended_error()),
        (Rcode::SERVFAIL, Some(22))
    );
}

#[tokio::test]
async fn a_goodbye_instead_of_a_reply_is_an_error_of_the_network() {
    let ground = Ground::new();
    let (upstream, bed) = ground.one("").await;
    upstream.set(Habit::ClosesAtOnce);
    let reply = bed.ask("www.test").await;
    assert_eq!(
        (reply.rcode(), reply.extended_error()),
        (Rcode::SERVFAIL, Some(23))
    );
}

#[tokio::test]
async fn a_reply_that_does_not_come_is_a_time_out() {
    let ground = Ground::new();
    let (upstream, bed) = ground.one("read_timeout 50ms").await;
    upstream.set(Habit::Silent);
    let reply = bed.ask("www.test").await;
    assert_eq!(
        (reply.rcode(), reply.extended_error()),
        (Rcode::SERVFAIL, Some(22))
    );
}

#[tokio::test]
async fn an_upstream_that_failed_is_probed_over_tls() {
    let ground = Ground::new();
    let (upstream, bed) = ground
        .one("read_timeout 30ms\nhealth_check 10ms domain Probe.test\nmax_connect_attempts 1")
        .await;
    upstream.set(Habit::Silent);
    bed.ask("www.test").await;
    upstream.set(Habit::Good);
    until(async || {
        upstream.sessions().iter().any(|session| {
            let probe = b"\x05probe\x04test\0\0\x02\0\x01";
            let is_probe = |query: &Vec<u8>| query.ends_with(probe);
            session.queries.iter().any(is_probe)
        })
    })
    .await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_one_is_demanded() {
    let ground = Ground::new();
    let clients = Authority::new();
    let identity = ground.authority.sign(&["dns.test"]);
    let upstream = SecureUpstream::start(1, config(&identity, Some(&clients))).await;
    let (certificate, key) = clients.sign(&["client.test"]).write(ground.path());
    let with = format!(
        "tls {} {} {}",
        certificate.display(),
        key.display(),
        ground.ca
    );
    let bed = Bed::new(&ground.corefile(&upstream, &with));
    assert_eq!(bed.ask("www.test").await.number(), 1);
    assert!(upstream.sessions()[0].certificate.is_some());
    let bed = Bed::new(&ground.corefile(&upstream, ""));
    assert_eq!(bed.ask("www.test").await.rcode(), Rcode::SERVFAIL);
}

#[tokio::test]
async fn certificates_that_were_renewed_are_read_again_without_a_reload() {
    let ground = Ground::new();
    let (upstream, bed) = ground.one("expire 0s\nmax_fails 0").await;
    assert_eq!(bed.ask("www.test").await.number(), 1);
    // Another authority signs from now on.
    let next = Authority::new();
    upstream.set_config(config(&next.sign(&["dns.test"]), None));
    let rcode = async || bed.ask("www.test").await.rcode();
    assert_eq!(rcode().await, Rcode::SERVFAIL);
    // Half a file changes nothing.
    std::fs::write(&ground.ca, "-----BEGIN CERTIFICATE-----\n").unwrap();
    assert_eq!(rcode().await, Rcode::SERVFAIL);
    std::fs::write(&ground.ca, next.pem()).unwrap();
    until(async || rcode().await == Rcode::NOERROR).await;
}

#[tokio::test]
async fn certificates_that_were_renewed_are_read_at_a_reload_and_sessions_kept_if_not() {
    let ground = Ground::new();
    let upstream = ground.upstream(&["dns.test"]).await;
    let process = Process::new(tokio::runtime::Handle::current());
    let corefile = |options: &str| ground.corefile(&upstream, &format!("expire 0s\n{options}"));
    let first = Bed::within(&process, &corefile(""));
    first.ask("a.test").await;
    let second = Bed::within(&process, &corefile("max_concurrent 9"));
    second.ask("b.test").await;
    assert!(upstream.sessions()[1].resumed);
    let next = Authority::new();
    next.write(ground.path());
    upstream.set_config(config(&next.sign(&["dns.test"]), None));
    let third = Bed::within(&process, &corefile(""));
    assert_eq!(third.ask("c.test").await.number(), 1);
}

#[tokio::test]
async fn what_cannot_be_read_is_named_at_the_start() {
    let ground = Ground::new();
    let upstream = ground.upstream(&["dns.test"]).await;
    let process = Process::new(tokio::runtime::Handle::current());
    let (certificate, key) = ground.authority.sign(&["c.test"]).write(ground.path());
    let other = ground.path().join("other.pem");
    std::fs::write(&other, ground.authority.sign(&["d.test"]).key).unwrap();
    let empty = ground.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let path = |path: &Path| path.display().to_string();
    let (certificate, key, other, empty) =
        (path(&certificate), path(&key), path(&other), path(&empty));
    for (option, expected) in [
        (
            "tls /none/ca.pem".to_owned(),
            "`/none/ca.pem`: No such file or directory (os error 2)".to_owned(),
        ),
        (
            format!("tls {empty}"),
            format!("`{empty}` holds no certificate"),
        ),
        (
            format!("tls {certificate} {certificate}"),
            format!("`{certificate}` holds no private key"),
        ),
        (
            format!("tls {certificate} {other}"),
            format!("`{certificate}` with `{other}`: tls: keys may not be consistent: KeyMismatch"),
        ),
    ] {
        let made = Bed::try_within(&process, &ground.corefile(&upstream, &option));
        assert_eq!(made.err().unwrap().to_string(), expected);
    }
    let right = format!("tls {certificate} {key}");
    assert!(Bed::try_within(&process, &ground.corefile(&upstream, &right)).is_ok());
}
