//! Messages as bytes: no sockets, no clock, no plugins.
//!
//! A received message is checked once, by [`query::Query::parse`], and then only borrowed: the name that was asked
//! stays where the kernel put it. A reply grows in one buffer that its worker owns:
//!
//! ```text
//! | header (12) | question, as asked | answer … | authority … | additional … | OPT |
//!                                      ^ ReplyWriter appends; `finish` cuts to the limit and adds OPT
//! ```
//!
//! So every plugin composes the whole reply, and only the last step knows how much of it the client can take.
//! hickory-proto takes over where speed does not matter (`bridge`): rare record types and presentation text.

/// Types, classes, opcodes and rcodes with their mnemonics.
pub mod code;

/// Names: owned, borrowed, and the fixed buffer the fast path uses.
pub mod name;

/// Addresses out of reverse names.
pub mod reverse;

/// A checked view of one received query.
pub mod query;

/// OPT: payload size, DO, extended errors.
pub mod edns;

/// Walking the records of a message.
pub mod record;

/// Writing a reply.
pub mod writer;

/// Octets of a message header (RFC 1035, section 4.1.1).
pub const HEADER_LEN: usize = 12;

/// The largest message that TCP can carry (RFC 1035, section 4.2.2).
pub const MESSAGE_MAX: usize = 65_535;

/// UDP payload without EDNS (RFC 1035, section 4.2.1).
pub const UDP_CLASSIC_MAX: u16 = 512;

/// UDP payload that we send and advertise unless the operator says otherwise (RFC 9715).
pub const UDP_PAYLOAD_DEFAULT: u16 = 1232;

/// Reads a big-endian 16-bit number, if it lies within the message.
pub fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Reads a big-endian 32-bit number, if it lies within the message.
pub fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    let bytes = message.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}
