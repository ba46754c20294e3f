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
        Severity::NotBuilt => Level::NOTE,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws one error over `start..end` of a text.
    fn drawn(text: &str, start: usize, end: usize) -> String {
        let mut faults = Faults::default();
        let span = Span {
            source: 0,
            start,
            end,
        };
        faults.push(Diagnostic::error(span, "wrong", "here"));
        let sources = vec![Source {
            path: "Corefile".into(),
            text: text.into(),
        }];
        render(&faults, &sources)
    }

    #[test]
    fn a_long_line_is_cut_around_the_fault() {
        let text = format!("{} bad {}\n", "a".repeat(5000), "b".repeat(5000));
        let cut = drawn(&text, 5001, 5004);
        let widest = cut.lines().map(|line| line.chars().count()).max();
        assert!(widest < Some(220), "{cut}");
        assert!(cut.contains(" bad "), "{cut}");
        assert!(cut.contains("^^^ here"), "{cut}");
        let whole = drawn(&"x".repeat(1 << 20), 0, 1 << 20);
        assert!(whole.len() < 1000, "{} octets", whole.len());
    }

    #[test]
    fn a_fault_over_several_lines_is_underlined_on_the_first() {
        let drawn = drawn("a\nlog \"x\ny\" z\n", 6, 11);
        assert!(drawn.contains("Corefile:2:5"), "{drawn}");
        assert!(drawn.contains("^^ here"), "{drawn}");
        assert!(!drawn.contains("3 |"), "{drawn}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut faults = Faults::default();
        let span = Span {
            source: 0,
            start: 0,
            end: 4,
        };
        faults.push(Diagnostic::error(
            span,
            "a \u{1b}[31mred\u{7} word",
            "\u{1b}",
        ));
        let sources = vec![Source {
            path: "Corefile".into(),
            text: "\u{1b}[3m\u{0}\u{8}".into(),
        }];
        let drawn = render(&faults, &sources);
        let is_control = |c: char| c.is_control() && c != '\n';
        assert!(!drawn.contains(is_control), "{drawn:?}");
    }

    #[test]
    fn a_place_that_is_not_in_the_text_still_draws() {
        for (start, end) in [(0, 0), (3, 3), (9, 12), (2, 1), (1, 2)] {
            assert!(drawn("é\n", start, end).contains("wrong"), "{start}..{end}");
        }
        assert!(render(&Faults::default(), &Vec::new()).is_empty());
    }

    #[test]
    fn colors_are_only_drawn_when_asked_for() {
        let mut faults = Faults::default();
        faults.push(Diagnostic::error(Span::default(), "wrong", ""));
        assert!(!render(&faults, &Vec::new()).contains('\u{1b}'));
        assert!(render_in(&faults, &Vec::new(), Color::Always).contains('\u{1b}'));
    }
}
