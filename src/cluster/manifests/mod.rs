//! The same objects from files: YAML with several documents or JSON, a file or a folder, Lists, what
//! `kubectl get -o yaml` prints.
//!
//! ```text
//! notify --a file changed--> wait for quiet --> read all files --all good--> one list per resource --> ObjectSink
//!                                                    '--any fault--> reported with its place; the last good state stays
//! ```
//!
//! Every load is a relist, and the sink applies it as a difference. Namespaces that are not listed are implied by the
//! objects in them; an object without a namespace belongs to `default`, as `kubectl apply` has it.

mod document;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cluster::ObjectSink;
use crate::cluster::decode::DecodeError;
use crate::cluster::objects::{Meta, Object, Resource};
use crate::cluster::selector::Selector;

/// Octets that one file may have.
pub const FILE_SIZE_MAX: u64 = 64 << 20;

/// Files that one folder may hold.
pub const FILES_MAX: usize = 4096;

/// How long files must be quiet before they are read: an editor writes in several steps.
const QUIET: Duration = Duration::from_millis(50);

/// What is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFault {
    /// Which.
    pub path: PathBuf,
    /// What, and where in it.
    pub error: DecodeError,
}

impl FileFault {
    fn new(path: &Path, message: impl fmt::Display) -> Self {
        Self {
            path: path.to_owned(),
            error: DecodeError {
                place: None,
                message: message.to_string(),
            },
        }
    }
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.error.place.is_some() {
            ":"
        } else {
            ": "
        };
        write!(f, "{}{separator}{}", self.path.display(), self.error)
    }
}

/// Which objects are wanted, by their labels: what the API server would be asked for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `labels`: which Services, EndpointSlices and Pods.
    pub labels: Selector,
    /// `namespace_labels`: which Namespaces and ServiceImports.
    pub namespace_labels: Selector,
}

impl Filter {
    fn of(&self, resource: Resource) -> &Selector {
        match resource {
            // As at the API server, where CoreDNS asks so.
            Resource::Namespaces | Resource::ServiceImports => &self.namespace_labels,
            Resource::Services | Resource::EndpointSlices | Resource::Pods => &self.labels,
        }
    }
}

/// What files hold.
#[derive(Debug, Default)]
pub struct Contents {
    /// The objects that are wanted, Namespaces aside.
    objects: Vec<Object>,
    /// Every namespace there is. If it has an object of its own: whether that is wanted.
    namespaces: BTreeMap<Box<str>, Option<bool>>,
}

impl Contents {
    fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.namespaces.is_empty()
    }

    fn add(&mut self, object: Object, wanted: bool) {
        if let Object::Namespace(meta) = object {
            self.namespaces.insert(meta.name, Some(wanted));
            return;
        }
        // An object that is not wanted shows all the same that its namespace exists.
        let namespace = &object.meta().namespace;
        if !self.namespaces.contains_key(namespace) {
            self.namespaces.insert(namespace.clone(), None);
        }
        if wanted {
            self.objects.push(object);
        }
    }
}

/// Reads all objects of these files and folders, in order. Either everything is good, or all faults come back.
pub fn load(paths: &[PathBuf], filter: &Filter) -> Result<Contents, Vec<FileFault>> {
    let (mut contents, mut faults) = (Contents::default(), Vec::new());
    for path in paths {
        match files_of(path) {
            Ok(files) => {
                for file in files {
                    load_file(&file, filter, &mut contents, &mut faults);
                }
            }
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() {
        Ok(contents)
    } else {
        Err(faults)
    }
}

fn is_manifest(file: &Path) -> bool {
    let is_hidden = file
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let end = file.extension();
    !is_hidden && end.is_some_and(|end| end == "yaml" || end == "yml" || end == "json")
}

/// The file itself, or a folder's files that look like manifests, sorted. Hidden ones are left out: the data folders
/// of a mounted ConfigMap, editors' swap files.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, FileFault> {
    let fault = |error: std::io::Error| FileFault::new(path, error);
    if !std::fs::metadata(path).map_err(fault)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fault)? {
        let file = entry.map_err(fault)?.path();
        if is_manifest(&file) {
            files.push(file);
        }
        if files.len() > FILES_MAX {
            return Err(FileFault::new(
                path,
                format_args!("more than {FILES_MAX} files"),
            ));
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn load_file(path: &Path, filter: &Filter, contents: &mut Contents, faults: &mut Vec<FileFault>) {
    let text = match read(path) {
        Ok(text) => text,
        Err(fault) => return faults.push(fault),
    };
    let is_json = path.extension().is_some_and(|end| end == "json");
    document::read(&text, is_json, filter, &mut |event| match event {
        document::Event::Object { object, wanted } => contents.add(placed(object), wanted),
        document::Event::Ignored { api_version, kind } => {
            tracing::debug!(target: "plugin/kubernetes", "`{}`: `{api_version}` `{kind}` is not looked at", path.display());
        }
        document::Event::Fault(error) => faults.push(FileFault {
            path: path.to_owned(),
            error,
        }),
    });
}

fn read(path: &Path) -> Result<String, FileFault> {
    use std::io::Read;
    let fault = |error: std::io::Error| FileFault::new(path, error);
    let file = std::fs::File::open(path).map_err(fault)?;
    let mut octets = Vec::new();
    // The bound holds for what is read, not for what the file says of itself: it may be a pipe, or growing.
    file.take(FILE_SIZE_MAX + 1)
        .read_to_end(&mut octets)
        .map_err(fault)?;
    if octets.len() as u64 > FILE_SIZE_MAX {
        return Err(FileFault::new(
            path,
            format_args!("more than {} MiB", FILE_SIZE_MAX >> 20),
        ));
    }
    String::from_utf8(octets).map_err(|_| FileFault::new(path, "not UTF-8"))
}

/// Gives an object its namespace. Its version goes: whoever edits a file leaves it as it is.
fn placed(mut object: Object) -> Object {
    let default_namespace = if object.resource() == Resource::Namespaces {
        ""
    } else {
        "default"
    };
    let meta = object.meta_mut();
    meta.resource_version = Box::default();
    if meta.namespace.is_empty() {
        meta.namespace = default_namespace.into();
    }
    object
}

/// Hands a whole cluster over as one list per resource.
fn feed(contents: Contents, filter: &Filter, wanted: &[Resource], sink: &dyn ObjectSink) {
    let mut by_resource: [Vec<Object>; Resource::COUNT] = Default::default();
    for object in contents.objects {
        by_resource[object.resource() as usize].push(object);
    }
    // A namespace that objects imply has no labels, so that it only passes what asks for none.
    let implied = filter.namespace_labels.takes(|_| None);
    let namespace = |name| Meta {
        name,
        ..Meta::default()
    };
    let namespaces = contents.namespaces.into_iter();
    by_resource[Resource::Namespaces as usize] = namespaces
        .filter(|(_, listed)| listed.unwrap_or(implied))
        .map(|(name, _)| Object::Namespace(namespace(name)))
        .collect();
    for &resource in wanted {
        sink.list_started(resource);
        for object in std::mem::take(&mut by_resource[resource as usize]) {
            sink.listed(object);
        }
        sink.list_finished(resource);
    }
}

/// Keeps files watched; when it is dropped that stops.
pub struct Manifests {
    _stop: DropGuard,
}

/// Reads the files, then watches them. What is wrong with them now is an error; what goes wrong later is reported, and
/// the last good state stays.
pub fn start(
    paths: Vec<PathBuf>,
    filter: Filter,
    wanted: &[Resource],
    sink: Arc<dyn ObjectSink>,
    runtime: &tokio::runtime::Handle,
) -> Result<Manifests, Vec<FileFault>> {
    // Watched before they are read, so that no change falls between.
    let changed = Arc::new(Notify::new());
    let mut watcher = watcher(&paths, Arc::clone(&changed))?;
    watch(&mut watcher, &paths)?;
    let contents = load(&paths, &filter)?;
    if contents.is_empty() {
        tracing::warn!(target: "plugin/kubernetes", "manifests hold no object yet: the cluster is empty");
    }
    feed(contents, &filter, wanted, &*sink);
    let stop = CancellationToken::new();
    let (stopped, wanted) = (stop.clone(), wanted.to_vec());
    runtime.spawn(async move {
        tokio::select! {
            () = stopped.cancelled() => {}
            () = follow(watcher, paths, filter, wanted, sink, changed) => {}
        }
    });
    Ok(Manifests {
        _stop: stop.drop_guard(),
    })
}

/// Tells of every change in the folders that it will watch.
fn watcher(
    paths: &[PathBuf],
    changed: Arc<Notify>,
) -> Result<notify::RecommendedWatcher, Vec<FileFault>> {
    let first = paths.first().map_or(Path::new("."), |path| path);
    let names = paths.iter().filter_map(|path| path.file_name());
    let names: BTreeSet<OsString> = names.map(OsString::from).collect();
    let handler = move |event: notify::Result<notify::Event>| {
        // An error means that events were lost, so anything may have changed.
        if !event.is_ok_and(|event| is_of_no_concern(&event, &names)) {
            changed.notify_one();
        }
    };
    notify::recommended_watcher(handler).map_err(|error| vec![FileFault::new(first, error)])
}

/// Our own reading is an access. And what is written to a file beside ours changes nothing: it may be our own log, which
/// says that we have read. What is made, renamed or taken away there may be a link that ours are reached through.
fn is_of_no_concern(event: &notify::Event, names: &BTreeSet<OsString>) -> bool {
    let is_named = |path: &Path| path.file_name().is_some_and(|name| names.contains(name));
    let is_ours = |path: &PathBuf| is_manifest(path) || is_named(path);
    match event.kind {
        EventKind::Access(_) => true,
        EventKind::Modify(ModifyKind::Name(_)) => false,
        EventKind::Modify(_) => !event.paths.iter().any(is_ours),
        _ => false,
    }
}

/// Watches the folders that the paths stand in: a file that is replaced, or reached through a changed link, is another
/// file, but its folder stays.
fn watch(
    watcher: &mut notify::RecommendedWatcher,
    paths: &[PathBuf],
) -> Result<(), Vec<FileFault>> {
    let mut folders = BTreeSet::new();
    for path in paths {
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        folders.insert(parent.unwrap_or(Path::new(".")));
        if path.is_dir() {
            folders.insert(path);
        }
    }
    for folder in folders {
        watcher
            .watch(folder, RecursiveMode::NonRecursive)
            .map_err(|error| vec![FileFault::new(folder, error)])?;
    }
    Ok(())
}

async fn follow(
    mut watcher: notify::RecommendedWatcher,
    paths: Vec<PathBuf>,
    filter: Filter,
    wanted: Vec<Resource>,
    sink: Arc<dyn ObjectSink>,
    changed: Arc<Notify>,
) {
    let files = Arc::new((paths, filter));
    loop {
        changed.notified().await;
        while tokio::time::timeout(QUIET, changed.notified())
            .await
            .is_ok()
        {}
        // A folder that was deleted and made anew is another one, and nobody watches it yet.
        let watched = watch(&mut watcher, &files.0);
        let (files, wanted, sink) = (Arc::clone(&files), wanted.clone(), Arc::clone(&sink));
        // Large files are read apart from the threads that everything else waits on.
        let loaded = tokio::task::spawn_blocking(move || {
            match watched.and_then(|()| load(&files.0, &files.1)) {
                Ok(contents) => {
                    report_load(&contents);
                    feed(contents, &files.1, &wanted, &*sink);
                }
                Err(faults) => {
                    for fault in faults {
                        tracing::error!(target: "plugin/kubernetes", "{fault}; the last good state stays");
                    }
                }
            }
        });
        if loaded.await.is_err() {
            return;
        }
    }
}

fn report_load(contents: &Contents) {
    let (objects, namespaces) = (contents.objects.len(), contents.namespaces.len());
    if contents.is_empty() {
        tracing::warn!(target: "plugin/kubernetes", "manifests changed and were read again: no object, the cluster is empty");
    } else {
        tracing::info!(target: "plugin/kubernetes", "manifests changed and were read again: {objects} objects in {namespaces} namespaces");
    }
}

#[cfg(test)]
mod tests;
