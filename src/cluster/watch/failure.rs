//! Why a list or a watch failed, and what follows from it.

use std::time::Duration;

use crate::cluster::watch::event::Status;

/// The word for a missing right.
pub(super) const FORBIDDEN: &str = "forbidden";

/// The word for a resource that is not defined.
pub(super) const ABSENT: &str = "absent";

/// Why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The credentials cannot be used: a plugin of a kubeconfig failed, say.
    Credentials(String),
    /// No connection, or it broke.
    Unreachable(String),
    /// A connection, and then nothing.
    Silent {
        /// How long we waited.
        after: Duration,
        /// On an open watch, whose bookmarks should have come.
        watching: bool,
    },
    /// The changes since our version are gone (410).
    Expired,
    /// Our version lies in the server's future.
    Ahead,
    /// The server does not know us (401): a token or certificate ran out, mostly.
    Unauthorized(Status),
    /// We may not list and watch (403).
    Forbidden(Status),
    /// The server does not know the resource, which users define (404).
    Absent,
    /// Any other refusal.
    Refused(Status),
    /// What came cannot be understood.
    Garbled(String),
    /// The watch ended well, but at once, or in the middle of the list.
    EndedEarly,
}

impl Failure {
    /// From a Status, in the head of a reply or in the middle of a watch.
    pub(super) fn refused(status: Status) -> Self {
        match status.code {
            _ if status.is_ahead() => Self::Ahead,
            410 => Self::Expired,
            401 => Self::Unauthorized(status),
            403 => Self::Forbidden(status),
            _ => Self::Refused(status),
        }
    }

    /// A word for it: the metric's label, and what log lines are told apart by.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Credentials(_) => "credentials",
            Self::Unreachable(_) => "unreachable",
            Self::Silent { .. } => "silent",
            Self::Expired => "expired",
            Self::Ahead => "ahead",
            Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden(_) => FORBIDDEN,
            Self::Absent => ABSENT,
            Self::Refused(_) => "refused",
            Self::Garbled(_) => "garbled",
            Self::EndedEarly => "ended_early",
        }
    }

    /// The server does not know lists as streams: asked with parameters that it finds invalid.
    pub(super) fn is_no_streamed_list(&self) -> bool {
        matches!(self, Self::Refused(status) if matches!(status.code, 400 | 422))
    }

    /// The server does not speak what we asked for.
    pub(super) fn is_not_acceptable(&self) -> bool {
        matches!(self, Self::Refused(status) if matches!(status.code, 406 | 415))
    }

    /// Going on from the version that we have would not help.
    pub(super) fn needs_list(&self) -> bool {
        match self {
            Self::Expired | Self::Ahead | Self::Garbled(_) => true,
            // Bookmarks come each minute from a server that is well.
            Self::Silent { watching, .. } => *watching,
            _ => false,
        }
    }

    /// Asking the same again would fail again.
    pub(super) fn is_for_good(&self) -> bool {
        match self {
            Self::Forbidden(_) | Self::Garbled(_) => true,
            Self::Refused(status) => {
                (400..500).contains(&status.code) && !matches!(status.code, 408 | 429)
            }
            _ => false,
        }
    }

    /// Whether it concerns the server as a whole, not one resource.
    pub(super) fn is_of_server(&self) -> bool {
        matches!(
            self,
            Self::Credentials(_) | Self::Unreachable(_) | Self::Unauthorized(_)
        )
    }

    /// How long the server wants us to stay away.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(status) => status.retry_after.map(Duration::from_secs),
            _ => None,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Credentials(why) | Self::Unreachable(why) => f.write_str(why),
            Self::Silent {
                after,
                watching: false,
            } => {
                write!(f, "no answer within {} s", after.as_secs())
            }
            Self::Silent {
                after,
                watching: true,
            } => {
                write!(f, "nothing was heard for {} s", after.as_secs())
            }
            Self::Expired => f.write_str("the changes since our version are gone (410)"),
            Self::Ahead => {
                f.write_str("the server is behind our version: its data were restored, or it lags")
            }
            Self::Unauthorized(status) => {
                write!(
                    f,
                    "it does not know us: {} ({})",
                    status.message, status.code
                )
            }
            Self::Absent => f.write_str("the resource is not defined (404)"),
            Self::Forbidden(status) | Self::Refused(status) => {
                write!(f, "{} ({})", status.message, status.code)
            }
            Self::Garbled(why) => write!(f, "the reply cannot be understood: {why}"),
            Self::EndedEarly => f.write_str("the watch ended at once"),
        }
    }
}
