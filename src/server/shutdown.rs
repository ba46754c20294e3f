//! Signals, and stopping.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::server::loader::Loader;
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
    Stop(&'static str),
    Quit,
    Look(Cause),
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
    pub async fn stop_before_start(&self) -> ExitCode {
        // A second set of handlers: tokio delivers each signal to every listener.
        match Self::listen() {
            Ok(mut own) => tokio::select! {
                _ = own.interrupt.recv() => ExitCode::SUCCESS,
                _ = own.terminate.recv() => ExitCode::SUCCESS,
                _ = own.quit.recv() => ExitCode::SUCCESS,
            },
            Err(_) => std::future::pending().await,
        }
    }

    async fn next(&mut self, look_at: Option<Instant>) -> Event {
        let interval = async {
            match look_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Event::Stop("SIGINT: Shutting down"),
            _ = self.terminate.recv() => Event::Stop("SIGTERM: Shutting down servers then terminating"),
            _ = self.quit.recv() => Event::Quit,
            _ = self.user1.recv() => Event::Look(Cause::Signal("SIGUSR1")),
            _ = self.hangup.recv() => Event::Look(Cause::Signal("SIGHUP")),
            () = interval => Event::Look(Cause::Interval),
        }
    }
}

/// Serves, reloads when told to, and stops when told to.
pub async fn serve(
    mut server: Server,
    loader: Loader,
    serving: String,
    mut signals: Signals,
) -> ExitCode {
    let mut watcher = Watcher::new(loader, serving, &server);
    let mut settings = server.reload_settings();
    let mut interval = settings.map(interval_of);
    let mut look_at = interval.map(|interval| Instant::now() + interval);
    loop {
        match signals.next(look_at).await {
            Event::Look(cause) => {
                watcher.look(&mut server, cause).await;
                if server.reload_settings() != settings {
                    settings = server.reload_settings();
                    interval = settings.map(interval_of);
                }
                look_at = interval.map(|interval| Instant::now() + interval);
            }
            Event::Quit => return ExitCode::SUCCESS,
            Event::Stop(line) => {
                tracing::info!("{line}");
                return tokio::select! {
                    () = server.stop() => ExitCode::SUCCESS,
                    code = force_quit(signals) => code,
                };
            }
        }
    }
}

/// A second interrupt does not wait.
async fn force_quit(mut signals: Signals) -> ExitCode {
    tokio::select! {
        _ = signals.interrupt.recv() => {
            tracing::info!("SIGINT: Force quit");
            ExitCode::from(2)
        }
        _ = signals.quit.recv() => ExitCode::SUCCESS,
    }
}
