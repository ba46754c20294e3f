//! Restarts all replicas, one after the other, under load from ports that stay the same, and counts what is lost.
//!
//! A client that keeps its port is the hard case: the kernel of its node remembers which pod the port's queries go to,
//! for as long as queries come and that pod is ready. So a query is lost if the pod stops before kube-proxy has made
//! the kernel forget.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::command::output;
use crate::e2e::bed::{Bed, DNS};
use crate::e2e::network;
use crate::e2e::questions;
use crate::e2e::report::Report;

/// Ports that queries come from.
const CLIENTS: u32 = 100;

/// Counts replies that reach the client from a pod's own address: they were sent, but the kernel of its node had been
/// made to forget the port between the query and the reply.
const STRAYS: &str = "\
table ip e2e {
    counter strays { }
    chain input {
        type filter hook input priority 0;
        ip saddr 10.244.0.0/16 udp sport 53 counter name strays
    }
}
";

/// How often, and how hard.
#[derive(Clone, Copy)]
pub struct Plan {
    pub rounds: u32,
    /// Queries a second.
    pub rate: u32,
}

pub fn run(bed: &Bed, report: &mut Report, plan: Plan) {
    let name = format!(
        "{} rolling restarts at {} queries/s, none lost by a replica",
        plan.rounds, plan.rate
    );
    let result = load(bed, plan).and_then(|(said, strays)| {
        print!("{said}");
        println!(
            "  replies astray, their flow forgotten by the kernel of the client's node: {strays}"
        );
        let number = |word: &str| {
            let (_, rest) = said.split_once(word)?;
            rest.split(|letter: char| !letter.is_ascii_digit())
                .next()?
                .parse::<u64>()
                .ok()
        };
        let [sent, lost] = ["sent ", ", lost "].map(|word| number(word).unwrap_or(u64::MAX));
        let lost_by_server = lost.saturating_sub(strays);
        questions::said(lost_by_server == 0 && sent < u64::MAX, || {
            format!("{lost_by_server} of {sent} lost")
        })
    });
    report.check(&name, result);
}

/// What the generator says, and how many replies went astray.
fn load(bed: &Bed, plan: Plan) -> Result<(String, u64), String> {
    let names = bed.folder.join("names");
    questions::write_names(&names)?;
    let pod = bed.pod("load")?;
    network::nft(&pod.network, STRAYS)?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = network::within(&pod.network, program);
    command
        .args(["load", "--server", &format!("{DNS}:53")])
        .args(["--from", &pod.address.to_string()])
        .args(["--clients", &CLIENTS.to_string()])
        .args(["--rate", &(plan.rate / CLIENTS).to_string()])
        .args(["--seconds", "7200", "--until-eof", "yes", "--names"])
        .arg(&names);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("load: {error}"))?;
    let start = Instant::now();
    let rolled = roll(bed, plan.rounds, start);
    // A moment of peace after the last.
    std::thread::sleep(Duration::from_secs(1));
    drop(child.stdin.take());
    let output = child
        .wait_with_output()
        .map_err(|error| format!("load: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match rolled {
        Ok(()) => Ok((said, strays(&pod.network)?)),
        Err(error) => Err(format!("{error}\n{said}")),
    }
}

fn roll(bed: &Bed, rounds: u32, start: Instant) -> Result<(), String> {
    std::thread::sleep(Duration::from_secs(2));
    for round in 1..=rounds {
        let before: Vec<String> = bed
            .kubelet
            .replicas()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let at = start.elapsed().as_secs_f64();
        bed.roll(round)?;
        bed.wait_for_replicas(&before)?;
        println!(
            "round {round}: from {at:.1} s to {:.1} s",
            start.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

fn strays(namespace: &str) -> Result<u64, String> {
    let said = output(network::within(namespace, "nft").args(["list", "counters"]))?;
    let count = said.split("packets ").nth(1);
    count
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .ok_or_else(|| format!("no counter in {said}"))
}
