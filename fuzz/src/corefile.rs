use std::path::Path;

use fingerpost::corefile::diagnostic::{Severity, Sources, Span};
use fingerpost::corefile::hash::running_hash;
use fingerpost::corefile::parser::parse_with;
use fingerpost::corefile::render::render;
use fingerpost::plugin::configure::configure;

use crate::fingerprint;

/// Any octets as a Corefile, from a folder that does not exist: nothing beside it can be imported.
pub fn run(data: &[u8]) -> u64 {
    let path = Path::new("/nonexistent/Corefile");
    let lookup = |name: &str| name.starts_with('A').then(|| format!("{name} {{$A}}"));
    let (corefile, mut faults) = parse_with(path, data, &lookup);
    let blocks = configure(&corefile, &mut faults);
    for fault in faults.iter() {
        assert!(!fault.message.is_empty());
        check_span(fault.span, &corefile.sources);
        if let Some((span, _)) = fault.related.as_deref() {
            check_span(*span, &corefile.sources);
        }
    }
    let drawn = render(&faults, &corefile.sources);
    assert_eq!(drawn.is_empty(), faults.is_empty());
    // A fault quotes the file, and a file must not reach the terminal unescaped.
    assert!(
        !drawn.contains('\u{1b}'),
        "an escape character gets through"
    );
    let sound = faults.error_count() == 0;
    assert!(!sound || blocks.iter().all(|block| !block.keys.is_empty()));
    let hash = running_hash(&corefile);
    assert_eq!(hash.len(), 128);
    let kinds: Vec<(Severity, String)> = faults
        .iter()
        .map(|fault| (fault.severity, unquoted(&fault.message)))
        .collect();
    let plugins: Vec<&str> = blocks
        .iter()
        .flat_map(|block| block.plugins.iter().map(|(spec, _)| spec.name))
        .collect();
    fingerprint((
        kinds.len(),
        kinds.iter().map(|(_, text)| text).collect::<Vec<_>>(),
        plugins,
    ))
}

/// A place must be in a text that was read, on whole characters.
fn check_span(span: Span, sources: &Sources) {
    let index = usize::try_from(span.source).expect("32 bits fit");
    let Some(source) = sources.get(index) else {
        panic!("{span:?} is in none of {} texts", sources.len());
    };
    assert!(
        source.text.get(span.start..span.end).is_some(),
        "{span:?} of {} octets",
        source.text.len()
    );
}

/// A message without what it quotes: its kind.
fn unquoted(message: &str) -> String {
    message.split('`').step_by(2).collect()
}
