//! What a line says: text with placeholders.
//!
//! | placeholder | value |
//! |---|---|
//! | `{type}` `{class}` `{name}` | the question; the name in lower case |
//! | `{proto}` `{remote}` `{port}` `{local}` | how it came; IPv6 addresses in brackets |
//! | `{size}` `{>id}` `{>opcode}` `{>do}` `{>bufsize}` | the query; the largest reply it allows |
//! | `{rcode}` `{>rflags}` `{rsize}` | the reply; `-`, `-` and 0 if none was sent |
//! | `{duration}` | seconds since the query was received |
//! | `{/LABEL}` | metadata; `-` if there is none |
//!
//! Everything else stands for itself, unknown placeholders too. Names are escaped, so no name can forge a line.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use itoa::Buffer as Number;

use crate::chain::exchange::Exchange;
use crate::wire::HEADER_LEN;
use crate::wire::code::RecordType;
use crate::wire::record::{RecordRef, expand_name};
use crate::wire::writer::ReplyWriter;

/// CoreDNS' common format.
pub(in crate::plugin::log) const COMMON: &str = r#"{remote}:{port} - {>id} "{type} {class} {name} {proto} {size} {>do} {>bufsize}" {rcode} {>rflags} {rsize} {duration}"#;

/// CoreDNS' combined format: the common one, and the opcode.
pub(in crate::plugin::log) const COMBINED: &str = r#"{remote}:{port} - {>id} "{type} {class} {name} {proto} {size} {>do} {>bufsize}" {rcode} {>rflags} {rsize} {duration} "{>opcode}""#;

/// A format, taken apart once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plugin::log) struct Format(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Value),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Type,
    Class,
    Name,
    Proto,
    Remote,
    Port,
    Local,
    Size,
    Id,
    Opcode,
    DnssecOk,
    ReplyMax,
    Rcode,
    ReplyFlags,
    ReplySize,
    Duration,
    Metadata(Box<str>),
}

impl Value {
    fn from_placeholder(text: &str) -> Option<Self> {
        Some(match text {
            "{type}" => Self::Type,
            "{class}" => Self::Class,
            "{name}" => Self::Name,
            "{proto}" => Self::Proto,
            "{remote}" => Self::Remote,
            "{port}" => Self::Port,
            "{local}" => Self::Local,
            "{size}" => Self::Size,
            "{>id}" => Self::Id,
            "{>opcode}" => Self::Opcode,
            "{>do}" => Self::DnssecOk,
            "{>bufsize}" => Self::ReplyMax,
            "{rcode}" => Self::Rcode,
            "{>rflags}" => Self::ReplyFlags,
            "{rsize}" => Self::ReplySize,
            "{duration}" => Self::Duration,
            _ => {
                let label = text.strip_prefix("{/")?.strip_suffix('}')?;
                Self::Metadata(label.into())
            }
        })
    }
}

impl Format {
    /// Takes a format apart; `{common}` and `{combined}` stand for those.
    pub(in crate::plugin::log) fn parse(text: &str) -> Self {
        let text = text
            .replace("{common}", COMMON)
            .replace("{combined}", COMBINED);
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text.as_str();
        // From each closing brace back to the last opening one, so that `{ {type} }` works.
        while let Some(close) = rest.find('}') {
            let (head, tail) = rest.split_at(close + 1);
            let open = head.rfind('{').unwrap_or(head.len());
            match Value::from_placeholder(&head[open..]) {
                None => literal.push_str(head),
                Some(value) => {
                    literal.push_str(&head[..open]);
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Value(value));
                }
            }
            rest = tail;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Self(parts)
    }

    /// Appends the line of a reply.
    pub(in crate::plugin::log) fn write(&self, line: &mut String, exchange: &Exchange<'_>) {
        for part in &self.0 {
            match part {
                Part::Text(text) => line.push_str(text),
                // Writing to a string cannot fail.
                Part::Value(value) => drop(value.write(line, exchange)),
            }
        }
    }
}

impl Value {
    fn write(&self, line: &mut String, exchange: &Exchange<'_>) -> std::fmt::Result {
        let (query, arrival) = (exchange.query, exchange.arrival());
        let is_sent = !exchange.state.dropped;
        match self {
            Self::Type => write!(line, "{}", exchange.qtype()),
            Self::Class => write!(line, "{}", query.qclass()),
            Self::Name => write!(line, "{}", exchange.qname()),
            Self::Proto => line.write_str(arrival.protocol.as_str()),
            Self::Remote => write_address(line, arrival.client),
            Self::Port => line.write_str(Number::new().format(arrival.client.port())),
            Self::Local => write_address(line, arrival.local),
            Self::Size => line.write_str(Number::new().format(query.message().len())),
            Self::Id => line.write_str(Number::new().format(query.id())),
            // Only queries come this far.
            Self::Opcode => line.write_str("0"),
            Self::DnssecOk => line.write_str(if query.dnssec_ok() { "true" } else { "false" }),
            Self::ReplyMax => line.write_str(Number::new().format(exchange.limit())),
            Self::Rcode if is_sent => match exchange.reply.rcode.mnemonic() {
                Some(text) => line.write_str(text),
                None => write!(line, "{}", exchange.reply.rcode.0),
            },
            Self::ReplyFlags if is_sent => write_flags(line, exchange),
            Self::ReplySize if is_sent => {
                line.write_str(Number::new().format(uncompressed_len(&exchange.reply)))
            }
            Self::ReplySize => line.write_str("0"),
            Self::Rcode | Self::ReplyFlags => line.write_str("-"),
            Self::Metadata(label) if exchange.metadata(label, line) => Ok(()),
            Self::Metadata(_) => line.write_str("-"),
            Self::Duration => write_seconds(line, arrival.received.elapsed()),
        }
    }
}

fn write_address(line: &mut String, address: SocketAddr) -> std::fmt::Result {
    match (address.ip(), address) {
        (IpAddr::V6(ip), SocketAddr::V6(address)) if address.scope_id() != 0 => {
            write!(line, "[{ip}%{}]", address.scope_id())
        }
        (IpAddr::V6(ip), _) => write!(line, "[{ip}]"),
        (IpAddr::V4(ip), _) => {
            for (place, octet) in ip.octets().into_iter().enumerate() {
                line.write_str(if place == 0 { "" } else { "." })?;
                line.write_str(Number::new().format(octet))?;
            }
            Ok(())
        }
    }
}

/// Seconds as CoreDNS writes them: as many decimals as it takes, and no exponent.
fn write_seconds(line: &mut String, time: Duration) -> std::fmt::Result {
    line.write_str(Number::new().format(time.as_secs()))?;
    if time.subsec_nanos() != 0 {
        // The billion in front keeps the zeros.
        let mut digits = Number::new();
        let decimals = &digits.format(1_000_000_000 + time.subsec_nanos())[1..];
        line.write_str(".")?;
        line.write_str(decimals.trim_end_matches('0'))?;
    }
    line.write_str("s")
}

fn write_flags(line: &mut String, exchange: &Exchange<'_>) -> std::fmt::Result {
    let (query, reply) = (exchange.query, &exchange.reply);
    // The cut is still to come.
    let truncated = reply.truncated || exchange.uncut_len() > exchange.limit();
    line.write_str("qr")?;
    for (is_set, flag) in [
        (reply.authoritative, ",aa"),
        (truncated, ",tc"),
        (query.recursion_desired(), ",rd"),
        (reply.recursion_available, ",ra"),
        (reply.authentic_data, ",ad"),
        (query.checking_disabled(), ",cd"),
    ] {
        if is_set {
            line.write_str(flag)?;
        }
    }
    Ok(())
}

/// Octets of the reply with every name in full and no OPT, as CoreDNS counts them.
fn uncompressed_len(reply: &ReplyWriter<'_>) -> usize {
    let mut records = reply.records();
    let question_end = records.position();
    debug_assert!(question_end > HEADER_LEN);
    let mut length = question_end;
    for (_, record) in records.by_ref().flatten() {
        length += record.owner().as_ref().len() + 10 + rdata_len(reply.octets(), &record);
    }
    length
}

/// Octets of RDATA with its names in full: those of the types whose names may be compressed (RFC 3597, section 4).
fn rdata_len(message: &[u8], record: &RecordRef<'_>) -> usize {
    let (names, fixed) = match record.record_type {
        RecordType::NS | RecordType::CNAME | RecordType::PTR | RecordType::DNAME => (1, 0),
        RecordType::MX => (1, 2),
        RecordType::SRV => (1, 6),
        RecordType::SOA => (2, 20),
        _ => return record.end - record.rdata_at,
    };
    // The five numbers of an SOA stand behind its names, those of the others before.
    let mut at = record.rdata_at + if names == 2 { 0 } else { fixed };
    let mut length = fixed;
    for _ in 0..names {
        let Ok((name, end)) = expand_name(message, at) else {
            return record.end - record.rdata_at;
        };
        length += name.as_ref().len();
        at = end;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_as_a_float_of_seconds_would_be() {
        for nanoseconds in [
            0,
            1,
            10,
            999,
            12_345,
            250_000,
            1_000_000,
            999_999_999,
            1_000_000_000,
            1_500_000_000,
            61_020_030_040,
        ] {
            let time = Duration::from_nanos(nanoseconds);
            let mut line = String::new();
            write_seconds(&mut line, time).expect("a string takes all");
            assert_eq!(line, format!("{}s", time.as_secs_f64()));
        }
    }
}
