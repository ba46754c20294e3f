//! `kubernetes [ZONES...] { … }`: what a directive says, checked.

use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::selector::Selector;
use crate::cluster::source::{ApiSource, Limits};
use crate::corefile::args::{Args, GoDuration, unknown_option};
use crate::corefile::diagnostic::{Diagnostic, Span};
use crate::corefile::key::parse_zone;
use crate::corefile::tree::{Directive, Word};
use crate::plugin::fallthrough::Fallthrough;
use crate::plugin::kubernetes::{PodMode, SPEC};
use crate::plugin::{Config, Context, ttl};
use crate::wire::name::Name;

const STARTUP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

const RECONCILE_DEFAULT: Duration = Duration::from_secs(10 * 60);
const RECONCILE_MIN: Duration = Duration::from_secs(1);

/// A night: long enough for whoever mends the API server, short enough that a file which was forgotten on a node for
/// weeks is not taken for the cluster.
const SNAPSHOT_AGE_MAX_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

/// Octets that a zone may have, so that SOA and NS still fit in front of it.
const ZONE_MAX: usize = 240;

/// What a `kubernetes` directive says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KubernetesConfig {
    pub(super) zones: Vec<Name>,
    pub(super) primary_zone: Name,
    pub(super) manifests: Vec<PathBuf>,
    pub(super) api: ApiSource,
    pub(super) namespaces: Option<Vec<String>>,
    pub(super) namespace_labels: Option<Selector>,
    pub(super) labels: Option<Selector>,
    pub(super) pods: PodMode,
    /// `autopath` asks for the search paths of Pods.
    pub(super) searched: bool,
    /// `metadata` shows which Pod asks.
    pub(super) clients: bool,
    pub(super) endpoint_pod_names: bool,
    pub(super) endpoints: bool,
    pub(super) ttl: u32,
    pub(super) ignore_empty_service: bool,
    pub(super) zonal: bool,
    /// Some of `zones`.
    pub(super) multicluster: Vec<Name>,
    pub(super) fallthrough: Option<Fallthrough>,
    pub(super) startup_timeout: Duration,
    pub(super) limits: Limits,
    /// How often the cluster is compared with the API server; none is never.
    pub(super) reconcile: Option<Duration>,
    pub(super) snapshot: Option<SnapshotConfig>,
}

/// `snapshot PATH [MAX_AGE]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SnapshotConfig {
    pub(super) path: PathBuf,
    pub(super) age_max: Duration,
}

/// What is known only when all options are read.
#[derive(Default)]
struct Pieces {
    kubeconfig: Option<(PathBuf, Option<String>)>,
    endpoint: Option<String>,
    tls: Option<([PathBuf; 3], Span)>,
    api: Option<Span>,
    manifests: Option<Span>,
    namespaces: Option<Span>,
    namespace_labels: Option<Span>,
    zonal: Option<Span>,
    /// Options that mean nothing without an API server.
    api_only: Vec<Span>,
    snapshot: Option<Span>,
}

pub(super) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    let directive = context.once();
    let zones = read_zones(directive, context);
    let mut config = KubernetesConfig {
        primary_zone: primary_zone(&zones, directive, context),
        zones,
        manifests: Vec::new(),
        api: ApiSource::Default,
        namespaces: None,
        namespace_labels: None,
        labels: None,
        pods: PodMode::default(),
        searched: false,
        clients: false,
        endpoint_pod_names: false,
        endpoints: true,
        ttl: ttl::DEFAULT,
        ignore_empty_service: false,
        zonal: false,
        multicluster: Vec::new(),
        fallthrough: None,
        startup_timeout: STARTUP_TIMEOUT_DEFAULT,
        limits: Limits::default(),
        reconcile: Some(RECONCILE_DEFAULT),
        snapshot: None,
    };
    let mut pieces = Pieces::default();
    for option in directive.options() {
        let result = config.option(option, &mut pieces, context);
        context.faults.note(result);
    }
    pieces.check(config.endpoints, context);
    config.api = pieces.source();
    config.serve_autopath(context);
    config.clients = config.pods == PodMode::Verified && context.has_plugin("metadata");
    (context.faults.error_count() == errors).then(|| Box::new(config) as Box<dyn Config>)
}

/// The zones of the line, else those of the server block. CoreDNS leaves a word that is no zone out and says nothing
/// (templates such as `{{ .ClusterDomain }}` live on that); we say so, and refuse a line that none is left of.
fn read_zones(directive: &Directive, context: &mut Context<'_>) -> Vec<Name> {
    if directive.args.is_empty() {
        return context.origins();
    }
    let (mut zones, mut left_out) = (Vec::new(), Vec::new());
    for word in &directive.args {
        match parse_zone(word) {
            Ok(more) => zones.extend(more),
            Err(fault) => left_out.push(fault),
        }
    }
    for fault in left_out {
        let Diagnostic {
            span,
            message,
            label,
            ..
        } = fault;
        context.faults.push(if zones.is_empty() {
            Diagnostic::error(span, message, label)
        } else {
            Diagnostic::warning(span, message, "this word is left out")
        });
    }
    zones
}

/// The zone that PTR targets lie in: the first that is no reverse zone. `in-addr.arpa` itself is none to CoreDNS, so
/// that Services get names below it where it stands first; here it is taken only if there is no other.
fn primary_zone(zones: &[Name], directive: &Directive, context: &mut Context<'_>) -> Name {
    let is_reverse = |zone: &Name, strictly| {
        ["in-addr.arpa", "ip6.arpa"]
            .iter()
            .any(|tree| is_below(zone, tree, strictly))
    };
    if let Some(long) = zones.iter().find(|zone| zone.as_ref().len() > ZONE_MAX) {
        context.faults.push(Diagnostic::error(
            directive.span(),
            format!("`{long}` leaves no room for names of Services"),
            format!("expected zones of at most {ZONE_MAX} octets"),
        ));
        return Name::root();
    }
    let primary = zones.iter().find(|zone| !is_reverse(zone, false));
    let primary = primary.or_else(|| zones.iter().find(|zone| !is_reverse(zone, true)));
    if primary.is_none() && !zones.is_empty() {
        context.faults.push(Diagnostic::error(
            directive.span(),
            "`kubernetes` has reverse zones only",
            "expected a zone for the names of Services, such as cluster.local",
        ));
    }
    primary.cloned().unwrap_or_else(Name::root)
}

fn is_below(zone: &Name, tree: &str, strictly: bool) -> bool {
    let tree = Name::from_text(tree).expect("a name");
    let prefix = zone.as_ref().prefix_len(tree.as_ref());
    prefix.is_some_and(|octets| octets > 0 || !strictly)
}

impl KubernetesConfig {
    /// Notes whether `autopath` of the same server block asks this plugin.
    fn serve_autopath(&mut self, context: &mut Context<'_>) {
        let lines = context
            .block
            .iter()
            .filter(|line| line.name.text == "autopath");
        let mut asks = lines.filter_map(|line| line.args.last());
        let Some(word) = asks.next_back().filter(|word| word.text == "@kubernetes") else {
            return;
        };
        self.searched = true;
        if self.pods != PodMode::Verified {
            context.faults.push(Diagnostic::warning(
                word.span,
                "`autopath @kubernetes` needs `pods verified`",
                "without it `autopath` has no effect",
            ));
        }
    }

    fn option(
        &mut self,
        option: &Directive,
        pieces: &mut Pieces,
        context: &mut Context<'_>,
    ) -> Result<(), Diagnostic> {
        let mut args = Args::of(option);
        let span = option.name.span;
        match option.name.text.as_str() {
            "manifests" => {
                args.take("a file or folder such as /etc/cluster")?;
                self.manifests
                    .extend(option.args.iter().map(|word| PathBuf::from(&word.text)));
                pieces.manifests = Some(span);
                args.rest();
            }
            "kubeconfig" | "endpoint" | "tls" => return pieces.connection(option, context),
            "namespaces" => {
                args.take("the name of a namespace")?;
                let names = option.args.iter().map(|word| word.text.clone());
                self.namespaces.get_or_insert_default().extend(names);
                pieces.namespaces = Some(span);
                args.rest();
            }
            "namespace_labels" => {
                self.namespace_labels = Some(read_selector(option, &mut args)?);
                pieces.namespace_labels = Some(span);
            }
            "labels" => {
                self.labels = Some(read_selector(option, &mut args)?);
            }
            "pods" => self.pods = read_pods(&mut args)?,
            "endpoint_pod_names" => self.endpoint_pod_names = true,
            "noendpoints" => self.endpoints = false,
            "ttl" => {
                self.ttl = ttl::parse(option, context)?;
                args.rest();
            }
            "ignore" => {
                self.ignore_empty_service |= read_ignore(option, &mut args, context)?;
                context.warn_of(args.rest());
            }
            "fallthrough" => {
                self.fallthrough = Some(Fallthrough::parse(option, context));
                args.rest();
            }
            "startup_timeout" => {
                self.startup_timeout = read_timeout(&mut args)?;
                context.warn_of(args.rest());
            }
            "reconcile" => {
                self.reconcile = read_reconcile(&mut args)?;
                pieces.api_only.push(span);
            }
            "snapshot" => {
                self.snapshot = Some(read_snapshot(&mut args)?);
                if pieces.snapshot.replace(span).is_some() {
                    let message = "`snapshot` stands here for the second time";
                    return Err(Diagnostic::error(span, message, "expected it once"));
                }
            }
            "multicluster" => return self.multicluster(option, context),
            "zonal" => {
                self.zonal = true;
                pieces.zonal = Some(span);
            }
            "apiserver_qps" | "apiserver_burst" | "apiserver_max_inflight" => {
                read_limit(&mut self.limits, option, &mut args)?;
                pieces.api_only.push(span);
            }
            _ => return Err(unknown_option(SPEC.name, option, SPEC.option_names())),
        }
        args.finish()
    }

    fn multicluster(
        &mut self,
        option: &Directive,
        context: &mut Context<'_>,
    ) -> Result<(), Diagnostic> {
        let span = option.name.span;
        if option.args.is_empty() {
            let fault = Diagnostic::warning(
                span,
                "`multicluster` names no zone",
                "this line has no effect",
            );
            context.faults.push(fault);
            return Ok(());
        }
        self.multicluster = context.zones(&option.args);
        for zone in &self.multicluster {
            if !self.zones.contains(zone) {
                return Err(Diagnostic::error(
                    option.span(),
                    format!("`kubernetes` is not authoritative for the multicluster zone `{zone}`"),
                    "expected zones that `kubernetes` lists",
                ));
            }
        }
        Ok(())
    }
}

impl Pieces {
    /// How the API server is reached.
    fn connection(
        &mut self,
        option: &Directive,
        context: &mut Context<'_>,
    ) -> Result<(), Diagnostic> {
        let mut args = Args::of(option);
        let text = |word: &Word| word.text.clone();
        match option.name.text.as_str() {
            "kubeconfig" => {
                let file = args.take("a kubeconfig file such as /etc/kubernetes/admin.conf")?;
                let current = args.peek().is_none();
                let name = if current {
                    None
                } else {
                    Some(text(args.take("the name of a context")?))
                };
                self.kubeconfig = Some((PathBuf::from(&file.text), name));
                self.api = Some(option.name.span);
            }
            "endpoint" => {
                self.endpoint = Some(text(
                    args.take("the URL of an API server such as https://192.0.2.1:6443")?,
                ));
                self.api = Some(option.name.span);
                // Only the first is used.
                context.warn_of(args.rest());
            }
            _ => {
                let mut file = |expected| args.take(expected).map(|word| PathBuf::from(&word.text));
                let files = [
                    file("the file of a client certificate, then its key and a CA")?,
                    file("the file of the certificate's key, then a CA")?,
                    file("the file of the API server's CA")?,
                ];
                self.tls = Some((files, option.name.span));
            }
        }
        args.finish()
    }

    fn check(&self, endpoints: bool, context: &mut Context<'_>) {
        let faults = &mut *context.faults;
        let mut exclusive = |span: Option<Span>, pair: &str| {
            if let Some(span) = span {
                let message = format!("{pair} exclude each other");
                faults.push(Diagnostic::error(span, message, "expected one of them"));
            }
        };
        exclusive(
            self.namespaces.and(self.namespace_labels),
            "`namespaces` and `namespace_labels`",
        );
        exclusive(
            self.zonal.filter(|_| !endpoints),
            "`zonal` and `noendpoints`",
        );
        exclusive(
            self.api.and(self.manifests),
            "`manifests` and an API server",
        );
        exclusive(
            self.manifests.and(self.snapshot),
            "`manifests` and `snapshot`",
        );
        for &span in self.api_only.iter().filter(|_| self.manifests.is_some()) {
            faults.push(Diagnostic::warning(
                span,
                "what is about an API server means nothing beside `manifests`",
                "this line has no effect",
            ));
        }
        if let (Some((_, span)), None) = (&self.tls, &self.endpoint) {
            let fault = Diagnostic::warning(
                *span,
                "`tls` is used with `endpoint` only",
                "this line has no effect",
            );
            faults.push(fault);
        }
    }

    /// A kubeconfig wins over an endpoint, as in CoreDNS.
    fn source(self) -> ApiSource {
        if let Some((path, context)) = self.kubeconfig {
            return ApiSource::Kubeconfig { path, context };
        }
        let tls = self.tls.map(|(files, _)| files);
        self.endpoint
            .map_or(ApiSource::Default, |url| ApiSource::Endpoint { url, tls })
    }
}

fn read_selector(option: &Directive, args: &mut Args<'_>) -> Result<Selector, Diagnostic> {
    args.take("a label selector such as app=web")?;
    args.rest();
    let words: Vec<&str> = option.args.iter().map(|word| word.text.as_str()).collect();
    let text = words.join(" ");
    Selector::parse(&text).map_err(|why| {
        Diagnostic::error(
            option.span(),
            format!("`{text}` is not a label selector: {why}"),
            "expected a label selector such as app=web",
        )
    })
}

fn read_pods(args: &mut Args<'_>) -> Result<PodMode, Diagnostic> {
    const EXPECTED: &str = "one of `disabled`, `insecure`, `verified`";
    let word = args.take(EXPECTED)?;
    match word.text.as_str() {
        "disabled" => Ok(PodMode::Disabled),
        "insecure" => Ok(PodMode::Insecure),
        "verified" => Ok(PodMode::Verified),
        other => {
            let message = format!("`{other}` is not a mode of `pods`");
            Err(Diagnostic::error(
                word.span,
                message,
                format!("expected {EXPECTED}"),
            ))
        }
    }
}

fn read_ignore(
    option: &Directive,
    args: &mut Args<'_>,
    context: &mut Context<'_>,
) -> Result<bool, Diagnostic> {
    if args.peek().is_none() {
        let span = option.name.span;
        let fault = Diagnostic::warning(span, "`ignore` names nothing", "this line has no effect");
        context.faults.push(fault);
        return Ok(false);
    }
    let word = args.take("`empty_service`")?;
    if word.text == "empty_service" {
        return Ok(true);
    }
    let message = format!("`{}` is nothing that can be ignored", word.text);
    Err(Diagnostic::error(
        word.span,
        message,
        "expected `empty_service`",
    ))
}

/// CoreDNS panics at 0 and below. 0 says "do not wait", which is of use; less says nothing.
fn read_timeout(args: &mut Args<'_>) -> Result<Duration, Diagnostic> {
    const EXPECTED: &str = "a duration such as 5s, or 0 not to wait";
    let span = args.peek().map_or(args.span(), |word| word.span);
    let given: GoDuration = args.take_as(EXPECTED)?;
    given.to_duration().ok_or_else(|| {
        let message = format!("`{given}` is negative");
        Diagnostic::error(span, message, format!("expected {EXPECTED}"))
    })
}

/// How often, or `off`.
fn read_reconcile(args: &mut Args<'_>) -> Result<Option<Duration>, Diagnostic> {
    const EXPECTED: &str = "a duration of at least 1s, such as 10m, or `off`";
    if args.peek().is_some_and(|word| word.text == "off") {
        args.take(EXPECTED)?;
        return Ok(None);
    }
    let span = args.peek().map_or(args.span(), |word| word.span);
    let given: GoDuration = args.take_as(EXPECTED)?;
    let interval = given.to_duration().filter(|&time| time >= RECONCILE_MIN);
    interval.map(Some).ok_or_else(|| {
        let message = format!("`{given}` is too short for `reconcile`");
        Diagnostic::error(span, message, format!("expected {EXPECTED}"))
    })
}

fn read_snapshot(args: &mut Args<'_>) -> Result<SnapshotConfig, Diagnostic> {
    const EXPECTED: &str = "an age such as 24h";
    let file = args.take("a file such as /var/lib/fingerpost/cluster, then an age such as 24h")?;
    let path = PathBuf::from(&file.text);
    let Some(word) = args.peek() else {
        let age_max = SNAPSHOT_AGE_MAX_DEFAULT;
        return Ok(SnapshotConfig { path, age_max });
    };
    let span = word.span;
    let given: GoDuration = args.take_as(EXPECTED)?;
    match given.to_duration() {
        Some(age_max) if age_max > Duration::ZERO => Ok(SnapshotConfig { path, age_max }),
        _ => Err(Diagnostic::error(
            span,
            format!("`{given}` is not {EXPECTED}"),
            "expected more than 0",
        )),
    }
}

/// `apiserver_*`: a number of 0 or more, 0 being the default. CoreDNS reads them and limits nothing.
fn read_limit(
    limits: &mut Limits,
    option: &Directive,
    args: &mut Args<'_>,
) -> Result<(), Diagnostic> {
    let name = option.name.text.as_str();
    let span = args.peek().map_or(args.span(), |word| word.span);
    let negative = || {
        let message = format!("`{name}` must be 0 or more");
        Diagnostic::error(span, message, "expected a number of 0 or more")
    };
    if name == "apiserver_qps" {
        let rate: f64 = args.take_as("a number of 0 or more, such as 50")?;
        if rate < 0.0 {
            return Err(negative());
        }
        limits.interval = Limits::interval_of(rate);
        return Ok(());
    }
    let number: i64 = args.take_as("a whole number of 0 or more, such as 100")?;
    if number < 0 {
        return Err(negative());
    }
    let number = (number > 0).then(|| u32::try_from(number).unwrap_or(u32::MAX));
    if name == "apiserver_burst" {
        limits.burst = number;
    } else {
        limits.in_flight_max = number;
    }
    Ok(())
}
