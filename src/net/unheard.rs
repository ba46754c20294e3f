//! Datagrams that the kernel threw away on their way out without telling who sent them.
//!
//! Where a queueing discipline has no room, `sendmsg` says ENOBUFS only to a socket that also wants every ICMP error that
//! anyone cares to send it (`IP_RECVERR`). Ours must not want those. So what is lost there is known to the kernel alone,
//! which counts it for the network namespace: for a Pod that is its own, on a host that of all programs.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use crate::telemetry::exposition::{Draft, Kind};

const NAME: &str = "fingerpost_udp_kernel_send_drops_total";
const HELP: &str =
    "UDP datagrams of all programs in this network namespace that the kernel had no room to send";

/// `fingerpost_udp_kernel_send_drops_total`, read when it is asked for.
pub(in crate::net) struct Unheard(Desc);

impl Unheard {
    pub(in crate::net) fn new() -> Result<Self, prometheus::Error> {
        Desc::new(NAME.into(), HELP.into(), Vec::new(), Default::default()).map(Self)
    }
}

impl Collector for Unheard {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0]
    }

    /// Nothing where the kernel does not say.
    fn collect(&self) -> Vec<MetricFamily> {
        let Some(ipv4) = fs::read_to_string("/proc/self/net/snmp")
            .ok()
            .and_then(|text| of_ipv4(&text))
        else {
            return Vec::new();
        };
        // Without IPv6 there is no such file.
        let ipv6 = fs::read_to_string("/proc/self/net/snmp6")
            .ok()
            .and_then(|text| of_ipv6(&text));
        let mut draft = Draft::new(NAME, HELP, &[], Kind::Counter);
        draft.count(&[], ipv4.wrapping_add(ipv6.unwrap_or(0)));
        vec![draft.into_family()]
    }
}

/// From `Udp: InDatagrams … SndbufErrors …` and the line of numbers below it.
fn of_ipv4(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let mut both = names.split(' ').zip(numbers.split(' '));
    both.find(|(name, _)| *name == "SndbufErrors")?
        .1
        .parse()
        .ok()
}

fn of_ipv6(snmp6: &str) -> Option<u64> {
    let number = snmp6
        .lines()
        .find_map(|line| line.strip_prefix("Udp6SndbufErrors"))?;
    number.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_stands_below_its_name() {
        let text = "Tcp: A B\nTcp: 1 2\nUdp: InDatagrams NoPorts SndbufErrors InCsumErrors\nUdp: 7 8 9 10\n\
                    UdpLite: SndbufErrors\nUdpLite: 11\n";
        assert_eq!(of_ipv4(text), Some(9));
        let text = "Udp6RcvbufErrors  \t4\nUdp6SndbufErrors  \t5\nUdpLite6SndbufErrors \t6\n";
        assert_eq!(of_ipv6(text), Some(5));
        for text in ["", "Udp: SndbufErrors\n", "Udp: SndbufErrors\nUdp: x\n"] {
            assert_eq!((of_ipv4(text), of_ipv6(text)), (None, None));
        }
    }
}
