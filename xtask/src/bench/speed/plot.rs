//! Bars in SVG: groups of servers below each other, each bar in two parts.

use std::fmt::Write;

/// One server.
pub struct Bar {
    pub name: String,
    /// From left to right.
    pub parts: [f64; 2],
    /// Behind the bar.
    pub note: String,
}

/// Bars that are compared with one another.
pub struct Group {
    pub title: String,
    pub bars: Vec<Bar>,
}

/// What the whole drawing says.
pub struct Plot {
    pub title: String,
    /// Of the two parts.
    pub legend: [&'static str; 2],
    pub groups: Vec<Group>,
}

const WIDTH: f64 = 860.0;
const NAMES: f64 = 210.0;
const NOTES: f64 = 150.0;
const ROW: f64 = 18.0;
const TOP: f64 = 58.0;

/// Ours stands out; both parts of the others are gray.
const OURS: [&str; 2] = ["#1b6ca8", "#8cc4e8"];
const OTHERS: [&str; 2] = ["#7d858c", "#c3c9ce"];

impl Plot {
    /// The file's text. Bars of all groups have one scale.
    pub fn svg(&self) -> String {
        let rows: usize = self.groups.iter().map(|group| group.bars.len() + 2).sum();
        let height = TOP + rows as f64 * ROW;
        let bars = self.groups.iter().flat_map(|group| &group.bars);
        let max = bars.map(|bar| bar.parts.iter().sum()).fold(1e-9, f64::max);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        text += &label(
            12.0,
            22.0,
            "font-size=\"15\" font-weight=\"bold\"",
            &self.title,
        );
        for (at, legend) in self.legend.iter().enumerate() {
            let x = NAMES + at as f64 * 260.0;
            text += &rectangle(x, 34.0, 12.0, OURS[at]);
            text += &rectangle(x + 14.0, 34.0, 12.0, OTHERS[at]);
            text += &label(x + 32.0, 44.0, "", legend);
        }
        let mut y = TOP;
        for group in &self.groups {
            text += &label(12.0, y + 14.0, "font-weight=\"bold\"", &group.title);
            y += ROW;
            for bar in &group.bars {
                bar.draw(&mut text, y, (WIDTH - NAMES - NOTES) / max);
                y += ROW;
            }
            y += ROW;
        }
        text + "</svg>\n"
    }
}

impl Bar {
    fn draw(&self, text: &mut String, y: f64, scale: f64) {
        let is_ours = self.name.starts_with("fingerpost");
        let colors = if is_ours { OURS } else { OTHERS };
        *text += &label(24.0, y + 13.0, "", &self.name);
        let mut x = NAMES;
        for (part, color) in self.parts.iter().zip(colors) {
            let width = (part * scale).max(0.0);
            *text += &rectangle(x, y + 2.0, width, color);
            x += width;
        }
        *text += &label(x + 6.0, y + 13.0, "fill=\"#333\"", &self.note);
    }
}

fn rectangle(x: f64, y: f64, width: f64, color: &str) -> String {
    format!(
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"13\" fill=\"{color}\"/>\n"
    )
}

fn label(x: f64, y: f64, style: &str, text: &str) -> String {
    let mut out = format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>");
    for character in text.chars() {
        match character {
            '<' => out += "&lt;",
            '&' => out += "&amp;",
            other => write!(out, "{other}").expect("text takes text"),
        }
    }
    out + "</text>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_ends_before_its_note_and_others_in_proportion() {
        let bar = |name: &str, parts| Bar {
            name: name.into(),
            parts,
            note: "<1 & more".into(),
        };
        let plot = Plot {
            title: "CPU".into(),
            legend: ["kernel", "user"],
            groups: vec![Group {
                title: "cache".into(),
                bars: vec![bar("echo", [1.0, 1.0]), bar("fingerpost", [4.0, 4.0])],
            }],
        };
        let svg = plot.svg();
        let full = WIDTH - NAMES - NOTES;
        for width in [full / 8.0, full / 2.0] {
            assert_eq!(svg.matches(&format!(" width=\"{width:.1}\"")).count(), 2);
        }
        assert!(svg.contains("&lt;1 &amp; more") && svg.ends_with("</svg>\n"));
    }
}
