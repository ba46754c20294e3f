//! The client of the API server: made when it is first needed, and again where the server does not know us any more.
//!
//! Tokens in files are read at every request, but certificates, keys and what a kubeconfig holds are read when a client
//! is made. Whoever renews them does not tell us; the server does, with a 401 or a broken handshake. A kubeconfig may
//! also name a program that gets credentials: it runs on a thread of its own, one at a time, and whoever waits for it
//! waits no longer than for a reply.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use crate::cluster::connect::Connection;
use crate::cluster::watch::failure::Failure;

/// A client with what it was made from.
#[derive(Clone)]
struct Made {
    connection: Arc<Connection>,
    client: kube::Client,
}

type Making = JoinHandle<Result<Made, String>>;

#[derive(Default)]
struct State {
    made: Option<Made>,
    at: Option<Instant>,
    /// A program that has not answered yet. It is waited for again; there is never a second one.
    making: Option<Making>,
}

/// The client that the tasks of one plan share.
pub(super) struct Session {
    first: Arc<Connection>,
    state: Mutex<State>,
    doubted: AtomicBool,
}

impl Session {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            first: Arc::new(connection),
            state: Mutex::default(),
            doubted: AtomicBool::new(false),
        }
    }

    /// Host and port of the API server.
    pub(super) fn host(&self) -> &str {
        self.first.host()
    }

    /// The server did not take our credentials, or we not its own: they are read again, but not all the time.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    /// The client, and the header that goes with its requests. A doubted one is made again if it has this age.
    pub(super) async fn client(
        &self,
        patience: Duration,
        age_min: Duration,
    ) -> Result<(kube::Client, Option<HeaderValue>), Failure> {
        let mut state = self.state.lock().await;
        let old = state.at.is_none_or(|at| at.elapsed() >= age_min);
        if state.made.is_none() || old && self.doubted.swap(false, Ordering::Relaxed) {
            self.make(&mut state, patience).await?;
        }
        let made = state.made.as_ref().expect("it was made above or before");
        Ok((made.client.clone(), made.connection.bearer()))
    }

    async fn make(&self, state: &mut State, patience: Duration) -> Result<(), Failure> {
        let first = state.made.is_none() && state.making.is_none();
        let given = Arc::clone(&self.first);
        let result = if given.runs_a_program() {
            let making = state
                .making
                .get_or_insert_with(|| spawn_blocking(move || make(given, first)));
            let Ok(joined) = timeout(patience, making).await else {
                let seconds = patience.as_secs();
                let why = format!("the program that gets them has not answered for {seconds} s");
                return Err(Failure::Credentials(why));
            };
            state.making = None;
            joined.unwrap_or_else(|_| Err("the program that gets them cannot be run".to_owned()))
        } else {
            make(given, first)
        };
        state.at = Some(Instant::now());
        match (result, &state.made) {
            (Ok(made), _) => state.made = Some(made),
            // The files are being exchanged, maybe: what we had goes on.
            (Err(_), Some(_)) => {}
            (Err(why), None) => return Err(Failure::Credentials(why)),
        }
        Ok(())
    }
}

/// The first client comes from what was read at the start, later ones from what is there now.
fn make(given: Arc<Connection>, first: bool) -> Result<Made, String> {
    let connection = if first {
        given
    } else {
        Arc::new(given.again().map_err(|error| error.0)?)
    };
    let client = connection.client()?;
    Ok(Made { connection, client })
}
