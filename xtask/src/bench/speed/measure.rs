//! One sample after the other.

use std::path::Path as FilePath;
use std::process::Command;
use std::time::Duration;

use crate::bench::bed::Bed;
use crate::bench::pinned::pin;
use crate::bench::report::machine;
use crate::bench::speed::figure::{Figure, Sample};
use crate::bench::speed::path::{Contestant, Load, Path};
use crate::bench::speed::peer::{Peer, Program, Setup, World};
use crate::bench::speed::usage::Usage;
use crate::bench::speed::{Plan, table};
use crate::load::fast::{Pace, Run, udp};
use crate::load::tcp::{Use, tcp};
use crate::load::{Outcome, Questions};
use crate::paths;
use crate::server::{Running, answers, free_port};

/// Queries on their way when a server is saturated: two batches, and less than a queue of the kernel's default size holds.
pub const WINDOW: usize = 128;

/// The same over TCP, on each of eight connections; and connections at a time with one query each.
pub const PIPELINED: usize = 32;
pub const ONCE: usize = 32;
const CONNECTIONS: usize = 8;

/// What is asked before each sample and not counted: caches are full then, and the core is awake.
const PRIMING: u64 = 2000;

/// A reply after this is none; CoreDNS drops no query that waits for so long.
const PATIENCE: Duration = Duration::from_secs(1);

/// For the work that goes on behind an answer: a log, say.
const SETTLE: Duration = Duration::from_millis(20);

/// The servers that run.
struct Servers {
    peers: Vec<(Program, Setup, Peer)>,
}

/// Measures everything, and prints each path as it is done.
pub fn all(plan: &Plan) -> Result<Vec<Figure>, String> {
    println!("{}", machine());
    // What is started from now on runs beside the generator, but for what is told otherwise.
    pin(std::process::id(), plan.cores[1])?;
    let folder = paths::target().join("bench/speed");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let bed = Bed::start(plan.size)?;
    let (upstream, _running) = start_upstream(&folder)?;
    let world = World {
        folder,
        kubeconfig: bed.control_plane.kubeconfig().to_owned(),
        upstream,
        size: plan.size,
        server_core: plan.cores[0],
        generator_core: plan.cores[1],
    };
    let mut running = Servers { peers: Vec::new() };
    let mut figures = Vec::new();
    for (at, path) in plan.paths.iter().enumerate() {
        running.keep_those_of(&plan.paths[at..]);
        let mut contestants = Vec::new();
        let wanted = path.contestants.iter();
        for one in wanted.filter(|one| plan.file_of(one.program).is_some()) {
            // Half an hour must not be lost to one that does not start.
            match running.start(one, plan, &world) {
                Ok(()) => contestants.push(*one),
                Err(error) => println!("{} is left out of {}: {error}", one.name(), path.key),
            }
        }
        println!("{}: {}", path.key, path.title);
        let of_path = measure(path, &contestants, plan, &world, &running)?;
        print!("{}", table::of_path(&of_path).text());
        figures.extend(of_path);
    }
    Ok(figures)
}

impl Plan {
    fn file_of(&self, program: Program) -> Option<&FilePath> {
        let found = self.programs.iter().find(|(one, _)| *one == program);
        found.map(|(_, file)| file.as_path())
    }
}

impl Servers {
    fn get(&self, one: &Contestant) -> Option<&Peer> {
        let mut peers = self.peers.iter();
        let found =
            peers.find(|(program, setup, _)| (*program, *setup) == (one.program, one.setup));
        found.map(|(_, _, peer)| peer)
    }

    fn start(&mut self, one: &Contestant, plan: &Plan, world: &World) -> Result<(), String> {
        if self.get(one).is_some() {
            return Ok(());
        }
        let file = plan.file_of(one.program).ok_or("it is not there")?;
        let peer = Peer::start(one.program, file, one.setup, world)?;
        self.peers.push((one.program, one.setup, peer));
        Ok(())
    }

    /// Stops those that no path from here on needs.
    fn keep_those_of(&mut self, paths: &[Path]) {
        let needed = |program, setup| {
            let mut contestants = paths.iter().flat_map(|path| &path.contestants);
            contestants.any(|one| (one.program, one.setup) == (program, setup))
        };
        self.peers
            .retain(|(program, setup, _)| needed(*program, *setup));
    }
}

/// All rounds of a path.
fn measure(
    path: &Path,
    contestants: &[Contestant],
    plan: &Plan,
    world: &World,
    running: &Servers,
) -> Result<Vec<Figure>, String> {
    let mut figures = Vec::new();
    for load in &path.loads {
        figures.extend(contestants.iter().map(|one| Figure {
            path: path.key.into(),
            load: load.to_string(),
            server: one.name(),
            rounds: Vec::new(),
        }));
    }
    let asked: Vec<Questions> = contestants
        .iter()
        .map(|one| Questions::parse(&one.ask.lines(one.setup.size(world))))
        .collect::<Result<_, _>>()?;
    let mut number = 0;
    for _ in 0..plan.rounds {
        for (row, load) in path.loads.iter().enumerate() {
            for (column, one) in contestants.iter().enumerate() {
                let peer = running.get(one).ok_or("it does not run")?;
                // Figures stand load by load, contestant by contestant.
                let place = |load: usize| load * contestants.len() + column;
                let saturated = path.loads.iter().position(|load| *load == Load::Saturation);
                let saturation = saturated.map_or(0.0, |at| figures[place(at)].median().rate());
                let queries = plan.queries / plan.rounds / load.divisor();
                // One that fails is told, and the others go on.
                let first = number;
                number += queries + PRIMING;
                match sample(*load, one, peer, &asked[column], first, queries, saturation) {
                    Ok(sample) => figures[place(row)].rounds.push(sample),
                    Err(error) => println!("{} at {load}: {error}", one.name()),
                }
            }
        }
    }
    figures.retain(|figure| !figure.rounds.is_empty());
    Ok(figures)
}

fn sample(
    load: Load,
    one: &Contestant,
    peer: &Peer,
    questions: &Questions,
    first: u64,
    queries: u64,
    saturation: f64,
) -> Result<Sample, String> {
    let ask = |load, first, queries| {
        let run = |pace| Run {
            server: peer.address,
            questions,
            pace,
            queries,
            first,
            patience: PATIENCE,
        };
        match load {
            Load::Rate(rate) => udp(&run(Pace::Rate(rate.into()))),
            Load::Saturation => udp(&run(Pace::Window(WINDOW))),
            Load::Half => udp(&run(Pace::Rate(saturation / 2.0))),
            Load::Pipelined => tcp(
                &run(Pace::Window(0)),
                Use::Pipelined {
                    connections: CONNECTIONS,
                    window: PIPELINED,
                },
            ),
            Load::Once => tcp(&run(Pace::Window(0)), Use::Once { connections: ONCE }),
        }
    };
    ask(
        match load {
            Load::Pipelined | Load::Once => Load::Pipelined,
            _ => Load::Saturation,
        },
        first,
        PRIMING,
    )?;
    std::thread::sleep(SETTLE);
    let before = Usage::of(peer.id());
    let outcome: Outcome = ask(load, first + PRIMING, queries)?;
    std::thread::sleep(SETTLE);
    let cpu = Usage::of(peer.id()).since(before);
    let (rcode, _) = one.ask.right();
    // The echo knows no name that is not there.
    let rcode = if one.program == Program::Echo {
        0
    } else {
        rcode
    };
    Ok(Sample::new(&outcome, rcode, cpu, peer.memory()))
}

/// The echo answers for the rest of the world, beside the generator.
fn start_upstream(folder: &FilePath) -> Result<(u16, Running), String> {
    let port = free_port()?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(["echo", &port.to_string()]);
    let mut running = Running::start(&mut command, &folder.join("upstream.log"))?;
    running.wait_until("answer", Duration::from_secs(10), || answers(port))?;
    Ok((port, running))
}
