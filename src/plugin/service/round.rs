//! The endpoints of a Service one after the other, from a random one on if not all of them can be told.
//!
//! ```text
//! slices   [ 0 1 2 3 ] [ 0 1 2 3 ] [ 0 1 2 3 ]
//! round                      6 7     8 9 …        then   0 1 2 3   4 5
//! ```
//!
//! CoreDNS writes all records and shuffles them, and then cuts. Of 10,000 endpoints a datagram has room for 73, so we
//! write those only; each endpoint is as likely as any other to be among them.

use std::net::IpAddr;
use std::ops::Range;

use crate::cluster::table::{Backend, ServiceView, SliceView};
use crate::plugin::random::random_below;
use crate::plugin::service::{Part, any_port, endpoints_named};
use crate::wire::code::RecordType;
use crate::wire::writer::Owner;

/// Which addresses are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
    Both,
}

impl Family {
    /// What a question for addresses is about.
    pub(super) fn of(qtype: RecordType) -> Self {
        if qtype == RecordType::A {
            Self::V4
        } else {
            Self::V6
        }
    }

    pub(super) fn has(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
            Self::Both => true,
        }
    }

    /// The least octets that an address record takes.
    pub(super) fn record_len(self, owner: Owner<'_>) -> usize {
        // From the second record on, a name is a pointer too; only the root is shorter.
        let owner = match owner {
            Owner::Name(name) => name.len().min(2),
            Owner::Question | Owner::QuestionSuffix(_) | Owner::At(_) => 2,
        };
        owner + 10 + if self == Self::V6 { 16 } else { 4 }
    }

    /// Where they stand in a slice.
    fn places(self, slice: &SliceView) -> Range<usize> {
        match self {
            Self::V4 => 0..slice.v4().len(),
            Self::V6 => slice.v4().len()..slice.len(),
            Self::Both => 0..slice.len(),
        }
    }
}

/// Once around the endpoints of a part.
pub(super) struct Round<'v> {
    view: &'v ServiceView,
    part: Part<'v>,
    family: Family,
    /// The slice and the place in it that come first.
    start: (usize, usize),
}

impl<'v> Round<'v> {
    /// All endpoints, in their order.
    pub(super) fn whole(view: &'v ServiceView, part: Part<'v>) -> Self {
        Self {
            view,
            part,
            family: Family::Both,
            start: (0, 0),
        }
    }

    /// In their order if so many are enough to `fit`, else from a random one on.
    pub(super) fn new(view: &'v ServiceView, part: Part<'v>, family: Family, fit: usize) -> Self {
        let whole = Self {
            family,
            ..Self::whole(view, part)
        };
        if part.asked_endpoint().is_some() {
            return whole;
        }
        let count = whole.slices().map(|(_, slice)| family.places(slice).len());
        let count = count.sum();
        if count <= fit {
            return whole;
        }
        let mut left = random_below(count);
        let start = whole.slices().find_map(|(at, slice)| {
            let places = family.places(slice);
            if left < places.len() {
                return Some((at, places.start + left));
            }
            left -= places.len();
            None
        });
        Self {
            start: start.unwrap_or_default(),
            ..whole
        }
    }

    /// The slices whose endpoints are of the part.
    fn slices(&self) -> impl Iterator<Item = (usize, &'v SliceView)> + use<'v> {
        let part = self.part;
        let slices = self.view.slices.iter().map(AsRef::as_ref).enumerate();
        slices.filter(move |(_, slice): &(usize, &SliceView)| {
            matches!(part, Part::Zone { .. }) || any_port(&slice.ports, part)
        })
    }

    /// Calls `each` for every endpoint, with its place; stops where it says false.
    pub(super) fn walk(&self, mut each: impl FnMut(usize, usize, Backend<'_>) -> bool) {
        if let Some((host, cluster)) = self.part.asked_endpoint() {
            let mut named = endpoints_named(self.view, host, cluster);
            named.all(|(at, index, backend)| {
                !self.family.has(backend.address) || each(at, index, backend)
            });
            return;
        }
        let (first, place) = self.start;
        let mut piece = |(at, slice): (usize, &SliceView), places: Range<usize>| {
            let mut tell = |index| {
                slice
                    .backend(index)
                    .is_none_or(|backend| each(at, index, backend))
            };
            match self.part {
                Part::Zone { zone, .. } => slice
                    .places_in_zone(zone)
                    .filter(|index| places.contains(index))
                    .all(&mut tell),
                _ => { places }.all(&mut tell),
            }
        };
        let places = |slice| self.family.places(slice);
        let from_start = self
            .slices()
            .filter(|&(at, _)| at >= first)
            .all(|(at, slice)| {
                let Range { start, end } = places(slice);
                let start = if at == first { start.max(place) } else { start };
                piece((at, slice), start..end)
            });
        let _ = from_start
            && self
                .slices()
                .take_while(|&(at, _)| at <= first)
                .all(|(at, slice)| {
                    let Range { start, end } = places(slice);
                    let end = if at == first { end.min(place) } else { end };
                    piece((at, slice), start..end)
                });
    }
}
