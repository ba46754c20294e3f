//! Asks a server at a steady rate, from many addresses, and tells every reply from every loss.
//!
//! One thread sends what is due, then reads what has come; nothing waits. A query that is not answered is never sent
//! again, so a loss is a loss:
//!
//! ```text
//! streams --clients, rate--> due --send--> server --reply--> by ID: time it took | rcode
//!                             |                                '-- none: lost, and the ID is known
//!                             '-- too late to send: skipped (the generator's fault, not the server's)
//! ```
//!
//! `batch.rs`, `fast.rs` and `tcp.rs` load one server as far as it goes, which this loop cannot: it spends a system call on
//! each datagram.
//!
//! What the kernel threw away in front of us is counted apart (`own_drops`): the server did answer that.

pub mod batch;
mod client;
pub mod fast;
mod histogram;
mod question;
mod report;
mod run;
pub mod tcp;
mod waiting;

pub use question::Questions;
pub use report::Outcome;
pub use run::{Plan, Stream, run};

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::bench::args::Args;

pub const HELP: &str = "\
usage: cargo xtask load --server ADDRESS:PORT [FLAG VALUE]...

  --names FILE      lines of `name TYPE`; each `%` becomes a number that is never used twice
  --name NAME       one name instead, asked for A
  --rate N          queries a second of each client (20)
  --clients N       clients, each with an address of its own from 127.0.1.1 on (1)
  --from ADDRESS    one address for all clients instead; each keeps a port of its own
  --until-eof yes   ends when standard input does, if that comes before the time is over
  --seconds N       how long (10)
  --protocol P      udp or tcp (udp)
  --read yes|no     whether replies are read; without, only what was sent is known (yes)
  --patience-ms N   how long a reply may take (5000)";

pub const FLAGS: &[&str] = &[
    "--server",
    "--names",
    "--name",
    "--rate",
    "--clients",
    "--from",
    "--until-eof",
    "--seconds",
    "--protocol",
    "--read",
    "--patience-ms",
];

/// How queries are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Udp,
    Tcp,
}

/// The command.
pub fn command(words: &[&str]) -> Result<(), String> {
    if let ["--help" | "-h"] = words {
        println!("{HELP}");
        return Ok(());
    }
    let args = Args::parse(words, FLAGS)?;
    let server: String = args.get("--server", String::new())?;
    let server: SocketAddr = server
        .parse()
        .map_err(|_| format!("`--server` cannot be `{server}`; see `load --help`"))?;
    let file: String = args.get("--names", String::new())?;
    let questions = if file.is_empty() {
        Questions::of_names(&[
            &args.get("--name", "kubernetes.default.svc.cluster.local".to_owned())?
        ])?
    } else {
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        Questions::parse(&text)?
    };
    let protocol = match args.get("--protocol", "udp".to_owned())?.as_str() {
        "udp" => Protocol::Udp,
        "tcp" => Protocol::Tcp,
        other => return Err(format!("`--protocol` cannot be `{other}`")),
    };
    let clients = args.get("--clients", 1)?;
    let from = args.get("--from", Ipv4Addr::UNSPECIFIED)?;
    let addresses = if from.is_unspecified() {
        addresses(Ipv4Addr::new(127, 0, 1, 1), clients)
    } else {
        vec![from; clients as usize]
    };
    let until_eof = args.get("--until-eof", "no".to_owned())? == "yes";
    let plan = Plan {
        server,
        is_over: until_eof.then(end_of_input),
        duration: Duration::from_secs(args.get("--seconds", 10)?),
        patience: Duration::from_millis(args.get("--patience-ms", 5000)?),
        streams: vec![Stream {
            server: None,
            name: "clients".into(),
            addresses,
            rate: args.get("--rate", 20.0)?,
            questions,
            protocol,
            is_read: args.get("--read", "yes".to_owned())? == "yes",
        }],
    };
    for outcome in run(&plan)? {
        print!("{outcome}");
    }
    Ok(())
}

/// True once standard input has ended.
fn end_of_input() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&flag);
    std::thread::spawn(move || {
        // An input that cannot be read has ended too.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        ended.store(true, Ordering::Relaxed);
    });
    flag
}

/// So many addresses in a row.
pub fn addresses(first: Ipv4Addr, count: u32) -> Vec<Ipv4Addr> {
    let first = u32::from(first);
    (0..count)
        .map(|more| Ipv4Addr::from(first + more))
        .collect()
}
