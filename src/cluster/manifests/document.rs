//! One text into objects: documents apart, Lists item by item, each kind into its slim type.
//!
//! A document says what it is anywhere in it, `kubectl` prints `items` before `kind`. So each is read twice: first its
//! outline, kinds alone; then its objects, straight into their types, without a tree between.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::cluster::decode::{DecodeError, LabeledSeed, ObjectSeed};
use crate::cluster::manifests::Filter;
use crate::cluster::objects::{Object, Resource};

/// What a text holds.
pub(super) enum Event {
    /// An object that DNS needs, if its labels are those that are wanted.
    Object { object: Object, wanted: bool },
    /// Something else.
    Ignored {
        api_version: Box<str>,
        kind: Box<str>,
    },
    /// A document that is none.
    Fault(DecodeError),
}

/// Reads a whole text. Every document is tried, so all faults come out at once.
pub(super) fn read(text: &str, is_json: bool, filter: &Filter, each: &mut dyn FnMut(Event)) {
    if is_json {
        if let Err(error) = read_json(text, filter, each) {
            each(Event::Fault(error));
        }
        return;
    }
    for (line, document) in documents(text) {
        if let Err(mut error) = read_yaml(document, filter, each) {
            error.place = error.place.map(|(within, column)| (line + within, column));
            each(Event::Fault(error));
        }
    }
}

fn read_json(text: &str, filter: &Filter, each: &mut dyn FnMut(Event)) -> Result<(), DecodeError> {
    let outline: Outline = serde_json::from_str(text)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    outline.seed(filter, each)?.deserialize(&mut deserializer)?;
    Ok(())
}

fn read_yaml(
    document: &str,
    filter: &Filter,
    each: &mut dyn FnMut(Event),
) -> Result<(), DecodeError> {
    let mut outline = None;
    let read = serde_saphyr::with_deserializer_from_str_with_options(
        document,
        options(document),
        |yaml| {
            outline = Some(Outline::deserialize(yaml)?);
            Ok(())
        },
    );
    read.map_err(|error| yaml_error(&error))?;
    let seed = outline.unwrap_or_default();
    let seed = seed.seed(filter, each).map_err(|error| DecodeError {
        place: Some((1, 1)),
        ..error
    })?;
    serde_saphyr::with_deserializer_from_str_with_options(document, options(document), |yaml| {
        seed.deserialize(yaml)
    })
    .map_err(|error| yaml_error(&error))
}

/// Bounds that grow with the text, whose own size is bounded; aliases keep the strict ones, since they multiply.
fn options(document: &str) -> serde_saphyr::Options {
    let mut budget = serde_saphyr::Budget::default();
    budget.max_events = budget.max_events.max(document.len());
    budget.max_nodes = budget.max_nodes.max(document.len());
    budget.max_total_scalar_bytes = budget.max_total_scalar_bytes.max(document.len());
    serde_saphyr::options! {
        budget: Some(budget),
        with_snippet: false,
    }
}

fn yaml_error(error: &serde_saphyr::Error) -> DecodeError {
    let place = error
        .location()
        .map(|at| (at.line() as usize, at.column() as usize));
    let text = error.to_string();
    // The place stands in a field of its own.
    let text = text.lines().next().unwrap_or_default();
    let text = text.split(" at line ").next().unwrap_or(text);
    let text = text
        .split_once(": ")
        .filter(|(head, _)| head.starts_with("error: line "))
        .map_or(text, |(_, rest)| rest);
    // Advice for the programmer of the reader, not for whoever wrote the file.
    let text = text.split(", set ").next().unwrap_or(text);
    DecodeError {
        place,
        message: text.to_owned(),
    }
}

/// The documents of a text, each with the number of lines before it. `---` at the start of a line parts documents
/// wherever it stands, also within a block of text (YAML 1.2.2, section 9.1.2).
fn documents(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = Some((0, text));
    let next = move || {
        let (line, text) = rest?;
        let mut at = 0;
        for (number, content) in text.split_inclusive('\n').enumerate() {
            let marker = content.strip_prefix("---");
            if number > 0
                && marker.is_some_and(|after| {
                    after.trim_end().is_empty() || after.starts_with([' ', '\t'])
                })
            {
                let (document, after) = text.split_at(at);
                rest = Some((line + number, after));
                return Some((line, document));
            }
            at += content.len();
        }
        rest = None;
        Some((line, text))
    };
    std::iter::from_fn(next).filter(|(_, document)| has_content(document))
}

fn has_content(document: &str) -> bool {
    document.lines().any(|line| {
        let line = line.trim();
        !(line.is_empty() || line.starts_with('#') || line == "---" || line == "...")
    })
}

/// What a document says it is. Whatever else is in it may have any shape.
#[derive(Default)]
struct Outline {
    api_version: Box<str>,
    kind: Box<str>,
    items: Vec<Self>,
}

impl Outline {
    fn resource(&self) -> Option<Resource> {
        match (&*self.api_version, &*self.kind) {
            ("v1", "Namespace") => Some(Resource::Namespaces),
            ("v1", "Service") => Some(Resource::Services),
            ("v1", "Pod") => Some(Resource::Pods),
            ("discovery.k8s.io/v1", "EndpointSlice") => Some(Resource::EndpointSlices),
            ("multicluster.x-k8s.io/v1alpha1", "ServiceImport") => Some(Resource::ServiceImports),
            _ => None,
        }
    }

    fn seed<'f>(
        self,
        filter: &'f Filter,
        each: &'f mut dyn FnMut(Event),
    ) -> Result<DocumentSeed<'f>, DecodeError> {
        if self.kind.is_empty() || self.api_version.is_empty() {
            return Err(DecodeError {
                place: None,
                message: "a document needs `apiVersion` and `kind`".to_owned(),
            });
        }
        Ok(DocumentSeed {
            outline: self,
            filter,
            each,
        })
    }

    /// The items of a `ServiceList` need not say what they are.
    fn item(&mut self, index: usize) -> Self {
        let mut item = self
            .items
            .get_mut(index)
            .map(std::mem::take)
            .unwrap_or_default();
        if item.kind.is_empty() {
            item.kind = self.kind.strip_suffix("List").unwrap_or_default().into();
            item.api_version = self.api_version.clone();
        }
        item
    }
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OutlineVisitor)
    }
}

struct OutlineVisitor;

impl<'de> Visitor<'de> for OutlineVisitor {
    type Value = Outline;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline, A::Error> {
        let mut outline = Outline::default();
        while let Some(field) = map.next_key::<Field>()? {
            match field {
                Field::ApiVersion => outline.api_version = map.next_value::<Loose>()?.text,
                Field::Kind => outline.kind = map.next_value::<Loose>()?.text,
                Field::Items => outline.items = map.next_value::<Loose>()?.items,
                Field::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(outline)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Field {
    ApiVersion,
    Kind,
    Items,
    #[serde(other)]
    Other,
}

/// A text, a row of outlines, or anything else, which is empty.
#[derive(Default)]
struct Loose {
    text: Box<str>,
    items: Vec<Outline>,
    outline: Outline,
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Loose, E> {
        Ok(Loose {
            text: text.into(),
            ..Loose::default()
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Loose, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Self::Value>()? {
            items.push(item.outline);
        }
        Ok(Loose {
            items,
            ..Loose::default()
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Loose, A::Error> {
        Ok(Loose {
            outline: OutlineVisitor.visit_map(map)?,
            ..Loose::default()
        })
    }

    fn visit_unit<E: de::Error>(self) -> Result<Loose, E> {
        Ok(Loose::default())
    }

    fn visit_none<E: de::Error>(self) -> Result<Loose, E> {
        Ok(Loose::default())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Loose, E> {
        Ok(Loose::default())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Loose, E> {
        Ok(Loose::default())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Loose, E> {
        Ok(Loose::default())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Loose, E> {
        Ok(Loose::default())
    }
}

/// Reads what an outline promises.
struct DocumentSeed<'f> {
    outline: Outline,
    filter: &'f Filter,
    each: &'f mut dyn FnMut(Event),
}

impl<'de> DeserializeSeed<'de> for DocumentSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if let Some(resource) = self.outline.resource() {
            let selector = self.filter.of(resource);
            let (object, wanted) = if selector.takes_all() {
                (ObjectSeed(resource).deserialize(deserializer)?, true)
            } else {
                let (object, labels) = LabeledSeed(resource).deserialize(deserializer)?;
                // A label of `null` is an empty one to the API server.
                let label = |key: &str| labels.get(key).map(|text| text.as_deref().unwrap_or(""));
                let wanted = selector.takes(label);
                (object, wanted)
            };
            (self.each)(Event::Object { object, wanted });
            return Ok(());
        }
        if self.outline.kind.ends_with("List") {
            return deserializer.deserialize_map(self);
        }
        deserializer.deserialize_ignored_any(IgnoredAny)?;
        (self.each)(Event::Ignored {
            api_version: self.outline.api_version,
            kind: self.outline.kind,
        });
        Ok(())
    }
}

/// A List: its items in turn.
impl<'de> Visitor<'de> for DocumentSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key::<Field>()? {
            match field {
                Field::Items => map.next_value_seed(ItemsSeed(&mut self))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct ItemsSeed<'s, 'f>(&'s mut DocumentSeed<'f>);

impl<'de> DeserializeSeed<'de> for ItemsSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // An empty list may be `null`.
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for ItemsSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row of objects")
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for index in 0.. {
            let outline = self.0.outline.item(index);
            let item = DocumentSeed {
                outline,
                filter: self.0.filter,
                each: &mut *self.0.each,
            };
            if items.next_element_seed(item)?.is_none() {
                break;
            }
        }
        Ok(())
    }
}
