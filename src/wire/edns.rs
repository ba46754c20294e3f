//! OPT: payload size, DO, extended errors (RFC 6891, RFC 8914).

use std::borrow::Cow;

/// EDNS option codes that we read or write.
pub mod option_code {
    /// Cookie (RFC 7873).
    pub const COOKIE: u16 = 10;
    /// Extended error (RFC 8914).
    pub const EXTENDED_ERROR: u16 = 15;
}

/// What a query's OPT says.
#[derive(Clone, Copy, Debug)]
pub struct Edns<'m> {
    /// UDP payload that the client can take, as it said it (values below 512 mean 512).
    pub payload_size: u16,
    /// Version; anything but 0 is answered BADVERS.
    pub version: u8,
    /// The client wants DNSSEC records (RFC 3225).
    pub dnssec_ok: bool,
    /// The options, checked to be well formed.
    pub options: &'m [u8],
}

impl<'m> Edns<'m> {
    /// The options as pairs of code and data.
    pub fn options(&self) -> impl Iterator<Item = (u16, &'m [u8])> {
        let mut rest = self.options;
        std::iter::from_fn(move || {
            let (head, tail) = rest.split_at_checked(4)?;
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let (data, tail) = tail.split_at_checked(length)?;
            rest = tail;
            Some((u16::from_be_bytes([head[0], head[1]]), data))
        })
    }
}

/// Whether OPT RDATA is a row of whole options (RFC 6891, section 6.1.2).
pub fn options_are_whole(mut rdata: &[u8]) -> bool {
    while !rdata.is_empty() {
        let Some((head, tail)) = rdata.split_at_checked(4) else {
            return false;
        };
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let Some(tail) = tail.get(length..) else {
            return false;
        };
        rdata = tail;
    }
    true
}

/// The COOKIE option of a reply, in wire form: the client's cookie of 8 octets and ours of 16 (RFC 9018, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieOption([u8; 28]);

impl CookieOption {
    /// Both cookies, one after the other.
    pub fn new(cookies: [u8; 24]) -> Self {
        let mut option = [0; 28];
        option[..2].copy_from_slice(&option_code::COOKIE.to_be_bytes());
        option[3] = 24;
        option[4..].copy_from_slice(&cookies);
        Self(option)
    }

    /// As it stands in an OPT.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }
}

/// An extended error (RFC 8914).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtendedError {
    /// INFO-CODE.
    pub code: u16,
    /// EXTRA-TEXT; may be empty.
    pub text: Cow<'static, str>,
}

impl ExtendedError {
    /// 3: Stale Answer.
    pub const STALE_ANSWER: u16 = 3;
    /// 13: Cached Error.
    pub const CACHED_ERROR: u16 = 13;
    /// 14: Not Ready.
    pub const NOT_READY: u16 = 14;
    /// 15: Blocked.
    pub const BLOCKED: u16 = 15;
    /// 18: Prohibited.
    pub const PROHIBITED: u16 = 18;
    /// 19: Stale NXDOMAIN Answer.
    pub const STALE_NXDOMAIN_ANSWER: u16 = 19;
    /// 20: Not Authoritative.
    pub const NOT_AUTHORITATIVE: u16 = 20;
    /// 21: Not Supported.
    pub const NOT_SUPPORTED: u16 = 21;
    /// 22: No Reachable Authority.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// 23: Network Error.
    pub const NETWORK_ERROR: u16 = 23;
    /// 0: Other.
    pub const OTHER: u16 = 0;

    /// One with a fixed text.
    pub fn new(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}
