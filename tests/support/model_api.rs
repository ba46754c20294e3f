//! An API server with objects and versions that keeps to the rules, and a wire to it that does not: events can be lost
//! or held up.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "each test binary uses a part of it"
)]

use std::collections::BTreeMap;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use fingerpost::cluster::objects::Resource;
use serde_json::{Value, json};

use crate::fake_api::{Answer, Asked, FakeApi};

type Key = (Resource, String, String);

/// What there is at one version.
#[derive(Clone, Default)]
struct State {
    version: u64,
    objects: BTreeMap<Key, Value>,
}

#[derive(Default)]
struct Inner {
    now: State,
    /// Lists are answered from here if there is one: a cache that lags.
    cache: Option<State>,
    watches: Vec<(Resource, Sender<String>)>,
    /// Events that are on their way, in order, while the wire is held up.
    held: Option<Vec<(Resource, String)>>,
    /// Comparisons asked for.
    compared: usize,
    lists: usize,
    refusal: Option<u16>,
}

/// The server, and the wire.
#[derive(Clone, Default)]
pub struct Model(Arc<Mutex<Inner>>);

/// What happens to the event of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Delivers,
    Loses,
}

impl Model {
    /// Serves it.
    pub fn serve(&self) -> FakeApi {
        let model = self.clone();
        FakeApi::start(move |asked| model.answer(asked))
    }

    fn with<T>(&self, with: impl FnOnce(&mut Inner) -> T) -> T {
        with(&mut self.0.lock().unwrap())
    }

    /// Adds or changes an object. Returns its version.
    pub fn set(&self, resource: Resource, object: Value, wire: Wire) -> u64 {
        self.with(|inner| inner.set(resource, object, wire))
    }

    /// The same for many, between which nobody can look.
    pub fn set_all(&self, resource: Resource, objects: Vec<Value>, wire: Wire) {
        self.with(|inner| {
            for object in objects {
                inner.set(resource, object, wire);
            }
        });
    }

    /// Takes an object away.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str, wire: Wire) {
        self.with(|inner| {
            inner.now.version += 10;
            let key = (resource, namespace.to_owned(), name.to_owned());
            let mut object = inner.now.objects.remove(&key).unwrap();
            object["metadata"]["resourceVersion"] = json!(inner.now.version.to_string());
            if wire == Wire::Delivers {
                inner.send(resource, event("DELETED", &object));
            }
        });
    }

    /// Ends every watch, and its connection with it.
    pub fn cut(&self) {
        self.with(|inner| inner.watches.clear());
    }

    /// From now on events stay on the way.
    pub fn hold(&self) {
        self.with(|inner| inner.held = Some(Vec::new()));
    }

    /// What is on the way arrives.
    pub fn release(&self) {
        self.with(|inner| {
            for (resource, line) in inner.held.take().unwrap_or_default() {
                inner.send(resource, line);
            }
            inner.bookmark();
        });
    }

    /// Lists show what there is now, whatever happens next.
    pub fn freeze_lists(&self) {
        self.with(|inner| inner.cache = Some(inner.now.clone()));
    }

    /// An object as it was restored from a backup: with an older version than it had, the rest going on.
    pub fn restore(&self, resource: Resource, mut object: Value, version: u64) {
        self.with(|inner| {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            inner.now.objects.insert(key(resource, &object), object);
        });
    }

    /// Lists are refused from now on, streamed ones are not.
    pub fn refuse_lists(&self, code: u16) {
        self.with(|inner| inner.refusal = Some(code));
    }

    /// How many comparisons were asked for.
    pub fn compared(&self) -> usize {
        self.with(|inner| inner.compared)
    }

    /// How many streamed lists were asked for.
    pub fn lists(&self) -> usize {
        self.with(|inner| inner.lists)
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let (path, query) = asked.uri.split_once('?').unwrap();
        let parameters: BTreeMap<&str, &str> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let parts: Vec<&str> = path.split('/').collect();
        let resource = match *parts.last().unwrap() {
            "namespaces" => Resource::Namespaces,
            "services" => Resource::Services,
            "endpointslices" => Resource::EndpointSlices,
            "serviceimports" => Resource::ServiceImports,
            _ => Resource::Pods,
        };
        self.with(|inner| {
            if parameters.contains_key("watch") {
                return inner.watch(resource, parameters.contains_key("sendInitialEvents"));
            }
            if let Some(code) = inner.refusal {
                return Answer::refusal(code, "no");
            }
            let metadata_only = asked
                .header("accept")
                .unwrap()
                .contains("as=PartialObjectMetadataList");
            inner.compared += usize::from(metadata_only);
            let answer = inner.list(resource, &parameters, metadata_only);
            // The next bookmark does not keep us waiting.
            inner.bookmark();
            answer
        })
    }
}

impl Inner {
    fn set(&mut self, resource: Resource, mut object: Value, wire: Wire) -> u64 {
        self.now.version += 10;
        let version = self.now.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let key = key(resource, &object);
        let kind = match self.now.objects.insert(key, object.clone()) {
            None => "ADDED",
            Some(_) => "MODIFIED",
        };
        if wire == Wire::Delivers {
            self.send(resource, event(kind, &object));
        }
        version
    }

    fn send(&mut self, resource: Resource, line: String) {
        match &mut self.held {
            Some(held) => held.push((resource, line)),
            None => self
                .watches
                .retain(|(of, watch)| *of != resource || watch.send(line.clone()).is_ok()),
        }
    }

    fn bookmark(&mut self) {
        let version = self.now.version.to_string();
        let mark = json!({"metadata": {"resourceVersion": version}});
        for resource in [
            Resource::Namespaces,
            Resource::Services,
            Resource::EndpointSlices,
            Resource::Pods,
            Resource::ServiceImports,
        ] {
            self.send(resource, event("BOOKMARK", &mark));
        }
    }

    fn watch(&mut self, resource: Resource, listing: bool) -> Answer {
        let (sender, lines) = channel();
        if listing {
            self.lists += 1;
            for (_, object) in self.now.objects.iter().filter(|(key, _)| key.0 == resource) {
                sender.send(event("ADDED", object)).unwrap();
            }
            let version = self.now.version.to_string();
            let mark = json!({"metadata": {"resourceVersion": version,
                "annotations": {"k8s.io/initial-events-end": "true"}}});
            sender.send(event("BOOKMARK", &mark)).unwrap();
        }
        self.watches.push((resource, sender));
        Answer::Live(lines)
    }

    fn list(
        &self,
        resource: Resource,
        parameters: &BTreeMap<&str, &str>,
        metadata_only: bool,
    ) -> Answer {
        let state = self.cache.as_ref().unwrap_or(&self.now);
        let fields = parameters.get("fieldSelector").copied().unwrap_or_default();
        let name = fields.strip_prefix("metadata.name%3D");
        let name = name.map(|rest| rest.split("%2C").next().unwrap());
        let items: Vec<Value> = state
            .objects
            .iter()
            .filter(|(key, _)| key.0 == resource && name.is_none_or(|name| key.2 == name))
            .map(|(_, object)| match metadata_only {
                true => json!({"metadata": object["metadata"]}),
                false => object.clone(),
            })
            .collect();
        let list =
            json!({"metadata": {"resourceVersion": state.version.to_string()}, "items": items});
        Answer::json(200, &list.to_string())
    }
}

fn key(resource: Resource, object: &Value) -> Key {
    let text = |field: &str| {
        let value = object["metadata"][field].as_str();
        value.unwrap_or_default().to_owned()
    };
    (resource, text("namespace"), text("name"))
}

fn event(kind: &str, object: &Value) -> String {
    json!({"type": kind, "object": object}).to_string()
}
