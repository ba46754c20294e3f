//! Where the Corefile comes from, and reading it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::Options;
use crate::corefile::diagnostic::{Diagnostic, Faults, Severity, Sources};
use crate::corefile::hash::running_hash;
use crate::corefile::parser;
use crate::corefile::render::{Color, render_in};
use crate::corefile::text;
use crate::corefile::tree::{Corefile, place};
use crate::plugin::configure::{BlockConfig, configure};

/// Knows where the Corefile is.
pub struct Loader {
    origin: Origin,
    port: u16,
}

enum Origin {
    /// A file, read anew at every reload.
    File(PathBuf),
    /// What standard input, or a pipe, held at the start; a reload finds the same again.
    Held(PathBuf, Arc<[u8]>),
    /// Nothing was there: `whoami` and `log`.
    BuiltIn,
}

/// One reading of the Corefile.
pub struct Reading {
    /// Its blocks, as far as they could be made out.
    pub blocks: Vec<BlockConfig>,
    /// What is wrong with it.
    pub faults: Faults,
    /// Every text that was read.
    pub sources: Sources,
    /// SHA-512 over its words, as CoreDNS computes it.
    pub hash: String,
    /// The built-in one, since there was not a single block.
    pub is_builtin: bool,
}

impl Reading {
    /// Reads a text; keys that name no port have this one.
    pub fn of(path: &Path, text: &[u8], port: u16) -> Self {
        let (corefile, faults) = parser::parse(path, text);
        // A file without a single block stands for the built-in one.
        if corefile.blocks.is_empty() && faults.worst() != Some(Severity::Error) {
            return Self::builtin(port);
        }
        Self::of_tree(Corefile { port, ..corefile }, faults)
    }

    fn builtin(port: u16) -> Self {
        let corefile = Corefile {
            port,
            ..Corefile::builtin()
        };
        Self {
            is_builtin: true,
            ..Self::of_tree(corefile, Faults::default())
        }
    }

    fn of_tree(corefile: Corefile, mut faults: Faults) -> Self {
        let blocks = configure(&corefile, &mut faults);
        let hash = running_hash(&corefile);
        Self {
            blocks,
            faults,
            sources: corefile.sources,
            hash,
            is_builtin: false,
        }
    }

    /// Why it cannot be served, with every fault drawn; none if it can.
    pub fn refusal(&self, color: Color) -> Option<String> {
        (self.faults.worst()? >= Severity::NotBuilt)
            .then(|| render_in(&self.faults, &self.sources, color))
    }

    /// Everything that does not keep it from being served, a line each.
    pub fn warnings(&self) -> Vec<String> {
        let faults = self.faults.iter();
        faults
            .filter(|fault| fault.severity < Severity::NotBuilt)
            .map(|fault| self.line_of(fault))
            .collect()
    }

    /// The first fault that keeps it from being served, in one line.
    pub fn first_fault(&self) -> Option<String> {
        let fault = self
            .faults
            .iter()
            .find(|fault| fault.severity >= Severity::NotBuilt)?;
        Some(self.line_of(fault))
    }

    fn line_of(&self, fault: &Diagnostic) -> String {
        let place = place(&self.sources, fault.span);
        format!("{place} - {}", fault.message)
    }
}

impl Loader {
    /// Finds the Corefile: `-conf`, else `./Corefile`, else the built-in one.
    pub fn new(options: &Options) -> Result<Self, String> {
        let origin = match options.conf.as_deref() {
            Some(path) if path == Path::new("stdin") && !std::io::stdin().is_terminal() => {
                let text = text::read_bounded(std::io::stdin().lock()).map_err(|error| {
                    format!("cannot read the Corefile from standard input: {error}")
                })?;
                Origin::Held("stdin".into(), text.into())
            }
            Some(path) if path != Path::new("stdin") => Origin::of(path)?,
            _ if Path::new("Corefile").exists() => Origin::of(Path::new("Corefile"))?,
            _ => {
                tracing::warn!(
                    "no Corefile here and no `-conf FILE`: serving the built-in `whoami` and `log`"
                );
                Origin::BuiltIn
            }
        };
        Ok(Self {
            origin,
            port: options.port,
        })
    }

    /// Reads the Corefile as it is now.
    pub fn read(&mut self) -> Result<Reading, String> {
        match &self.origin {
            Origin::File(path) => text::read_regular(path)
                .map(|text| Reading::of(path, &text, self.port))
                .map_err(|error| cannot_read(path, &error)),
            Origin::Held(path, text) => Ok(Reading::of(path, text, self.port)),
            Origin::BuiltIn => Ok(Reading::builtin(self.port)),
        }
    }
}

impl Origin {
    /// A pipe (`-conf <(…)`) is read once: later it is empty, or holds up who reads it.
    fn of(path: &Path) -> Result<Self, String> {
        let is_once = |metadata: std::fs::Metadata| !metadata.is_file() && !metadata.is_dir();
        if !std::fs::metadata(path).is_ok_and(is_once) {
            return Ok(Self::File(path.to_owned()));
        }
        let text = text::read(path).map_err(|error| cannot_read(path, &error))?;
        Ok(Self::Held(path.to_owned(), text.into()))
    }
}

fn cannot_read(path: &Path, error: &std::io::Error) -> String {
    format!("cannot read the Corefile `{}`: {error}", path.display())
}
