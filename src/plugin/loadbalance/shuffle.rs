//! Shuffles the addresses of a reply where they stand.
//!
//! ```text
//! | CNAME | A 10.0.0.1 | A 10.0.0.2 | A 10.0.0.3 | SRV | AAAA … | AAAA … |
//!         '---------- a run ----------'            '----- a run -----'
//! ```
//!
//! A run is an RRset of addresses that stand in a row. Only RDATA moves, and addresses are what no compression pointer
//! points at: so no name is ever torn apart, aliases stay in front of their targets, and nothing is allocated.

use std::net::IpAddr;

use crate::plugin::random::random_below;
use crate::wire::code::RecordType;
use crate::wire::record::{expand_name, name_end};
use crate::wire::u16_at;

/// An RRset of addresses in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin::loadbalance) struct Run {
    /// Where the owner of the first record starts.
    pub(in crate::plugin::loadbalance) start: usize,
    /// How many records.
    pub(in crate::plugin::loadbalance) count: usize,
    /// Octets of each address: 4 or 16.
    width: usize,
    /// Where the first address stands.
    first: usize,
    /// Where the second one stands; the others follow at the same distance.
    second: usize,
    /// That distance. The first record may be longer, with its owner in full.
    stride: usize,
}

impl Run {
    fn place(&self, index: usize) -> usize {
        match index {
            0 => self.first,
            _ => self.second + (index - 1) * self.stride,
        }
    }

    /// An address of it.
    pub(in crate::plugin::loadbalance) fn address(
        &self,
        octets: &[u8],
        index: usize,
    ) -> Option<IpAddr> {
        let place = self.place(index);
        let rdata = octets.get(place..place + self.width)?;
        match self.width {
            4 => <[u8; 4]>::try_from(rdata).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(rdata).ok().map(IpAddr::from),
        }
    }

    /// Makes two addresses change places.
    pub(in crate::plugin::loadbalance) fn swap(&self, octets: &mut [u8], one: usize, other: usize) {
        let (low, high) = (self.place(one.min(other)), self.place(one.max(other)));
        if low == high {
            return;
        }
        let (front, back) = octets.split_at_mut(high);
        front[low..low + self.width].swap_with_slice(&mut back[..self.width]);
    }

    /// Every order is equally likely (Fisher and Yates).
    pub(in crate::plugin::loadbalance) fn shuffle(&self, octets: &mut [u8]) {
        for left in (2..=self.count).rev() {
            let other = random_below(left);
            self.swap(octets, left - 1, other);
        }
    }

    /// Addresses that `matches` likes go first. In a shuffled run each part stays evenly shuffled.
    pub(in crate::plugin::loadbalance) fn prefer(
        &self,
        octets: &mut [u8],
        from: usize,
        matches: impl Fn(IpAddr) -> bool,
    ) -> usize {
        let mut front = from;
        for index in from..self.count {
            if self.address(octets, index).is_some_and(&matches) {
                self.swap(octets, front, index);
                front += 1;
            }
        }
        front
    }
}

/// Finds runs of two and more among records in a row.
pub(in crate::plugin::loadbalance) struct Runs {
    at: usize,
    left: usize,
}

/// A record as far as a run is concerned.
struct Shape {
    owner_end: usize,
    record_type: RecordType,
    end: usize,
}

impl Shape {
    fn at(octets: &[u8], at: usize) -> Option<Self> {
        let owner_end = name_end(octets, at)?;
        let length = usize::from(u16_at(octets, owner_end + 8)?);
        let shape = Self {
            owner_end,
            record_type: RecordType(u16_at(octets, owner_end)?),
            end: owner_end + 10 + length,
        };
        (shape.end <= octets.len()).then_some(shape)
    }

    fn is_address(&self) -> bool {
        let length = self.end - self.owner_end - 10;
        (self.record_type == RecordType::A && length == 4)
            || (self.record_type == RecordType::AAAA && length == 16)
    }
}

impl Runs {
    /// Among so many records from this place on.
    pub(in crate::plugin::loadbalance) fn new(at: usize, count: u16) -> Self {
        Self {
            at,
            left: usize::from(count),
        }
    }

    /// Where the next record starts; after the last run, where the records end.
    pub(in crate::plugin::loadbalance) fn position(&self) -> usize {
        self.at
    }

    /// The next run. None at the end, or where something is no record.
    pub(in crate::plugin::loadbalance) fn next(&mut self, octets: &[u8]) -> Option<Run> {
        while self.left > 0 {
            let start = self.at;
            let first = Shape::at(octets, start)?;
            self.at = first.end;
            self.left -= 1;
            if !first.is_address() || self.left == 0 {
                continue;
            }
            let second = Shape::at(octets, self.at)?;
            if !same_rrset(octets, (start, &first), (self.at, &second)) {
                continue;
            }
            let (second_start, stride) = (self.at, second.end - self.at);
            let mut count = 1;
            while self.left > 0 && self.continues(octets, second_start, &second) {
                count += 1;
                self.at += stride;
                self.left -= 1;
            }
            return Some(Run {
                start,
                count,
                width: first.end - first.owner_end - 10,
                first: first.owner_end + 10,
                second: second.owner_end + 10,
                stride,
            });
        }
        None
    }

    /// Whether the next record has the octets of `pattern` but for TTL and address.
    fn continues(&self, octets: &[u8], pattern_start: usize, pattern: &Shape) -> bool {
        let owner_and_class = pattern.owner_end + 4 - pattern_start;
        let length_at = pattern.owner_end + 8 - pattern_start;
        let size = pattern.end - pattern_start;
        let Some(next) = octets.get(self.at..self.at + size) else {
            return false;
        };
        let pattern = &octets[pattern_start..pattern_start + size];
        next[..owner_and_class] == pattern[..owner_and_class]
            && next[length_at..length_at + 2] == pattern[length_at..length_at + 2]
    }
}

fn same_rrset(octets: &[u8], one: (usize, &Shape), other: (usize, &Shape)) -> bool {
    let ((one_at, one), (other_at, other)) = (one, other);
    // Type and class, then the length of the RDATA.
    let fixed = |shape: &Shape| &octets[shape.owner_end..shape.owner_end + 4];
    if fixed(one) != fixed(other) || one.end - one.owner_end != other.end - other.owner_end {
        return false;
    }
    if octets[one_at..one.owner_end] == octets[other_at..other.owner_end] {
        return true;
    }
    match (expand_name(octets, one_at), expand_name(octets, other_at)) {
        (Ok((one, _)), Ok((other, _))) => one.as_ref() == other.as_ref(),
        _ => false,
    }
}
