//! What is known of a query: who asks, and the parts of QNAME. Worked out label by label, when somebody wants to read
//! one.

use std::fmt::Write;

use crate::chain::exchange::Exchange;
use crate::plugin::kubernetes::name::{self, Grammar, Place};
use crate::plugin::kubernetes::{Asked, Kubernetes};
use crate::plugin::service::Part;

/// CoreDNS' words.
const PARSE_ERROR: &str = "invalid query name";

impl Kubernetes {
    pub(super) fn write_metadata(
        &self,
        label: &str,
        exchange: &Exchange<'_>,
        value: &mut dyn Write,
    ) -> bool {
        let Some(label) = label.strip_prefix("kubernetes/") else {
            return false;
        };
        let written = match label.strip_prefix("client-") {
            Some(of_client) => self.write_client(of_client, exchange, value),
            None => self
                .asked(exchange.qname(), exchange.qtype())
                .and_then(|asked| self.write_part(label, &asked, value)),
        };
        // A writer that takes no more is no reason to say that there is nothing.
        written.is_some()
    }

    fn write_client(
        &self,
        label: &str,
        exchange: &Exchange<'_>,
        value: &mut dyn Write,
    ) -> Option<std::fmt::Result> {
        let client = self.scope.table().client(exchange.arrival().client.ip())?;
        let text = match label {
            "namespace" => client.namespace(),
            "pod-name" => client.name(),
            _ => client.label(label.strip_prefix("label/")?)?,
        };
        Some(write_escaped(text.as_bytes(), value))
    }

    /// A part of QNAME; empty where it has none of the kind.
    fn write_part(
        &self,
        label: &str,
        asked: &Asked<'_>,
        value: &mut dyn Write,
    ) -> Option<std::fmt::Result> {
        // Names of `multicluster` zones are read as those of this cluster, as in CoreDNS.
        let grammar = if self.zonal {
            Grammar::Zonal
        } else {
            Grammar::Plain
        };
        let place = name::parse(asked.name, asked.split, grammar);
        if matches!(place, Place::Invalid | Place::NameServer | Place::Version) {
            return (label == "parse-error").then(|| value.write_str(PARSE_ERROR));
        }
        let topology = match &place {
            Place::Service(service) => match service.part {
                Part::Zone { zone, .. } => Some(zone),
                _ => None,
            },
            _ => None,
        };
        let mut parts = Parts::of(&asked.name.as_wire()[..asked.split]);
        if topology.is_some() {
            // What stands left of the Service is the zone.
            parts.count = 3;
        }
        let text = match label {
            "kind" => parts.get(0),
            "namespace" => parts.get(1),
            "service" => parts.get(2),
            "endpoint" if parts.count == 4 => parts.get(3),
            "protocol" if parts.count == 5 => without_underscore(parts.get(3)),
            "port-name" if parts.count == 5 => without_underscore(parts.get(4)),
            "endpoint" | "protocol" | "port-name" => &[],
            "zone" if self.zonal => return Some(write_zone(topology.unwrap_or_default(), value)),
            _ => return None,
        };
        Some(write_escaped(text, value))
    }
}

/// The labels left of a zone, from the right: kind, namespace, Service, and two more at most.
struct Parts<'q> {
    labels: [&'q [u8]; 5],
    count: usize,
}

impl<'q> Parts<'q> {
    fn of(mut wire: &'q [u8]) -> Self {
        let mut parts = Self {
            labels: [&[]; 5],
            count: 0,
        };
        while let Some((&length, rest)) = wire.split_first() {
            let (label, rest) = rest.split_at(usize::from(length).min(rest.len()));
            parts.labels.rotate_right(1);
            parts.labels[0] = label;
            parts.count += 1;
            wire = rest;
        }
        parts
    }

    fn get(&self, index: usize) -> &'q [u8] {
        if index < self.count {
            self.labels[index]
        } else {
            &[]
        }
    }
}

fn without_underscore(label: &[u8]) -> &[u8] {
    label.strip_prefix(b"_").unwrap_or(label)
}

/// Labels in wire form, with dots between them.
fn write_zone(mut wire: &[u8], value: &mut dyn Write) -> std::fmt::Result {
    while let Some((&length, rest)) = wire.split_first() {
        let (label, rest) = rest.split_at(usize::from(length).min(rest.len()));
        write_escaped(label, value)?;
        if !rest.is_empty() {
            value.write_char('.')?;
        }
        wire = rest;
    }
    Ok(())
}

/// What is not a printable character is escaped as in names (RFC 1035, section 5.1), so that none can forge a log line.
fn write_escaped(octets: &[u8], value: &mut dyn Write) -> std::fmt::Result {
    octets.iter().try_for_each(|&octet| match octet {
        b'"' | b'\\' => write!(value, "\\{}", char::from(octet)),
        0x21..=0x7e => value.write_char(char::from(octet)),
        _ => write!(value, "\\{octet:03}"),
    })
}
