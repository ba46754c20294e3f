//! Names and addresses of one hosts file, packed for look-ups.
//!
//! All names stand in one arena, all addresses in one row per family, grouped by name; the indexes hold numbers only.
//! A file with 100,000 lines takes about 7 MB and is read in some ten milliseconds.
//!
//! ```text
//! index: hash of name -> number n
//! name_at[n] -> arena            3 a n a 7 e x a m p l e 0
//! v4.starts[n] .. starts[n + 1]  -> v4.items: 10.0.0.1 10.0.0.2
//! ```

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashTable;

use crate::wire::name::{Name, NameBuf, NameRef};

type Hasher = foldhash::fast::RandomState;

/// What one hosts file says. Lookups allocate nothing.
#[derive(Default)]
pub(in crate::plugin::hosts) struct Table {
    hasher: Hasher,
    arena: Vec<u8>,
    name_at: Vec<u32>,
    names: HashTable<u32>,
    v4: Grouped<Ipv4Addr>,
    v6: Grouped<Ipv6Addr>,
    addresses: Vec<IpAddr>,
    by_address: HashTable<u32>,
    reverse: Grouped<u32>,
    has_wildcards: bool,
}

/// Rows of items, each belonging to a number.
struct Grouped<T> {
    /// One longer than there are numbers; empty if there are no items at all.
    starts: Box<[u32]>,
    items: Box<[T]>,
}

impl<T> Default for Grouped<T> {
    fn default() -> Self {
        Self {
            starts: Box::default(),
            items: Box::default(),
        }
    }
}

impl<T: Copy> Grouped<T> {
    /// Groups pairs of number and item; items of one number keep their order.
    fn of(numbers: usize, mut pairs: Vec<(u32, T)>) -> Self {
        if pairs.is_empty() {
            return Self::default();
        }
        pairs.sort_by_key(|&(number, _)| number);
        let mut starts = vec![0; numbers + 1];
        for &(number, _) in &pairs {
            starts[number as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        Self {
            starts: starts.into(),
            items: pairs.into_iter().map(|(_, item)| item).collect(),
        }
    }

    fn get(&self, number: u32) -> &[T] {
        let number = number as usize;
        match self.starts.get(number..number + 2) {
            Some(bounds) => &self.items[bounds[0] as usize..bounds[1] as usize],
            None => &[],
        }
    }
}

/// What to read of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plugin::hosts) struct Scope {
    /// Names outside these zones are left out.
    pub(in crate::plugin::hosts) origins: Vec<Name>,
    /// Whether addresses are answered with names.
    pub(in crate::plugin::hosts) reverse: bool,
}

impl Table {
    /// Reads lines of an address and its names. What is no such line is left out, as is what no zone of `scope` holds.
    pub(in crate::plugin::hosts) fn parse(text: &[u8], scope: &Scope) -> Self {
        let mut draft = Draft::default();
        for line in text.split(|&octet| octet == b'\n') {
            draft.line(line, scope);
        }
        draft.finish()
    }

    /// The IPv4 addresses of a name in lower case: its own, else those of the wildcard beside it.
    pub(in crate::plugin::hosts) fn ipv4(&self, qname: NameRef<'_>) -> &[Ipv4Addr] {
        self.find(qname, &self.v4)
    }

    /// The IPv6 addresses, likewise.
    pub(in crate::plugin::hosts) fn ipv6(&self, qname: NameRef<'_>) -> &[Ipv6Addr] {
        self.find(qname, &self.v6)
    }

    /// The names of an address, in the order of the file.
    pub(in crate::plugin::hosts) fn names(
        &self,
        address: IpAddr,
    ) -> impl Iterator<Item = NameRef<'_>> {
        let hash = self.hasher.hash_one(address);
        let is_it = |&number: &u32| self.addresses[number as usize] == address;
        let number = self.by_address.find(hash, is_it);
        let row = number.map_or(&[][..], |&number| self.reverse.get(number));
        row.iter().map(|&name| self.name(name))
    }

    /// Addresses and names, each pair counted in both directions, as CoreDNS counts entries.
    pub(in crate::plugin::hosts) fn len(&self) -> usize {
        self.v4.items.len() + self.v6.items.len() + self.reverse.items.len()
    }

    fn find<'t, T: Copy>(&self, qname: NameRef<'_>, rows: &'t Grouped<T>) -> &'t [T] {
        let own = self
            .number(qname)
            .map_or(&[][..], |number| rows.get(number));
        if !own.is_empty() || !self.has_wildcards {
            return own;
        }
        // One extra label only: `*.a.org` stands for `b.a.org`, neither for `c.b.a.org` nor for `a.org`.
        let Some(parent) = qname.parent().filter(|parent| !parent.is_root()) else {
            return own;
        };
        let mut wildcard = NameBuf::new();
        let fits = wildcard.push_label(b"*").is_ok() && wildcard.push_name(parent).is_ok();
        match self.number(wildcard.as_ref()) {
            Some(number) if fits => rows.get(number),
            _ => own,
        }
    }

    fn number(&self, name: NameRef<'_>) -> Option<u32> {
        let wire = name.as_wire();
        let hash = self.hasher.hash_one(wire);
        let is_it = |&number: &u32| self.wire(number).starts_with(wire);
        self.names.find(hash, is_it).copied()
    }

    /// The arena from a name on. Names end themselves, so no name is the beginning of another one.
    fn wire(&self, number: u32) -> &[u8] {
        &self.arena[self.name_at[number as usize] as usize..]
    }

    fn name(&self, number: u32) -> NameRef<'_> {
        NameRef::from_wire(self.wire(number)).expect("only whole names are in the arena")
    }
}

/// A table while it is read.
#[derive(Default)]
struct Draft {
    table: Table,
    v4: Vec<(u32, Ipv4Addr)>,
    v6: Vec<(u32, Ipv6Addr)>,
    reverse: Vec<(u32, u32)>,
}

impl Draft {
    fn line(&mut self, line: &[u8], scope: &Scope) {
        let line = line.split(|&octet| octet == b'#').next().unwrap_or(line);
        let mut words = line
            .split(|octet| octet.is_ascii_whitespace())
            .filter(|word| !word.is_empty());
        let Some(address) = words.next().and_then(address_of) else {
            return;
        };
        for word in words {
            let name = std::str::from_utf8(word)
                .ok()
                .and_then(|text| Name::from_text(text).ok());
            if let Some(name) = name {
                self.entry(address, name.to_lower().as_ref(), scope);
            }
        }
    }

    fn entry(&mut self, address: IpAddr, name: NameRef<'_>, scope: &Scope) {
        let is_inside = |origin: &Name| name.is_at_or_below(origin.as_ref());
        if !scope.origins.iter().any(is_inside) {
            return;
        }
        let Some(number) = self.number_of(name) else {
            return;
        };
        match address {
            IpAddr::V4(address) => self.v4.push((number, address)),
            IpAddr::V6(address) => self.v6.push((number, address)),
        }
        if name.labels().next() == Some(b"*") {
            self.table.has_wildcards = true;
        } else if scope.reverse {
            let address = self.address_number_of(address);
            self.reverse.push((address, number));
        }
    }

    /// None once the arena is full, which takes a file of 4 GiB.
    fn number_of(&mut self, name: NameRef<'_>) -> Option<u32> {
        let table = &mut self.table;
        if let Some(number) = table.number(name) {
            return Some(number);
        }
        let at = u32::try_from(table.arena.len()).ok()?;
        let number = u32::try_from(table.name_at.len()).ok()?;
        table.arena.extend_from_slice(name.as_wire());
        table.name_at.push(at);
        let (arena, name_at, hasher) = (&table.arena, &table.name_at, &table.hasher);
        let hash_of = |&number: &u32| {
            let rest = &arena[name_at[number as usize] as usize..];
            let name = NameRef::from_wire(rest).expect("only whole names are in the arena");
            hasher.hash_one(name.as_wire())
        };
        let hash = table.hasher.hash_one(name.as_wire());
        table.names.insert_unique(hash, number, hash_of);
        Some(number)
    }

    fn address_number_of(&mut self, address: IpAddr) -> u32 {
        let table = &mut self.table;
        let hash = table.hasher.hash_one(address);
        let is_it = |&number: &u32| table.addresses[number as usize] == address;
        if let Some(&number) = table.by_address.find(hash, is_it) {
            return number;
        }
        let number = u32::try_from(table.addresses.len())
            .expect("each address has a name of its own, and those are counted in 32 bits");
        table.addresses.push(address);
        let (addresses, hasher) = (&table.addresses, &table.hasher);
        let hash_of = |&number: &u32| hasher.hash_one(addresses[number as usize]);
        table.by_address.insert_unique(hash, number, hash_of);
        number
    }

    fn finish(self) -> Table {
        let mut table = self.table;
        table.v4 = Grouped::of(table.name_at.len(), self.v4);
        table.v6 = Grouped::of(table.name_at.len(), self.v6);
        table.reverse = Grouped::of(table.addresses.len(), self.reverse);
        table.arena.shrink_to_fit();
        table.name_at.shrink_to_fit();
        table.addresses.shrink_to_fit();
        table
    }
}

/// An address without its zone id; an IPv4-mapped one is IPv4.
pub(in crate::plugin::hosts) fn address_of(word: &[u8]) -> Option<IpAddr> {
    let word = word.split(|&octet| octet == b'%').next()?;
    let address: IpAddr = std::str::from_utf8(word).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        let scope = Scope {
            origins: vec![Name::root()],
            reverse: true,
        };
        Table::parse(text.as_bytes(), &scope)
    }

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    #[test]
    fn a_hundred_thousand_lines_stay_small() {
        let text: String = (0..100_000u32)
            .map(|n| format!("{} h{n}.example\n", Ipv4Addr::from(0x0a00_0000 + n)))
            .collect();
        let table = table(&text);
        assert_eq!(table.len(), 200_000);
        let qname = name("h77777.example");
        assert_eq!(table.ipv4(qname.as_ref()), [Ipv4Addr::new(10, 1, 47, 209)]);
        let octets = table.arena.len()
            + 4 * (table.name_at.len() + table.v4.starts.len() + table.reverse.starts.len())
            + 4 * (table.v4.items.len() + table.reverse.items.len())
            + size_of::<IpAddr>() * table.addresses.len()
            + table.names.allocation_size()
            + table.by_address.allocation_size();
        assert!(octets < 8 << 20, "{octets} octets");
    }

    #[test]
    fn the_same_name_on_several_lines_keeps_the_order_of_the_file() {
        let table = table("10.0.0.2 a b\n10.0.0.9 c\n10.0.0.1 b a\n10.0.0.2 a\n");
        let expected = [[10, 0, 0, 2], [10, 0, 0, 1], [10, 0, 0, 2]].map(Ipv4Addr::from);
        assert_eq!(table.ipv4(name("a").as_ref()), expected);
        let names: Vec<_> = table
            .names([10, 0, 0, 2].into())
            .map(|name| name.to_string())
            .collect();
        assert_eq!(names, ["a.", "b.", "a."]);
    }

    #[test]
    fn what_is_no_entry_is_left_out() {
        let long = "a".repeat(64);
        let table = table(&format!(
            "# 10.0.0.1 comment\n10.0.0.1\nnot.an.address name\n10.0.0.2 {long} a..b ok # c\n\
             \t10.0.0.3\ttabs  and\r\n010.0.0.1 octal\n10.0.0.4 \u{ff}\\300\n"
        ));
        assert_eq!(table.len(), 6);
        assert!(!table.ipv4(name("and").as_ref()).is_empty());
    }
}
