//! What we show the API server, and what it shows us: tokens and certificates that change, expire and lie.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;

use fingerpost::cluster::connect::{Connection, Surroundings};
use fingerpost::cluster::source::ApiSource;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::bed::{
    Fed, Served, World, kubeconfig_with_token_file, pace, pause, wait, while_asking, with_plane,
};
use crate::control_plane::ADMIN;
use crate::fault_proxy::{FaultProxy, Treatment};

/// Lets requests in that bring the one valid token, as the server's admin.
fn let_in(proxy: &FaultProxy, valid: &Arc<Mutex<String>>) {
    let valid = Arc::clone(valid);
    proxy.plan(move |asked| {
        let wanted = format!("Bearer {}", valid.lock().unwrap());
        if asked.authorization.as_deref() == Some(&wanted) {
            Treatment::through(|through| through.authorization = Some(format!("Bearer {ADMIN}")))
        } else {
            Treatment::refusal(401, "Unauthorized")
        }
    });
}

/// A cluster that is fed through a proxy with the token of a file.
fn fed_with_token(folder: &Path, proxy: &FaultProxy) -> Fed {
    let source = ApiSource::Kubeconfig {
        path: kubeconfig_with_token_file(folder, &proxy.url()),
        context: None,
    };
    Fed::over(&source, pace())
}

#[test]
fn a19_a_token_that_is_rotated_leaves_no_gap() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a19");
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        fs::write(&token, "token-0").unwrap();
        let valid = Arc::new(Mutex::new("token-0".to_owned()));
        let_in(proxy, &valid);
        let fed = fed_with_token(folder.path(), proxy);
        fed.wait_synced();
        // Ten minutes each in production, with watches that end on their own.
        for round in 0..5 {
            let next = format!("token-{}", round + 1);
            fs::write(&token, &next).unwrap();
            *valid.lock().unwrap() = next;
            world.churn(plane, round);
            proxy.cut();
            fed.wait_for_oracle(plane, &world);
        }
        assert_eq!(fed.failures("unauthorized"), 0);
        // The server may let the old one expire before the new one is in the file.
        *valid.lock().unwrap() = "late".to_owned();
        proxy.cut();
        wait("to be refused", || fed.failures("unauthorized") >= 4);
        world.churn(plane, 5);
        fs::write(&token, "late").unwrap();
        fed.wait_for_oracle(plane, &world);
    });
}

#[test]
fn a20_without_a_token_in_its_file_the_last_one_is_used() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a20");
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        fs::write(&token, "good").unwrap();
        let valid = Arc::new(Mutex::new("good".to_owned()));
        let_in(proxy, &valid);
        let fed = fed_with_token(folder.path(), proxy);
        fed.wait_synced();
        let spoil: [&dyn Fn(); 4] = [
            &|| fs::write(&token, "").unwrap(),
            &|| fs::write(&token, "\n \n").unwrap(),
            &|| fs::write(&token, b"\xff\x00\x01").unwrap(),
            &|| fs::remove_file(&token).unwrap(),
        ];
        for (round, spoil) in spoil.iter().enumerate() {
            spoil();
            proxy.cut();
            world.churn(plane, round);
            fed.wait_for_oracle(plane, &world);
        }
        assert_eq!(fed.failures("unauthorized"), 0);
        fs::write(&token, "next").unwrap();
        *valid.lock().unwrap() = "next".to_owned();
        proxy.cut();
        world.churn(plane, spoil.len());
        fed.wait_for_oracle(plane, &world);
        assert_eq!(fed.failures("unauthorized"), 0);
    });
}

/// Authorities and certificates that openssl makes, in a folder.
struct Certificates<'f>(&'f Path);

impl Certificates<'_> {
    fn openssl(&self, args: &str) {
        let output = Command::new("openssl")
            .args(args.split_whitespace())
            .current_dir(self.0)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args}: {said}");
    }

    fn authority(&self, name: &str) {
        self.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.crt"
        ));
    }

    /// A certificate for a server, valid from and to as in `ca`; what a handshake needs of it.
    fn server(&self, authority: &str, name: &str, san: &str, until: &str) -> ServerConfig {
        fs::write(self.0.join("index"), "").unwrap();
        fs::write(self.0.join("serial"), "01").unwrap();
        let config = format!(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\npolicy=p\nunique_subject=no\n\
             default_md=sha256\nx509_extensions=x\n[p]\ncommonName=supplied\n[x]\nsubjectAltName={san}\n"
        );
        fs::write(self.0.join("ca.cnf"), config).unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "ca -batch -config ca.cnf -cert {authority}.crt -keyfile {authority}.key -startdate 20200101000000Z \
             -enddate {until} -in {name}.csr -out {name}.crt -notext"
        ));
        let certificate =
            CertificateDer::from_pem_file(self.0.join(format!("{name}.crt"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.0.join(format!("{name}.key"))).unwrap();
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap()
    }
}

const LATER: &str = "20990101000000Z";
const LOOPBACK: &str = "IP:127.0.0.1";

/// In a cluster, as a pod: the service account's folder holds token and CA.
fn fed_as_pod(folder: &Path, proxy: &FaultProxy) -> Fed {
    fs::write(folder.join("token"), ADMIN).unwrap();
    let around = Surroundings {
        service_host: Some("127.0.0.1".into()),
        service_port: Some(proxy.address().port().to_string()),
        account: folder.to_owned(),
        ..Surroundings::default()
    };
    Fed::on(
        Connection::of(&ApiSource::Default, &around).unwrap(),
        pace(),
    )
}

#[test]
fn a21_a_certificate_that_is_wrong_is_refused_and_old_data_stay() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a21");
        let folder = tempfile::tempdir().unwrap();
        let made = Certificates(folder.path());
        made.authority("ours");
        made.authority("theirs");
        fs::copy(folder.path().join("ours.crt"), folder.path().join("ca.crt")).unwrap();
        proxy.set_tls(Some(made.server("ours", "good", LOOPBACK, LATER)));
        let fed = fed_as_pod(folder.path(), proxy);
        fed.wait_synced();
        fed.wait_for_oracle(plane, &world);
        for (round, wrong) in [
            made.server("ours", "expired", LOOPBACK, "20200102000000Z"),
            made.server("ours", "elsewhere", "DNS:elsewhere.example", LATER),
            made.server("theirs", "stranger", LOOPBACK, LATER),
        ]
        .into_iter()
        .enumerate()
        {
            let before = fed.state(&world.namespace, &world.names);
            let failures = fed.failures("unreachable");
            proxy.forget();
            proxy.set_tls(Some(wrong));
            proxy.cut();
            world.churn(plane, round);
            wait("refused handshakes", || {
                fed.failures("unreachable") >= failures + 12
            });
            assert_eq!(proxy.asked(|_| true).len(), 0, "nothing was asked of it");
            assert_eq!(fed.state(&world.namespace, &world.names), before);
            proxy.set_tls(Some(made.server("ours", "good", LOOPBACK, LATER)));
            fed.wait_for_oracle(plane, &world);
        }
    });
}

#[test]
#[ignore = "CA files are read once a minute: run by `cargo xtask soak`"]
fn a21_an_authority_that_is_rotated_is_trusted_within_a_minute() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a21-rotated");
        let folder = tempfile::tempdir().unwrap();
        let made = Certificates(folder.path());
        made.authority("first");
        made.authority("second");
        fs::copy(
            folder.path().join("first.crt"),
            folder.path().join("ca.crt"),
        )
        .unwrap();
        proxy.set_tls(Some(made.server("first", "a", LOOPBACK, LATER)));
        let fed = fed_as_pod(folder.path(), proxy);
        fed.wait_synced();
        fs::copy(
            folder.path().join("second.crt"),
            folder.path().join("ca.crt"),
        )
        .unwrap();
        proxy.set_tls(Some(made.server("second", "b", LOOPBACK, LATER)));
        proxy.cut();
        world.churn(plane, 0);
        // The CA files were read a moment ago; the patience of `wait` begins when they may be read again.
        pause(55_000);
        fed.wait_for_oracle(plane, &world);
    });
}

/// Moves the wall clock of one process by as many seconds as a file says; all other clocks stay.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    long done = syscall(SYS_clock_gettime, clock, now);
    if (done == 0 && clock == CLOCK_REALTIME) {
        char text[32] = {0};
        int file = open(getenv("CLOCK_OFFSET"), O_RDONLY);
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0) now->tv_sec += atol(text);
            close(file);
        }
    }
    return done;
}
"#;

#[test]
#[cfg(target_os = "linux")]
fn a26_a_clock_that_jumps_by_years_changes_no_answer_and_no_wait() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a26");
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (
            folder.path().join("clock.c"),
            folder.path().join("clock.so"),
        );
        fs::write(&source, CLOCK).unwrap();
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .status();
        assert!(compiled.unwrap().success());
        let offset = folder.path().join("offset");
        fs::write(&offset, "0").unwrap();
        let around = [
            ("LD_PRELOAD", library.as_os_str()),
            ("CLOCK_OFFSET", offset.as_os_str()),
        ];
        let source = format!("endpoint {}", proxy.url());
        let served = Served::start_with(tempfile::tempdir().unwrap(), &source, &around);
        wait("to be ready", || served.http("/ready").0 == 200);
        let stays = served.addresses(&world.qname("stays")).unwrap();
        let heard = "fingerpost_kubernetes_last_heard_timestamp_seconds";
        let before = served.metric(heard).unwrap();
        const YEAR: i64 = 365 * 24 * 3600;
        while_asking(&served, &world.qname("stays"), &stays, || {
            for (round, jump) in [3600, -3600, 10 * YEAR, -10 * YEAR, 0]
                .into_iter()
                .enumerate()
            {
                proxy.close();
                world.churn(plane, round);
                // Amid the waits between tries.
                pause(50);
                fs::write(&offset, jump.to_string()).unwrap();
                proxy.open();
                let took = served.wait_for_oracle(plane, &world);
                assert!(took.as_secs() < 10, "{jump}: {took:?}");
                if jump == 10 * YEAR {
                    // The clock was moved, in other words.
                    wait("a metric of the future", || {
                        served.metric(heard).unwrap() > before + 1e8
                    });
                }
            }
        });
    });
}
