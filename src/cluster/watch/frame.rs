//! Cuts the body of a watch into its events.

/// The longest event that is taken in. An object in etcd has 1.5 MB at most unless its limit was raised; the longest
/// EndpointSlice (1,000 endpoints) has about 260 kB.
pub const FRAME_MAX: usize = 8 << 20;

/// Memory kept between events.
const KEPT: usize = 256 << 10;

/// How events are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A length of four bytes, big-endian, before each (`application/vnd.kubernetes.protobuf;stream=watch`).
    Length,
    /// A line feed after each (`application/json`).
    Line,
}

/// An event longer than [`FRAME_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Collects pieces of a body and lends out whole events.
#[derive(Debug)]
pub struct Frames {
    framing: Framing,
    buffer: Vec<u8>,
    /// Where the next event begins; what lies before it has been lent out.
    start: usize,
    /// How far a line feed has been looked for.
    searched: usize,
}

impl Frames {
    /// For a new body.
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            buffer: Vec::new(),
            start: 0,
            searched: 0,
        }
    }

    /// Takes in the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole event; none until more is pushed.
    pub fn take(&mut self) -> Result<Option<&[u8]>, TooLong> {
        match self.framing {
            Framing::Length => self.next_by_length(),
            Framing::Line => self.next_line(),
        }
    }

    fn next_by_length(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let rest = &self.buffer[self.start..];
        let Some((length, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > FRAME_MAX {
            return Err(TooLong);
        }
        if rest.len() < length {
            return Ok(None);
        }
        let begin = self.start + 4;
        self.start = begin + length;
        self.searched = self.start;
        Ok(Some(&self.buffer[begin..self.start]))
    }

    fn next_line(&mut self) -> Result<Option<&[u8]>, TooLong> {
        loop {
            let unseen = &self.buffer[self.searched..];
            let Some(found) = unseen.iter().position(|&byte| byte == b'\n') else {
                self.searched = self.buffer.len();
                let waiting = self.buffer.len() - self.start;
                return if waiting > FRAME_MAX {
                    Err(TooLong)
                } else {
                    Ok(None)
                };
            };
            let (begin, end) = (self.start, self.searched + found);
            self.start = end + 1;
            self.searched = self.start;
            if end - begin > FRAME_MAX {
                return Err(TooLong);
            }
            if begin < end {
                return Ok(Some(&self.buffer[begin..end]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(events: &[&[u8]], framing: Framing) -> Vec<u8> {
        let mut body = Vec::new();
        for event in events {
            if framing == Framing::Length {
                body.extend((event.len() as u32).to_be_bytes());
            }
            body.extend(*event);
            if framing == Framing::Line {
                body.push(b'\n');
            }
        }
        body
    }

    fn collect(frames: &mut Frames, into: &mut Vec<Vec<u8>>) {
        while let Some(event) = frames.take().unwrap() {
            into.push(event.to_vec());
        }
    }

    #[test]
    fn events_come_out_whole_however_the_body_is_cut() {
        for framing in [Framing::Length, Framing::Line] {
            let events: [&[u8]; 3] = [b"first", b"s", b"the third one"];
            let body = framed(&events, framing);
            for piece in 1..=body.len() {
                let mut frames = Frames::new(framing);
                let mut seen = Vec::new();
                for part in body.chunks(piece) {
                    frames.push(part);
                    collect(&mut frames, &mut seen);
                }
                assert_eq!(seen, events, "{framing:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_cut_event_never_comes_out() {
        for framing in [Framing::Length, Framing::Line] {
            let body = framed(&[b"event"], framing);
            for length in 0..body.len() {
                let mut frames = Frames::new(framing);
                frames.push(&body[..length]);
                assert_eq!(frames.take(), Ok(None));
            }
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_its_bytes_arrive() {
        let mut frames = Frames::new(Framing::Length);
        frames.push(&(FRAME_MAX as u32 + 1).to_be_bytes());
        assert_eq!(frames.take(), Err(TooLong));
    }

    #[test]
    fn a_line_that_never_ends_is_refused() {
        let mut frames = Frames::new(Framing::Line);
        let piece = vec![b'x'; FRAME_MAX / 4];
        let mut outcome = Ok(());
        for _ in 0..6 {
            frames.push(&piece);
            if let Err(refused) = frames.take() {
                outcome = Err(refused);
                break;
            }
        }
        assert_eq!(outcome, Err(TooLong));
    }

    #[test]
    fn memory_of_a_long_event_is_given_back() {
        let mut frames = Frames::new(Framing::Line);
        frames.push(&vec![b'x'; 4 * KEPT]);
        frames.push(b"\n");
        assert!(frames.take().unwrap().is_some());
        frames.push(b"next\n");
        assert!(frames.buffer.capacity() <= KEPT);
        assert_eq!(frames.take(), Ok(Some(&b"next"[..])));
    }

    #[test]
    fn empty_lines_are_passed_over() {
        let mut frames = Frames::new(Framing::Line);
        frames.push(b"\n\nevent\n\n");
        assert_eq!(frames.take(), Ok(Some(&b"event"[..])));
        assert_eq!(frames.take(), Ok(None));
    }
}
