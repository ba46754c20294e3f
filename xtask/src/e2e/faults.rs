//! What goes wrong in clusters: a policy that forgets TCP, an API server that is away, a server that is killed.

use std::process::Command;
use std::time::Instant;

use crate::command::output;
use crate::e2e::bed::Bed;
use crate::e2e::network::{self, NODES};
use crate::e2e::questions;
use crate::e2e::report::Report;

/// What a NetworkPolicy that allows 53/UDP alone becomes on a node.
const POLICY: &str = "\
table inet e2e-policy {
    chain forward {
        type filter hook forward priority 0;
        ip daddr 10.244.0.0/16 tcp dport 53 drop
    }
}
";

/// Denies 53/TCP, asks, and allows it again.
pub fn without_tcp(bed: &Bed, report: &mut Report) {
    let rules = |text: &str| {
        NODES
            .iter()
            .try_for_each(|node| network::nft(node.name(), text))
    };
    if let Err(error) = rules(POLICY) {
        return report.check("a policy that denies 53/TCP", Err(error));
    }
    questions::ask_without_tcp(bed, report);
    report.check(
        "53/TCP is allowed again",
        rules("delete table inet e2e-policy\n"),
    );
}

/// Takes the API server away, asks everything, and brings it back.
pub fn without_api_server(bed: &mut Bed, report: &mut Report) {
    bed.kubelet.expect_no_api_server(true);
    bed.control_plane.kill_api_server();
    questions::ask_all(bed, report, " without the API server");
    let replicas = bed.kubelet.replicas();
    let are_ready = replicas.iter().all(|(_, view)| view.is_ready);
    let ready = questions::said(are_ready, || format!("{replicas:?}"));
    report.check("the replicas are ready without the API server", ready);
    let start = Instant::now();
    let back = bed.control_plane.start_api_server().and_then(|()| {
        bed.wait_until("the API server", || {
            questions::said(bed.api.is_ready(), String::new)
        })
    });
    report.check("the API server is back", back);
    bed.kubelet.expect_no_api_server(false);
    questions::ask_for_new(bed, report, "after-outage");
    println!("{:.1} s after its start", start.elapsed().as_secs_f64());
}

/// Kills one replica without a warning.
pub fn kill_one(bed: &Bed, report: &mut Report) {
    let replicas = bed.kubelet.replicas();
    let Some((name, pid)) = replicas
        .iter()
        .find_map(|(name, view)| Some((name, view.pid.clone()?)))
    else {
        return report.check("a replica to kill", Err(format!("{replicas:?}")));
    };
    let start = Instant::now();
    let killed = output(Command::new("kill").args(["-KILL", &pid])).map(drop);
    report.check("a replica is killed", killed);
    questions::ask_for_nothing_wrong(bed, report, " with a replica killed");
    let back = bed.wait_until("the killed replica", || {
        let view = bed.pod(name)?;
        let is_new = view.pid.as_ref() != Some(&pid);
        questions::said(is_new && view.is_ready, || format!("{view:?}"))
    });
    report.check("the killed replica is ready again", back);
    questions::ask(bed, report, " after that");
    println!(
        "{:.1} s after it was killed, the questions included",
        start.elapsed().as_secs_f64()
    );
}
