//! What a `cache` directive says.

use std::sync::Arc;
use std::time::Duration;

use crate::chain::plugin::Plugin;
use crate::corefile::args::{Args, FromWord, GoDuration, read_as, unknown_option};
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::{Directive, Word};
use crate::plugin::cache::budget::OCTETS_MIN;
use crate::plugin::cache::{Cache, SPEC};
use crate::plugin::{BuildError, Config, Context, OptionSpec};
use crate::server::assembly::Assembly;
use crate::server::lent::Demands;
use crate::wire::name::Name;

/// The options of `cache`.
pub(in crate::plugin::cache) static OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "success",
        syntax: "success CAPACITY [TTL] [MINTTL]",
        default: "9984 entries, 3600 s at most, 5 s at least",
        help: "bounds for answers",
    },
    OptionSpec {
        name: "denial",
        syntax: "denial CAPACITY [TTL] [MINTTL]",
        default: "9984 entries, 1800 s at most, 5 s at least",
        help: "bounds for name errors, NODATA and failures",
    },
    OptionSpec {
        name: "prefetch",
        syntax: "prefetch AMOUNT [DURATION [PERCENT%]]",
        default: "off; DURATION 1m, PERCENT 10%",
        help: "refreshes entries that are asked for often before they expire",
    },
    OptionSpec {
        name: "serve_stale",
        syntax: "serve_stale [DURATION [immediate [TTL [RECHECK]] | verify [TIMEOUT [TTL [RECHECK]]]]]",
        default: "off; 1h immediate, TTL 0s, RECHECK 0s",
        help: "answers from expired entries while nothing newer can be had",
    },
    OptionSpec {
        name: "serve_stale_policy",
        syntax: "serve_stale_policy prefer_positive",
        default: "off",
        help: "with `serve_stale`: an answer, even a stale one, goes before a denial",
    },
    OptionSpec {
        name: "servfail",
        syntax: "servfail DURATION",
        default: "5s",
        help: "how long upstreams' failures are kept, 5m at most; 0 keeps none",
    },
    OptionSpec {
        name: "disable",
        syntax: "disable success|denial [ZONES...]",
        default: "nothing; ZONES `.`",
        help: "keeps no such reply for names in ZONES",
    },
    OptionSpec {
        name: "keepttl",
        syntax: "keepttl",
        default: "off",
        help: "entries leave with the TTL they came with",
    },
    OptionSpec {
        name: "memory",
        syntax: "memory SIZE",
        default: "a quarter of the cgroup's memory limit, 4Mi at least and 1Gi at most; 64Mi without a limit",
        help: "octets for the entries of all caches of the process, such as `64Mi`",
    },
];

/// Bounds for one kind of entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin::cache) struct Bounds {
    /// Entries.
    pub(in crate::plugin::cache) capacity: u64,
    /// Seconds that an entry lives at most.
    pub(in crate::plugin::cache) ttl_max: u32,
    /// Seconds that an entry lives at least, even if its records say less.
    pub(in crate::plugin::cache) ttl_min: u32,
}

impl Bounds {
    /// A TTL within the bounds; the upper one wins where they cross.
    pub(in crate::plugin::cache) fn clamp(&self, ttl: u32) -> u32 {
        ttl.max(self.ttl_min).min(self.ttl_max)
    }
}

/// When to refresh an entry that is still good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin::cache) struct Prefetch {
    /// Hits, none further apart than `gap_max`.
    pub(in crate::plugin::cache) hits: u32,
    /// A longer gap starts the count again.
    pub(in crate::plugin::cache) gap_max: Duration,
    /// Part of its life, in percent, that may be left.
    pub(in crate::plugin::cache) percent: u32,
}

/// What to do with an expired entry first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin::cache) enum StaleMode {
    /// Answer from it, then refresh it.
    Immediate,
    /// Ask below; answer from it if that fails, or takes longer than this.
    Verify(Option<Duration>),
}

/// How expired entries are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin::cache) struct Stale {
    /// Seconds after expiry that an entry stays usable.
    pub(in crate::plugin::cache) seconds_max: u32,
    /// What comes first.
    pub(in crate::plugin::cache) mode: StaleMode,
    /// TTL of stale records, in seconds.
    pub(in crate::plugin::cache) ttl: u32,
    /// Pause after a refresh that failed.
    pub(in crate::plugin::cache) recheck: Duration,
}

/// A checked `cache` directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plugin::cache) struct CacheConfig {
    /// Names at or below these are cached.
    pub(in crate::plugin::cache) zones: Vec<Name>,
    /// For answers.
    pub(in crate::plugin::cache) success: Bounds,
    /// For denials and failures.
    pub(in crate::plugin::cache) denial: Bounds,
    /// Seconds that a failure lives.
    pub(in crate::plugin::cache) failure_ttl: u32,
    /// Off if none.
    pub(in crate::plugin::cache) prefetch: Option<Prefetch>,
    /// Off if none.
    pub(in crate::plugin::cache) stale: Option<Stale>,
    /// An answer goes before a denial, even if it is stale.
    pub(in crate::plugin::cache) prefer_positive: bool,
    /// No answers are kept for names here.
    pub(in crate::plugin::cache) success_off: Vec<Name>,
    /// No denials are kept for names here.
    pub(in crate::plugin::cache) denial_off: Vec<Name>,
    /// Entries leave with the TTL they came with.
    pub(in crate::plugin::cache) keep_ttl: bool,
    /// Octets for the entries of all caches; none leaves it to us.
    pub(in crate::plugin::cache) memory: Option<u64>,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            zones: Vec::new(),
            success: Bounds {
                capacity: 9984,
                ttl_max: 3600,
                ttl_min: 5,
            },
            denial: Bounds {
                capacity: 9984,
                ttl_max: 1800,
                ttl_min: 5,
            },
            failure_ttl: 5,
            prefetch: None,
            stale: None,
            prefer_positive: false,
            success_off: Vec::new(),
            denial_off: Vec::new(),
            keep_ttl: false,
            memory: None,
        }
    }
}

impl CacheConfig {
    /// What it says of this cache alone: what all share decides nothing about an entry.
    pub(in crate::plugin::cache) fn without_memory(&self) -> Self {
        Self {
            memory: None,
            ..self.clone()
        }
    }
}

impl Config for CacheConfig {
    fn demand(&self, demands: &mut Demands) {
        // `plugin/single.rs` has seen to it that all who say something say the same.
        demands.cache_octets = demands.cache_octets.or(self.memory);
    }

    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        Ok(vec![Arc::new(Cache::new(self.clone(), assembly))])
    }
}

/// Reads the directive.
pub(in crate::plugin::cache) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let directive = context.once();
    let mut whole = context.directives.len() == 1;
    let mut config = CacheConfig::default();
    let mut args = Args::of(directive);
    if args.take_if::<i64>().is_some() {
        match context.faults.note(seconds(&directive.args[0])) {
            Some(ttl) => {
                config.success.ttl_max = ttl;
                config.denial.ttl_max = ttl;
            }
            None => whole = false,
        }
    }
    let zones = args.rest();
    config.zones = context.zones_or_origins(zones);
    whole &= !config.zones.is_empty();
    let mut policy = None;
    for option in directive.options() {
        whole &= context.has_no_options(option);
        if option.name.text == "serve_stale_policy" && policy.replace(option).is_some() {
            whole = false;
            context.faults.push(Diagnostic::error(
                option.name.span,
                "`serve_stale_policy` stands twice",
                "only once",
            ));
        }
        let read = config.read_option(option, context);
        whole &= context.faults.note(read).is_some();
    }
    if let Some(policy) = policy
        && !directive
            .options()
            .iter()
            .any(|o| o.name.text == "serve_stale")
    {
        whole = false;
        context.faults.push(Diagnostic::error(
            policy.span(),
            "`serve_stale_policy` needs `serve_stale`",
            "has no effect without it",
        ));
    }
    whole.then(|| Box::new(config) as Box<dyn Config>)
}

const CAPACITY: &str = "a capacity in entries, such as 10000";
const DURATION: &str = "a duration, such as `10s`";

impl CacheConfig {
    fn read_option(
        &mut self,
        option: &Directive,
        context: &mut Context<'_>,
    ) -> Result<(), Diagnostic> {
        match option.name.text.as_str() {
            "success" => read_bounds(&mut self.success, option, context),
            "denial" => read_bounds(&mut self.denial, option, context),
            "prefetch" => {
                self.prefetch = read_prefetch(option)?;
                Ok(())
            }
            "serve_stale" => {
                self.stale = read_stale(option)?;
                Ok(())
            }
            "serve_stale_policy" => self.read_policy(option),
            "servfail" => self.read_servfail(option),
            "disable" => self.read_disable(option, context),
            "keepttl" => {
                self.keep_ttl = true;
                Args::of(option).finish()
            }
            "memory" => self.read_memory(option),
            _ => Err(unknown_option(SPEC.name, option, SPEC.option_names())),
        }
    }

    fn read_memory(&mut self, option: &Directive) -> Result<(), Diagnostic> {
        const EXPECTED: &str = "a size from `4Mi` to `1Ti`";
        let mut args = Args::of(option);
        let word = args.take(EXPECTED)?;
        args.finish()?;
        let size = octets(&word.text).filter(|size| (OCTETS_MIN..=1 << 40).contains(size));
        self.memory = Some(size.ok_or_else(|| not(word, EXPECTED))?);
        Ok(())
    }

    fn read_policy(&mut self, option: &Directive) -> Result<(), Diagnostic> {
        const EXPECTED: &str = "`prefer_positive`";
        let mut args = Args::of(option);
        let word = args.take(EXPECTED)?;
        args.finish()?;
        if !word.text.eq_ignore_ascii_case("prefer_positive") {
            return Err(not(word, EXPECTED));
        }
        self.prefer_positive = true;
        Ok(())
    }

    fn read_servfail(&mut self, option: &Directive) -> Result<(), Diagnostic> {
        let mut args = Args::of(option);
        let word = args.take(DURATION)?;
        args.finish()?;
        let duration = duration(word)?;
        // RFC 2308, section 7.1.
        if duration > FIVE_MINUTES {
            return Err(Diagnostic::error(
                word.span,
                format!("failures may not be kept for `{}`", word.text),
                "expected 5m or less",
            ));
        }
        self.failure_ttl = whole_seconds(duration);
        Ok(())
    }

    fn read_disable(
        &mut self,
        option: &Directive,
        context: &mut Context<'_>,
    ) -> Result<(), Diagnostic> {
        const EXPECTED: &str = "`success` or `denial`";
        let mut args = Args::of(option);
        let kind = args.take(EXPECTED)?;
        let zones = match args.rest() {
            [] => vec![Name::root()],
            words => context.zones(words),
        };
        match kind.text.as_str() {
            "success" => self.success_off = zones,
            "denial" => self.denial_off = zones,
            _ => return Err(not(kind, EXPECTED)),
        }
        Ok(())
    }
}

const FIVE_MINUTES: Duration = Duration::from_secs(300);

fn not(word: &Word, expected: &str) -> Diagnostic {
    Diagnostic::error(
        word.span,
        format!("`{}` is not {expected}", word.text),
        format!("expected {expected}"),
    )
}

fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// A number of octets as Kubernetes writes it: `67108864`, `64Mi`.
fn octets(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        "Ti" => 40,
        _ => return None,
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(1 << shift)
}

/// A TTL above zero. Past what a TTL can hold (RFC 2181, section 8) it is no bound at all.
fn seconds(word: &Word) -> Result<u32, Diagnostic> {
    const EXPECTED: &str = "a TTL in seconds, above zero";
    let ttl: i64 = read_as(word, EXPECTED)?;
    if ttl <= 0 {
        return Err(not(word, EXPECTED));
    }
    Ok(u32::try_from(ttl).unwrap_or(u32::MAX).min(TTL_MAX))
}

/// The longest TTL there is (RFC 2181, section 8).
const TTL_MAX: u32 = 0x7fff_ffff;

fn duration(word: &Word) -> Result<Duration, Diagnostic> {
    read_as::<GoDuration>(word, DURATION)?
        .to_duration()
        .ok_or_else(|| not(word, DURATION))
}

fn read_bounds(
    bounds: &mut Bounds,
    option: &Directive,
    context: &mut Context<'_>,
) -> Result<(), Diagnostic> {
    let mut args = Args::of(option);
    let capacity: i64 = args.take_as(CAPACITY)?;
    bounds.capacity = u64::try_from(capacity).unwrap_or(0);
    if args.peek().is_some() {
        bounds.ttl_max = seconds(args.take("a TTL")?)?;
    }
    if let Some(word) = args.peek() {
        const EXPECTED: &str = "the least TTL in seconds";
        let ttl: i64 = args.take_as(EXPECTED)?;
        bounds.ttl_min = match u64::try_from(ttl) {
            Ok(ttl) => u32::try_from(ttl).unwrap_or(TTL_MAX).min(TTL_MAX),
            Err(_) => return Err(not(word, EXPECTED)),
        };
    }
    if let Some(word) = args.peek() {
        // CoreDNS starts with such a line, so it is not an error.
        context.faults.push(Diagnostic::warning(
            word.span,
            format!("`{}` has no meaning here", word.text),
            "expected the end of the line",
        ));
    }
    Ok(())
}

fn read_prefetch(option: &Directive) -> Result<Option<Prefetch>, Diagnostic> {
    const AMOUNT: &str = "a number of hits";
    const PERCENT: &str = "a percentage from `10%` to `90%`";
    let mut args = Args::of(option);
    let hits = args.take(AMOUNT)?;
    let hits = u32::from_word(&hits.text).ok_or_else(|| not(hits, AMOUNT))?;
    let mut prefetch = Prefetch {
        hits,
        gap_max: Duration::from_secs(60),
        percent: 10,
    };
    if args.peek().is_some() {
        prefetch.gap_max = duration(args.take(DURATION)?)?;
    }
    if args.peek().is_some() {
        let word = args.take(PERCENT)?;
        prefetch.percent = word
            .text
            .strip_suffix('%')
            .and_then(u32::from_word)
            .filter(|percent| (10..=90).contains(percent))
            .ok_or_else(|| not(word, PERCENT))?;
    }
    args.finish()?;
    Ok((hits > 0).then_some(prefetch))
}

fn read_stale(option: &Directive) -> Result<Option<Stale>, Diagnostic> {
    const MODE: &str = "`immediate` or `verify`";
    let mut args = Args::of(option);
    let mut stale = Stale {
        seconds_max: 3600,
        mode: StaleMode::Immediate,
        ttl: 0,
        recheck: Duration::ZERO,
    };
    if args.peek().is_some() {
        stale.seconds_max = whole_seconds(duration(args.take(DURATION)?)?);
    }
    if args.peek().is_some() {
        let mode = args.take(MODE)?;
        if mode.text.eq_ignore_ascii_case("verify") {
            let mut timeout = Duration::ZERO;
            if args.peek().is_some() {
                timeout = duration(args.take(DURATION)?)?;
            }
            stale.mode = StaleMode::Verify(Some(timeout).filter(|timeout| !timeout.is_zero()));
        } else if !mode.text.eq_ignore_ascii_case("immediate") {
            return Err(not(mode, MODE));
        }
    }
    if args.peek().is_some() {
        stale.ttl = stale_ttl(args.take(DURATION)?)?;
    }
    if args.peek().is_some() {
        const RECHECK: &str = "a duration of 5m at most";
        let word = args.take(RECHECK)?;
        stale.recheck = duration(word)?;
        if stale.recheck > FIVE_MINUTES {
            return Err(not(word, RECHECK));
        }
    }
    args.finish()?;
    Ok((stale.seconds_max > 0).then_some(stale))
}

fn stale_ttl(word: &Word) -> Result<u32, Diagnostic> {
    const EXPECTED: &str = "a TTL in whole seconds, such as `30s`";
    let ttl = duration(word)?;
    if ttl.subsec_nanos() != 0 {
        return Err(not(word, EXPECTED));
    }
    u32::try_from(ttl.as_secs()).map_err(|_| not(word, EXPECTED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::bench::fault;
    use crate::plugin::testing::{config, faults};

    fn read(text: &str) -> CacheConfig {
        let any: Box<dyn std::any::Any> = config(&SPEC, text);
        *any.downcast().unwrap()
    }

    #[test]
    fn a_bare_directive_means_coredns_defaults() {
        let expected = CacheConfig {
            zones: vec![Name::root()],
            ..CacheConfig::default()
        };
        assert_eq!(read("cache"), expected);
    }

    #[test]
    fn a_number_in_front_is_the_ttl_of_both_kinds_and_the_rest_are_zones() {
        let read = read("cache 30 Example.ORG 10.0.0.0/8");
        assert_eq!((read.success.ttl_max, read.denial.ttl_max), (30, 30));
        assert_eq!(read.zones[0], Name::from_text("example.org").unwrap());
    }

    #[test]
    fn every_option_is_read() {
        let read = read(
            "cache {\n success 2000 60 7\n denial 100 20\n prefetch 3 2m 25%\n servfail 1m\n disable success a.org\n disable denial\n keepttl\n memory 96Mi\n serve_stale 2h verify 300ms 30s 4s\n serve_stale_policy prefer_positive\n}",
        );
        let expected = CacheConfig {
            zones: vec![Name::root()],
            success: Bounds {
                capacity: 2000,
                ttl_max: 60,
                ttl_min: 7,
            },
            denial: Bounds {
                capacity: 100,
                ttl_max: 20,
                ttl_min: 5,
            },
            failure_ttl: 60,
            prefetch: Some(Prefetch {
                hits: 3,
                gap_max: Duration::from_secs(120),
                percent: 25,
            }),
            stale: Some(Stale {
                seconds_max: 7200,
                mode: StaleMode::Verify(Some(Duration::from_millis(300))),
                ttl: 30,
                recheck: Duration::from_secs(4),
            }),
            prefer_positive: true,
            success_off: vec![Name::from_text("a.org").unwrap()],
            denial_off: vec![Name::root()],
            keep_ttl: true,
            memory: Some(96 << 20),
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn serve_stale_has_shorter_forms() {
        let stale = |text: &str| read(&format!("cache {{\n serve_stale {text}\n}}")).stale;
        let bare = stale("").unwrap();
        assert_eq!((bare.seconds_max, bare.mode), (3600, StaleMode::Immediate));
        assert_eq!(stale("1m immediate 30s").unwrap().ttl, 30);
        assert_eq!(stale("1m verify").unwrap().mode, StaleMode::Verify(None));
        assert_eq!(stale("0"), None);
    }

    #[test]
    fn what_is_wrong_is_said_where_it_stands() {
        for (option, expected) in [
            (
                "success",
                "`success` needs a capacity in entries, such as 10000 @ success",
            ),
            (
                "success many",
                "`many` is not a capacity in entries, such as 10000 @ many",
            ),
            ("denial 10 0", "`0` is not a TTL in seconds, above zero @ 0"),
            (
                "denial 10 5 -1",
                "`-1` is not the least TTL in seconds @ -1",
            ),
            ("prefetch -1", "`-1` is not a number of hits @ -1"),
            (
                "prefetch 10 1m 95%",
                "`95%` is not a percentage from `10%` to `90%` @ 95%",
            ),
            (
                "prefetch 10 1m 50",
                "`50` is not a percentage from `10%` to `90%` @ 50",
            ),
            ("prefetch 10 1m 50% 1", "`prefetch` takes no `1` @ 1"),
            ("servfail 6m", "failures may not be kept for `6m` @ 6m"),
            (
                "servfail -1s",
                "`-1s` is not a duration, such as `10s` @ -1s",
            ),
            (
                "disable nothing",
                "`nothing` is not `success` or `denial` @ nothing",
            ),
            ("keepttl on", "`keepttl` takes no `on` @ on"),
            (
                "memory",
                "`memory` needs a size from `4Mi` to `1Ti` @ memory",
            ),
            (
                "memory 64MB",
                "`64MB` is not a size from `4Mi` to `1Ti` @ 64MB",
            ),
            (
                "memory 64Ki",
                "`64Ki` is not a size from `4Mi` to `1Ti` @ 64Ki",
            ),
            (
                "memory 99999999999Ti",
                "`99999999999Ti` is not a size from `4Mi` to `1Ti` @ 99999999999Ti",
            ),
            (
                "serve_stale 1h later",
                "`later` is not `immediate` or `verify` @ later",
            ),
            (
                "serve_stale 1h immediate 1500ms",
                "`1500ms` is not a TTL in whole seconds, such as `30s` @ 1500ms",
            ),
            (
                "serve_stale 1h immediate 1s 6m",
                "`6m` is not a duration of 5m at most @ 6m",
            ),
            (
                "serve_stale 1h immediate 1s 1s 1s",
                "`serve_stale` takes no `1s` @ 1s",
            ),
            (
                "serve_stale_policy prefer_positive",
                "`serve_stale_policy` needs `serve_stale` @ serve_stale_policy prefer_positive",
            ),
            ("sucess 1000", "`cache` has no option `sucess` @ sucess"),
        ] {
            assert_eq!(
                fault(&SPEC, &format!("cache 30 {{\n {option}\n}}")),
                expected
            );
        }
        assert_eq!(
            fault(&SPEC, "cache -5"),
            "`-5` is not a TTL in seconds, above zero @ -5"
        );
        assert_eq!(
            fault(&SPEC, "cache\ncache"),
            "`cache` stands twice in this server block @ cache"
        );
    }

    #[test]
    fn a_fourth_number_is_only_warned_about() {
        assert_eq!(
            faults(&SPEC, "cache {\n success 1 2 3 4\n}"),
            ["warning: `4` has no meaning here @ 4"]
        );
    }
}
