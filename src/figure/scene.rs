//! A figure as a list of marks in pixels: figures compose it, [`paint`](super::paint) renders it.
//!
//! Scenes are independent of file formats, so that tests can check a layout, for example for overlapping text, without
//! decoding an image.

use plotters::style::RGBColor;

use super::text;
use crate::report::table::printable;

/// Width of every figure, pixels.
pub(super) const WIDTH: f64 = 1600.0;
/// Height of a figure whose height does not depend on the number of bars, pixels.
pub(super) const HEIGHT: f64 = 1000.0;
/// Margin left and right, pixels.
pub(super) const MARGIN: f64 = 50.0;
/// Top of the plot, below the title, pixels.
pub(super) const BELOW_TITLE: f64 = 160.0;

/// Size of ordinary text, pixels: legible at half the size of the figure.
pub(super) const TEXT: f64 = 24.0;
/// Size of tick labels and remarks, pixels.
pub(super) const SMALL: f64 = 22.0;

pub(super) const INK: RGBColor = RGBColor(34, 34, 34);
pub(super) const MUTED: RGBColor = RGBColor(98, 98, 98);
pub(super) const GRID: RGBColor = RGBColor(230, 230, 230);
pub(super) const PAPER: RGBColor = RGBColor(255, 255, 255);

/// A point, pixels from the left and from the top.
pub(super) type Point = (f64, f64);

/// An element of a figure.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Mark {
    /// A polyline.
    Line { points: Vec<Point>, colour: RGBColor, width: f64 },
    /// A filled convex polygon.
    Area { points: Vec<Point>, colour: RGBColor },
    /// A filled rectangle.
    Bar { from: Point, to: Point, colour: RGBColor },
    /// A filled disc.
    Disc { centre: Point, radius: f64, colour: RGBColor },
    /// Text.
    Text(Text),
}

/// Which part of a text is at its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// Text at a point, vertically centred on its capitals.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Text {
    pub words: String,
    pub at: Point,
    pub size: f64,
    pub bold: bool,
    pub colour: RGBColor,
    pub anchor: Anchor,
    /// Whether it reads upwards.
    pub upward: bool,
}

impl Text {
    /// Ordinary text that starts at a point.
    pub fn new(words: impl AsRef<str>, at: Point) -> Self {
        let words = printable(words.as_ref());
        Self { words, at, size: TEXT, bold: false, colour: INK, anchor: Anchor::Start, upward: false }
    }

    pub fn size(self, size: f64) -> Self {
        Self { size, ..self }
    }

    pub fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub fn colour(self, colour: RGBColor) -> Self {
        Self { colour, ..self }
    }

    pub fn middle(self) -> Self {
        Self { anchor: Anchor::Middle, ..self }
    }

    pub fn end(self) -> Self {
        Self { anchor: Anchor::End, ..self }
    }

    pub fn upward(self) -> Self {
        Self { upward: true, ..self }
    }

    /// Truncates with an ellipsis to at most this width.
    pub fn fitted(mut self, width: f64) -> Self {
        if self.width() <= width {
            return self;
        }
        let whole = std::mem::take(&mut self.words);
        let cuts = (0..whole.chars().count()).rev();
        let candidates = cuts.map(|n| whole.chars().take(n).collect::<String>().trim_end().to_owned() + "…");
        self.words = candidates
            .into_iter()
            .find(|words| text::width(words, self.size, self.bold) <= width)
            .unwrap_or_else(|| "…".to_owned());
        self
    }

    /// Length along the baseline, pixels.
    pub fn width(&self) -> f64 {
        text::width(&self.words, self.size, self.bold)
    }

    /// Upper left and lower right corner of its bounding box, pixels.
    #[cfg(test)]
    pub fn bounds(&self) -> (Point, Point) {
        let width = self.width();
        let before = match self.anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => width / 2.0,
            Anchor::End => width,
        };
        // Ascenders reach a little above capitals, descenders below the baseline.
        let (above, below) = (self.size * 0.43, self.size * 0.62);
        let (x, y) = self.at;
        match self.upward {
            false => ((x - before, y - above), (x - before + width, y + below)),
            true => ((x - above, y + before - width), (x + below, y + before)),
        }
    }
}

/// A figure under construction on a white background.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scene {
    pub height: f64,
    pub marks: Vec<Mark>,
}

impl Scene {
    pub fn new(height: f64) -> Self {
        Self { height, marks: Vec::new() }
    }

    pub fn line(&mut self, points: Vec<Point>, colour: RGBColor, width: f64) {
        self.marks.push(Mark::Line { points, colour, width });
    }

    /// A dashed straight line: strokes of `on` pixels, gaps of `off`.
    pub fn dashes(&mut self, from: Point, to: Point, (on, off): (f64, f64), colour: RGBColor, width: f64) {
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        let at = |s: f64| {
            let t = if length > 0.0 { s.min(length) / length } else { 0.0 };
            (from.0 + (to.0 - from.0) * t, from.1 + (to.1 - from.1) * t)
        };
        for stroke in 0..(length / (on + off)).ceil() as usize {
            let start = stroke as f64 * (on + off);
            self.line(vec![at(start), at(start + on)], colour, width);
        }
    }

    pub fn area(&mut self, points: Vec<Point>, colour: RGBColor) {
        self.marks.push(Mark::Area { points, colour });
    }

    pub fn bar(&mut self, from: Point, to: Point, colour: RGBColor) {
        self.marks.push(Mark::Bar { from, to, colour });
    }

    pub fn disc(&mut self, centre: Point, radius: f64, colour: RGBColor) {
        self.marks.push(Mark::Disc { centre, radius, colour });
    }

    pub fn text(&mut self, text: Text) {
        self.marks.push(Mark::Text(text));
    }

    /// How many texts contain these words.
    #[cfg(test)]
    pub fn num_saying(&self, words: &str) -> usize {
        self.marks.iter().filter(|mark| matches!(mark, Mark::Text(text) if text.words.contains(words))).count()
    }
}

/// Linear interpolation between two colours.
pub(super) fn mix(from: RGBColor, to: RGBColor, t: f64) -> RGBColor {
    let channel = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * t.clamp(0.0, 1.0)).round() as u8;
    RGBColor(channel(from.0, to.0), channel(from.1, to.1), channel(from.2, to.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_truncated_with_an_ellipsis() {
        let long = Text::new("a very long name of an arm", (0.0, 0.0));
        let cut = long.clone().fitted(100.0);
        assert!(cut.width() <= 100.0 && cut.words.ends_with('…') && cut.words.len() > 6, "{cut:?}");
        assert_eq!(long.clone().fitted(1000.0), long);
    }

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(Text::new("a\u{0}b\u{1b}", (0.0, 0.0)).words, "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn dashes_end_with_the_line() {
        let mut scene = Scene::new(10.0);
        scene.dashes((0.0, 0.0), (25.0, 0.0), (6.0, 4.0), INK, 1.0);
        let ends: Vec<f64> = scene
            .marks
            .iter()
            .map(|mark| match mark {
                Mark::Line { points, .. } => points[1].0,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ends, [6.0, 16.0, 25.0]);
    }

    #[test]
    fn mixing_interpolates_between_colours() {
        assert_eq!([0.0, 0.5, 1.0].map(|t| mix(RGBColor(0, 0, 0), RGBColor(200, 100, 0), t).0), [0, 100, 200]);
    }
}
