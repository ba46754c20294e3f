//! `ttl SECONDS`, as the plugins that answer from a cluster take it.

use crate::corefile::args::Args;
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::Directive;
use crate::plugin::Context;

/// What holds without the option, in seconds.
pub const DEFAULT: u32 = 5;

const MAX: u32 = 3600;

/// Reads the option. Words after the number mean nothing, and are warned of: CoreDNS lets them pass.
pub fn parse(option: &Directive, context: &mut Context<'_>) -> Result<u32, Diagnostic> {
    const EXPECTED: &str = "a TTL in seconds, 0 to 3600";
    let mut args = Args::of(option);
    let span = args.peek().map_or(args.span(), |word| word.span);
    let ttl: i64 = args.take_as(EXPECTED)?;
    let in_range = u32::try_from(ttl).ok().filter(|&ttl| ttl <= MAX);
    let ttl = in_range.ok_or_else(|| {
        let message = format!("`{ttl}` is not {EXPECTED}");
        Diagnostic::error(span, message, format!("expected {EXPECTED}"))
    })?;
    context.warn_of(args.rest());
    Ok(ttl)
}
