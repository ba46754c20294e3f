//! What can be done to a query: one folder a plugin, and the registry.
//!
//! Three types, three moments; nothing skips one:
//!
//! ```text
//! Directive (words + spans)  --parse-->  Config (checked, inert)  --build-->  Plugin (sockets, tasks, memory)
//! ```
//!
//! `parse` does no I/O, so `fingerpost check` and the golden tests use it alone, and a reload can compare what was
//! configured before with what is configured now.

/// `fallthrough [ZONES...]`, which many plugins take.
pub mod fallthrough;

/// The search path of a resolv.conf.
mod resolv_conf;

/// `ttl SECONDS` of the plugins that answer from a cluster.
pub mod ttl;

/// Answers from a snapshot.
mod stale;

/// Random numbers for a fair share.
mod random;

/// The records of a Service, for the plugins that answer them.
mod service;

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod together;

// The plugins, in the order of the registry.

/// Where relative file names start.
pub mod root;

/// Lets `log` show what plugins know of a query.
pub mod metadata;

/// Gives a query up after a while.
pub mod cancel;

/// Watches the Corefile.
pub mod reload;

/// Bounds the size of UDP replies, and what we advertise.
pub mod bufsize;

/// Where a server block listens.
pub mod bind;

/// Debug lines, and a panic that ends the process.
pub mod debug;

/// Answers readiness probes.
pub mod ready;

/// Answers liveness probes.
pub mod health;

/// Drops queries while a socket does not get rid of its replies.
pub mod shed;

/// Counts queries and replies.
pub mod prometheus;

/// Logs what went wrong further down.
pub mod errors;

/// Prints one line per reply.
pub mod log;

/// Makes replies hard to forge.
pub mod cookie;

/// Answers for localhost and its reverse zones.
pub mod local;

/// Answers queries for ANY with one small record.
pub mod any;

/// Gives every client another order of addresses.
pub mod loadbalance;

/// Walks the search path of a client's resolver in its place.
pub mod autopath;

/// Keeps replies for as long as their TTLs allow.
pub mod cache;

/// Lets chosen clients copy whole zones.
pub mod transfer;

/// Answers from a hosts file.
pub mod hosts;

/// Answers for Services as they are reached from outside of the cluster.
pub mod k8s_external;

/// Answers the names of a cluster.
pub mod kubernetes;

/// `loop`: notices that we forward to ourselves.
pub mod loop_guard;

/// Asks other servers.
pub mod forward;

/// Tells clients their own address, port and protocol.
pub mod whoami;

use std::any::Any;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chain::plugin::Plugin;
use crate::corefile::diagnostic::{Diagnostic, Faults, Severity};
use crate::corefile::key::{Key, parse_zone};
use crate::corefile::tree::{Directive, Word};
use crate::server::assembly::Assembly;
use crate::server::lent::Demands;
use crate::wire::name::Name;

/// Hands every directive to its plugin.
pub mod configure;

/// Whether two server blocks want the same zone on the same address.
pub mod overlap;

/// Options that hold for the whole process.
mod single;

/// The registry. List order is chain order: CoreDNS' `plugin.cfg`, cut to the plugins that exist. Those of our own
/// stand where they are of use; their manuals say why.
#[rustfmt::skip] // one line a plugin
pub static PLUGINS: &[&Spec] = &[
    &root::SPEC,
    &metadata::SPEC,
    &cancel::SPEC,
    &reload::SPEC,
    &bufsize::SPEC,
    &bind::SPEC,
    &debug::SPEC,
    &ready::SPEC,
    &health::SPEC,
    &shed::SPEC,
    &prometheus::SPEC,
    &errors::SPEC,
    &log::SPEC,
    &cookie::SPEC,
    &local::SPEC,
    &any::SPEC,
    &loadbalance::SPEC,
    &autopath::SPEC,
    &cache::SPEC,
    &transfer::SPEC,
    &hosts::SPEC,
    &k8s_external::SPEC,
    &kubernetes::SPEC,
    &loop_guard::SPEC,
    &forward::SPEC,
    &whoami::SPEC,
];

/// What is known about a plugin before any Corefile is read.
#[derive(Debug)]
pub struct Spec {
    /// Its Corefile word.
    pub name: &'static str,
    /// What it does, in one line for `--help` and the manual.
    pub summary: &'static str,
    /// The options it takes in braces.
    pub options: &'static [OptionSpec],
    /// Reads its directives. Every fault goes into the context; none comes back if there was an error.
    pub parse: fn(&mut Context<'_>) -> Option<Box<dyn Config>>,
}

/// One option of a plugin.
#[derive(Debug)]
pub struct OptionSpec {
    /// Its first word.
    pub name: &'static str,
    /// All of it, as the manual shows it: `success CAPACITY [TTL] [MINTTL]`.
    pub syntax: &'static str,
    /// What holds without it, with units; empty if that is clear.
    pub default: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
}

impl Spec {
    /// The names of its options.
    pub fn option_names(&self) -> impl Iterator<Item = &'static str> {
        self.options.iter().map(|option| option.name)
    }
}

/// What a plugin's `parse` works on.
pub struct Context<'c> {
    /// Every occurrence of the plugin's word in this server block, in order; at least one.
    pub directives: &'c [&'c Directive],
    /// The zones of the server block, at least one.
    pub keys: &'c [Key],
    /// All directives of the server block, for who needs another plugin.
    pub block: &'c [Directive],
    /// Where faults go.
    pub faults: &'c mut Faults,
}

impl<'c> Context<'c> {
    /// The first occurrence; any other is a fault.
    pub fn once(&mut self) -> &'c Directive {
        for again in self.directives.iter().skip(1) {
            let name = &again.name.text;
            self.faults.push(Diagnostic::error(
                again.name.span,
                format!("`{name}` stands twice in this server block"),
                "only once per server block",
            ));
        }
        self.directives[0]
    }

    /// Whether another plugin stands in the same server block.
    pub fn has_plugin(&self, name: &str) -> bool {
        self.block
            .iter()
            .any(|directive| directive.name.text == name)
    }

    /// Says of words that CoreDNS lets pass that they mean nothing.
    pub fn warn_of(&mut self, words: &[Word]) {
        for word in words {
            let message = format!("`{}` is not used", word.text);
            let fault = Diagnostic::warning(word.span, message, "expected the end of the line");
            self.faults.push(fault);
        }
    }

    /// Whether a directive has no options in braces; each that it has is a fault.
    pub fn has_no_options(&mut self, directive: &Directive) -> bool {
        for option in directive.options() {
            let fault = crate::corefile::args::unknown_option(&directive.name.text, option, []);
            self.faults.push(fault);
        }
        directive.options().is_empty()
    }

    /// The zones of the server block, each once.
    pub fn origins(&self) -> Vec<Name> {
        let mut origins: Vec<Name> = Vec::new();
        for key in self.keys {
            if !origins.contains(&key.zone) {
                origins.push(key.zone.clone());
            }
        }
        origins
    }

    /// Zones from words; the server block's own if there are none. CIDRs become reverse zones, schemes and ports are
    /// dropped.
    pub fn zones_or_origins(&mut self, words: &[Word]) -> Vec<Name> {
        if words.is_empty() {
            self.origins()
        } else {
            self.zones(words)
        }
    }

    /// Zones from words, in lower case. A word that is no zone is left out with a warning, as CoreDNS leaves it out in
    /// silence; it is an error if no zone is left.
    pub fn zones(&mut self, words: &[Word]) -> Vec<Name> {
        let mut zones = Vec::new();
        let mut bad = Vec::new();
        for word in words {
            match parse_zone(word) {
                Ok(named) => zones.extend(named),
                Err(fault) => bad.push(fault),
            }
        }
        for mut fault in bad {
            if !zones.is_empty() {
                fault.severity = Severity::Warning;
                fault.label.push_str("; left out, as CoreDNS does");
            }
            self.faults.push(fault);
        }
        zones
    }
}

/// What one or more directives of a plugin say: checked, inert.
pub trait Config: Any + Debug + Send + Sync {
    /// Makes the running links of the chain, mostly one; none for plugins that see no query. Reads files and opens
    /// what it needs; must not wait for the network.
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError>;

    /// Says what the plugin needs of others and those do not have anyway. Asked of all plugins of all blocks before
    /// the first is built.
    fn demand(&self, _demands: &mut Demands) {}

    /// The files that `build` reads and a start would miss; relative ones of the Corefile below `root`. For `check`, which
    /// builds nothing.
    fn files(&self, _root: &Path) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// Why a plugin could not be built: one line, as the log shows it.
#[derive(Debug)]
pub struct BuildError(pub String);

impl std::fmt::Display for BuildError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BuildError {}

impl From<crate::cluster::source::ConnectError> for BuildError {
    fn from(error: crate::cluster::source::ConnectError) -> Self {
        Self(error.0)
    }
}
