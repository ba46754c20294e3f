//! From the tree to checked server blocks: every directive handed to its plugin, every word without a plugin reported.

use crate::corefile::args::nearest;
use crate::corefile::diagnostic::{Diagnostic, Faults};
use crate::corefile::key::{Key, Scheme, parse_keys};
use crate::corefile::tree::{Block, Corefile, Directive};
use crate::plugin::overlap::Claims;
use crate::plugin::{Config, Context, PLUGINS, Spec, single};

/// One server block, checked.
#[derive(Debug)]
pub struct BlockConfig {
    /// Its zones; none if all its keys are faulty.
    pub keys: Vec<Key>,
    /// Its plugins in chain order. One whose directives are faulty is left out.
    pub plugins: Vec<(&'static Spec, Box<dyn Config>)>,
}

/// CoreDNS' own plugins in its 1.14.7 order, so that a word can be told from a typing error.
pub const COREDNS_PLUGINS: &[&str] = &[
    "root",
    "metadata",
    "geoip",
    "cancel",
    "proxyproto",
    "quic",
    "grpc_server",
    "https",
    "https3",
    "timeouts",
    "multisocket",
    "reload",
    "nsid",
    "bufsize",
    "bind",
    "debug",
    "trace",
    "ready",
    "health",
    "pprof",
    "shed",
    "prometheus",
    "errors",
    "log",
    "dnstap",
    "local",
    "dns64",
    "any",
    "chaos",
    "loadbalance",
    "tsig",
    "rewrite",
    "autopath",
    "acl",
    "cache",
    "header",
    "dnssec",
    "tls",
    "minimal",
    "template",
    "transfer",
    "hosts",
    "route53",
    "azure",
    "clouddns",
    "k8s_external",
    "kubernetes",
    "file",
    "auto",
    "secondary",
    "etcd",
    "loop",
    "forward",
    "grpc",
    "erratic",
    "whoami",
    "on",
    "sign",
    "view",
    "nomad",
];

/// Well-known plugins that CoreDNS must be rebuilt for.
const EXTERNAL_PLUGINS: &[&str] = &[
    "ads",
    "alias",
    "alternate",
    "blocklist",
    "dnsredir",
    "dump",
    "fallback",
    "fanout",
    "filter",
    "finalize",
    "gslb",
    "idetcd",
    "ipecho",
    "k8s_crd",
    "k8s_event",
    "k8s_gateway",
    "kubeapi",
    "kubenodes",
    "lighthouse",
    "mdns",
    "meship",
    "meshname",
    "multicluster",
    "netbox",
    "ocp_dnsnameresolver",
    "opa",
    "pdsql",
    "ratelimit",
    "records",
    "redis",
    "rrl",
    "split",
    "tailscale",
    "unbound",
    "warnlist",
    "wgsd",
];

/// Checks a whole configuration. What comes back is fit to run only if there was no error.
pub fn configure(corefile: &Corefile, faults: &mut Faults) -> Vec<BlockConfig> {
    let mut claims = Claims::new(corefile.port);
    single::check(corefile, faults);
    corefile
        .blocks
        .iter()
        .map(|block| {
            let keys = parse_keys(block, faults);
            claims.check(block, &keys, faults);
            note_schemes(&keys, faults);
            BlockConfig {
                plugins: plugins(block, &keys, corefile, faults),
                keys,
            }
        })
        .collect()
}

/// Names the schemes that are not served yet, once a word: a CIDR key stands for several zones.
fn note_schemes(keys: &[Key], faults: &mut Faults) {
    for keys in keys.chunk_by(|one, next| one.span == next.span) {
        let key = &keys[0];
        if key.scheme != Scheme::Dns {
            let what = format!("serving `{}://`", key.scheme.as_str());
            faults.push(Diagnostic::not_built(key.span, &what));
        }
    }
}

fn plugins(
    block: &Block,
    keys: &[Key],
    corefile: &Corefile,
    faults: &mut Faults,
) -> Vec<(&'static Spec, Box<dyn Config>)> {
    let mut by_name = block.by_name();
    let mut plugins = Vec::new();
    for &spec in PLUGINS {
        let Some(directives) = by_name.remove(spec.name) else {
            continue;
        };
        let config = parse(spec, &directives, block, keys, faults);
        plugins.extend(config.map(|config| (spec, config)));
    }
    for directive in by_name.into_values().flatten() {
        faults.push(unknown_directive(directive, block, corefile));
    }
    plugins
}

/// Lets a plugin read its directives. Faults that every plugin would have to look for are looked for here.
fn parse(
    spec: &Spec,
    directives: &[&Directive],
    block: &Block,
    keys: &[Key],
    faults: &mut Faults,
) -> Option<Box<dyn Config>> {
    // A plugin needs a zone to stand on; its own faults are worth telling even if the block's keys are all wrong.
    let spare = [Key::root(directives[0].name.span)];
    let keys = if keys.is_empty() { &spare } else { keys };
    let before = faults.error_count();
    let config = (spec.parse)(&mut Context {
        directives,
        keys,
        block: &block.directives,
        faults,
    });
    if faults.error_count() > before {
        return None;
    }
    for directive in directives {
        check_braces(spec, directive, faults);
    }
    config
}

/// Braces where the plugin has none would be passed over in silence.
fn check_braces(spec: &Spec, directive: &Directive, faults: &mut Faults) {
    let Some([open, _]) = directive.braces.as_deref() else {
        return;
    };
    if spec.options.is_empty() {
        faults.push(Diagnostic::error(
            open.span,
            format!("`{}` takes no braces", spec.name),
            "expected the end of the line",
        ));
        return;
    }
    for option in directive.options() {
        let Some([open, _]) = option.braces.as_deref() else {
            continue;
        };
        let nests = spec
            .options
            .iter()
            .any(|known| known.name == option.name.text && known.syntax.contains('{'));
        if !nests {
            faults.push(Diagnostic::error(
                open.span,
                format!("`{}` takes no braces", option.name.text),
                "expected the end of the line",
            ));
        }
    }
}

fn unknown_directive(directive: &Directive, block: &Block, corefile: &Corefile) -> Diagnostic {
    let word = &directive.name;
    let name = word.text.as_str();
    if COREDNS_PLUGINS.contains(&name) {
        return Diagnostic::error(
            word.span,
            format!("CoreDNS has a plugin `{name}`; this server does not"),
            "not a plugin of this server",
        );
    }
    if EXTERNAL_PLUGINS.contains(&name) {
        return Diagnostic::error(
            word.span,
            format!("`{name}` is an external plugin of CoreDNS; this server does not have it"),
            "not a plugin of this server",
        );
    }
    let unknown = Diagnostic::error(
        word.span,
        format!("unknown plugin `{name}`"),
        "not a plugin of this server, nor of CoreDNS",
    );
    if let Some(near) = nearest(name, PLUGINS.iter().map(|spec| spec.name)) {
        return unknown.with_help(format!("did you mean `{near}`?"));
    }
    if let Some(owner) = PLUGINS
        .iter()
        .find(|spec| spec.option_names().any(|option| option == name))
    {
        let owner = owner.name;
        return unknown.with_help(format!(
            "`{name}` is an option of `{owner}`: it belongs in the braces of `{owner}`"
        ));
    }
    // What looks like a key is a block whose predecessor was not closed.
    if name.contains(['.', ':']) || directive.body.is_some() {
        let first = &block.keys[0];
        let place = corefile.place(first.span);
        return unknown.with_help(format!(
            "if it is a zone, the server block before it ({place}) lacks its `}}`"
        ));
    }
    match nearest(name, COREDNS_PLUGINS.iter().copied()) {
        Some(near) => unknown.with_help(format!(
            "CoreDNS has a plugin `{near}`; this server does not"
        )),
        None => unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::diagnostic::Severity;
    use crate::corefile::parser::parse_text;

    fn faults_of(text: &str) -> Vec<(String, String, Option<String>)> {
        let (corefile, mut faults) = parse_text(text);
        configure(&corefile, &mut faults);
        faults
            .sorted()
            .into_iter()
            .map(|fault| {
                (
                    corefile.place(fault.span),
                    fault.message.clone(),
                    fault.help.clone(),
                )
            })
            .collect()
    }

    fn one(text: &str) -> (String, String, Option<String>) {
        let mut faults = faults_of(text);
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.remove(0)
    }

    #[test]
    fn a_plugin_of_coredns_that_is_not_here_is_told_from_a_slip() {
        assert_eq!(
            one(". {\n  nomad\n}"),
            (
                "Corefile:2:3".into(),
                "CoreDNS has a plugin `nomad`; this server does not".into(),
                None
            )
        );
        assert_eq!(
            one(". {\n  fanout . 1.1.1.1\n}").1,
            "`fanout` is an external plugin of CoreDNS; this server does not have it"
        );
        assert_eq!(
            one(". {\n  frobnicate 1\n}").1,
            "unknown plugin `frobnicate`"
        );
    }

    #[test]
    fn a_word_near_a_plugin_of_coredns_is_told_which() {
        assert_eq!(
            one(". {\n  rewrit name a b\n}"),
            (
                "Corefile:2:3".into(),
                "unknown plugin `rewrit`".into(),
                Some("CoreDNS has a plugin `rewrite`; this server does not".into())
            )
        );
    }

    #[test]
    fn a_scheme_that_is_not_served_yet_is_named_once_where_it_stands() {
        assert_eq!(
            one("dns://a.org tls://10.0.0.0/23 {\n}"),
            (
                "Corefile:1:13".into(),
                "serving `tls://` is not built yet".into(),
                None
            )
        );
    }

    #[test]
    fn a_block_that_is_not_closed_is_named_where_the_next_one_starts() {
        let (place, message, help) = one("a.org {\n\nb.org {\n}\n}");
        assert_eq!(place, "Corefile:3:1");
        assert_eq!(message, "unknown plugin `b.org`");
        assert_eq!(
            help.as_deref(),
            Some("if it is a zone, the server block before it (Corefile:1:1) lacks its `}`")
        );
    }

    #[test]
    fn every_fault_of_a_file_is_told_at_once() {
        let messages: Vec<_> = faults_of("a..b {\n nomad\n}\nc: {\n frobnicate\n}")
            .into_iter()
            .map(|(_, message, _)| message)
            .collect();
        assert_eq!(
            messages,
            [
                "`a..b` is not a zone",
                "CoreDNS has a plugin `nomad`; this server does not",
                "`c:` ends in a colon",
                "unknown plugin `frobnicate`",
            ]
        );
    }

    #[test]
    fn every_plugin_here_that_coredns_has_stands_in_its_order() {
        let places: Vec<_> = PLUGINS
            .iter()
            .filter_map(|spec| COREDNS_PLUGINS.iter().position(|&name| name == spec.name))
            .collect();
        assert!(places.is_sorted());
    }

    #[test]
    fn a_word_that_is_no_zone_is_left_out_unless_nothing_is_left() {
        let severities = |zones: &str| {
            let (corefile, mut faults) = parse_text(&format!(". {{\n cache 30 {zones}\n}}"));
            configure(&corefile, &mut faults);
            faults
                .iter()
                .map(|fault| fault.severity)
                .collect::<Vec<_>>()
        };
        assert_eq!(severities("a..b c.org"), [Severity::Warning]);
        assert_eq!(severities("a..b .c"), [Severity::Error, Severity::Error]);
    }
}
