//! kube's configuration from each kind of source: files are read, nothing else is done.

use std::path::{Path, PathBuf};

use kube::config::{Config, Kubeconfig};

use crate::cluster::connect::{Surroundings, first_line};
use crate::cluster::source::{ApiSource, ConnectError};

/// The configuration that a source describes.
pub(super) fn of(source: &ApiSource, around: &Surroundings) -> Result<Config, ConnectError> {
    match source {
        ApiSource::Kubeconfig { path, context } => {
            from_kubeconfig(read_kubeconfig(path)?, path, context.as_deref())
        }
        ApiSource::Endpoint { url, tls } => from_endpoint(url, tls.as_ref()),
        ApiSource::Default => from_surroundings(around),
    }
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
