//! Every developer command, in Rust: no other tool is needed.

#![expect(
    clippy::disallowed_methods,
    reason = "nobody else runs on this thread, so it may sleep"
)]

mod bench;
mod cluster;
mod command;
mod control_plane;
mod e2e;
mod echo;
mod fuzz;
mod helm;
mod image;
mod load;
mod paths;
mod provision;
mod reloads;
mod server;
mod soak;
mod steps;
mod test;
mod vectors;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask COMMAND

  test               everything that guards a change, in order, up to the first failure
  test WORD          only the steps with this word in their names: `format`, `lints`, `fuzz`, `conformance` …
  soak [MINUTES]     the fuzz targets and the hostile inputs for long (30 minutes each), a thousand reloads under load, …
  soak WORD          only the steps with this word in their names: `fuzz`, `hostile`, `faults`, `image`
  soak reloads       the reloads alone (`… reloads --help`)
  cluster up         start etcd and kube-apiserver on loopback, and keep them running
  cluster load FILE  put the objects of a YAML or JSON file, or of a folder of them, into it
  cluster down       stop what `up` started
  bench blackhole    memory and answers while no upstream replies to a flood of new names (`… blackhole --help`)
  bench failover     answers and times with upstreams that are silent or fail (`… failover --help`)
  bench [speed]      CPU, throughput, latency beside the bare socket and other servers (`bench speed --help`)
  bench report       tables and plots of the documentation, from the results of `bench speed`
  bench fairness     losses and times of many clients beside one in a loop (`… fairness --help`)
  bench instructions instructions of an answer, against the baseline (`… instructions --help`)
  bench memory       memory, time to ready and recovery at 1,000 to 100,000 Services (`… memory --help`)
  bench outage       every answer while the API server is away for long (`… outage --help`)
  bench propagation  from a write at the API server to the right answer (`… propagation --help`)
  bench restart      from `kill -9` to the first right answer, with and without a snapshot (`… restart --help`)
  e2e                clients in the pods of a small real cluster, with faults and restarts (`e2e --help`)
  echo PORT          answers everything with one address: the bare socket, and an upstream
  load               queries at a steady rate from many addresses, losses by ID (`load --help`)
  image              the container image, as an OCI archive, and its SBOM (`image --help`)
  help               this text

What is missing is fetched: Debian packages through apt-get where that may be done, the control plane from
KUBEBUILDER_ASSETS or built from its Go modules into target/control-plane, helm likewise into target/helm, Python packages
into target/python.";

/// How long each part of a soak takes that has no end of its own.
const MINUTES: u64 = 30;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["test"] => return test::run(None),
        ["test", step] => return test::run(Some(step)),
        ["soak"] => return soak::run(MINUTES, None),
        ["soak", "reloads", "--help"] => {
            println!("{}", reloads::HELP);
            Ok(())
        }
        ["soak", "reloads", ref rest @ ..] => {
            bench::args::Args::parse(rest, reloads::FLAGS).and_then(|args| reloads::run(&args))
        }
        ["soak", word] => match word.parse() {
            Ok(minutes) => return soak::run(minutes, None),
            Err(_) => return soak::run(MINUTES, Some(word)),
        },
        ["cluster", "up"] => cluster::up(),
        ["cluster", "load", file] => cluster::load(file.as_ref()),
        ["cluster", "down"] => cluster::down(),
        ["bench", ref rest @ ..] => bench::run(rest),
        ["e2e", ref rest @ ..] => e2e::run(rest),
        ["echo", port] => echo::run(port),
        ["image", ref rest @ ..] => image::command(rest),
        ["load", ref rest @ ..] => load::command(rest),
        ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
