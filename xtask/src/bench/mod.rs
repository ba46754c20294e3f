//! `bench`, `bench speed`: what a query costs, beside other servers. `bench memory|propagation`: what the server costs
//! beside a real API server. `bench fairness|blackhole`: who gets what under a flood.
//! `bench failover`: what clients notice of upstreams that fail; `bench restart|outage`: of a server that is killed, of an
//! API server that is away.
//! `bench instructions`: what an answer costs, in a number that repeats.
//!
//! ```text
//! objects.rs --> etcd.rs --> etcd --> kube-apiserver --watch--> the server, one core or more
//!                            api.rs (writes, a watch) --^             ^-- dns.rs (is the answer right yet?)
//! ```
//!
//! Objects are put into etcd in the form that an API server stores: 100,000 Services take a minute, through the API
//! server half an hour. Nothing listens beyond loopback; everything is stopped at the end, and what an aborted run left
//! is stopped by the next one.

pub mod api;
pub mod args;
mod baseline;
mod bed;
mod blackhole;
mod dns;
mod etcd;
mod failing;
mod failover;
mod fairness;
pub mod instructions;
mod memory;
mod objects;
mod outage;
mod pinned;
mod propagation;
pub mod report;
mod restart;
mod speed;
pub mod subject;

use args::Args;

/// Runs one of them.
pub fn run(words: &[&str]) -> Result<(), String> {
    match words {
        ["memory", "--help" | "-h"] => println!("{}", memory::HELP),
        ["propagation", "--help" | "-h"] => println!("{}", propagation::HELP),
        ["fairness", "--help" | "-h"] => println!("{}", fairness::HELP),
        ["blackhole", "--help" | "-h"] => println!("{}", blackhole::HELP),
        ["blackhole", rest @ ..] => return blackhole::run(&Args::parse(rest, blackhole::FLAGS)?),
        ["failover", "--help" | "-h"] => println!("{}", failover::HELP),
        ["failover", rest @ ..] => return failover::run(&Args::parse(rest, failover::FLAGS)?),
        ["outage", "--help" | "-h"] => println!("{}", outage::HELP),
        ["outage", rest @ ..] => return outage::run(&Args::parse(rest, outage::FLAGS)?),
        ["restart", "--help" | "-h"] => println!("{}", restart::HELP),
        ["restart", rest @ ..] => return restart::run(&Args::parse(rest, restart::FLAGS)?),
        ["speed", "--help" | "-h"] => println!("{}", speed::HELP),
        [] => return speed::run(&[]),
        ["speed", rest @ ..] => return speed::run(rest),
        ["report", rest @ ..] => return speed::report(rest),
        ["fairness", rest @ ..] => return fairness::run(&Args::parse(rest, fairness::FLAGS)?),
        ["memory", rest @ ..] => return memory::run(&Args::parse(rest, memory::FLAGS)?),
        ["propagation", rest @ ..] => {
            return propagation::run(&Args::parse(rest, propagation::FLAGS)?);
        }
        ["instructions", "--help" | "-h"] => println!("{}", instructions::HELP),
        ["instructions", rest @ ..] => {
            return instructions::run(&Args::parse(rest, instructions::FLAGS)?);
        }
        _ => {
            return Err(
                "`bench blackhole`, `bench failover`, `bench fairness`, `bench instructions`, `bench memory`, \
                 `bench outage`, `bench propagation`, `bench report`, `bench restart` and `bench speed` are there; see `help`"
                    .into(),
            );
        }
    }
    Ok(())
}
