//! Puts it together and keeps it running.
//!
//! ```text
//! Corefile --parse, configure--> blocks --Generation::build--> chains + plan
//!                                                   |
//!      sockets (kept by address) <--- swap ---------'      old generation: answered out, then retired
//! ```
//!
//! A start and a reload take the same road. Until the swap nothing has happened that dropping the new generation does
//! not undo, so a bad Corefile costs a log line.

/// What a plugin is built with.
pub mod assembly;

/// One generation: everything that one reading of the Corefile runs.
pub mod generation;

/// The HTTP listeners of `health`, `ready` and `prometheus`.
pub mod http;

/// What the plugins of one server block lend to each other.
pub mod lent;

/// Where the Corefile comes from, and reading it.
pub mod loader;

/// Waiting until clients have gone elsewhere.
mod leaving;

/// How much memory the process may take.
pub mod memory;

/// What outlives a reload.
pub mod process;

/// Watching for a changed Corefile.
pub mod reload;

/// The server while it serves: sockets, and the generation behind them.
pub mod running;

/// Signals, and stopping.
pub mod shutdown;

use std::io::IsTerminal;
use std::process::ExitCode;

use crate::cli::Options;
use crate::corefile::render::Color;
use crate::server::generation::ServeDefaults;
use crate::server::loader::{Loader, Reading};
use crate::server::process::Process;
use crate::server::running::Server;

/// Serves until a signal says stop. What went wrong before serving is printed on standard error.
pub async fn run(options: Options) -> ExitCode {
    let mut loader = match Loader::new(&options) {
        Ok(loader) => loader,
        Err(error) => return refuse(&error),
    };
    let reading = match loader.read() {
        Ok(reading) => reading,
        Err(error) => return refuse(&error),
    };
    if let Some(refusal) = reading.refusal(color()) {
        return refuse(&refusal);
    }
    for warning in reading.warnings() {
        tracing::warn!("{warning}");
    }
    if let Err(error) = crate::net::batch::raise_file_limit() {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
    let process = Process::new(tokio::runtime::Handle::current());
    let mut signals = match shutdown::Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return refuse(&format!("cannot listen for signals: {error}")),
    };
    let defaults = ServeDefaults { port: options.port };
    let server = tokio::select! {
        started = Server::start(&reading, defaults, process) => started,
        signal = signals.stop_before_start() => return signal,
    };
    match server {
        Ok(server) => {
            announce(&options, &server, &reading);
            write_pidfile(&options);
            let code = shutdown::serve(server, loader, reading, signals).await;
            remove_pidfile(&options);
            code
        }
        Err(error) => refuse(&error.to_string()),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "nothing serves, so nothing can be held up"
)]
fn refuse(why: &str) -> ExitCode {
    eprintln!("{}", why.trim_end());
    ExitCode::FAILURE
}

/// Faults are drawn in color where somebody looks at them.
fn color() -> Color {
    if std::io::stderr().is_terminal() {
        Color::Always
    } else {
        Color::Never
    }
}

/// The start-up lines, as CoreDNS prints them: warnings, zones, then the version.
/// They go the way of the log, for a disk that is full or a reader that has gone must not end a server that serves.
fn announce(options: &Options, server: &Server, reading: &Reading) {
    let out = crate::telemetry::logging::stdout();
    for warning in server.warnings() {
        out.push(warning);
    }
    if !options.quiet {
        for line in server.banner() {
            out.push(line);
        }
        for line in crate::cli::version_text().lines() {
            out.push(line);
        }
    }
    if server.watches_corefile() {
        reload::announce_hash(&reading.hash);
    }
}

fn write_pidfile(options: &Options) {
    if let Some(path) = &options.pidfile
        && let Err(error) = std::fs::write(path, format!("{}\n", std::process::id()))
    {
        tracing::error!("cannot write the pidfile `{}`: {error}", path.display());
    }
}

fn remove_pidfile(options: &Options) {
    if let Some(path) = &options.pidfile
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::warn!("cannot remove the pidfile `{}`: {error}", path.display());
    }
}
