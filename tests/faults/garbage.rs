//! The API server answers, and what comes is slow, cut, no JSON, too long, in the wrong order, or not all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fingerpost::cluster::connect::{Connection, Surroundings};
use fingerpost::cluster::source::Limits;
use fingerpost::cluster::watch::WatchPlan;
use fingerpost::cluster::watch::pace::Pace;
use serde_json::json;

use crate::bed::{ALL, Fed, World, endpoint, oracle, pace, pause, wait, with_plane};
use crate::fault_proxy::{Asked, Edit, Treatment, speaks_of};

#[test]
fn a09_a_list_that_comes_slowly_is_waited_for_while_the_old_one_serves() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a09");
        // The wait for the next octet, 30 s in production, is far shorter than the list takes.
        let pace = Pace {
            list_idle: Duration::from_secs(2),
            ..pace()
        };
        let fed = Fed::at(pace, proxy);
        fed.wait_synced();
        let stays = fed.addresses(&world.namespace, "stays");
        proxy.plan(|asked| {
            let listed = asked.is_list() && asked.is_of("services");
            Treatment::through(|through| {
                through.delay = Duration::from_millis(50 * u64::from(listed));
                through.dribble = listed.then_some((500, Duration::from_millis(50)));
            })
        });
        world.churn(plane, 0);
        fed.wait_for_oracle(plane, &world);
        let began = Instant::now();
        let slow = Fed::at(pace, proxy);
        wait("the slow list", || {
            assert_eq!(fed.addresses(&world.namespace, "stays"), stays);
            slow.cluster.synced()
        });
        slow.wait_for_oracle(plane, &world);
        assert_eq!(slow.failures("silent"), 0);
        eprintln!("a list took {} ms", began.elapsed().as_millis());
    });
}

/// What a sick proxy or server makes of a reply.
fn ruined(kind: usize) -> Treatment {
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x56\x2a\xc9\x48\x55".to_vec();
    let json = "Content-Type: application/json\r\n".to_owned();
    match kind {
        0 => Treatment::through(|through| {
            through.json = true;
            through.end_after = Some(700);
        }),
        1 => Treatment::through(|through| {
            through.json = true;
            through.cut_after = Some(700);
        }),
        2 => Treatment::through(|through| {
            through.json = true;
            through.edit = Some(Box::new(|event| {
                vec![
                    event
                        .iter()
                        .map(|&octet| if octet == b'}' { b']' } else { octet })
                        .collect(),
                ]
            }));
        }),
        // Protobuf that ends in the middle of a frame.
        3 => Treatment::through(|through| through.end_after = Some(333)),
        4 => Treatment::Reply(200, format!("{json}Content-Encoding: gzip\r\n"), gzip),
        5 => Treatment::Reply(200, json, gzip),
        6 => Treatment::Reply(
            200,
            "Content-Type: text/html\r\n".to_owned(),
            b"<html><body>Welcome to the proxy</body></html>\n".to_vec(),
        ),
        7 => Treatment::Reply(200, json, Vec::new()),
        8 => Treatment::Reply(200, json, b"null\n".to_vec()),
        _ => Treatment::Break,
    }
}

const RUINS: usize = 10;

#[test]
fn a10_a_list_that_is_cut_or_garbled_takes_nothing_away_and_is_asked_for_again() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a10");
        let fed = Fed::through(proxy);
        fed.wait_synced();
        let before = fed.state(&world.namespace, &world.names);
        let lists = fed.lists("services");
        for paged in [false, true] {
            for kind in 0..RUINS {
                proxy.forget();
                proxy.plan(move |asked| {
                    if asked.is_probe() || !asked.is_list() {
                        return Treatment::refusal(410, "so that it is listed");
                    }
                    if paged && asked.is_streamed_list() {
                        return Treatment::refusal(400, "no streamed lists here");
                    }
                    ruined(kind)
                });
                proxy.cut();
                let ruins = |asked: &Asked| {
                    asked.is_list() && asked.is_streamed_list() != paged && asked.is_of("services")
                };
                wait("two ruined lists", || proxy.asked(ruins).len() >= 2);
                assert_eq!(
                    fed.state(&world.namespace, &world.names),
                    before,
                    "{kind} {paged}"
                );
                assert_eq!(fed.lists("services"), lists, "{kind} {paged}");
            }
        }
        world.churn(plane, 0);
        proxy.pass();
        fed.wait_for_oracle(plane, &world);
    });
}

#[test]
fn a11_a_long_event_is_taken_in_and_one_that_never_ends_is_given_up() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a11");
        let endless = Arc::new(AtomicBool::new(false));
        let say = Arc::clone(&endless);
        proxy.plan(move |_| {
            let say = Arc::clone(&say);
            Treatment::through(|through| {
                through.json = true;
                through.edit = Some(Box::new(move |event| {
                    if say.load(Ordering::SeqCst) {
                        // More than is ever kept, without a line's end.
                        return vec![vec![b' '; 9 << 20]];
                    }
                    // 3 MiB of blanks are part of the JSON.
                    let padding = if speaks_of(event, "new-0") {
                        3 << 20
                    } else {
                        0
                    };
                    vec![[event, &vec![b' '; padding]].concat()]
                }));
            })
        });
        let fed = Fed::through(proxy);
        fed.wait_synced();
        world.churn(plane, 0);
        fed.wait_for_oracle(plane, &world);
        assert_eq!(fed.failures("garbled"), 0);
        endless.store(true, Ordering::SeqCst);
        world.churn(plane, 1);
        wait("the watch to be given up", || fed.failures("garbled") > 0);
        endless.store(false, Ordering::SeqCst);
        fed.wait_for_oracle(plane, &world);
    });
}

#[test]
fn a14_a_watch_that_is_closed_again_and_again_goes_on_without_lists() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a14");
        // A second in production.
        let lifetime = Duration::from_millis(100);
        let pace = Pace {
            early_end: lifetime / 2,
            ..pace()
        };
        proxy.plan(move |_| Treatment::through(|through| through.lifetime = Some(lifetime)));
        let fed = Fed::at(pace, proxy);
        fed.wait_synced();
        for round in 0..10 {
            world.churn(plane, round);
            fed.wait_for_oracle(plane, &world);
        }
        wait("many watches", || {
            proxy
                .asked(|asked| asked.is_watch() && asked.is_of("services"))
                .len()
                > 10
        });
        // Each list that came to its end was the only one.
        assert_eq!(fed.lists("services"), 1);
        fed.wait_for_oracle(plane, &world);
    });
}

/// The versions that watches of Services were resumed from.
fn resumed_from(asked: &[Asked]) -> Vec<u64> {
    let of = |asked: &Asked| {
        let (_, rest) = asked.uri.split_once("&resourceVersion=")?;
        rest.split('&').next()?.parse().ok()
    };
    asked.iter().filter_map(of).collect()
}

#[test]
fn a15_bookmarks_move_the_version_forward_and_never_back() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a15");
        let send = Arc::new(AtomicBool::new(false));
        let sent = Arc::clone(&send);
        proxy.plan(move |_| {
            let sent = Arc::clone(&sent);
            Treatment::through(|through| {
                through.json = true;
                through.edit = Some(Box::new(move |event| {
                    let mut events = vec![event.to_vec()];
                    if sent.load(Ordering::SeqCst) {
                        let old =
                            r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"1"}}}"#;
                        events.push(old.as_bytes().to_vec());
                    }
                    events
                }));
            })
        });
        let fed = Fed::through(proxy);
        fed.wait_synced();
        send.store(true, Ordering::SeqCst);
        world.churn(plane, 0);
        fed.wait_for_oracle(plane, &world);
        proxy.forget();
        proxy.cut();
        let watches = |asked: &Asked| asked.is_watch() && asked.is_of("services");
        wait("the next watch", || !proxy.asked(watches).is_empty());
        let versions = resumed_from(&proxy.asked(watches));
        assert!(versions.iter().all(|&version| version > 1), "{versions:?}");
        world.churn(plane, 1);
        fed.wait_for_oracle(plane, &world);
        assert_eq!(fed.lists("services"), 1, "nothing had to be listed anew");
    });
}

#[test]
fn a16_events_that_make_no_sense_change_nothing_and_true_ones_may_come_twice() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a16");
        proxy.plan(|_| {
            Treatment::through(|through| {
                through.json = true;
                through.edit = Some(Box::new(|event| {
                    if !speaks_of(event, "new-") {
                        return vec![event.to_vec()];
                    }
                    let event: serde_json::Value = serde_json::from_slice(event).unwrap();
                    let object = &event["object"];
                    let mut unknown = object.clone();
                    unknown["metadata"]["name"] = json!("never-was");
                    let as_type = |kind: &str| json!({"type": kind, "object": object});
                    let mut events = vec![
                        json!({"type": "RENAMED", "object": object}),
                        json!({"type": "DELETED", "object": unknown}),
                        json!({"type": "ADDED", "object": {"metadata": {"name": 7}}}),
                    ];
                    match event["type"].as_str().unwrap() {
                        // Changed before it was added, then added twice.
                        "ADDED" => events.extend(["MODIFIED", "ADDED", "ADDED"].map(as_type)),
                        // Deleted twice, with its last spec.
                        "DELETED" => events.extend(["DELETED", "DELETED"].map(as_type)),
                        _ => events.push(event.clone()),
                    }
                    events
                        .iter()
                        .map(|event| event.to_string().into_bytes())
                        .collect()
                }));
            })
        });
        let fed = Fed::through(proxy);
        fed.wait_synced();
        for round in 0..4 {
            world.churn(plane, round);
            fed.wait_for_oracle(plane, &world);
        }
        assert_eq!(fed.addresses(&world.namespace, "never-was"), None);
        assert_eq!(fed.lists("services"), 1);
        assert_eq!(
            fed.count("fingerpost_kubernetes_watch_failures_total", &[]),
            0
        );
        // An event without a type is no event: the list is asked for again.
        proxy.plan(|_| {
            Treatment::through(|through| {
                through.json = true;
                through.edit = Some(Box::new(|_| vec![br#"{"object":{}}"#.to_vec()]));
            })
        });
        proxy.cut();
        world.churn(plane, 4);
        wait("garbled watches", || fed.failures("garbled") > 0);
        proxy.pass();
        proxy.cut();
        fed.wait_for_oracle(plane, &world);
    });
}

#[test]
fn a18_events_that_nobody_saw_are_made_up_for_by_the_next_comparison() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a18-lossy");
        let lose = Arc::new(AtomicBool::new(false));
        let losing = Arc::clone(&lose);
        proxy.plan(move |asked| {
            let losing = Arc::clone(&losing);
            let mut listing = asked.is_streamed_list();
            let lossy = move |event: &[u8]| {
                listing &= !speaks_of(event, "initial-events-end");
                let lost = !listing && losing.load(Ordering::SeqCst) && speaks_of(event, "lossy");
                if lost { vec![] } else { vec![event.to_vec()] }
            };
            let watch = asked.is_watch();
            Treatment::through(|through| through.edit = watch.then(|| -> Edit { Box::new(lossy) }))
        });
        // 10 minutes in production.
        let plan = WatchPlan {
            resources: ALL.to_vec(),
            reconcile: Some(Duration::from_millis(300)),
            limits: Limits {
                interval: Some(Duration::ZERO),
                ..Limits::default()
            },
            ..WatchPlan::default()
        };
        let connection = Connection::of(&endpoint(proxy.url()), &Surroundings::default()).unwrap();
        let fed = Fed::planned(connection, plan, pace());
        fed.wait_synced();
        fed.wait_for_oracle(plane, &world);
        lose.store(true, Ordering::SeqCst);
        let watches = |asked: &Asked| asked.is_watch();
        let opened = proxy.asked(watches).len();
        let mut elsewhere = World::new(plane, "elsewhere");
        let mut turn = 0;
        for round in 0..2 {
            // Created, changed and deleted, and no watch tells of it.
            world.churn(plane, round);
            let right = oracle(plane, &world.namespace);
            wait("what was lost", || {
                // What a bookmark does in production, a change elsewhere does here: it brings the watch to a version
                // beyond what was lost, so that this is known not to come any more.
                elsewhere.churn(plane, turn);
                turn += 1;
                pause(100);
                fed.state(&world.namespace, &world.names) == right
            });
        }
        assert!(fed.count("fingerpost_kubernetes_drift_repaired_total", &[]) >= 4);
        assert_eq!(
            proxy.asked(watches).len(),
            opened,
            "it was not listed again"
        );
    });
}

#[test]
fn a29_one_request_a_connection_over_http_1_1_is_enough() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a29");
        // The proxy speaks nothing newer; here it closes after each reply too.
        proxy.plan(|_| Treatment::through(|through| through.close = true));
        let fed = Fed::through(proxy);
        fed.wait_synced();
        world.churn(plane, 0);
        fed.wait_for_oracle(plane, &world);
        assert_eq!(
            fed.count("fingerpost_kubernetes_watch_failures_total", &[]),
            0
        );
    });
}
