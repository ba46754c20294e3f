//! `metadata [ZONES...]`: what it says.

use std::sync::Arc;

use crate::chain::plugin::Plugin;
use crate::plugin::metadata::Metadata;
use crate::plugin::{BuildError, Config, Context};
use crate::server::assembly::Assembly;
use crate::wire::name::Name;

#[derive(Debug)]
struct MetadataConfig {
    zones: Vec<Name>,
}

pub(super) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    let directive = context.once();
    context.has_no_options(directive);
    let zones = context.zones_or_origins(&directive.args);
    (context.faults.error_count() == errors).then(|| Box::new(MetadataConfig { zones }) as _)
}

impl Config for MetadataConfig {
    fn build(&self, _assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let zones = self.zones.clone().into();
        Ok(vec![Arc::new(Metadata { zones })])
    }
}
