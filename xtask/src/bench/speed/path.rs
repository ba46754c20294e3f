//! The roads of a query that are measured, and who is measured on each.

use std::fmt;

use crate::bench::speed::names::Ask;
use crate::bench::speed::peer::{Program, Setup};

/// One row of the goals.
pub struct Path {
    /// As flags and files call it.
    pub key: &'static str,
    pub title: &'static str,
    pub loads: Vec<Load>,
    pub contestants: Vec<Contestant>,
}

impl Path {
    /// Whether it compares a server with itself, told otherwise.
    pub fn has_variants(&self) -> bool {
        matches!(self.key, "log" | "workers" | "services" | "blocks")
    }
}

/// A server with what it is started for and what it is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contestant {
    pub program: Program,
    pub setup: Setup,
    pub ask: Ask,
    /// Told apart from others of the same program on this path.
    pub variant: &'static str,
}

/// How it is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// UDP, queries a second.
    Rate(u32),
    /// UDP, as fast as it answers.
    Saturation,
    /// UDP, at half of the rate that it reached when saturated.
    Half,
    /// TCP, eight connections with many queries on their way on each.
    Pipelined,
    /// TCP, a connection for each query.
    Once,
}

impl Load {
    /// The part of the queries that it is asked: opening a connection takes ten times as long as an answer.
    pub fn divisor(self) -> u64 {
        if self == Self::Once { 4 } else { 1 }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(rate) => write!(f, "{rate}/s"),
            Self::Saturation => f.write_str("saturation"),
            Self::Half => f.write_str("half"),
            Self::Pipelined => f.write_str("pipelined"),
            Self::Once => f.write_str("once"),
        }
    }
}

impl Contestant {
    fn new(program: Program, setup: Setup, ask: Ask) -> Self {
        Self {
            program,
            setup,
            ask,
            variant: "",
        }
    }

    fn named(self, variant: &'static str) -> Self {
        Self { variant, ..self }
    }

    pub fn name(&self) -> String {
        let separator = if self.variant.is_empty() { "" } else { ", " };
        format!("{}{separator}{}", self.program.name(), self.variant)
    }
}

use Program::{Coredns, Dnsdist, Echo, Fingerpost, Knot, Nsd, Unbound};

/// Those that hold the names of the cluster.
const HOLDERS: [Program; 6] = [Echo, Fingerpost, Coredns, Knot, Nsd, Unbound];
const CACHES: [Program; 5] = [Echo, Fingerpost, Coredns, Unbound, Dnsdist];

/// All of them, at these rates.
pub fn all(rates: &[u32]) -> Vec<Path> {
    let rates: Vec<Load> = rates.iter().map(|&rate| Load::Rate(rate)).collect();
    // A million queries at a low rate take their time: they are for the first path.
    let highest = || rates.last().copied().into_iter();
    let with = |more: &[Load]| [&rates[..], more].concat();
    let about = |key, title, programs: &[Program], setup, ask, loads: Vec<Load>| Path {
        key,
        title,
        loads,
        contestants: programs
            .iter()
            .map(|&program| Contestant::new(program, setup, ask))
            .collect(),
    };
    let cluster = |key, title, ask| {
        about(
            key,
            title,
            &HOLDERS,
            Setup::Cluster,
            ask,
            vec![Load::Saturation],
        )
    };
    let mut paths = vec![
        about(
            "kubernetes",
            "A and AAAA of a ClusterIP",
            &HOLDERS,
            Setup::Cluster,
            Ask::ClusterIp,
            with(&[Load::Saturation, Load::Half]),
        ),
        cluster("nxdomain", "a Service that is not there", Ask::Missing),
        cluster("ptr", "PTR of a ClusterIP", Ask::Reverse),
        cluster("srv", "SRV of a named port", Ask::Port),
        cluster(
            "headless",
            "A of a Service with 10 endpoints",
            Ask::Headless,
        ),
        about(
            "cache",
            "a name of the upstream, cached",
            &CACHES,
            Setup::Cluster,
            Ask::Cached,
            vec![Load::Saturation],
        ),
        about(
            "forward",
            "a name of the upstream, nothing cached",
            &CACHES,
            Setup::Forward,
            Ask::Fresh,
            highest().chain([Load::Saturation]).collect(),
        ),
    ];
    paths.extend([tcp("tcp", "TCP, 8 connections, pipelined", Load::Pipelined)]);
    paths.extend([tcp("tcp-once", "TCP, a connection a query", Load::Once)]);
    let base = |program| Contestant::new(program, Setup::Cluster, Ask::ClusterIp);
    let other = |program, setup| Contestant::new(program, setup, Ask::ClusterIp);
    paths.push(Path {
        key: "log",
        title: "the first path with `log` to a file, and without",
        loads: vec![Load::Saturation],
        contestants: vec![
            base(Echo),
            base(Fingerpost),
            other(Fingerpost, Setup::Log).named("log"),
            base(Coredns),
            other(Coredns, Setup::Log).named("log"),
        ],
    });
    paths.push(Path {
        key: "workers",
        title: "the first path with one worker and with two",
        loads: highest().collect(),
        contestants: vec![
            base(Echo),
            base(Fingerpost),
            other(Fingerpost, Setup::TwoWorkers).named("two workers"),
            base(Coredns),
            other(Coredns, Setup::TwoWorkers).named("multisocket 2"),
        ],
    });
    paths.extend(growing());
    paths
}

/// Over TCP a cache answers from memory too, so dnsdist takes part with names of the upstream.
fn tcp(key: &'static str, title: &'static str, load: Load) -> Path {
    let holders = HOLDERS.iter().skip(1);
    let cluster = |&program| Contestant::new(program, Setup::Cluster, Ask::ClusterIp);
    let dnsdist = Contestant::new(Dnsdist, Setup::Cluster, Ask::Cached);
    Path {
        key,
        title,
        loads: vec![load],
        contestants: holders
            .map(cluster)
            .chain([dnsdist.named("cache")])
            .collect(),
    }
}

/// What must stay the same as the work grows.
fn growing() -> [Path; 2] {
    let with =
        |setup, name: &'static str| Contestant::new(Fingerpost, setup, Ask::ClusterIp).named(name);
    let echo = Contestant::new(Echo, Setup::Cluster, Ask::ClusterIp);
    [
        Path {
            key: "services",
            title: "the first path with more and more Services",
            loads: vec![Load::Saturation],
            contestants: vec![
                echo,
                with(Setup::Services(100), "100 Services"),
                with(Setup::Services(1000), "1,000 Services"),
                with(Setup::Services(10_000), "10,000 Services"),
                with(Setup::Services(100_000), "100,000 Services"),
            ],
        },
        Path {
            key: "blocks",
            title: "the first path with more and more server blocks",
            loads: vec![Load::Saturation],
            contestants: vec![
                echo,
                with(Setup::Blocks(1), "1 block"),
                with(Setup::Blocks(10), "10 blocks"),
                with(Setup::Blocks(50), "50 blocks"),
            ],
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contestants_of_a_path_have_names_of_their_own() {
        for path in all(&[20_000, 60_000]) {
            let mut names: Vec<String> = path.contestants.iter().map(Contestant::name).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}", path.key);
            // Half of the saturation is known once it has been reached.
            let place = |load| path.loads.iter().position(|one| *one == load);
            if let Some(half) = place(Load::Half) {
                assert!(place(Load::Saturation).is_some_and(|at| at < half));
            }
        }
    }
}
