//! Signals, and stopping.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::server::loader::{Loader, Reading};
use crate::server::reload::{Cause, Watcher, interval_of};
use crate::server::running::Server;

/// The signals that mean something to us.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    user1: Signal,
    hangup: Signal,
}

enum Event {
    Stop(Stop),
    Look(Cause),
}

enum Stop {
    /// Serve on through the lame duck time and answer what is in flight, after this log line.
    InOrder(&'static str),
    AtOnce,
}

impl Signals {
    /// Takes them over from the default handlers.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal that ends a start which is still under way.
    pub async fn stop_before_start(&mut self) -> ExitCode {
        if let Stop::InOrder(line) = self.stop().await {
            tracing::info!("{line}");
        }
        ExitCode::SUCCESS
    }

    async fn next(&mut self, look_at: Option<Instant>) -> Event {
        let interval = async {
            match look_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stop = stop(&mut self.interrupt, &mut self.terminate, &mut self.quit) => Event::Stop(stop),
            _ = self.user1.recv() => Event::Look(Cause::Signal("SIGUSR1")),
            _ = self.hangup.recv() => Event::Look(Cause::Signal("SIGHUP")),
            () = interval => Event::Look(Cause::Interval),
        }
    }

    async fn stop(&mut self) -> Stop {
        stop(&mut self.interrupt, &mut self.terminate, &mut self.quit).await
    }
}

async fn stop(interrupt: &mut Signal, terminate: &mut Signal, quit: &mut Signal) -> Stop {
    tokio::select! {
        _ = interrupt.recv() => Stop::InOrder("SIGINT: Shutting down"),
        _ = terminate.recv() => Stop::InOrder("SIGTERM: Shutting down servers then terminating"),
        _ = quit.recv() => Stop::AtOnce,
    }
}

/// Serves, reloads when told to, and stops when told to.
pub async fn serve(
    mut server: Server,
    loader: Loader,
    serving: Reading,
    mut signals: Signals,
) -> ExitCode {
    let mut watcher = Watcher::new(loader, serving, &server);
    let mut settings = server.reload_settings();
    let mut interval = settings.map(interval_of);
    let mut look_at = interval.map(|interval| Instant::now() + interval);
    loop {
        match signals.next(look_at).await {
            Event::Look(cause) => {
                // A reload may wait for an API server. Whoever wants us to stop does not wait for that.
                let stop = tokio::select! {
                    () = watcher.look(&mut server, cause) => None,
                    stop = signals.stop() => Some(stop),
                };
                match stop {
                    None => {}
                    Some(Stop::AtOnce) => return ExitCode::SUCCESS,
                    Some(Stop::InOrder(line)) => return stop_server(server, line, signals).await,
                }
                if server.reload_settings() != settings {
                    settings = server.reload_settings();
                    interval = settings.map(interval_of);
                }
                look_at = interval.map(|interval| Instant::now() + interval);
            }
            Event::Stop(Stop::AtOnce) => return ExitCode::SUCCESS,
            Event::Stop(Stop::InOrder(line)) => return stop_server(server, line, signals).await,
        }
    }
}

async fn stop_server(server: Server, line: &str, signals: Signals) -> ExitCode {
    tracing::info!("{line}");
    tokio::select! {
        () = server.stop() => ExitCode::SUCCESS,
        code = force_quit(signals) => code,
    }
}

/// Whoever asks a second time does not want to wait.
async fn force_quit(mut signals: Signals) -> ExitCode {
    let signal = tokio::select! {
        _ = signals.interrupt.recv() => "SIGINT",
        _ = signals.terminate.recv() => "SIGTERM",
        _ = signals.quit.recv() => return ExitCode::SUCCESS,
    };
    tracing::info!("{signal}: Force quit");
    ExitCode::from(2)
}
