//! `forward FROM TO... { ... }`: every option, with its check.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::corefile::args::{Args, FromWord, GoDuration, read_as, unknown_option};
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::key::parse_zone;
use crate::corefile::tree::{Directive, Word};
use crate::plugin::forward::SPEC;
use crate::plugin::forward::budget::Rate;
use crate::plugin::forward::policy::Policy;
use crate::plugin::forward::private::DenyPrivate;
use crate::plugin::forward::target::{self, Place, Protocol, Target};
use crate::plugin::forward::tls::TlsFiles;
use crate::plugin::{Config, Context};
use crate::wire::code::Rcode;
use crate::wire::name::Name;

/// TO words of one directive, as CoreDNS limits them.
const TARGETS_MAX: usize = 15;

/// One directive.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stanza {
    /// What is forwarded.
    pub(super) from: Name,
    /// What is not, though it lies below `from`.
    pub(super) except: Vec<Name>,
    pub(super) targets: Vec<Target>,
    pub(super) policy: Policy,
    pub(super) transport: Transport,
    /// For upstreams over TLS.
    pub(super) tls: TlsFiles,
    /// What the certificates of all upstreams must be for, unless it is their addresses.
    pub(super) server_name: Option<ServerName<'static>>,
    /// For upstreams over HTTPS.
    pub(super) doh_method: Method,
    /// Who is asked for upstreams that are given by name; nobody means the system.
    pub(super) resolvers: Vec<SocketAddr>,
    /// Failed probes after which an upstream is down; 0 means never.
    pub(super) max_fails: u32,
    /// Queries at a time; 0 means any number.
    pub(super) max_concurrent: u64,
    /// Attempts for one query; 0 means as many as fit into its time, none means two an upstream.
    pub(super) max_connect_attempts: Option<u32>,
    /// Replies with these rcodes are passed over for the next directive's.
    pub(super) next: Vec<Rcode>,
    pub(super) next_on_nodata: bool,
    /// Replies with these rcodes are passed over for the next upstream's.
    pub(super) failover: Vec<Rcode>,
    pub(super) failfast: bool,
    /// A slow reply has another upstream asked as well.
    pub(super) hedge: bool,
    /// Private addresses are taken out of replies.
    pub(super) deny_private: Option<DenyPrivate>,
}

/// How an upstream is talked to. Two directives share the sockets and the health of an upstream if this is equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transport {
    pub(super) force_tcp: bool,
    pub(super) prefer_udp: bool,
    /// How long a socket may be idle.
    pub(super) expire: Duration,
    /// How old a socket may become; zero means any age, none what is usual for the transport.
    pub(super) max_age: Option<Duration>,
    /// Idle sockets kept; 0 means our own bound.
    pub(super) max_idle_conns: usize,
    pub(super) read_timeout: Duration,
    pub(super) source: Option<IpAddr>,
    /// Messages it may be sent in a second.
    pub(super) packet_budget: Option<Rate>,
    pub(super) health: Health,
}

/// How an upstream that failed is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) interval: Duration,
    pub(super) recursion_desired: bool,
    pub(super) domain: Name,
}

impl Stanza {
    /// The files that it names.
    pub(super) fn files(&self, root: &Path) -> Vec<PathBuf> {
        let lists = self
            .targets
            .iter()
            .filter_map(|target| match &target.place {
                Place::File(path) => Some(path.clone()),
                Place::Address(_) | Place::Host { .. } => None,
            });
        let tls = self.tls.below(root);
        lists.chain(tls.paths().map(Path::to_path_buf)).collect()
    }

    pub(super) fn new(from: Name) -> Self {
        Self {
            from,
            except: Vec::new(),
            targets: Vec::new(),
            policy: Policy::Random,
            transport: Transport {
                force_tcp: false,
                prefer_udp: false,
                expire: Duration::from_secs(10),
                max_age: None,
                max_idle_conns: 0,
                read_timeout: Duration::from_secs(2),
                source: None,
                packet_budget: None,
                health: Health {
                    interval: Duration::from_millis(500),
                    recursion_desired: true,
                    domain: Name::root(),
                },
            },
            tls: TlsFiles::default(),
            server_name: None,
            doh_method: Method::POST,
            resolvers: Vec::new(),
            max_fails: 2,
            max_concurrent: 0,
            max_connect_attempts: None,
            next: Vec::new(),
            next_on_nodata: false,
            failover: Vec::new(),
            failfast: false,
            hedge: false,
            deny_private: None,
        }
    }
}

/// Every directive of the block, in the order they stand.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ForwardConfig {
    pub(super) stanzas: Vec<Stanza>,
}

pub(super) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let directives = context.directives;
    let stanzas: Vec<Stanza> = directives
        .iter()
        .filter_map(|directive| Reader::new(context, directive)?.read())
        .collect();
    let whole = stanzas.len() == directives.len();
    whole.then(|| Box::new(ForwardConfig { stanzas }) as Box<dyn Config>)
}

/// Reads one directive; a fault does not stop it from looking for more.
struct Reader<'r, 'c> {
    context: &'r mut Context<'c>,
    directive: &'c Directive,
    stanza: Stanza,
    to: &'c [Word],
    whole: bool,
}

impl<'r, 'c> Reader<'r, 'c> {
    fn new(context: &'r mut Context<'c>, directive: &'c Directive) -> Option<Self> {
        const FROM: &str = "a zone such as `.` and at least one upstream such as 192.0.2.1:53";
        let mut args = Args::of(directive);
        let word = context.faults.note(args.take(FROM))?;
        let zones = context.faults.note(parse_zone(word))?;
        if zones.len() > 1 {
            context.faults.push(Diagnostic::warning(
                word.span,
                format!(
                    "`{}` stands for several zones; only `{}` is forwarded",
                    word.text, zones[0]
                ),
                "expected a prefix length that is a multiple of 8 (IPv4) or 4 (IPv6)",
            ));
        }
        Some(Self {
            stanza: Stanza::new(zones.into_iter().next()?),
            context,
            directive,
            to: args.rest(),
            whole: true,
        })
    }

    fn read(mut self) -> Option<Stanza> {
        for option in self.directive.options() {
            let result = self.option(option);
            self.note(result);
        }
        let result = self.ages();
        self.note(result);
        if self.to.is_empty() {
            let missing = Diagnostic::error(
                self.directive.span(),
                "`forward` needs an upstream address such as 192.0.2.1:53",
                "expected an upstream address after this",
            );
            self.note(Err(missing));
        }
        if let Some(word) = self.to.get(TARGETS_MAX) {
            let message = format!("more than {TARGETS_MAX} upstreams: {}", self.to.len());
            self.note(Err(Diagnostic::error(word.span, message, "one too many")));
        }
        for word in self.to {
            let result = self.target(word);
            self.note(result);
        }
        self.look_for_tls_without_use();
        self.whole.then_some(self.stanza)
    }

    fn note(&mut self, result: Result<(), Diagnostic>) {
        self.whole &= self.context.faults.note(result).is_some();
    }

    fn target(&mut self, word: &'c Word) -> Result<(), Diagnostic> {
        let target = target::read(word)?;
        match &target {
            Target {
                protocol: Protocol::Tls(Some(name)),
                ..
            } if self.stanza.server_name.is_some() => {
                return Err(Diagnostic::error(
                    word.span,
                    format!("`{}` is a second name for one upstream", name.to_str()),
                    "`tls_servername` names all upstreams already",
                ));
            }
            // Over TLS the name must fit a certificate, too, unless another is given.
            Target {
                protocol: Protocol::Tls(None) | Protocol::Https,
                place: Place::Host { name, .. },
            } if self.stanza.server_name.is_none() => {
                target::server_name(word, name)?;
            }
            _ => {}
        }
        self.stanza.targets.push(target);
        Ok(())
    }

    /// Who sets up TLS and forgets `tls://` sends queries that anyone can read; CoreDNS keeps that to itself.
    fn look_for_tls_without_use(&mut self) {
        let targets = &self.stanza.targets;
        if !self.whole || targets.iter().any(|to| to.protocol != Protocol::Dns) {
            return;
        }
        let options = self.directive.options().iter();
        let useless = options.filter(|option| option.name.text.starts_with("tls"));
        for option in useless {
            self.context.faults.push(Diagnostic::warning(
                option.span(),
                format!("`{}` is of no use here", option.name.text),
                "no upstream is over TLS: expected one such as tls://192.0.2.1",
            ));
        }
    }

    fn ages(&self) -> Result<(), Diagnostic> {
        let transport = &self.stanza.transport;
        let max_age = transport.max_age.unwrap_or_default();
        if max_age.is_zero() || max_age >= transport.expire {
            return Ok(());
        }
        let option = self
            .directive
            .options()
            .iter()
            .rfind(|option| option.name.text == "max_age");
        Err(Diagnostic::error(
            option.unwrap_or(self.directive).span(),
            "`max_age` is less than `expire`",
            "a socket would be too old before it could be idle too long",
        ))
    }

    fn option(&mut self, option: &'c Directive) -> Result<(), Diagnostic> {
        let stanza = &mut self.stanza;
        let transport = &mut stanza.transport;
        match option.name.text.as_str() {
            "except" => stanza.except.extend(zones(option)?),
            "force_tcp" => transport.force_tcp = flag(option)?,
            "prefer_udp" => transport.prefer_udp = flag(option)?,
            "expire" => transport.expire = duration(option)?,
            "max_age" => transport.max_age = Some(duration(option)?),
            "max_idle_conns" => transport.max_idle_conns = count(option)?,
            "read_timeout" => transport.read_timeout = positive_duration(option)?,
            "source_address" => transport.source = Some(one(option, "an IP address")?),
            "health_check" => transport.health = health_check(option, &transport.health)?,
            "packet_budget" => transport.packet_budget = Some(one(option, Rate::EXPECTED)?),
            "max_fails" => stanza.max_fails = one(option, NUMBER)?,
            "max_connect_attempts" => stanza.max_connect_attempts = Some(one(option, NUMBER)?),
            "max_concurrent" => stanza.max_concurrent = count(option)? as u64,
            "policy" => stanza.policy = one(option, Policy::EXPECTED)?,
            "next" => stanza.next.extend(rcodes(option)?),
            "next_on_nodata" => stanza.next_on_nodata = flag(option)?,
            "failover" => stanza.failover.extend(failover(option)?),
            "failfast_all_unhealthy_upstreams" => stanza.failfast = flag(option)?,
            "hedge" => stanza.hedge = flag(option)?,
            "deny_private" => {
                let deny = stanza.deny_private.get_or_insert_default();
                deny.allowed.extend(all_zones(option)?);
            }
            "tls" => stanza.tls = tls_files(option)?,
            "tls_servername" => stanza.server_name = Some(server_name(option)?),
            "resolver" => stanza.resolvers = resolvers(option)?,
            "doh_method" => stanza.doh_method = method(option)?,
            _ => return Err(unknown_option("forward", option, SPEC.option_names())),
        }
        Ok(())
    }
}

const NUMBER: &str = "a number from 0 to 4294967295";
const DURATION: &str = "a duration such as 10s";

fn flag(option: &Directive) -> Result<bool, Diagnostic> {
    Args::of(option).finish()?;
    Ok(true)
}

fn one<T: FromWord>(option: &Directive, expected: &str) -> Result<T, Diagnostic> {
    let mut args = Args::of(option);
    let value = args.take_as(expected)?;
    args.finish()?;
    Ok(value)
}

fn count(option: &Directive) -> Result<usize, Diagnostic> {
    const EXPECTED: &str = "a number, 0 or more";
    let number: i64 = one(option, EXPECTED)?;
    usize::try_from(number).map_err(|_| wrong(option, EXPECTED))
}

fn duration(option: &Directive) -> Result<Duration, Diagnostic> {
    let duration: GoDuration = one(option, DURATION)?;
    duration
        .to_duration()
        .ok_or_else(|| wrong(option, "a duration of 0 or more"))
}

fn positive_duration(option: &Directive) -> Result<Duration, Diagnostic> {
    let duration = duration(option)?;
    if duration.is_zero() {
        return Err(wrong(option, "a duration above 0"));
    }
    Ok(duration)
}

/// The fault of an option whose one word is out of range.
fn wrong(option: &Directive, expected: &str) -> Diagnostic {
    let word = option.args.first().unwrap_or(&option.name);
    Diagnostic::error(
        word.span,
        format!("`{}` is not {expected}", word.text),
        format!("expected {expected}"),
    )
}

fn zones(option: &Directive) -> Result<Vec<Name>, Diagnostic> {
    let mut args = Args::of(option);
    args.take("one or more zones")?;
    all_zones(option)
}

/// The same, and there may be none.
fn all_zones(option: &Directive) -> Result<Vec<Name>, Diagnostic> {
    let mut zones = Vec::new();
    for word in &option.args {
        zones.extend(parse_zone(word)?);
    }
    Ok(zones)
}

fn health_check(option: &Directive, before: &Health) -> Result<Health, Diagnostic> {
    let mut args = Args::of(option);
    let interval: GoDuration = args.take_as(DURATION)?;
    let interval = interval
        .to_duration()
        .ok_or_else(|| wrong(option, "a duration of 0 or more"))?;
    let mut health = Health {
        interval,
        domain: Name::root(),
        ..before.clone()
    };
    while args.peek().is_some() {
        let word = args.take("an option of `health_check`")?;
        match word.text.as_str() {
            "no_rec" => health.recursion_desired = false,
            "domain" => {
                let name = args.take("a name such as example.org")?;
                health.domain = Name::from_text(&name.text)
                    .map_err(|error| {
                        let message = format!("`{}` is not a name", name.text);
                        Diagnostic::error(name.span, message, error.to_string())
                    })?
                    .to_lower();
            }
            _ => {
                return Err(Diagnostic::error(
                    word.span,
                    format!("`health_check` has no option `{}`", word.text),
                    "expected `no_rec` or `domain NAME`",
                ));
            }
        }
    }
    Ok(health)
}

fn rcodes(option: &Directive) -> Result<Vec<Rcode>, Diagnostic> {
    const EXPECTED: &str = "one or more rcodes such as NXDOMAIN";
    Args::of(option).take(EXPECTED)?;
    option.args.iter().map(rcode).collect()
}

fn rcode(word: &Word) -> Result<Rcode, Diagnostic> {
    let known = match word.text.to_ascii_uppercase().as_str() {
        // Two names that CoreDNS knows beside the registry's.
        "NOTIMPL" => Some(Rcode::NOTIMP),
        "BADSIG" => Some(Rcode::BADVERS),
        text => Rcode::from_mnemonic(text).filter(|rcode| rcode.mnemonic() == Some(text)),
    };
    known.ok_or_else(|| {
        Diagnostic::error(
            word.span,
            format!("`{}` is not an rcode", word.text),
            "expected an rcode such as NXDOMAIN",
        )
    })
}

fn failover(option: &Directive) -> Result<Vec<Rcode>, Diagnostic> {
    let rcodes = rcodes(option)?;
    match rcodes.iter().position(|&rcode| rcode == Rcode::NOERROR) {
        None => Ok(rcodes),
        Some(place) => Err(Diagnostic::error(
            option.args[place].span,
            "`NOERROR` is no reason to ask the next upstream",
            "expected the rcode of a failure",
        )),
    }
}

/// `tls`, `tls CA`, `tls CERT KEY`, `tls CERT KEY CA`.
fn tls_files(option: &Directive) -> Result<TlsFiles, Diagnostic> {
    let path = |word: &Word| PathBuf::from(&word.text);
    let (identity, authority) = match &option.args[..] {
        [] => (None, None),
        [authority] => (None, Some(authority)),
        [certificate, key] => (Some((certificate, key)), None),
        [certificate, key, authority] => (Some((certificate, key)), Some(authority)),
        [_, _, _, word, ..] => {
            return Err(Diagnostic::error(
                word.span,
                "`tls` takes at most a certificate, a key and a CA",
                "expected the end of the line",
            ));
        }
    };
    Ok(TlsFiles {
        identity: identity.map(|(certificate, key)| (path(certificate), path(key))),
        authority: authority.map(path),
    })
}

fn server_name(option: &Directive) -> Result<ServerName<'static>, Diagnostic> {
    let mut args = Args::of(option);
    let word = args.take("a name such as dns.example.org")?;
    args.finish()?;
    target::server_name(word, &word.text)
}

fn resolvers(option: &Directive) -> Result<Vec<SocketAddr>, Diagnostic> {
    const EXPECTED: &str = "an IP address, with or without a port";
    Args::of(option).take(EXPECTED)?;
    let one = |word: &Word| {
        if let Ok(address) = word.text.parse() {
            return Ok(address);
        }
        let address = read_as::<IpAddr>(word, EXPECTED)?;
        Ok(SocketAddr::new(address, 53))
    };
    option.args.iter().map(one).collect()
}

fn method(option: &Directive) -> Result<Method, Diagnostic> {
    let mut args = Args::of(option);
    let word = args.take("`POST` or `GET`")?;
    args.finish()?;
    match word.text.as_str() {
        "POST" => Ok(Method::POST),
        "GET" => Ok(Method::GET),
        text => Err(Diagnostic::error(
            word.span,
            format!("`{text}` is not a method for queries"),
            "expected POST or GET",
        )),
    }
}
