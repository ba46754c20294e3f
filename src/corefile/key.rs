//! Server block keys: `[SCHEME://]ZONE[:PORT]`.

use crate::corefile::diagnostic::Span;
use crate::wire::name::Name;

/// How a server block is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// UDP and TCP.
    Dns,
    /// DNS over TLS.
    Tls,
    /// DNS over QUIC.
    Quic,
    /// DNS over HTTPS.
    Https,
    /// DNS over HTTP/3.
    Https3,
    /// gRPC.
    Grpc,
    /// A Unix socket: recognized, never listened on.
    Unix,
}

impl Scheme {
    /// As it is written, without `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::Https => "https",
            Self::Https3 => "https3",
            Self::Grpc => "grpc",
            Self::Unix => "unix",
        }
    }
}

/// One zone of a key. (A CIDR off an octet boundary stands for several.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// How it is reached.
    pub scheme: Scheme,
    /// Its zone in lower case.
    pub zone: Name,
    /// The port it names; none means the default of its scheme.
    pub port: Option<u16>,
    /// Where it stands.
    pub span: Span,
}

/// Reads a zone argument: a scheme and a port are dropped, a CIDR becomes one or more reverse zones.
pub fn parse_zone(
    word: &crate::corefile::tree::Word,
) -> Result<Vec<Name>, crate::corefile::diagnostic::Diagnostic> {
    Name::from_text(&word.text)
        .map(|zone| vec![zone.to_lower()])
        .map_err(|error| {
            crate::corefile::diagnostic::Diagnostic::error(
                word.span,
                format!("`{}` is not a zone", word.text),
                error.to_string(),
            )
        })
}
