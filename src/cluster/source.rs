//! Which API server, and how to reach it.

use std::path::PathBuf;

/// Where the connection to the API server is described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiSource {
    /// Nothing was said: the service account inside a cluster; outside of one `$KUBECONFIG`, then `~/.kube/config`.
    Default,
    /// `kubeconfig FILE [CONTEXT]`
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The context; its current one if none.
        context: Option<String>,
    },
    /// `endpoint URL` with an optional `tls CERT KEY CA`
    Endpoint {
        /// The URL of the API server.
        url: String,
        /// Client certificate, its key, and the CA of the server.
        tls: Option<[PathBuf; 3]>,
    },
}

/// Why no connection can be made, whatever the network does: one line, as the log shows it.
#[derive(Debug)]
pub struct ConnectError(pub String);

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConnectError {}
