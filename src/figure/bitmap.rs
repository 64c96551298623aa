//! The drawing backend for PNG: plotters' bitmap with antialiased strokes and text in the embedded font.
//!
//! plotters' own strokes end in spikes at sharp turns, and its text drops side bearings and needs a registered font. Both
//! are replaced here. Text is placed by the rules of plotters' SVG backend, so that SVG and PNG look the same.

use plotters::prelude::{BitMapBackend, DrawingBackend};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingErrorKind, FontStyle};

use super::text;

/// Font size in plotters over the em in pixels.
pub(super) const PLOTTERS_EM: f64 = 1.24;

/// A canvas of RGB pixels.
pub(super) struct Bitmap<'a>(BitMapBackend<'a>);

type Drawn<'a> = Result<(), DrawingErrorKind<<BitMapBackend<'a> as DrawingBackend>::ErrorType>>;

impl<'a> Bitmap<'a> {
    /// Draws into `rgb`, three bytes per pixel, row by row.
    pub fn new(rgb: &'a mut [u8], size: (u32, u32)) -> Self {
        Self(BitMapBackend::with_buffer(rgb, size))
    }

    /// Draws an antialiased segment with round ends.
    fn stroke(&mut self, from: BackendCoord, to: BackendCoord, width: f64, colour: BackendColor) -> Drawn<'a> {
        let radius = width / 2.0;
        let reach = radius.ceil() as i32 + 1;
        let (dx, dy) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
        let length_squared = dx * dx + dy * dy;
        for y in from.1.min(to.1) - reach..=from.1.max(to.1) + reach {
            // Only the columns near the segment: the bounding box of a long segment is mostly empty.
            let near = row_range(from, to, y, reach);
            for x in near {
                let (px, py) = (f64::from(x - from.0), f64::from(y - from.1));
                let along = if length_squared > 0.0 { (px * dx + py * dy) / length_squared } else { 0.0 };
                let along = along.clamp(0.0, 1.0);
                let distance = (px - along * dx).hypot(py - along * dy);
                let coverage = (radius + 0.5 - distance).clamp(0.0, 1.0);
                self.cover((x, y), coverage, colour)?;
            }
        }
        Ok(())
    }

    fn cover(&mut self, point: BackendCoord, coverage: f64, colour: BackendColor) -> Drawn<'a> {
        let (width, height) = self.0.get_size();
        let inside = (0..width as i32).contains(&point.0) && (0..height as i32).contains(&point.1);
        if coverage <= 0.0 || !inside {
            return Ok(());
        }
        self.0.draw_pixel(point, BackendColor { alpha: colour.alpha * coverage, rgb: colour.rgb })
    }
}

/// The columns of row `y` that can be within `reach` of the segment.
fn row_range(from: BackendCoord, to: BackendCoord, y: i32, reach: i32) -> std::ops::RangeInclusive<i32> {
    let (left, right) = (from.0.min(to.0), from.0.max(to.0));
    if from.1 == to.1 {
        return left - reach..=right + reach;
    }
    let slope = f64::from(to.0 - from.0) / f64::from(to.1 - from.1);
    let (low, high) = (from.1.min(to.1), from.1.max(to.1));
    let column = |row: i32| f64::from(from.0) + slope * f64::from(row.clamp(low, high) - from.1);
    let ends = [column(y - reach), column(y + reach)];
    let first = ends[0].min(ends[1]).floor() as i32 - reach;
    let last = ends[0].max(ends[1]).ceil() as i32 + reach;
    first.max(left - reach)..=last.min(right + reach)
}

impl<'a> DrawingBackend for Bitmap<'a> {
    type ErrorType = <BitMapBackend<'a> as DrawingBackend>::ErrorType;

    fn get_size(&self) -> (u32, u32) {
        self.0.get_size()
    }

    fn ensure_prepared(&mut self) -> Drawn<'a> {
        self.0.ensure_prepared()
    }

    fn present(&mut self) -> Drawn<'a> {
        self.0.present()
    }

    fn draw_pixel(&mut self, point: BackendCoord, colour: BackendColor) -> Drawn<'a> {
        self.0.draw_pixel(point, colour)
    }

    fn draw_rect<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S, fill: bool) -> Drawn<'a> {
        self.0.draw_rect(from, to, style, fill)
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Drawn<'a> {
        self.stroke(from, to, f64::from(style.stroke_width()), style.color())
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Drawn<'a> {
        let points: Vec<BackendCoord> = path.into_iter().collect();
        points.windows(2).try_for_each(|ends| self.draw_line(ends[0], ends[1], style))
    }

    fn draw_text<S: BackendTextStyle>(&mut self, words: &str, style: &S, at: BackendCoord) -> Drawn<'a> {
        let em = style.size() / PLOTTERS_EM;
        let bold = matches!(style.style(), FontStyle::Bold);
        let width = text::width(words, em, bold);
        let start = match style.anchor().h_pos {
            HPos::Left => 0.0,
            HPos::Center => -width / 2.0,
            HPos::Right => -width,
        };
        let base = em
            * match style.anchor().v_pos {
                VPos::Top => 0.76,
                VPos::Center => text::HALF_X,
                VPos::Bottom => -text::HALF_X,
            };
        let (start, base) = (start.round() as i32, base.round() as i32);
        let (turn, colour) = (style.transform(), style.color());
        let mut drawn = Ok(());
        text::rasterize(words, em, bold, |x, y, coverage| {
            let (x, y) = turn.transform(start + x, base + y);
            if drawn.is_ok() {
                drawn = self.cover((at.0 + x, at.1 + y), f64::from(coverage), colour);
            }
        });
        drawn
    }
}

#[cfg(test)]
mod tests {
    use plotters::style::{BLACK, Color, ShapeStyle};

    use super::*;

    /// Darkness of each pixel of a 40 × 40 canvas after drawing; 0 is white.
    fn drawn(draw: impl FnOnce(&mut Bitmap)) -> Vec<u8> {
        let mut rgb = vec![255; 40 * 40 * 3];
        draw(&mut Bitmap::new(&mut rgb, (40, 40)));
        rgb.chunks(3).map(|pixel| 255 - pixel[0]).collect()
    }

    fn style(width: u32) -> ShapeStyle {
        ShapeStyle { color: BLACK.to_rgba(), filled: false, stroke_width: width }
    }

    #[test]
    fn a_stroke_has_its_width() {
        let pixels = drawn(|bitmap| bitmap.draw_line((10, 20), (30, 20), &style(4)).unwrap());
        let column: u32 = (0..40).map(|y| u32::from(pixels[y * 40 + 20])).sum();
        // Each of the two half-covered edges may round down by one level.
        assert!((4 * 255 - 2..=4 * 255).contains(&column), "{column}");
    }

    #[test]
    fn a_stroke_covers_the_same_area_in_every_direction() {
        let area = |to| -> f64 {
            let pixels = drawn(|bitmap| bitmap.draw_line((20, 20), to, &style(3)).unwrap());
            pixels.iter().map(|darkness| f64::from(*darkness) / 255.0).sum()
        };
        let level = area((35, 20));
        for to in [(20, 35), (5, 20), (29, 32), (11, 8), (32, 11)] {
            assert!((area(to) - level).abs() < 0.03 * level, "{to:?}: {} against {level}", area(to));
        }
    }

    #[test]
    fn a_sharp_turn_does_not_end_in_a_spike() {
        let pixels = drawn(|bitmap| bitmap.draw_path([(10, 35), (11, 20), (12, 35)], &style(3)).unwrap());
        assert!(pixels[..18 * 40].iter().all(|darkness| *darkness == 0));
    }

    #[test]
    fn nothing_is_drawn_outside_the_canvas() {
        let pixels = drawn(|bitmap| bitmap.draw_line((-50, -50), (-10, 90), &style(5)).unwrap());
        assert!(pixels.iter().all(|darkness| *darkness == 0));
    }
}
