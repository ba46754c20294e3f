//! Why an attempt failed, in the words that CoreDNS' users match on.

use std::fmt;
use std::io;

/// A failed attempt.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    /// `read udp 10.0.0.7:41234->10.0.0.2:53: i/o timeout`.
    pub(super) text: String,
    /// Nothing came in time; else the network said no.
    pub(super) timed_out: bool,
    /// Nothing was sent: there have been too many packets in this second.
    pub(super) spent: bool,
}

impl Trouble {
    pub(super) fn late(text: String) -> Self {
        Self {
            text,
            timed_out: true,
            spent: false,
        }
    }

    pub(super) fn spent(text: String) -> Self {
        Self {
            text,
            timed_out: false,
            spent: true,
        }
    }

    pub(super) fn network(text: String) -> Self {
        Self {
            text,
            timed_out: false,
            spent: false,
        }
    }

    /// What the system said, worded as Go words it: no capital, no number.
    pub(super) fn io(what: fmt::Arguments<'_>, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::network(format!("{what}: EOF"));
        }
        let mut text = error.to_string();
        if let Some(end) = text.find(" (os error") {
            text.truncate(end);
        }
        if let Some(first) = text.get_mut(..1) {
            first.make_ascii_lowercase();
        }
        Self::network(format!("{what}: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_reads_as_in_go() {
        let error = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let trouble = Trouble::io(format_args!("dial tcp 192.0.2.1:53: connect"), &error);
        assert_eq!(
            trouble.text,
            "dial tcp 192.0.2.1:53: connect: connection refused"
        );
        let error = io::ErrorKind::UnexpectedEof.into();
        let trouble = Trouble::io(format_args!("read tcp"), &error);
        assert_eq!(trouble.text, "read tcp: EOF");
    }
}
