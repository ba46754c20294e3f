//! Draws faults as a compiler does: place, line, underline, what was expected. The only user of the renderer.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::corefile::diagnostic::{Diagnostic, Faults, Severity, Source, Sources, Span};

/// Whether the drawing has terminal colors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// Plain text, for logs and files.
    Never,
    /// With escape sequences, for terminals.
    Always,
}

/// The most characters of a line that are shown around a fault.
const LINE_MAX: usize = 120;

/// The most characters of a message.
const MESSAGE_MAX: usize = 240;

/// All faults in the order of the text, an empty line between two, without colors.
pub fn render(faults: &Faults, sources: &Sources) -> String {
    render_in(faults, sources, Color::Never)
}

/// All faults in the order of the text, an empty line between two.
pub fn render_in(faults: &Faults, sources: &Sources, color: Color) -> String {
    let renderer = match color {
        Color::Never => Renderer::plain(),
        Color::Always => Renderer::styled(),
    };
    let indexes: Vec<Lines<'_>> = sources.iter().map(Lines::new).collect();
    let mut drawn: Vec<String> = faults
        .sorted()
        .into_iter()
        .map(|diagnostic| draw(diagnostic, &indexes, &renderer))
        .collect();
    if faults.left_out() > 0 {
        drawn.push(format!("{} more are not shown\n", faults.left_out()));
    }
    drawn.join("\n")
}

fn draw(diagnostic: &Diagnostic, sources: &[Lines<'_>], renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::NotBuilt => Level::NOTE.with_name(Some("not built yet")),
        Severity::Warning => Level::WARNING,
    };
    let main = (
        diagnostic.span,
        diagnostic.label.as_str(),
        AnnotationKind::Primary,
    );
    let related = diagnostic
        .related
        .as_deref()
        .map(|(span, label)| (*span, label.as_str(), AnnotationKind::Context));
    let mut group = Group::with_title(level.primary_title(shorten(&diagnostic.message)));
    // Each place is a drawing of its own: two places may be far apart, or in two files.
    for (span, label, kind) in std::iter::once(main).chain(related) {
        let index = usize::try_from(span.source).unwrap_or(usize::MAX);
        let Some(lines) = sources.get(index) else {
            continue;
        };
        let excerpt = lines.excerpt(span);
        let label = (!label.is_empty()).then(|| shorten(label));
        group = group.element(
            Snippet::source(excerpt.text)
                .path(lines.source.path.display().to_string())
                .line_start(excerpt.line)
                .annotation(kind.span(excerpt.span).label(label)),
        );
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(shorten(help)));
    }
    let mut text = renderer.render(&[group]);
    text.push('\n');
    text
}

/// Cuts the middle out of long text and shows control characters as escapes.
fn shorten(text: &str) -> String {
    let shown: String = text
        .chars()
        .map(|c| {
            if c.is_control() {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        })
        .collect();
    let count = shown.chars().count();
    if count <= MESSAGE_MAX {
        return shown;
    }
    let half = MESSAGE_MAX / 2;
    let head: String = shown.chars().take(half).collect();
    let tail: String = shown.chars().skip(count - half).collect();
    format!("{head}…{tail}")
}

/// A source with the place of every line.
struct Lines<'s> {
    source: &'s Source,
    starts: Vec<usize>,
}

/// What is shown of a source.
struct Excerpt {
    text: String,
    line: usize,
    span: Range<usize>,
}

impl<'s> Lines<'s> {
    fn new(source: &'s Source) -> Self {
        let breaks = source.text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            source,
            starts: std::iter::once(0).chain(breaks).collect(),
        }
    }

    /// The line where a span starts, cut to a window around it if it is long. A span that reaches past the line ends
    /// with it.
    fn excerpt(&self, span: Span) -> Excerpt {
        let text = &*self.source.text;
        let start = floor(text, span.start);
        let line = self.starts.partition_point(|&from| from <= start);
        let from = self.starts[line - 1];
        let to = self.starts.get(line).map_or(text.len(), |&next| next - 1);
        let end = floor(text, span.end).clamp(start, to.max(start));
        let (from, cut_before) = window_start(text, from, start);
        let (to, cut_after) = window_end(text, to, start);
        let end = end.min(to);
        let mut shown = String::new();
        if cut_before {
            shown.push('…');
        }
        // Control characters would spoil the drawing; each becomes one character of the same width in octets.
        let visible = |part: &str| -> String {
            part.chars()
                .map(|c| {
                    if c.is_ascii_control() && c != '\t' {
                        ' '
                    } else {
                        c
                    }
                })
                .collect()
        };
        shown.push_str(&visible(&text[from..start]));
        let underline_from = shown.len();
        shown.push_str(&visible(&text[start..end]));
        let underline_to = shown.len();
        shown.push_str(visible(&text[end..to]).trim_end());
        if cut_after {
            shown.push('…');
        }
        Excerpt {
            span: underline_from..underline_to.min(shown.len()),
            text: shown,
            line,
        }
    }
}

/// The nearest border between characters at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}

/// Where the shown part of a line starts, and whether that cuts it.
fn window_start(text: &str, from: usize, fault: usize) -> (usize, bool) {
    let start = floor(text, fault.saturating_sub(LINE_MAX / 2)).max(from);
    if start - from <= LINE_MAX / 4 {
        (from, false)
    } else {
        (start, true)
    }
}

/// Where the shown part of a line ends, and whether that cuts it.
fn window_end(text: &str, to: usize, fault: usize) -> (usize, bool) {
    let end = floor(text, fault.saturating_add(LINE_MAX)).max(fault);
    if end >= to { (to, false) } else { (end, true) }
}
