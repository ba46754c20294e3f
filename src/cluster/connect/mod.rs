//! From what the Corefile says to a client of the API server.
//!
//! ```text
//! kubeconfig FILE [CONTEXT]  ->  that file
//! endpoint URL, tls …        ->  that server, with these files
//! neither                    ->  inside a cluster: the service account's token and CA files
//!                                outside of one:   $KUBECONFIG, then ~/.kube/config
//! ```
//!
//! [`Connection::of`] reads files and nothing else. Rotation: the token file is read again for every request (a watch
//! makes one in five minutes), CA files every minute by kube's verifier; the rest when the server refuses what we have. So
//! nothing needs a restart.

/// From each kind of source to kube's configuration.
mod config;

/// A token that somebody else renews.
mod token;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{ClientBuilder, ConfigExt};
use kube::config::Config;
use sha2::{Digest, Sha256};
use tower::{BoxError, ServiceExt};

use crate::cluster::connect::token::TokenFile;
use crate::cluster::source::{ApiSource, ConnectError};

/// Where a pod finds the credentials of its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A server that swallows packets is given up after this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer that vanished without a word is noticed by the kernel: probes after this much silence, …
const KEEPALIVE: Duration = Duration::from_secs(30);
/// … and bytes that stay unacknowledged for this long end the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The read buffer of a connection. Four of them live as long as we do.
const READ_BUFFER_MAX: usize = 128 << 10;

/// What the process sees around it.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `KUBERNETES_SERVICE_HOST`
    pub service_host: Option<String>,
    /// `KUBERNETES_SERVICE_PORT`
    pub service_port: Option<String>,
    /// The folder with `token` and `ca.crt`.
    pub account: PathBuf,
    /// `KUBECONFIG`: files, the first to name something wins.
    pub kubeconfig: Option<OsString>,
    /// The home folder.
    pub home: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            service_host: text("KUBERNETES_SERVICE_HOST"),
            service_port: text("KUBERNETES_SERVICE_PORT"),
            account: ACCOUNT.into(),
            kubeconfig: std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()),
            home: std::env::home_dir(),
        }
    }
}

/// Everything needed to talk to an API server.
#[derive(Debug)]
pub struct Connection {
    source: ApiSource,
    around: Surroundings,
    config: Config,
    token: Option<TokenFile>,
    host: String,
}

impl Connection {
    /// Reads the files that a source names.
    pub fn of(source: &ApiSource, around: &Surroundings) -> Result<Self, ConnectError> {
        let mut config = config::of(source, around)?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // The watch has its own rules for trying again; hidden retries would only delay them.
        config.default_retry = false;
        // Without TLS nothing is verified; kube would still load the system's CA certificates, which a bare image
        // does not have.
        config.accept_invalid_certs |= config.cluster_url.scheme_str() == Some("http");
        // kube reads a token file once a minute, and once at the start only if it ends in a line feed; see `TokenFile`.
        let inline = config.auth_info.token.is_some();
        let token = match config.auth_info.token_file.take() {
            Some(path) if !inline => Some(TokenFile::open(path.into())?),
            _ => None,
        };
        let host = config
            .cluster_url
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default();
        if host.is_empty() {
            return Err(ConnectError(format!(
                "`{}` names no API server",
                config.cluster_url
            )));
        }
        let connection = Self {
            source: source.clone(),
            around: around.clone(),
            config,
            token,
            host,
        };
        // To look at the certificates of a program, kube runs it. It is not waited for here.
        if !connection.runs_a_program() {
            connection.check_certificates()?;
        }
        Ok(connection)
    }

    /// The same, from what the files hold now.
    pub(crate) fn again(&self) -> Result<Self, ConnectError> {
        Self::of(&self.source, &self.around)
    }

    /// Whether making a client runs a program that a kubeconfig names, which may take any time.
    pub(crate) fn runs_a_program(&self) -> bool {
        self.config.auth_info.exec.is_some() || self.config.auth_info.auth_provider.is_some()
    }

    /// Host and port of the API server, as metrics and log lines name it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What this API server differs from another in: its address, and the authority that it is known by. Many clusters
    /// have theirs at 10.96.0.1.
    pub(crate) fn server_key(&self) -> String {
        let mut authority = Sha256::new();
        let inline = self.config.root_cert.iter().flatten();
        inline.for_each(|certificate| authority.update(certificate));
        if let Some(path) = &self.config.root_cert_file {
            // It was read a moment ago, when it was checked.
            authority.update(std::fs::read(path).unwrap_or_default());
        }
        format!("{} {:x}", self.config.cluster_url, authority.finalize())
    }

    /// Certificates and keys are looked at before the first connection, so that a start or a reload can fail for them.
    fn check_certificates(&self) -> Result<(), ConnectError> {
        self.config
            .rustls_https_connector_with_connector(connector())
            .map(drop)
            .map_err(|error| {
                ConnectError(format!(
                    "credentials for the API server `{}`: {}",
                    self.host,
                    chain(&error)
                ))
            })
    }

    /// Makes a client. It belongs to the runtime that this is called on: its queue has a task there.
    ///
    /// May run the credential plugin that a kubeconfig names, and waits for it.
    pub(crate) fn client(&self) -> Result<kube::Client, String> {
        let text = |error: kube::Error| chain(&error);
        let https = self
            .config
            .rustls_https_connector_with_connector(connector())
            .map_err(text)?;
        let http = HttpClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(1)
            .http1_max_buf_size(READ_BUFFER_MAX)
            .build(https)
            .map_err(BoxError::from);
        let builder = ClientBuilder::new(http, &*self.config.default_namespace)
            .with_layer(&self.config.base_uri_layer())
            .with_layer(&self.config.extra_headers_layer().map_err(text)?);
        Ok(match self.config.auth_layer().map_err(text)? {
            Some(auth) => builder.with_layer(&auth).build(),
            None => builder.build(),
        })
    }

    /// The header with the token of a file, read anew.
    pub(crate) fn bearer(&self) -> Option<HeaderValue> {
        self.token.as_ref().map(TokenFile::header)
    }
}

/// TCP to the API server.
fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    // TLS is put around it.
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE / 3));
    connector.set_keepalive_retries(Some(3));
    #[cfg(target_os = "linux")]
    connector.set_tcp_user_timeout(Some(USER_TIMEOUT));
    connector
}

/// An error and what is behind it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = first_line(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let text = first_line(cause);
        // Many errors already end in the text of their cause.
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line
}

/// The same for an error of the client, without its own wrapping.
pub(crate) fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Service(inner) => chain(&**inner),
        other => chain(other),
    }
}

fn first_line(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    // rustls names a page of its manual.
    line.split(": https://")
        .next()
        .unwrap_or_default()
        .trim_end_matches(':')
        .to_owned()
}
