//! The server while it serves: sockets, and the generation behind them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::corefile::args::GoDuration;
use crate::net::listen::{self, Listener, Options};
use crate::plugin::BuildError;
use crate::server::assembly::ReloadSettings;
use crate::server::generation::{Generation, ListenAddress, ServeDefaults};
use crate::server::http::HttpServers;
use crate::server::leaving;
use crate::server::loader::Reading;
use crate::server::process::Process;
use crate::zone::Zones;

/// A server that serves.
pub struct Server {
    process: Arc<Process>,
    defaults: ServeDefaults,
    generation: Generation,
    open: BTreeMap<ListenAddress, Open>,
    http: HttpServers,
}

struct Open {
    zones: Arc<ArcSwap<Zones>>,
    listener: Listener,
}

impl Server {
    /// Builds the first generation, opens every socket, serves.
    pub async fn start(
        reading: &Reading,
        defaults: ServeDefaults,
        process: Arc<Process>,
    ) -> Result<Self, BuildError> {
        let mut generation = Generation::build(&reading.blocks, defaults, &process)?;
        let addresses = generation.zones.keys().map(|address| address.to_socket());
        let shared: Vec<_> = addresses
            .filter(|&address| listen::is_shared(address))
            .collect();
        let mut http = HttpServers::new(&process);
        if !generation.plan.before_serving.is_empty() {
            // A taken port is worth knowing now, not after the wait for the API server.
            for address in generation.zones.keys() {
                listen::check(address.to_socket())
                    .map_err(|error| BuildError(error.to_string()))?;
            }
        }
        // `ready` is asked while the API server is waited for, and nobody may be sent here before the sockets are open.
        process.readiness.close();
        process
            .readiness
            .replace(std::mem::take(&mut generation.plan.readiness));
        process
            .readiness
            .explain(std::mem::take(&mut generation.plan.conditions));
        http.apply(std::mem::take(&mut generation.plan.http))
            .await?;
        wait_for(&mut generation).await?;
        let open = open_missing(&generation, &BTreeMap::new(), &process)?;
        for address in shared {
            // SO_REUSEPORT: a server that was forgotten in the background keeps its share.
            tracing::warn!(
                "another program serves on `{address}` too: each gets a share of the queries"
            );
        }
        let mut server = Self {
            process,
            defaults,
            generation,
            open,
            http,
        };
        // What comes from here on is queued until the workers run; who has an answer finds us ready.
        server.process.readiness.open();
        for open in server.open.values_mut() {
            open.listener
                .start()
                .map_err(|error| BuildError(format!("cannot start a worker: {error}")))?;
        }
        server.begin();
        Ok(server)
    }

    /// Replaces the generation by one of this reading. After an error the old one serves on as if nothing had been.
    pub async fn reload(&mut self, reading: &Reading) -> Result<(), BuildError> {
        let mut next = Generation::build(&reading.blocks, self.defaults, &self.process)?;
        let opened = match self.prepare(&mut next).await {
            Ok(opened) => opened,
            Err(error) => {
                next.retire();
                return Err(error);
            }
        };
        // From here on nothing fails.
        self.process
            .readiness
            .replace(std::mem::take(&mut next.plan.readiness));
        self.process
            .readiness
            .explain(std::mem::take(&mut next.plan.conditions));
        let gone: Vec<ListenAddress> = self
            .open
            .keys()
            .filter(|address| !next.zones.contains_key(address))
            .copied()
            .collect();
        for (address, zones) in &next.zones {
            if let Some(open) = self.open.get(address) {
                open.zones.store(Arc::clone(zones));
            }
        }
        for (address, open) in opened {
            self.open.insert(address, open);
        }
        std::mem::replace(&mut self.generation, next).retire();
        self.begin();
        for address in gone {
            if let Some(open) = self.open.remove(&address) {
                open.listener.stop().await;
            }
        }
        Ok(())
    }

    /// All of a reload that may fail: waits, sockets, HTTP.
    async fn prepare(
        &mut self,
        next: &mut Generation,
    ) -> Result<BTreeMap<ListenAddress, Open>, BuildError> {
        wait_for(next).await?;
        let mut opened = open_missing(next, &self.open, &self.process)?;
        for open in opened.values_mut() {
            open.listener
                .start()
                .map_err(|error| BuildError(format!("cannot start a worker: {error}")))?;
        }
        self.http.apply(std::mem::take(&mut next.plan.http)).await?;
        Ok(opened)
    }

    /// Starts what runs once the sockets answer.
    fn begin(&mut self) {
        let debug = self.generation.plan.debug;
        crate::telemetry::logging::set_debug(debug);
        self.open
            .values()
            .for_each(|open| open.listener.set_debug(debug));
        for open in self.open.values() {
            let lost = crate::plugin::shed::lost_replies(&self.process.metrics, &open.zones.load());
            open.listener.set_shed(lost);
        }
        let blocks = self
            .generation
            .zones
            .values()
            .flat_map(|zones| zones.blocks());
        crate::plugin::prometheus::show_enabled(
            &self.process.metrics,
            blocks.map(|block| &**block),
        );
        let plan = &mut self.generation.plan;
        for task in std::mem::take(&mut plan.after_serving) {
            plan.spawn(&self.process.runtime, task);
        }
    }

    /// Stops for good: serves on through the lame duck time and until clients have gone elsewhere, answers what is in
    /// flight, closes everything.
    pub async fn stop(mut self) {
        let (lameduck, quiet) = (self.generation.plan.lameduck, self.generation.plan.quiet);
        self.process.readiness.stop();
        self.open.values().for_each(|open| open.listener.watch());
        if lameduck > Duration::ZERO {
            let shown = GoDuration::from(lameduck);
            tracing::info!(target: "plugin/health", "Going into lameduck mode for {shown}");
        }
        let send_away = async {
            tokio::time::sleep(lameduck).await;
            self.open
                .values()
                .for_each(|open| open.listener.send_away());
        };
        let leave = leaving::wait_for_quiet(lameduck, quiet, || self.heard());
        tokio::join!(leave, send_away);
        let stopping: Vec<_> = std::mem::take(&mut self.open)
            .into_values()
            .map(|open| tokio::spawn(open.listener.stop()))
            .collect();
        for stopped in stopping {
            if let Err(error) = stopped.await {
                tracing::error!("a listener did not stop: {error}");
            }
        }
        let tasks = self.generation.plan.tasks.clone();
        self.generation.retire();
        self.http.stop().await;
        // `errors` has a last summary to print. Nothing else takes its time.
        let _ = tokio::time::timeout(Duration::from_secs(1), tasks.wait()).await;
    }

    /// How much all listeners have heard since they were told to watch, and who was heard last by the first that was.
    fn heard(&self) -> (u64, Option<IpAddr>) {
        let all = self.open.values().map(|open| open.listener.heard());
        all.fold((0, None), |(sum, last), (heard, client)| {
            (sum + heard, last.or(client))
        })
    }

    /// The zone lines of the start.
    pub fn banner(&self) -> &[String] {
        &self.generation.banner
    }

    /// What the start warns about.
    pub fn warnings(&self) -> &[String] {
        &self.generation.warnings
    }

    /// Whether `reload` is on.
    pub fn watches_corefile(&self) -> bool {
        self.generation.plan.reload.is_some()
    }

    /// How the Corefile is watched, if it is.
    pub fn reload_settings(&self) -> Option<ReloadSettings> {
        self.generation.plan.reload
    }

    /// Says outside of the log, too, why a changed Corefile is not in force.
    pub fn tell_of_failed_reload(&self, why: &str) {
        if let Some(herald) = &self.generation.plan.herald {
            let note = format!("{why}; the configuration from before serves on");
            Arc::clone(herald).warn("ReloadFailed", &note);
        }
    }

    /// What outlives reloads.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }
}

async fn wait_for(generation: &mut Generation) -> Result<(), BuildError> {
    for outcome in futures_util::future::join_all(generation.plan.before_serving.drain(..)).await {
        outcome?;
    }
    Ok(())
}

/// Binds the addresses that are not open yet. Nothing serves on them before `start`.
fn open_missing(
    generation: &Generation,
    open: &BTreeMap<ListenAddress, Open>,
    process: &Arc<Process>,
) -> Result<BTreeMap<ListenAddress, Open>, BuildError> {
    let options = Options::default();
    let missing = generation
        .zones
        .iter()
        .filter(|(address, _)| !open.contains_key(address));
    missing
        .map(|(&address, zones)| {
            let zones = Arc::new(ArcSwap::new(Arc::clone(zones)));
            let listener =
                Listener::open(address.to_socket(), Arc::clone(&zones), &options, process)
                    .map_err(|error| BuildError(error.to_string()))?;
            Ok((address, Open { zones, listener }))
        })
        .collect()
}
