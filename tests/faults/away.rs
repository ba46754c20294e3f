//! The API server is not there: never was, goes, comes back, says nothing, forgets.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fingerpost::cluster::watch::pace::Pace;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::bed::{
    Fed, PATIENCE, Served, World, corefile, pace, pause, wait, while_asking, with_plane,
    with_plane_alone,
};
use crate::control_plane::ControlPlane;
use crate::fault_proxy::{FaultProxy, Treatment};
use crate::program::{answers, free_port, try_ask};

/// What "right again" may take at most; 2 s is the aim, which a busy machine need not reach.
const RIGHT_AGAIN: Duration = Duration::from_secs(10);

/// The port is open, what is outside the cluster is answered, and what we do not know is no denial.
fn serves_without_a_cluster(served: &Served, name: &str) {
    assert_eq!(served.rcode(name), ResponseCode::ServFail);
    let outside = served.addresses("outside.example.");
    assert_eq!(outside, Some(vec!["192.0.2.1".parse().unwrap()]));
    assert_eq!(served.http("/health").0, 200);
    assert_eq!(served.http("/ready").0, 503);
}

/// Case 177: not ready, then ready.
#[test]
fn a01_without_an_api_server_the_rest_is_served_until_it_comes() {
    with_plane(|plane, proxy| {
        let world = World::new(plane, "a01");
        proxy.close();
        let served = Served::through(proxy);
        serves_without_a_cluster(&served, &world.qname("stays"));
        proxy.open();
        wait("to be ready", || served.http("/ready").0 == 200);
        served.wait_for_oracle(plane, &world);
    });
}

#[test]
fn a02_a_black_hole_is_given_up_and_found_when_it_answers() {
    with_plane(|plane, proxy| {
        let world = World::new(plane, "a02");
        proxy.swallow();
        let served = Served::through(proxy);
        serves_without_a_cluster(&served, &world.qname("stays"));
        served.program.wait_for_output("deadline has elapsed", 1);
        proxy.open();
        wait("to be ready", || served.http("/ready").0 == 200);
        served.wait_for_oracle(plane, &world);
    });
}

/// Cases 177 and 178: ready, and answers, though the API server is lost.
#[test]
fn a03_an_outage_changes_no_answer_and_is_made_up_for() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a03");
        let served = Served::through(proxy);
        wait("to be ready", || served.http("/ready").0 == 200);
        let stays = served.addresses(&world.qname("stays")).unwrap();
        while_asking(&served, &world.qname("stays"), &stays, || {
            proxy.close();
            world.churn(plane, 0);
            // Ten minutes of outage are a second here.
            pause(1000);
            proxy.open();
            let took = served.wait_for_oracle(plane, &world);
            assert!(took < RIGHT_AGAIN, "{took:?}");
            eprintln!("right again {} ms after the outage", took.as_millis());
        });
        assert_eq!(served.http("/ready").0, 200);
    });
}

#[test]
fn a04_after_a_day_away_the_state_is_that_of_the_server() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a04");
        // What a day is to a server in production, this is here: longer than any gap that is resumed over.
        let pace = Pace {
            outage_max: Duration::from_millis(100),
            ..pace()
        };
        for round in 0..5 {
            world.create(plane, &format!("goes-{round}"));
        }
        let fed = Fed::at(pace, proxy);
        fed.wait_synced();
        fed.wait_for_oracle(plane, &world);
        let lists = fed.lists("services");
        proxy.close();
        for round in 0..5 {
            world.delete(plane, &format!("goes-{round}"));
            world.churn(plane, round);
        }
        // Deleted and made again, with another address: the name is the same, the object is not.
        world.delete(plane, "stays");
        world.create(plane, "between");
        world.create(plane, "stays");
        pause(150);
        proxy.open();
        fed.wait_for_oracle(plane, &world);
        assert!(fed.lists("services") > lists, "it was listed anew");
    });
}

#[test]
fn a12_a_watch_that_falls_silent_is_found_out() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a12");
        // 90 s in production, since bookmarks come once a minute.
        let pace = Pace {
            idle: Duration::from_millis(500),
            ..pace()
        };
        let epoch = Arc::new(AtomicUsize::new(0));
        let now = Arc::clone(&epoch);
        proxy.plan(move |_| {
            let (now, born) = (Arc::clone(&now), now.load(Ordering::SeqCst));
            Treatment::through(|through| {
                through.edit = Some(Box::new(move |event| {
                    // What was open when the network fell silent stays so.
                    let silent = now.load(Ordering::SeqCst) > born;
                    if silent { vec![] } else { vec![event.to_vec()] }
                }));
            })
        });
        let fed = Fed::at(pace, proxy);
        fed.wait_synced();
        epoch.fetch_add(1, Ordering::SeqCst);
        world.churn(plane, 0);
        fed.wait_for_oracle(plane, &world);
        assert!(fed.failures("silent") > 0);
    });
}

/// Timers of established connections to a port, as the kernel shows them: which, and in how many hundredths of a
/// second.
#[cfg(target_os = "linux")]
fn timers(port: u16) -> Vec<(String, u64)> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let to = format!(":{port:04X}");
    let of = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_ours = words.get(2)?.ends_with(&to) && *words.get(3)? == "01";
        let (timer, when) = words.get(5)?.split_once(':')?;
        let when = u64::from_str_radix(when, 16).ok()?;
        is_ours.then(|| (timer.to_owned(), when))
    };
    table.lines().filter_map(of).collect()
}

#[test]
#[cfg(target_os = "linux")]
fn a13_the_kernel_probes_a_peer_that_may_have_vanished() {
    with_plane(|_, proxy| {
        let fed = Fed::through(proxy);
        fed.wait_synced();
        // A half-open connection has no octets for a time-out to wait for: keepalive probes make some. What the kernel
        // does with a peer that is not there is its own; that it was told to ask within 30 s is ours.
        wait("four watches with a keepalive timer", || {
            let timers = timers(proxy.address().port());
            let probing = timers
                .iter()
                .filter(|(timer, when)| timer == "02" && *when <= 3000);
            probing.count() >= 4
        });
    });
}

#[test]
fn a17_a_server_restored_from_a_backup_is_listed_anew() {
    with_plane_alone(|plane, proxy| {
        let mut world = World::new(plane, "a17");
        let fed = Fed::through(proxy);
        fed.wait_synced();
        plane.save_data();
        world.create(plane, "lost");
        // Far ahead of what the restored server reaches by starting.
        for _ in 0..60 {
            world.set_endpoints(plane, "moves", 1);
        }
        fed.wait_for_oracle(plane, &world);
        assert!(fed.addresses(&world.namespace, "lost").is_some());
        let lists = fed.lists("services");
        plane.restore_data();
        fed.wait_for_oracle(plane, &world);
        assert!(fed.addresses(&world.namespace, "lost").is_none());
        assert!(fed.lists("services") > lists, "it was listed anew");
    });
}

/// The program in a mount namespace of its own, where a name stands for two addresses.
struct WithTwoAddresses {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for WithTwoAddresses {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl WithTwoAddresses {
    fn start(api_port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let text = corefile(&format!("endpoint http://api.test:{api_port}"), free_port());
        std::fs::write(
            folder.path().join("Corefile"),
            text.replace("PORT", &port.to_string()),
        )
        .unwrap();
        let hosts = "127.0.0.1 localhost api.test\n127.0.0.2 api.test\n";
        std::fs::write(folder.path().join("hosts"), hosts).unwrap();
        let child = Command::new("unshare")
            .args([
                "--mount",
                "sh",
                "-c",
                "mount --bind hosts /etc/hosts && exec \"$0\" -conf Corefile",
            ])
            .arg(env!("CARGO_BIN_EXE_fingerpost"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            port,
            _folder: folder,
        }
    }
}

#[test]
fn a25_the_second_address_of_an_api_server_is_used_while_the_first_is_dead() {
    let may = Command::new("unshare").args(["--mount", "true"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no mount namespace may be made here");
        return;
    }
    with_plane(|plane, _| {
        let world = World::new(plane, "a25");
        // Whichever is tried first.
        for (alive, dead) in [
            ([127, 0, 0, 1], [127, 0, 0, 2]),
            ([127, 0, 0, 2], [127, 0, 0, 1]),
        ] {
            let proxy = FaultProxy::start_at(plane, (alive, 0).into());
            let port = proxy.address().port();
            let hole = FaultProxy::start_at(plane, SocketAddr::from((dead, port)));
            hole.swallow();
            let running = WithTwoAddresses::start(port);
            let name = world.qname("stays");
            wait("the live address", || {
                let reply = try_ask(running.port, &name, RecordType::A);
                reply.is_some_and(|reply| answers(&reply).len() == 1)
            });
        }
    });
}

/// Kills a real API server, as a node that loses power would, so many times, under queries and changes of objects.
fn kill_and_restart(plane: &ControlPlane, proxy: &FaultProxy, namespace: &str, times: usize) {
    let mut world = World::new(plane, namespace);
    let served = Served::through(proxy);
    wait("to be ready", || served.http("/ready").0 == 200);
    let stays = served.addresses(&world.qname("stays")).unwrap();
    let mut longest = Duration::ZERO;
    while_asking(&served, &world.qname("stays"), &stays, || {
        for round in 0..times {
            world.churn(plane, round);
            plane.kill_api_server();
            pause(50);
            plane.start_api_server();
            let back = Instant::now();
            world.set_endpoints(plane, "moves", 2);
            served.wait_for_oracle(plane, &world);
            longest = longest.max(back.elapsed());
        }
    });
    eprintln!(
        "{times} restarts: right again at most {} ms after the API server",
        longest.as_millis()
    );
    assert!(longest < RIGHT_AGAIN, "{longest:?}");
}

#[test]
fn an_api_server_that_is_killed_and_restarted_changes_no_answer() {
    with_plane_alone(|plane, proxy| kill_and_restart(plane, proxy, "killed", 1));
}

#[test]
#[ignore = "takes two minutes: run by `cargo xtask soak`"]
fn an_api_server_that_is_killed_and_restarted_20_times_changes_no_answer() {
    with_plane_alone(|plane, proxy| kill_and_restart(plane, proxy, "killed-20", 20));
}

#[test]
fn twenty_outages_under_queries_and_changes_change_no_answer() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "twenty");
        let served = Served::through(proxy);
        wait("to be ready", || served.http("/ready").0 == 200);
        let stays = served.addresses(&world.qname("stays")).unwrap();
        let mut longest = Duration::ZERO;
        while_asking(&served, &world.qname("stays"), &stays, || {
            for round in 0..20 {
                proxy.close();
                world.churn(plane, round);
                proxy.open();
                longest = longest.max(served.wait_for_oracle(plane, &world));
            }
        });
        eprintln!(
            "20 outages: right again at most {} ms after each",
            longest.as_millis()
        );
        assert!(longest < PATIENCE, "{longest:?}");
    });
}
