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
//! makes one in five minutes), CA files every minute by kube's verifier, so neither needs a restart.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{ClientBuilder, ConfigExt};
use kube::config::{Config, Kubeconfig};
use tower::{BoxError, ServiceExt};

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
    config: Config,
    token: Option<TokenFile>,
    host: String,
}

impl Connection {
    /// Reads the files that a source names.
    pub fn of(source: &ApiSource, around: &Surroundings) -> Result<Self, ConnectError> {
        let mut config = match source {
            ApiSource::Kubeconfig { path, context } => {
                from_kubeconfig(read_kubeconfig(path)?, path, context.as_deref())?
            }
            ApiSource::Endpoint { url, tls } => from_endpoint(url, tls.as_ref())?,
            ApiSource::Default => from_surroundings(around)?,
        };
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
            config,
            token,
            host,
        };
        connection.check_certificates()?;
        Ok(connection)
    }

    /// Host and port of the API server, as metrics and log lines name it.
    pub fn host(&self) -> &str {
        &self.host
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

fn from_endpoint(url: &str, tls: Option<&[PathBuf; 3]>) -> Result<Config, ConnectError> {
    // Without a scheme, credentials decide, as in Kubernetes' own clients.
    let full = if url.contains("://") {
        url.to_owned()
    } else {
        format!("{}://{url}", if tls.is_some() { "https" } else { "http" })
    };
    let parsed: http::Uri = full
        .parse()
        .map_err(|error| ConnectError(format!("`endpoint {url}` is no URL: {error}")))?;
    if !matches!(parsed.scheme_str(), Some("http" | "https")) {
        return Err(ConnectError(format!(
            "`endpoint {url}`: the scheme must be http or https"
        )));
    }
    let mut config = Config::new(parsed);
    if let Some([certificate, key, authority]) = tls {
        for (what, path) in [
            ("certificate", certificate),
            ("key", key),
            ("CA certificate", authority),
        ] {
            readable(what, path)?;
        }
        config.auth_info.client_certificate = Some(certificate.display().to_string());
        config.auth_info.client_key = Some(key.display().to_string());
        config.root_cert_file = Some(authority.clone());
    }
    Ok(config)
}

fn readable(what: &str, path: &Path) -> Result<(), ConnectError> {
    std::fs::File::open(path)
        .map(drop)
        .map_err(|error| ConnectError(format!("the {what} file `{}`: {error}", path.display())))
}

fn from_surroundings(around: &Surroundings) -> Result<Config, ConnectError> {
    if let (Some(host), Some(port)) = (&around.service_host, &around.service_port) {
        return from_service_account(host, port, &around.account);
    }
    let files: Vec<PathBuf> = match (&around.kubeconfig, &around.home) {
        (Some(list), _) => std::env::split_paths(list).collect(),
        (None, Some(home)) => vec![home.join(".kube").join("config")],
        (None, None) => Vec::new(),
    };
    let mut found: Option<(PathBuf, Kubeconfig)> = None;
    for path in files.iter().filter(|path| path.is_file()) {
        let next = read_kubeconfig(path)?;
        found = Some(match found {
            None => (path.clone(), next),
            Some((first, merged)) => {
                let merged = merged.merge(next).map_err(|error| {
                    ConnectError(format!("kubeconfig `{}`: {error}", path.display()))
                })?;
                (first, merged)
            }
        });
    }
    let Some((path, kubeconfig)) = found else {
        return Err(ConnectError(nowhere(&files)));
    };
    from_kubeconfig(kubeconfig, &path, None)
}

/// Neither inside a cluster nor with a kubeconfig: says what was looked for and what to do.
fn nowhere(files: &[PathBuf]) -> String {
    let looked: Vec<String> = files
        .iter()
        .map(|path| format!("`{}`", path.display()))
        .collect();
    let looked = match looked.as_slice() {
        [] => "there is no home folder to look for `.kube/config` in".to_owned(),
        [one] => format!("there is no kubeconfig {one}"),
        several => format!("there is none of the kubeconfigs {}", several.join(", ")),
    };
    format!(
        "no API server: not inside a cluster (KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not both set) \
         and {looked}; write `kubeconfig FILE` or `endpoint URL` into the `kubernetes` block, set KUBECONFIG, or serve \
         object files with `manifests PATH`"
    )
}

fn from_service_account(host: &str, port: &str, folder: &Path) -> Result<Config, ConnectError> {
    let host = match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    };
    let url = format!("https://{host}:{port}");
    let parsed: http::Uri = url.parse().map_err(|error| {
        ConnectError(format!(
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT make no URL: `{url}`: {error}"
        ))
    })?;
    let mut config = Config::new(parsed);
    config.auth_info.token_file = Some(folder.join("token").display().to_string());
    let authority = folder.join("ca.crt");
    match readable("CA certificate", &authority) {
        Ok(()) => config.root_cert_file = Some(authority),
        // As in Kubernetes' own clients.
        Err(error) => {
            tracing::warn!(target: "plugin/kubernetes", "{error}; the system's CA certificates are used instead");
        }
    }
    Ok(config)
}

fn read_kubeconfig(path: &Path) -> Result<Kubeconfig, ConnectError> {
    // kube's error repeats the path and quotes the whole file.
    readable("kubeconfig", path)?;
    Kubeconfig::read_from(path).map_err(|error| {
        ConnectError(format!(
            "kubeconfig `{}`: {}",
            path.display(),
            first_line(&error)
        ))
    })
}

fn from_kubeconfig(
    mut kubeconfig: Kubeconfig,
    path: &Path,
    context: Option<&str>,
) -> Result<Config, ConnectError> {
    let refuse = |what: String| ConnectError(format!("kubeconfig `{}`: {what}", path.display()));
    if let Some(context) = context {
        kubeconfig.current_context = Some(context.to_owned());
    }
    let Some(chosen) = kubeconfig
        .current_context
        .clone()
        .filter(|name| !name.is_empty())
    else {
        return Err(refuse(
            "no `current-context`; name one: `kubeconfig FILE CONTEXT`".to_owned(),
        ));
    };
    let names: Vec<_> = kubeconfig
        .contexts
        .iter()
        .map(|named| named.name.as_str())
        .collect();
    if !names.contains(&chosen.as_str()) {
        let has = match names.as_slice() {
            [] => "it has none".to_owned(),
            names => format!("it has `{}`", names.join("`, `")),
        };
        return Err(refuse(format!("context `{chosen}` does not exist; {has}")));
    }
    let config =
        Config::try_from(kubeconfig.clone()).map_err(|error| refuse(first_line(&error)))?;
    let proxied = kubeconfig.clusters.iter().any(|named| {
        named.cluster.as_ref().is_some_and(|cluster| {
            cluster
                .proxy_url
                .as_deref()
                .is_some_and(|url| !url.is_empty())
                && cluster.server.as_deref().and_then(|url| url.parse().ok())
                    == Some(config.cluster_url.clone())
        })
    });
    if proxied {
        return Err(refuse("`proxy-url` is not built yet".to_owned()));
    }
    Ok(config)
}

/// A token in a file that somebody else renews.
#[derive(Debug)]
struct TokenFile {
    path: PathBuf,
    last: Mutex<HeaderValue>,
}

impl TokenFile {
    fn open(path: PathBuf) -> Result<Self, ConnectError> {
        let header = Self::read(&path).map_err(|error| {
            ConnectError(format!("the token file `{}`: {error}", path.display()))
        })?;
        Ok(Self {
            path,
            last: Mutex::new(header),
        })
    }

    fn read(path: &Path) -> Result<HeaderValue, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let token = text.trim();
        if token.is_empty() {
            return Err("it is empty".to_owned());
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| "it holds something else than a token".to_owned())?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// The token as it is now; the last good one while the file is missing or empty, as it is for a moment when it is
    /// exchanged.
    fn header(&self) -> HeaderValue {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(header) = Self::read(&self.path) {
            *last = header;
        }
        last.clone()
    }
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

fn first_line(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    text.lines()
        .next()
        .unwrap_or_default()
        .trim_end_matches(':')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(contexts: &[&str], current: &str) -> String {
        let contexts: Vec<_> = contexts
            .iter()
            .map(|name| format!("{{name: {name}, context: {{cluster: {name}, user: me}}}}"))
            .collect();
        let named: Vec<_> = ["one", "two"]
            .iter()
            .map(|name| {
                format!("{{name: {name}, cluster: {{server: \"http://{name}.example:6443\"}}}}")
            })
            .collect();
        format!(
            "current-context: \"{current}\"\ncontexts: [{}]\nclusters: [{}]\nusers: [{{name: me, user: {{token: t}}}}]\n",
            contexts.join(","),
            named.join(",")
        )
    }

    fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A CA certificate, valid for a hundred years, whose key nobody has.
    const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUHTsVzdNVreRZrvrgbTMuMr3j9pswCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjIwNDMwMzNaGA8yMTI2MTAyOTA0MzAz
M1owDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKN4
NTJ/twCJj4EZ5omwGmvN67sdq6tT9AdJE/6f+RPmWIJ+liP/1q/fbkBszkNCdSzQ
f88GtNv+cFkBWnxdy36jUzBRMB0GA1UdDgQWBBTokiB5TjOm7dKRQ9XwGUzmYvci
uzAfBgNVHSMEGDAWgBTokiB5TjOm7dKRQ9XwGUzmYvciuzAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIF4Z7Nevti6GVCp3vSl01gBU+gisJxh6KIXc
MJhqQnnWAiEAoNYTkhe0iemp5XNhlEqbCIEe7dpmCl1ieV2MvgzmI28=
-----END CERTIFICATE-----";

    fn refused(source: &ApiSource, around: &Surroundings) -> String {
        Connection::of(source, around).unwrap_err().to_string()
    }

    #[test]
    fn a_kubeconfig_is_read_with_its_current_context_or_the_named_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder, "config", &kubeconfig(&["one", "two"], "one"));
        let host = |context: Option<&str>| {
            let source = ApiSource::Kubeconfig {
                path: path.clone(),
                context: context.map(str::to_owned),
            };
            Connection::of(&source, &Surroundings::default())
                .unwrap()
                .host()
                .to_owned()
        };
        assert_eq!(host(None), "one.example:6443");
        assert_eq!(host(Some("two")), "two.example:6443");
    }

    #[test]
    fn a_context_that_does_not_exist_is_refused_with_those_that_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder, "config", &kubeconfig(&["one", "two"], "one"));
        let source = ApiSource::Kubeconfig {
            path: path.clone(),
            context: Some("tow".into()),
        };
        assert_eq!(
            refused(&source, &Surroundings::default()),
            format!(
                "kubeconfig `{}`: context `tow` does not exist; it has `one`, `two`",
                path.display()
            )
        );
    }

    #[test]
    fn a_kubeconfig_that_is_missing_or_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("nothing");
        let source = ApiSource::Kubeconfig {
            path: missing.clone(),
            context: None,
        };
        let error = refused(&source, &Surroundings::default());
        assert!(
            error.starts_with(&format!(
                "the kubeconfig file `{}`: No such file",
                missing.display()
            )),
            "{error}"
        );
        let path = file(&folder, "config", "clusters: 7\n");
        let source = ApiSource::Kubeconfig {
            path: path.clone(),
            context: None,
        };
        let error = refused(&source, &Surroundings::default());
        assert!(
            error.starts_with(&format!("kubeconfig `{}`: ", path.display())),
            "{error}"
        );
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn a_kubeconfig_without_a_current_context_says_what_to_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder, "config", &kubeconfig(&["one"], ""));
        let source = ApiSource::Kubeconfig {
            path,
            context: None,
        };
        let error = refused(&source, &Surroundings::default());
        assert!(
            error.ends_with("no `current-context`; name one: `kubeconfig FILE CONTEXT`"),
            "{error}"
        );
    }

    #[test]
    fn a_proxy_that_we_would_not_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let text = kubeconfig(&["one", "two"], "one").replace(
            "http://two.example:6443\"",
            "http://two.example:6443\", proxy-url: \"http://proxy:1\"",
        );
        let path = file(&folder, "config", &text);
        let source = |context: &str| ApiSource::Kubeconfig {
            path: path.clone(),
            context: Some(context.into()),
        };
        assert!(Connection::of(&source("one"), &Surroundings::default()).is_ok());
        let error = refused(&source("two"), &Surroundings::default());
        assert!(error.ends_with("`proxy-url` is not built yet"), "{error}");
    }

    #[test]
    fn inside_a_cluster_the_service_account_is_used() {
        let folder = tempfile::tempdir().unwrap();
        file(&folder, "token", "secret\n");
        file(&folder, "ca.crt", AUTHORITY);
        let mut around = Surroundings {
            service_host: Some("10.96.0.1".into()),
            service_port: Some("443".into()),
            account: folder.path().to_owned(),
            // Not looked at: it does not exist.
            kubeconfig: Some("/nowhere".into()),
            home: None,
        };
        let connection = Connection::of(&ApiSource::Default, &around).unwrap();
        assert_eq!(connection.host(), "10.96.0.1:443");
        assert_eq!(connection.bearer().unwrap(), "Bearer secret");
        around.service_host = Some("fd00::1".into());
        assert_eq!(
            Connection::of(&ApiSource::Default, &around).unwrap().host(),
            "[fd00::1]:443"
        );
        file(&folder, "token", "");
        let error = refused(&ApiSource::Default, &around);
        assert!(error.ends_with("token`: it is empty"), "{error}");
        file(&folder, "token", "secret");
        file(&folder, "ca.crt", "no certificate");
        assert!(
            refused(&ApiSource::Default, &around).starts_with("credentials for the API server")
        );
    }

    #[test]
    fn outside_a_cluster_the_kubeconfig_of_the_user_is_used() {
        let folder = tempfile::tempdir().unwrap();
        file(&folder, ".kube/config", &kubeconfig(&["one"], "one"));
        let mut around = Surroundings {
            home: Some(folder.path().to_owned()),
            ..Surroundings::default()
        };
        let host = |around: &Surroundings| {
            Connection::of(&ApiSource::Default, around)
                .unwrap()
                .host()
                .to_owned()
        };
        assert_eq!(host(&around), "one.example:6443");
        let first = file(&folder, "first", &kubeconfig(&["two"], "two"));
        let second = file(&folder, "second", &kubeconfig(&["one"], "one"));
        let missing = folder.path().join("missing");
        around.kubeconfig = Some(std::env::join_paths([&missing, &first, &second]).unwrap());
        assert_eq!(host(&around), "two.example:6443");
    }

    #[test]
    fn with_no_cluster_and_no_kubeconfig_we_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let around = Surroundings {
            home: Some(folder.path().to_owned()),
            ..Surroundings::default()
        };
        let error = refused(&ApiSource::Default, &around);
        for part in [
            "not inside a cluster",
            ".kube/config`",
            "KUBECONFIG",
            "`manifests PATH`",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_endpoint_without_a_scheme_gets_the_one_that_its_credentials_ask_for() {
        let endpoint = |url: &str| ApiSource::Endpoint {
            url: url.into(),
            tls: None,
        };
        let around = Surroundings::default();
        let connection = Connection::of(&endpoint("localhost:8080"), &around).unwrap();
        assert_eq!(connection.config.cluster_url, "http://localhost:8080/");
        assert!(refused(&endpoint("ftp://a"), &around).contains("must be http or https"));
        let missing: PathBuf = "/nowhere/ca.crt".into();
        let tls = Some([missing.clone(), missing.clone(), missing]);
        let source = ApiSource::Endpoint {
            url: "a".into(),
            tls,
        };
        assert!(refused(&source, &around).starts_with("the certificate file `/nowhere/ca.crt`"));
    }
}
