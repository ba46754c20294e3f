//! Reads the API server's JSON: events of a watch, and refusals.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cluster::decode::object_from_json;
use crate::cluster::objects::{Meta, Resource};
use crate::cluster::protobuf::LIST_ENDS;
use crate::cluster::watch::event::{Event, Page, Status};

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Identified {
    metadata: RawMeta,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawMeta {
    name: Box<str>,
    namespace: Box<str>,
    resource_version: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct IdentifiedList {
    metadata: ListMeta,
    items: Option<Vec<Identified>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListMeta {
    resource_version: Box<str>,
    #[serde(rename = "continue")]
    next: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotated {
    metadata: Annotations,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations {
    annotations: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawStatus {
    code: u16,
    reason: String,
    message: String,
    details: Details,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    causes: Vec<Cause>,
    retry_after_seconds: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
}

/// One event of a watch. Refused if the line is no event; an object that is none is an event of its own.
pub(super) fn event(resource: Resource, line: &[u8]) -> Result<Event, serde_json::Error> {
    // Text that is none harms the object it stands in, if that.
    let line = String::from_utf8_lossy(line);
    let raw: RawEvent<'_> = serde_json::from_str(&line)?;
    let object = raw.object.get().as_bytes();
    Ok(match raw.kind.as_ref() {
        "ADDED" | "MODIFIED" => match object_from_json(resource, object) {
            Ok(object) => Event::Set(object),
            Err(error) => Event::Garbled(error.to_string()),
        },
        "DELETED" => match meta(object) {
            Ok(meta) => Event::Deleted(meta),
            Err(error) => Event::Garbled(error.to_string()),
        },
        "BOOKMARK" => {
            let marked: Annotated = serde_json::from_slice(object)?;
            let mark = marked.metadata.annotations.get(LIST_ENDS);
            Event::Bookmark {
                version: meta(object)?.resource_version,
                list_ends: mark.is_some_and(|value| value == "true"),
            }
        }
        "ERROR" => Event::Error(status(object)?),
        _ => Event::Unknown,
    })
}

fn meta(object: &[u8]) -> Result<Meta, serde_json::Error> {
    serde_json::from_slice::<Identified>(object).map(Identified::meta)
}

impl Identified {
    fn meta(self) -> Meta {
        Meta {
            namespace: self.metadata.namespace,
            name: self.metadata.name,
            resource_version: self.metadata.resource_version,
        }
    }
}

/// A page of a list, of which only what identifies each object is read.
pub(super) fn metadata_page(
    reply: &[u8],
    each: impl FnMut(Meta),
) -> Result<Page, serde_json::Error> {
    let list: IdentifiedList = serde_json::from_slice(reply)?;
    let items = list.items.unwrap_or_default().into_iter();
    items.map(Identified::meta).for_each(each);
    Ok(Page {
        version: list.metadata.resource_version,
        next: list.metadata.next,
    })
}

/// The Status that a refused request is answered with.
pub(super) fn status(reply: &[u8]) -> Result<Status, serde_json::Error> {
    let raw: RawStatus = serde_json::from_slice(reply)?;
    Ok(Status {
        code: raw.code,
        reason: raw.reason,
        message: raw.message,
        causes: raw
            .details
            .causes
            .into_iter()
            .map(|cause| cause.reason)
            .collect(),
        retry_after: raw.details.retry_after_seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(line: &str) -> Event {
        event(Resource::Namespaces, line.as_bytes()).expect("an event")
    }

    #[test]
    fn the_end_of_the_list_is_a_bookmark_with_an_annotation() {
        let bookmark = |annotations: &str| {
            namespaces(&format!(
                r#"{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"7"{annotations}}}}}}}"#
            ))
        };
        let expected = |list_ends| Event::Bookmark {
            version: "7".into(),
            list_ends,
        };
        assert_eq!(bookmark(""), expected(false));
        assert_eq!(
            bookmark(r#","annotations":{"k8s.io/initial-events-end":"true"}"#),
            expected(true)
        );
    }

    #[test]
    fn an_object_that_is_none_is_told_from_a_line_that_is_no_event() {
        let garbled = namespaces(r#"{"type":"ADDED","object":{"metadata":[]}}"#);
        assert!(matches!(garbled, Event::Garbled(_)), "{garbled:?}");
        for line in ["<html>", "{\"type\":\"ADDED\",\"object\":{", ""] {
            assert!(
                event(Resource::Namespaces, line.as_bytes()).is_err(),
                "{line}"
            );
        }
    }

    #[test]
    fn text_that_is_none_hurts_the_object_it_stands_in_alone() {
        for kind in ["ADDED", "MODIFIED", "DELETED"] {
            let surrogate =
                format!(r#"{{"type":"{kind}","object":{{"metadata":{{"name":"a\ud800"}}}}}}"#);
            let garbled = namespaces(&surrogate);
            assert!(matches!(garbled, Event::Garbled(_)), "{garbled:?}");
        }
        let line = b"{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"a\",\"annotations\":{\"x\":\"\xff\"}}}}";
        let event = event(Resource::Namespaces, line);
        assert!(matches!(event, Ok(Event::Set(_))), "{event:?}");
    }

    #[test]
    fn an_error_keeps_what_decides_over_the_next_try() {
        let event = namespaces(
            r#"{"type":"ERROR","object":{"kind":"Status","code":504,"reason":"Timeout","message":"too large",
            "details":{"causes":[{"reason":"ResourceVersionTooLarge"}],"retryAfterSeconds":1}}}"#,
        );
        let Event::Error(status) = event else {
            panic!("{event:?}")
        };
        assert!(status.is_ahead());
        assert_eq!((status.code, status.retry_after), (504, Some(1)));
    }

    #[test]
    fn a_type_of_the_future_is_passed_over() {
        assert_eq!(
            namespaces(r#"{"type":"RENAMED","object":{}}"#),
            Event::Unknown
        );
    }
}
