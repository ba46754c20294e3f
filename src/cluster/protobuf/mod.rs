//! Reads the API server's protobuf: a small reader that borrows, and the fields of the objects that DNS needs.
//!
//! ```text
//! frame of a watch:  WatchEvent { 1: type, 2: RawExtension { 1: raw } }
//! raw, and replies:  "k8s\0" Unknown { 1: TypeMeta { 2: kind }, 2: the message itself }
//! ```
//!
//! Field numbers are those of the published `generated.proto` files; what has another number or another wire type than
//! expected is passed over, as the format asks. Nothing is trusted: every length is checked against what is there.

/// The reader.
mod fields;

/// The objects.
mod object;

#[cfg(test)]
mod tests;

use crate::cluster::objects::{Meta, Object, Resource};
pub use crate::cluster::protobuf::fields::Malformed;
use crate::cluster::protobuf::fields::{Fields, Value, text};
use crate::cluster::protobuf::object::{metadata, object};
use crate::cluster::watch::event::{Event, Page, Status};

/// Before every message of its own.
const MAGIC: &[u8] = b"k8s\0";

/// One event of a watch.
pub fn event(resource: Resource, frame: &[u8]) -> Result<Event, Malformed> {
    let (mut kind, mut raw) = ("", &[][..]);
    for field in Fields::of(frame) {
        match field? {
            (1, Value::Bytes(bytes)) => kind = text(bytes)?,
            (2, Value::Bytes(extension)) => {
                for field in Fields::of(extension) {
                    if let (1, Value::Bytes(bytes)) = field? {
                        raw = bytes;
                    }
                }
            }
            _ => {}
        }
    }
    let message = open(raw)?;
    Ok(match kind {
        "ADDED" | "MODIFIED" => match object(resource, message) {
            Ok(object) => Event::Set(object),
            Err(Malformed(why)) => Event::Garbled(why.to_owned()),
        },
        "DELETED" => match metadata(message) {
            Ok(found) => Event::Deleted(found.meta()),
            Err(Malformed(why)) => Event::Garbled(why.to_owned()),
        },
        "BOOKMARK" => {
            let found = metadata(message)?;
            Event::Bookmark {
                version: found.version.into(),
                list_ends: found.annotation(LIST_ENDS)? == Some("true"),
            }
        }
        "ERROR" => Event::Error(status_message(message)?),
        _ => Event::Unknown,
    })
}

/// The annotation of the bookmark that stands between the list and what happens after it.
pub const LIST_ENDS: &str = "k8s.io/initial-events-end";

/// One page of a list, each object handed to `each`, or why it is none: one that cannot be read must not cost the
/// others.
pub fn page(
    resource: Resource,
    reply: &[u8],
    mut each: impl FnMut(Result<Object, Malformed>),
) -> Result<Page, Malformed> {
    items(reply, |item| {
        each(object(resource, item));
        Ok(())
    })
}

/// The same, of which only what identifies each object is read: a `PartialObjectMetadataList`, or a list of the
/// objects themselves from a server that sends no less.
pub fn metadata_page(reply: &[u8], mut each: impl FnMut(Meta)) -> Result<Page, Malformed> {
    items(reply, |item| metadata(item).map(|found| each(found.meta())))
}

fn items(
    reply: &[u8],
    mut each: impl FnMut(&[u8]) -> Result<(), Malformed>,
) -> Result<Page, Malformed> {
    let mut page = Page::default();
    for field in Fields::of(open(reply)?) {
        match field? {
            (1, Value::Bytes(list)) => {
                for field in Fields::of(list) {
                    match field? {
                        (2, Value::Bytes(bytes)) => page.version = text(bytes)?.into(),
                        (3, Value::Bytes(bytes)) => page.next = text(bytes)?.into(),
                        _ => {}
                    }
                }
            }
            (2, Value::Bytes(item)) => each(item)?,
            _ => {}
        }
    }
    Ok(page)
}

/// The Status that a refused request is answered with.
pub fn status(reply: &[u8]) -> Result<Status, Malformed> {
    status_message(open(reply)?)
}

/// The message behind the magic.
fn open(raw: &[u8]) -> Result<&[u8], Malformed> {
    let unknown = raw
        .strip_prefix(MAGIC)
        .ok_or(Malformed("the prefix of a Kubernetes message is missing"))?;
    let mut message = &[][..];
    for field in Fields::of(unknown) {
        if let (2, Value::Bytes(bytes)) = field? {
            message = bytes;
        }
    }
    Ok(message)
}

fn status_message(message: &[u8]) -> Result<Status, Malformed> {
    let mut status = Status::default();
    for field in Fields::of(message) {
        match field? {
            (3, Value::Bytes(bytes)) => status.message = text(bytes)?.to_owned(),
            (4, Value::Bytes(bytes)) => status.reason = text(bytes)?.to_owned(),
            (5, Value::Bytes(details)) => status_details(&mut status, details)?,
            (6, Value::Number(code)) => status.code = u16::try_from(code).unwrap_or(0),
            _ => {}
        }
    }
    Ok(status)
}

fn status_details(status: &mut Status, details: &[u8]) -> Result<(), Malformed> {
    for field in Fields::of(details) {
        match field? {
            (4, Value::Bytes(cause)) => {
                for field in Fields::of(cause) {
                    if let (1, Value::Bytes(bytes)) = field? {
                        status.causes.push(text(bytes)?.to_owned());
                    }
                }
            }
            (5, Value::Number(seconds)) => status.retry_after = Some(seconds),
            _ => {}
        }
    }
    Ok(())
}
