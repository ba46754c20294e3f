//! TLS to upstreams (RFC 7858, RFC 8310): whom we trust, what we show, and how a handshake fails in words.
//!
//! Only the strict profile of RFC 8310, section 5: an upstream whose certificate does not fit its name, or its address
//! if it has no name, gets no query. There is no falling back to plain text.
//!
//! Files that were renewed are read again: looked at when a connection is opened, at most once a second, and at each
//! reload. What cannot be read then leaves what was read before in use.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, OtherError, RootCertStore};
use tokio_rustls::{TlsConnector, rustls};

use crate::plugin::BuildError;
use crate::plugin::forward::trouble::Trouble;

/// Octets of a file with certificates or a key.
const FILE_MAX: u64 = 4 << 20;

/// How often the files are looked at, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Upstreams whose sessions are kept for the next handshake.
const SESSIONS_MAX: usize = 64;

/// What `tls` names. Nothing at all means the system's authorities and no certificate of our own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TlsFiles {
    /// Our certificate, and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    /// Who may have signed the upstream's certificate.
    pub(super) authority: Option<PathBuf>,
}

impl TlsFiles {
    /// The same, with relative paths below a folder.
    pub(super) fn below(&self, root: &Path) -> Self {
        let identity = self.identity.as_ref();
        Self {
            identity: identity.map(|(certificate, key)| (root.join(certificate), root.join(key))),
            authority: self.authority.as_ref().map(|path| root.join(path)),
        }
    }

    /// Those that are named.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter();
        identity
            .flat_map(|(certificate, key)| [certificate, key])
            .chain(&self.authority)
            .map(PathBuf::as_path)
    }

    /// What tells a file from the one that replaces it, as far as its folder shows.
    fn stamps(&self) -> Vec<Option<Stamp>> {
        let stamp = |path: &Path| {
            let metadata = path.metadata().ok()?;
            let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
            Some((metadata.ino(), metadata.len(), seconds, nanoseconds))
        };
        self.paths().map(stamp).collect()
    }
}

/// Inode, length, and time of the last change.
type Stamp = (u64, u64, i64, i64);

/// The client's side of TLS, shared by the upstreams that the same files are for.
pub(super) struct Client {
    files: TlsFiles,
    /// What the connection is for (RFC 7301): `dot` or `h2`.
    protocol: &'static [u8],
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ClientConfig>,
    /// Of all that was read. Sessions are kept as long as it stays the same.
    digest: [u8; 32],
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
}

impl Client {
    /// Reads the files. Blocks.
    pub(super) fn new(files: TlsFiles, protocol: &'static [u8]) -> Result<Self, BuildError> {
        let stamps = files.stamps();
        let material = Material::read(&files)?;
        let current = Current {
            digest: material.digest(),
            config: material.config(&files, protocol)?,
            stamps,
            looked: Instant::now(),
        };
        Ok(Self {
            files,
            protocol,
            current: Mutex::new(current),
        })
    }

    /// Reads the files again, and the system's authorities. What has changed counts from the next connection on.
    /// Blocks.
    pub(super) fn refresh(&self) -> Result<(), BuildError> {
        let stamps = self.files.stamps();
        // Whatever comes of it: the same files are not complained of each second.
        self.current().stamps = stamps;
        let material = Material::read(&self.files)?;
        let digest = material.digest();
        if self.current().digest == digest {
            return Ok(());
        }
        let config = material.config(&self.files, self.protocol)?;
        let mut current = self.current();
        (current.config, current.digest) = (config, digest);
        Ok(())
    }

    /// What it was made of.
    pub(super) fn files(&self) -> &TlsFiles {
        &self.files
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the files, if it is time. Blocks.
    fn look(&self) {
        if self.current().stamps == self.files.stamps() {
            return;
        }
        if let Err(error) = self.refresh() {
            tracing::warn!(
                target: "plugin/forward",
                "{error}; the certificates that were read before stay in use"
            );
        }
    }

    async fn config(self: &Arc<Self>) -> Arc<ClientConfig> {
        let is_time = {
            let mut current = self.current();
            let is_time =
                self.files != TlsFiles::default() && current.looked.elapsed() >= LOOK_INTERVAL;
            if is_time {
                current.looked = Instant::now();
            }
            is_time
        };
        if is_time {
            let client = Arc::clone(self);
            // It fails only if the runtime stops.
            let _ = tokio::task::spawn_blocking(move || client.look()).await;
        }
        Arc::clone(&self.current().config)
    }
}

/// TLS to one upstream.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) client: Arc<Client>,
    /// What the upstream's certificate must be for.
    pub(super) name: ServerName<'static>,
}

impl Tls {
    /// Shakes hands over a new connection.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
    ) -> io::Result<Box<TlsStream<TcpStream>>> {
        let connector = TlsConnector::from(self.client.config().await);
        connector
            .connect(self.name.clone(), stream)
            .await
            .map(Box::new)
    }
}

/// What was read, not yet in use.
struct Material {
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    authorities: Vec<CertificateDer<'static>>,
}

impl Material {
    fn read(files: &TlsFiles) -> Result<Self, BuildError> {
        let identity = match &files.identity {
            Some((certificate, key)) => Some((certificates(certificate)?, private_key(key)?)),
            None => None,
        };
        let authorities = match &files.authority {
            Some(path) => certificates(path)?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        Ok(Self {
            identity,
            authorities,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut add = |octets: &[u8]| {
            digest.update(octets.len().to_be_bytes());
            digest.update(octets);
        };
        if let Some((chain, key)) = &self.identity {
            chain.iter().for_each(|certificate| add(certificate));
            add(key.secret_der());
        }
        add(b"");
        self.authorities
            .iter()
            .for_each(|certificate| add(certificate));
        digest.finalize().into()
    }

    fn config(
        self,
        files: &TlsFiles,
        protocol: &'static [u8],
    ) -> Result<Arc<ClientConfig>, BuildError> {
        let fault = |what: String, error: Error| BuildError(format!("{what}: {}", words(&error)));
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(self.authorities);
        match &files.authority {
            Some(path) if added == 0 => {
                let text = format!("`{}` holds no certificate that can be used", path.display());
                return Err(BuildError(text));
            }
            None if added == 0 => tracing::warn!(
                target: "plugin/forward",
                "the system has no certificate authorities, so no upstream over TLS can be trusted; \
                 name a file with `tls` or SSL_CERT_FILE"
            ),
            _ => {}
        }
        // 1.2 and 1.3; there is nothing older in this library.
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| fault("TLS".into(), error))?
            .with_root_certificates(roots);
        let mut config = match (self.identity, &files.identity) {
            (Some((chain, key)), Some((certificate, key_path))) => {
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    let (certificate, key) = (certificate.display(), key_path.display());
                    fault(format!("`{certificate}` with `{key}`"), error)
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    let mut octets = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_MAX).read_to_end(&mut octets))
        .map_err(|error| BuildError(format!("`{}`: {error}", path.display())))?;
    Ok(octets)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    let octets = read(path)?;
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&octets).collect();
    match list {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(BuildError(format!(
            "`{}` holds no certificate",
            path.display()
        ))),
        Err(error) => Err(BuildError(format!("`{}`: {error}", path.display()))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, BuildError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            BuildError(format!("`{}` holds no private key", path.display()))
        }
        error => BuildError(format!("`{}`: {error}", path.display())),
    })
}

/// What went wrong on a connection that may be one over TLS.
pub(super) fn trouble(what: std::fmt::Arguments<'_>, error: &io::Error) -> Trouble {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(inner) => Trouble::network(format!("{what}: {}", words(inner))),
        None => Trouble::io(what, error),
    }
}

/// The error in Go's words where it has some, as CoreDNS' users match on them.
fn words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => format!(
            "tls: failed to verify certificate: x509: {}",
            certificate_words(error)
        ),
        Error::AlertReceived(alert) => {
            // `CertificateRequired` as `certificate required`.
            let mut text = String::from("remote error: tls:");
            for letter in format!("{alert:?}").chars() {
                if letter.is_ascii_uppercase() {
                    text.push(' ');
                }
                text.push(letter.to_ascii_lowercase());
            }
            text
        }
        error => format!("tls: {error}"),
    }
}

fn certificate_words(error: &CertificateError) -> String {
    const UNKNOWN: &str = "certificate signed by unknown authority";
    const OUT_OF_TIME: &str = "certificate has expired or is not yet valid";
    match error {
        CertificateError::UnknownIssuer => UNKNOWN.into(),
        // An authority that was made anew keeps its name, but not its key.
        CertificateError::BadSignature => {
            format!("{UNKNOWN}: one of the same name did not sign it")
        }
        CertificateError::Expired | CertificateError::NotValidYet => OUT_OF_TIME.into(),
        CertificateError::ExpiredContext { time, not_after } => {
            let ago = time.as_secs().saturating_sub(not_after.as_secs());
            format!("{OUT_OF_TIME}: it ended {ago} s ago")
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let until = not_before.as_secs().saturating_sub(time.as_secs());
            format!("{OUT_OF_TIME}: it begins in {until} s")
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let expected = expected.to_str();
            match &presented[..] {
                [] => format!("certificate is not valid for any names, but wanted {expected}"),
                names => format!("certificate is valid for {}, not {expected}", shown(names)),
            }
        }
        // `openssl req -x509` makes such ones unless it is told otherwise. Go takes them.
        CertificateError::Other(OtherError(error)) if error.to_string() == CA_AS_LEAF => {
            "certificate is that of an authority (`CA:TRUE`), not of a server: it has to sign one"
                .into()
        }
        error => error.to_string(),
    }
}

/// What the verifier says of an authority's certificate in a server's place; it has no variant in rustls.
const CA_AS_LEAF: &str = "CaUsedAsEndEntity";

/// The names that a certificate is for, as it says them itself.
fn shown(names: &[String]) -> String {
    const NAMES_MAX: usize = 8;
    // rustls has them as `DnsName("dns.example.org")` and `IpAddress(192.0.2.1)`.
    let bare = |name: &'_ String| {
        let inner = name
            .split_once('(')
            .and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(name).trim_matches('"').to_owned()
    };
    let mut list: Vec<String> = names.iter().take(NAMES_MAX).map(bare).collect();
    if names.len() > NAMES_MAX {
        list.push("...".into());
    }
    list.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::AlertDescription;

    #[test]
    fn errors_read_as_in_go() {
        let name = ServerName::try_from("dns.example.org").unwrap();
        for (error, expected) in [
            (
                Error::InvalidCertificate(CertificateError::UnknownIssuer),
                "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            ),
            (
                Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                    expected: name,
                    presented: vec!["DnsName(\"a.org\")".into(), "IpAddress(192.0.2.1)".into()],
                }),
                "tls: failed to verify certificate: x509: certificate is valid for a.org, 192.0.2.1, not dns.example.org",
            ),
            (
                Error::AlertReceived(AlertDescription::CertificateRequired),
                "remote error: tls: certificate required",
            ),
        ] {
            assert_eq!(words(&error), expected);
        }
    }
}
