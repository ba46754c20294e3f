//! `k8s_external [ZONES...] { apex | ttl | headless | fallthrough }`: what the directives say, checked.

use std::sync::Arc;

use crate::chain::plugin::Plugin;
use crate::corefile::args::{Args, unknown_option};
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::{Directive, Word};
use crate::plugin::fallthrough::Fallthrough;
use crate::plugin::k8s_external::{External, SPEC, Zone};
use crate::plugin::{BuildError, Config, Context, OptionSpec, ttl};
use crate::server::assembly::Assembly;
use crate::server::lent::Demands;
use crate::wire::name::{LABEL_MAX, Name, NameBuf};

pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "apex",
        syntax: "apex LABEL",
        default: "dns",
        help: "the label that the name server lies below: ns1.LABEL.ZONE",
    },
    OptionSpec {
        name: "ttl",
        syntax: "ttl SECONDS",
        default: "5",
        help: "TTL of addresses, PTR, NS and SOA, 0 to 3600 s; SRV and CNAME have that of kubernetes",
    },
    OptionSpec {
        name: "headless",
        syntax: "headless",
        default: "",
        help: "answers headless Services without an external address with their endpoints",
    },
    OptionSpec {
        name: "fallthrough",
        syntax: "fallthrough [ZONES...]",
        default: "NXDOMAIN",
        help: "passes names that the cluster does not have on, all or those in ZONES",
    },
];

/// What the `k8s_external` directives of a server block say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExternalConfig {
    pub(super) zones: Vec<Name>,
    /// In lower case.
    pub(super) apex: String,
    pub(super) ttl: u32,
    pub(super) headless: bool,
    pub(super) fallthrough: Option<Fallthrough>,
}

/// Directives add up; of their zones the last ones count, as in CoreDNS.
pub(super) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    let [earlier @ .., last] = context.directives else {
        return None;
    };
    if !context.has_plugin("kubernetes") {
        context.faults.push(Diagnostic::error(
            last.name.span,
            "`k8s_external` needs `kubernetes` in the same server block",
            "it answers from the cluster of `kubernetes`",
        ));
    }
    for directive in earlier {
        context.faults.push(Diagnostic::warning(
            directive.span(),
            "`k8s_external` stands again below",
            "the zones of this line are not used, its options are",
        ));
    }
    let mut config = ExternalConfig {
        zones: context.zones_or_origins(&last.args),
        apex: "dns".to_owned(),
        ttl: ttl::DEFAULT,
        headless: false,
        fallthrough: None,
    };
    for option in context
        .directives
        .iter()
        .flat_map(|directive| directive.options())
    {
        let result = config.option(option, context);
        context.faults.note(result);
    }
    config.check(last, context);
    (context.faults.error_count() == errors).then(|| Box::new(config) as Box<dyn Config>)
}

impl ExternalConfig {
    fn option(&mut self, option: &Directive, context: &mut Context<'_>) -> Result<(), Diagnostic> {
        let mut args = Args::of(option);
        match option.name.text.as_str() {
            "apex" => {
                let word = args.take("a label such as dns")?;
                self.apex = read_label(word)?;
                context.warn_of(args.rest());
                Ok(())
            }
            "ttl" => {
                self.ttl = ttl::parse(option, context)?;
                Ok(())
            }
            "headless" => {
                self.headless = true;
                args.finish()
            }
            "fallthrough" => {
                self.fallthrough = Some(Fallthrough::parse(option, context));
                Ok(())
            }
            _ => Err(unknown_option(SPEC.name, option, SPEC.option_names())),
        }
    }

    fn check(&self, directive: &Directive, context: &mut Context<'_>) {
        if let Some(long) = self.zones.iter().find(|zone| self.zone(zone).is_none()) {
            context.faults.push(Diagnostic::error(
                directive.span(),
                format!("`{long}` leaves no room for the name of its name server"),
                "expected a shorter zone",
            ));
        }
        if !self.zones.is_empty() && self.zones.iter().all(is_reverse) {
            context.faults.push(Diagnostic::warning(
                directive.span(),
                "`k8s_external` has reverse zones only",
                "PTR records lead to names below the first of them",
            ));
        }
    }

    /// A zone with the names that stand in it; none if they would be too long.
    fn zone(&self, origin: &Name) -> Option<Zone> {
        let below_apex = |label: &[u8]| {
            let mut name = NameBuf::new();
            name.push_label(label).ok()?;
            name.push_label(self.apex.as_bytes()).ok()?;
            name.push_name(origin.as_ref()).ok()?;
            Some(name.as_ref().to_name())
        };
        Some(Zone {
            origin: origin.clone(),
            name_server: below_apex(b"ns1")?,
            mailbox: below_apex(b"hostmaster")?,
        })
    }

    /// The zone that PTR targets lie in: the first that is no reverse zone. CoreDNS takes the very first.
    fn pointer_zone(&self) -> Name {
        let forward = self.zones.iter().find(|zone| !is_reverse(zone));
        let zone = forward.or(self.zones.first());
        zone.expect("the parser leaves no block without a zone")
            .clone()
    }
}

/// One label, in lower case. CoreDNS takes several, and then denies the name server that it names.
fn read_label(word: &Word) -> Result<String, Diagnostic> {
    let is_label = Name::from_text(&word.text).is_ok_and(|name| name.as_ref().label_count() == 1);
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
    if is_label && word.text.len() <= LABEL_MAX && word.text.bytes().all(plain) {
        return Ok(word.text.to_ascii_lowercase());
    }
    Err(Diagnostic::error(
        word.span,
        format!("`{}` is not one label", word.text),
        "expected one label such as dns",
    ))
}

pub(super) fn is_reverse(zone: &Name) -> bool {
    ["in-addr.arpa", "ip6.arpa"].iter().any(|tree| {
        let tree = Name::from_text(tree).expect("a name");
        zone.as_ref().is_at_or_below(tree.as_ref())
    })
}

impl Config for ExternalConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let mut zones: Vec<Zone> = self
            .zones
            .iter()
            .filter_map(|zone| self.zone(zone))
            .collect();
        zones.sort_by_key(|zone| std::cmp::Reverse(zone.origin.as_ref().len()));
        Ok(vec![Arc::new(External {
            cluster: assembly.generation.cluster.clone(),
            zones: zones.into(),
            pointer_zone: self.pointer_zone(),
            apex: self.apex.as_bytes().into(),
            ttl: self.ttl,
            headless: self.headless,
            fallthrough: self.fallthrough.clone(),
        })])
    }

    fn demand(&self, demands: &mut Demands) {
        demands.external = true;
        demands.external_endpoints |= self.headless;
    }
}
