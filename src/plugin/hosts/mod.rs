//! `hosts`: answers A, AAAA and PTR from a hosts file and from lines in the Corefile.
//!
//! ```text
//! PTR       names of the address, in the file then inline; none: next plugin, whatever `fallthrough` says
//! A, AAAA   addresses of the name, likewise; only the other family or another type: NODATA
//!           name unknown: next plugin if `fallthrough` covers it, else SERVFAIL (there is no SOA to deny it with)
//! outside the zones: next plugin
//! ```
//!
//! Nothing is allocated and no lock is taken: a reload swaps the table under the readers.

mod config;
mod file;
mod table;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use crate::chain::exchange::Exchange;
use crate::chain::plugin::{Passes, Plugin, Step};
use crate::plugin::Spec;
use crate::plugin::fallthrough::Fallthrough;
use crate::plugin::hosts::file::HostsFile;
use crate::plugin::hosts::table::Table;
use crate::wire::code::{Rcode, RecordType};
use crate::wire::name::{Name, NameBuf, NameRef};
use crate::wire::reverse;
use crate::wire::writer::{Owner, ReplyWriter};

/// What is known about `hosts`.
pub static SPEC: Spec = Spec {
    name: "hosts",
    summary: "answers A, AAAA and PTR from a hosts file",
    options: config::OPTIONS,
    parse: config::parse,
};

pub(in crate::plugin::hosts) struct Hosts {
    origins: Vec<Name>,
    ttl: u32,
    fallthrough: Option<Fallthrough>,
    fallthrough_unsupported: bool,
    inline: Table,
    file: Arc<HostsFile>,
}

/// What becomes of a question.
enum Verdict {
    Next,
    Unknown,
    Answer,
}

impl Plugin for Hosts {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Replies
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let file = self.file.table();
        let tables = [&**file, &self.inline];
        match self.judge(exchange, tables) {
            Verdict::Next => return Step::Next,
            Verdict::Unknown => exchange.reply.rcode = Rcode::SERVFAIL,
            Verdict::Answer => {
                exchange.reply.authoritative = true;
                let qtype = exchange.qtype();
                let qname = NameBuf::lower_of(exchange.qname());
                self.write(qname.as_ref(), qtype, tables, &mut exchange.reply);
            }
        }
        Step::Answered
    }

    fn may_own(&self) -> bool {
        true
    }

    /// A line that is added or changed counts at once, whatever a cache above holds.
    fn owns(&self, exchange: &Exchange<'_>) -> bool {
        let file = self.file.table();
        matches!(
            self.judge(exchange, [&**file, &self.inline]),
            Verdict::Answer
        )
    }
}

impl Hosts {
    fn judge(&self, exchange: &Exchange<'_>, tables: [&Table; 2]) -> Verdict {
        let qname = exchange.qname();
        if exchange.qtype() == RecordType::PTR
            && let Some(address) = reverse::address_of(qname)
        {
            let is_known = tables
                .iter()
                .any(|table| table.names(address).next().is_some());
            return if is_known {
                Verdict::Answer
            } else {
                Verdict::Next
            };
        }
        let is_inside = |origin: &Name| qname.is_at_or_below(origin.as_ref());
        if exchange.qtype() == RecordType::PTR || !self.origins.iter().any(is_inside) {
            return Verdict::Next;
        }
        let passes_on = || {
            self.fallthrough
                .as_ref()
                .is_some_and(|fallthrough| fallthrough.covers(qname))
        };
        let is_supported = matches!(exchange.qtype(), RecordType::A | RecordType::AAAA);
        if !is_supported && self.fallthrough_unsupported && passes_on() {
            return Verdict::Next;
        }
        let exists =
            |table: &&Table| !table.ipv4(qname).is_empty() || !table.ipv6(qname).is_empty();
        if tables.iter().any(exists) {
            Verdict::Answer
        } else if passes_on() {
            Verdict::Next
        } else {
            Verdict::Unknown
        }
    }

    /// The owner is the QNAME in lower case, as CoreDNS spells it.
    fn write(
        &self,
        qname: NameRef<'_>,
        qtype: RecordType,
        tables: [&Table; 2],
        reply: &mut ReplyWriter<'_>,
    ) {
        let owner = Owner::Name(qname);
        for table in tables {
            match qtype {
                RecordType::A => {
                    for &address in table.ipv4(qname) {
                        reply.a(owner, self.ttl, address);
                    }
                }
                RecordType::AAAA => {
                    for &address in table.ipv6(qname) {
                        reply.aaaa(owner, self.ttl, address);
                    }
                }
                RecordType::PTR => {
                    let address: Option<IpAddr> = reverse::address_of(qname);
                    for name in address.into_iter().flat_map(|address| table.names(address)) {
                        reply.name_record(owner, RecordType::PTR, self.ttl, name);
                    }
                }
                _ => {}
            }
        }
    }
}
