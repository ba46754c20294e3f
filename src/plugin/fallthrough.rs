//! `fallthrough [ZONES...]`: for which names a plugin that has no data lets the next one answer.

use crate::corefile::tree::Directive;
use crate::plugin::Context;
use crate::wire::name::{Name, NameRef};

/// The zones of a `fallthrough` option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallthrough {
    zones: Vec<Name>,
}

impl Fallthrough {
    /// For every name.
    pub fn everywhere() -> Self {
        Self {
            zones: vec![Name::root()],
        }
    }

    /// For the names at or below these.
    #[cfg(test)]
    pub fn of(zones: Vec<Name>) -> Self {
        Self { zones }
    }

    /// Reads the option: every name if it lists no zone.
    pub fn parse(option: &Directive, context: &mut Context<'_>) -> Self {
        if option.args.is_empty() {
            return Self::everywhere();
        }
        Self {
            zones: context.zones(&option.args),
        }
    }

    /// It is for the names at or below these.
    pub fn zones(&self) -> &[Name] {
        &self.zones
    }

    /// Whether `qname` is passed on.
    pub fn covers(&self, qname: NameRef<'_>) -> bool {
        self.zones
            .iter()
            .any(|zone| qname.is_at_or_below(zone.as_ref()))
    }
}
