//! What is on its way on one socket, by ID.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::load::report::{Counts, Lost};

/// IDs are given out in turn, so the oldest is always known.
pub struct Waiting {
    /// When each query was sent that has no reply yet, since the start of the run. A place for each ID, or for those that
    /// can be on their way at once.
    sent: Vec<Option<Duration>>,
    next: u16,
    oldest: u16,
    count: usize,
}

impl Waiting {
    /// For so many queries on their way, up to 65,535.
    pub fn new(room: usize) -> Self {
        let places = (room + 1).next_power_of_two().min(1 << 16);
        Self {
            sent: vec![None; places],
            next: 0,
            oldest: 0,
            count: 0,
        }
    }

    /// Queries without a reply.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The ID of the next query.
    pub fn next_id(&self) -> u16 {
        self.next
    }

    /// Notes that it is sent. With no room left the oldest is lost.
    pub fn start(&mut self, now: Duration, counts: &mut Counts) {
        if self.span() == self.sent.len() - 1 {
            self.lose_oldest(counts);
        }
        counts.sent += 1;
        *self.place(self.next) = Some(now);
        self.next = self.next.wrapping_add(1);
        self.count += 1;
    }

    /// Takes a reply.
    pub fn note(&mut self, reply: &[u8], now: Duration, counts: &mut Counts) {
        let [high, low, _, flags, ..] = *reply else {
            counts.strange += 1;
            return;
        };
        let id = u16::from_be_bytes([high, low]);
        let is_given_out = usize::from(id.wrapping_sub(self.oldest)) < self.span();
        match self.place(id).take_if(|_| is_given_out) {
            Some(sent) => {
                self.count -= 1;
                counts.answer(flags & 15, now.saturating_sub(sent));
            }
            None => counts.strange += 1,
        }
    }

    /// Counts what has waited for longer than this as lost.
    pub fn give_up(&mut self, now: Duration, patience: Duration, counts: &mut Counts) {
        while self.oldest != self.next {
            match *self.place(self.oldest) {
                Some(sent) if now.saturating_sub(sent) <= patience => break,
                _ => self.lose_oldest(counts),
            }
        }
    }

    /// From the oldest to the next.
    fn span(&self) -> usize {
        usize::from(self.next.wrapping_sub(self.oldest))
    }

    fn place(&mut self, id: u16) -> &mut Option<Duration> {
        let mask = self.sent.len() - 1;
        &mut self.sent[usize::from(id) & mask]
    }

    fn lose_oldest(&mut self, counts: &mut Counts) {
        if let Some(sent) = self.place(self.oldest).take() {
            counts.lose(Lost {
                client: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
                id: self.oldest,
                sent,
            });
            self.count -= 1;
        }
        self.oldest = self.oldest.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_is_answered_once_or_lost_once() {
        let (mut waiting, mut counts) = (Waiting::new(3), Counts::default());
        let at = Duration::from_millis;
        for time in 0..3 {
            waiting.start(at(time), &mut counts);
        }
        let reply = |id: u16| [id.to_be_bytes(), [0x80, 3]].concat();
        waiting.note(&reply(1), at(5), &mut counts);
        waiting.note(&reply(1), at(6), &mut counts);
        // 5 has the place of 1, and nobody has been given it.
        waiting.note(&reply(5), at(6), &mut counts);
        waiting.note(&[0], at(6), &mut counts);
        assert_eq!((waiting.count(), counts.strange), (2, 3));
        waiting.give_up(at(11), at(10), &mut counts);
        assert_eq!((waiting.count(), counts.lost), (1, 1));
        waiting.note(&reply(0), at(12), &mut counts);
        assert_eq!((waiting.count(), counts.strange), (1, 4));
        waiting.give_up(at(100), at(10), &mut counts);
        assert_eq!((counts.lost, counts.rcodes[3]), (2, 1));
        assert_eq!(counts.sent, counts.lost + counts.times.total());
    }

    #[test]
    fn without_room_the_oldest_is_lost() {
        for (room, places) in [(5, 7), (65_535, 65_535)] {
            let (mut waiting, mut counts) = (Waiting::new(room), Counts::default());
            for _ in 0..=places {
                waiting.start(Duration::ZERO, &mut counts);
            }
            assert_eq!((waiting.count(), counts.lost), (places, 1));
        }
    }
}
