//! What a watch says, whichever way it was encoded.

use crate::cluster::objects::{Meta, Object};

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// An object that exists: added, changed, or named by the list.
    Set(Object),
    /// An object that is gone.
    Deleted(Meta),
    /// Nothing happened up to this version.
    Bookmark {
        /// Where to resume.
        version: Box<str>,
        /// The list is complete; changes follow.
        list_ends: bool,
    },
    /// The watch is over, for this reason.
    Error(Status),
    /// An object that could not be understood, though the event around it could.
    Garbled(String),
    /// A type of event that does not exist yet.
    Unknown,
}

/// The end of a page of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The version of the list.
    pub version: Box<str>,
    /// Asks for the next page; empty after the last one.
    pub next: Box<str>,
}

/// Why the API server refuses something (`metav1.Status`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// A word for programs: `Expired`, `Forbidden`.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// Words for programs, more exact ones: `ResourceVersionTooLarge`.
    pub causes: Vec<String>,
    /// Seconds to wait before the next try.
    pub retry_after: Option<u64>,
}

impl Status {
    /// The version that was asked for lies in the server's future: its data went back in time, or it lags.
    pub fn is_ahead(&self) -> bool {
        self.causes
            .iter()
            .any(|cause| cause == "ResourceVersionTooLarge")
    }
}
