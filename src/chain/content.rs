//! The whole content of a zone, as the plugin that holds it hands it out for a zone transfer.

use std::net::IpAddr;

use crate::wire::code::RecordType;
use crate::wire::name::{Name, NameRef};
use crate::wire::writer::SoaTimes;

/// What a plugin has of a zone.
pub enum Held {
    /// Nothing: it does not hold a zone of this name.
    Nothing,
    /// It holds the zone, but not all of it yet, or not any more. A part would pass for the whole.
    Unready,
    /// All of it.
    Content(ZoneContent),
}

/// One version of a zone. Making it is cheap; the records are worked out as they are drawn, on a thread that may take
/// its time.
pub struct ZoneContent {
    /// The SERIAL of `soa`. What is drawn may be newer than it, never older.
    pub serial: u32,
    /// The zone's SOA.
    pub soa: ZoneRecord,
    /// Everything but the SOA, each record once, in any order: NS, what is below, and glue.
    pub records: Box<dyn Iterator<Item = ZoneRecord> + Send>,
}

/// One record of class IN.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ZoneRecord {
    /// Its owner.
    pub owner: Name,
    /// TYPE.
    pub record_type: RecordType,
    /// TTL in seconds.
    pub ttl: u32,
    /// RDATA in wire form, names in full.
    pub rdata: Vec<u8>,
}

impl ZoneRecord {
    /// An A or AAAA record.
    pub fn address(owner: NameRef<'_>, ttl: u32, address: IpAddr) -> Self {
        let (record_type, rdata) = match address {
            IpAddr::V4(address) => (RecordType::A, address.octets().to_vec()),
            IpAddr::V6(address) => (RecordType::AAAA, address.octets().to_vec()),
        };
        Self {
            owner: owner.to_name(),
            record_type,
            ttl,
            rdata,
        }
    }

    /// A record whose RDATA is one name: CNAME, NS, PTR.
    pub fn name(
        owner: NameRef<'_>,
        record_type: RecordType,
        ttl: u32,
        target: NameRef<'_>,
    ) -> Self {
        Self {
            owner: owner.to_name(),
            record_type,
            ttl,
            rdata: target.as_wire().to_vec(),
        }
    }

    /// An SRV record.
    pub fn srv(
        owner: NameRef<'_>,
        ttl: u32,
        [priority, weight, port]: [u16; 3],
        target: NameRef<'_>,
    ) -> Self {
        let mut rdata = Vec::with_capacity(6 + target.len());
        for number in [priority, weight, port] {
            rdata.extend_from_slice(&number.to_be_bytes());
        }
        rdata.extend_from_slice(target.as_wire());
        Self {
            owner: owner.to_name(),
            record_type: RecordType::SRV,
            ttl,
            rdata,
        }
    }

    /// A TXT record of one string of at most 255 octets; what is longer is cut.
    pub fn txt(owner: NameRef<'_>, ttl: u32, string: &[u8]) -> Self {
        let string = &string[..string.len().min(255)];
        let mut rdata = vec![u8::try_from(string.len()).expect("cut to 255")];
        rdata.extend_from_slice(string);
        Self {
            owner: owner.to_name(),
            record_type: RecordType::TXT,
            ttl,
            rdata,
        }
    }

    /// An SOA record.
    pub fn soa(
        owner: NameRef<'_>,
        ttl: u32,
        mname: NameRef<'_>,
        rname: NameRef<'_>,
        times: SoaTimes,
    ) -> Self {
        let mut rdata = Vec::with_capacity(mname.len() + rname.len() + 20);
        rdata.extend_from_slice(mname.as_wire());
        rdata.extend_from_slice(rname.as_wire());
        let SoaTimes {
            serial,
            refresh,
            retry,
            expire,
            minimum,
        } = times;
        for number in [serial, refresh, retry, expire, minimum] {
            rdata.extend_from_slice(&number.to_be_bytes());
        }
        Self {
            owner: owner.to_name(),
            record_type: RecordType::SOA,
            ttl,
            rdata,
        }
    }
}
