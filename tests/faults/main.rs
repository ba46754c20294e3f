//! The control plane misbehaves, and no answer is wrong for it: a fault proxy between the server and a real etcd and
//! kube-apiserver. Skipped where these are missing.
//!
//! `reliability-security.md`, section 3.1, lists the faults; a test's name begins with its number. What takes minutes
//! there is shortened here by the pace of the watch (`bed::pace`), and each test says so.
//!
//! | fault | test here | also |
//! |---|---|---|
//! | A01 away at the start | `a01_…` | `apiserver.rs`: the feed alone |
//! | A02 black hole at the start | `a02_…` | |
//! | A03 away for 10 minutes | `a03_…`, `twenty_outages_…`, `an_api_server_that_is_killed_…` | |
//! | A04 away for 24 hours | `a04_…` | |
//! | A05 410 | `a05_…` | `watch.rs`: in the head of a reply, endless |
//! | A06 410 for page tokens | `a06_…` | |
//! | A07 429 | `a07_…`; a date in `Retry-After` is passed over, as no API server sends one | |
//! | A08 500, 503, 504, 404 | `a08_…` | |
//! | A09 slow lists | `a09_…` | |
//! | A10 cut and garbled lists | `a10_…` | `watch.rs` |
//! | A11 long events | `a11_…` | `frame.rs` |
//! | A12 silent watches | `a12_…` | `watch.rs` |
//! | A13 half-open connections | `a13_…`: that the kernel is told to probe; its probing takes a minute | |
//! | A14 watches closed each second | `a14_…` | |
//! | A15 bookmarks | `a15_…`; the one that ends a streamed list: every test | `watch.rs` |
//! | A16 events without sense | `a16_…` | |
//! | A17 restored from a backup | `a17_…`: etcd with its data of before; if the server has passed all our versions again, the next comparison finds out | `watch.rs` |
//! | A18 lost events | `a18_…` | `reconcile.rs` |
//! | A19 rotated token | `a19_…` | `watch.rs` |
//! | A20 empty token file | `a20_…` | `watch.rs` |
//! | A21 wrong and rotated certificates | `a21_…`, one of them by `cargo xtask soak` | `apiserver.rs` |
//! | A22 missing rights | `a22_…` | `apiserver.rs`, `kubeadm.rs` |
//! | A23 rights taken away | `a23_…` | |
//! | A24 no such resource | `a24_…` | |
//! | A25 two addresses, one dead | `a25_…` | |
//! | A26 the clock jumps | `a26_…`: the wall clock of the process alone; the kernel's others do not jump | `layers.rs` |
//! | A27 large lists | `a27_…`, 20 MiB from a scripted server | |
//! | A28 many changes | `a28_…`, from a scripted server, as fast as they can be sent | |
//! | A29 HTTP/1.1 only | `a29_…`; the client speaks nothing newer, so GOAWAY and streams do not come up | |
//! | A30 redirects | `a30_…` | `watch.rs` |
//!
//! Section 3.2 has the objects with odd values, O1 to O15: `objects.rs`, each by its number. O6, O7 and O11 stand in
//! `tests/kubernetes/cases` too. O14 is a part of a million.
#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/control_plane.rs"]
mod control_plane;
#[path = "../support/fake_api.rs"]
mod fake_api;
#[path = "../support/fault_proxy.rs"]
mod fault_proxy;
#[path = "../support/in_process.rs"]
mod in_process;
#[path = "../support/program.rs"]
#[allow(dead_code, reason = "each test uses its part of the support")]
mod program;

mod away;
mod bed;
mod credentials;
mod garbage;
mod load;
mod objects;
mod refusals;
