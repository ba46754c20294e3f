//! The file as octets.
//!
//! ```text
//! magic (20)   format (2)   revision (2)   saved at, seconds since 1970 (8)   key (32)   records   SHA-256 (32)
//! ```
//!
//! Numbers are in network order. The key says which cluster this is; the digest covers everything before it. A file of
//! another format is refused. One of an older revision has records with fewer fields than we would write today: its
//! objects lose their versions, so that the first list looks at each of them again.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::cluster::objects::Object;
use crate::cluster::snapshot::record;

const MAGIC: &[u8; 20] = b"fingerpost snapshot\n";

/// Moves when readers must not understand the file at all.
const FORMAT: u16 = 1;

/// Moves when records gain a field.
const REVISION: u16 = 1;

const HEADER_LEN: usize = MAGIC.len() + 2 + 2 + 8 + KEY_LEN;
const DIGEST_LEN: usize = 32;

/// Octets of a key.
pub const KEY_LEN: usize = 32;

/// Octets of a file that is read or written: 700,000 Services with 10 endpoints each.
pub const SIZE_MAX: usize = 128 << 20;

/// Objects of a file that is read or written; each costs more memory than it has octets.
pub const OBJECTS_MAX: usize = 4 << 20;

/// Octets that are gathered before they are written.
const BUFFER: usize = 64 << 10;

/// Which cluster a file belongs to: a digest of its API server and of what is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub [u8; KEY_LEN]);

impl Key {
    /// The digest of what makes one cluster differ from another.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }
}

/// Writes a file. It is whole only after `finish`.
pub struct Encoder<W> {
    out: W,
    digest: Sha256,
    buffer: Vec<u8>,
    size: usize,
    objects: usize,
}

impl<W: Write> Encoder<W> {
    /// Starts one with the state of this time.
    pub fn new(out: W, key: Key, saved_at: SystemTime) -> Self {
        let since = saved_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut buffer = Vec::with_capacity(BUFFER + BUFFER / 4);
        buffer.extend_from_slice(MAGIC);
        buffer.extend_from_slice(&FORMAT.to_be_bytes());
        buffer.extend_from_slice(&REVISION.to_be_bytes());
        buffer.extend_from_slice(&since.as_secs().to_be_bytes());
        buffer.extend_from_slice(&key.0);
        Self {
            out,
            digest: Sha256::new(),
            buffer,
            size: 0,
            objects: 0,
        }
    }

    /// Adds an object.
    pub fn object(&mut self, object: &Object) -> io::Result<()> {
        record::encode(object, &mut self.buffer);
        self.objects += 1;
        if self.objects > OBJECTS_MAX {
            return Err(io::Error::other(format!(
                "it has more than {OBJECTS_MAX} objects"
            )));
        }
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.size += self.buffer.len();
        if self.size > SIZE_MAX - DIGEST_LEN {
            return Err(io::Error::other(format!(
                "it has more than {} MiB",
                SIZE_MAX >> 20
            )));
        }
        self.digest.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the file. Returns where it went, and its octets.
    pub fn finish(mut self) -> io::Result<(W, usize)> {
        self.flush()?;
        self.out.write_all(&self.digest.finalize())?;
        Ok((self.out, self.size + DIGEST_LEN))
    }
}

/// Why octets are no snapshot for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a snapshot, or of a format that we do not read.
    Unknown(&'static str),
    /// A snapshot, but changed or cut off.
    Corrupt(&'static str),
    /// Of another cluster, or of the same one configured otherwise.
    Foreign,
}

/// A file that was checked from its first octet to its last.
#[derive(Debug)]
pub struct Snapshot<'a> {
    saved_at: SystemTime,
    is_older: bool,
    records: &'a [u8],
}

impl<'a> Snapshot<'a> {
    /// Checks a file. Past this, nothing in it can be wrong.
    pub fn open(octets: &'a [u8], key: Key) -> Result<Self, Refusal> {
        let cut = Refusal::Corrupt("it is cut off");
        let behind = octets
            .strip_prefix(MAGIC)
            .ok_or(Refusal::Unknown("it is no snapshot"))?;
        let (format, _) = behind.split_first_chunk::<2>().ok_or(cut.clone())?;
        if u16::from_be_bytes(*format) != FORMAT {
            return Err(Refusal::Unknown("it has the format of another version"));
        }
        let (content, digest) = octets.split_last_chunk::<DIGEST_LEN>().ok_or(cut.clone())?;
        if Sha256::digest(content)[..] != digest[..] {
            return Err(Refusal::Corrupt("its checksum does not match"));
        }
        let (header, records) = content.split_at_checked(HEADER_LEN).ok_or(cut)?;
        let (fixed, owner) = header.split_at(HEADER_LEN - KEY_LEN);
        if *owner != key.0 {
            return Err(Refusal::Foreign);
        }
        let revision = u16::from_be_bytes([fixed[MAGIC.len() + 2], fixed[MAGIC.len() + 3]]);
        let seconds = fixed
            .last_chunk()
            .map_or(0, |octets| u64::from_be_bytes(*octets));
        let saved_at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let snapshot = Self {
            saved_at: saved_at.ok_or(Refusal::Corrupt("its time is none"))?,
            is_older: revision < REVISION,
            records,
        };
        snapshot.check()?;
        Ok(snapshot)
    }

    fn check(&self) -> Result<(), Refusal> {
        let mut rest = self.records;
        for _ in 0..OBJECTS_MAX {
            if rest.is_empty() {
                return Ok(());
            }
            record::decode(&mut rest).map_err(|fault| Refusal::Corrupt(fault.0))?;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Corrupt("it has too many objects"))
        }
    }

    /// The time that its content is the state of.
    pub fn saved_at(&self) -> SystemTime {
        self.saved_at
    }

    /// Its objects.
    pub fn objects(&self) -> impl Iterator<Item = Object> + 'a {
        let (mut rest, is_older) = (self.records, self.is_older);
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                // It was checked: a record that is wrong cannot come.
                if let Some(mut object) = record::decode(&mut rest).ok()? {
                    if is_older {
                        object.meta_mut().resource_version = Box::default();
                    }
                    return Some(object);
                }
            }
            None
        })
    }
}

#[cfg(test)]
mod tests;
