//! A token that somebody else renews.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use http::HeaderValue;

use crate::cluster::source::ConnectError;

/// A token in a file that somebody else renews.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    last: Mutex<HeaderValue>,
}

impl TokenFile {
    /// Reads it for the first time.
    pub(super) fn open(path: PathBuf) -> Result<Self, ConnectError> {
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
    pub(super) fn header(&self) -> HeaderValue {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(header) = Self::read(&self.path) {
            *last = header;
        }
        last.clone()
    }
}
