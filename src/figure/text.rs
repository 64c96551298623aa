//! Text in the embedded font: widths and pixels.
//!
//! The font (Noto Sans, SIL Open Font License 1.1) is embedded in the binary, so figures look the same on a machine without
//! fonts. Glyphs are placed at fractions of a pixel, with their side bearings and kerning.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, Glyph, GlyphId, PxScale, ScaleFont, point};

/// Font families in order of preference, for viewers of SVG, which use fonts of their own.
pub(super) const FAMILY: &str = "Noto Sans, Helvetica, Arial, sans-serif";

/// Half the cap height of the embedded font, in ems.
pub(super) const HALF_CAPITAL: f64 = 0.357;
/// Half the x-height of the embedded font, in ems.
pub(super) const HALF_X: f64 = 0.268;

static REGULAR: LazyLock<FontRef<'static>> = LazyLock::new(|| embedded(notosans::REGULAR_TTF));
static BOLD: LazyLock<FontRef<'static>> = LazyLock::new(|| embedded(notosans::BOLD_TTF));

fn embedded(bytes: &'static [u8]) -> FontRef<'static> {
    FontRef::try_from_slice(bytes).expect("the embedded font is sound")
}

fn font(bold: bool) -> &'static FontRef<'static> {
    if bold { &BOLD } else { &REGULAR }
}

/// The scale at which one em is `size` pixels.
fn scale(font: &FontRef, size: f64) -> PxScale {
    let units_per_em = font.units_per_em().expect("the embedded font names its em");
    PxScale::from(size as f32 * font.height_unscaled() / units_per_em)
}

/// Width of a text, pixels.
pub(super) fn width(words: &str, size: f64, bold: bool) -> f64 {
    let font = font(bold).as_scaled(scale(font(bold), size));
    let mut pen = 0.0;
    let mut before: Option<GlyphId> = None;
    for glyph in words.chars().map(|c| font.glyph_id(c)) {
        pen += before.map_or(0.0, |before| font.kern(before, glyph)) + font.h_advance(glyph);
        before = Some(glyph);
    }
    f64::from(pen)
}

/// Calls `cover(x, y, coverage)` for every pixel of a text whose baseline starts at the origin.
pub(super) fn rasterize(words: &str, size: f64, bold: bool, mut cover: impl FnMut(i32, i32, f32)) {
    let font = font(bold);
    let scale = scale(font, size);
    let scaled = font.as_scaled(scale);
    let mut pen = 0.0;
    let mut before: Option<GlyphId> = None;
    for id in words.chars().map(|c| font.glyph_id(c)) {
        pen += before.map_or(0.0, |before| scaled.kern(before, id));
        before = Some(id);
        if let Some(outline) = font.outline_glyph(Glyph { id, scale, position: point(pen, 0.0) }) {
            let corner = outline.px_bounds().min;
            outline.draw(|x, y, coverage| cover(x as i32 + corner.x as i32, y as i32 + corner.y as i32, coverage));
        }
        pen += scaled.h_advance(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(words: &str, size: f64, bold: bool) -> (i32, i32, i32, i32) {
        let (mut left, mut top, mut right, mut bottom) = (i32::MAX, i32::MAX, i32::MIN, i32::MIN);
        rasterize(words, size, bold, |x, y, coverage| {
            if coverage > 0.5 {
                (left, top, right, bottom) = (left.min(x), top.min(y), right.max(x), bottom.max(y));
            }
        });
        (left, top, right, bottom)
    }

    #[test]
    fn pixels_stay_within_the_measured_width() {
        for bold in [false, true] {
            let (left, _, right, _) = extent("MoE 8×top-2", 40.0, bold);
            let width = width("MoE 8×top-2", 40.0, bold);
            assert!(left >= 0 && f64::from(right) <= width && f64::from(right) > 0.9 * width, "{right} of {width}");
        }
    }

    #[test]
    fn cap_height_and_x_height_are_those_of_the_font() {
        let (_, capital, _, base) = extent("H", 1000.0, false);
        assert!((f64::from(base - capital) / 2000.0 - HALF_CAPITAL).abs() < 0.002, "{capital}..{base}");
        let (_, small, _, base) = extent("x", 1000.0, false);
        assert!((f64::from(base - small) / 2000.0 - HALF_X).abs() < 0.002, "{small}..{base}");
    }

    #[test]
    fn the_font_has_every_character_that_figures_use() {
        for sign in "×–−±·…µ%/=0123456789()<>&".chars() {
            assert_ne!(font(false).glyph_id(sign), GlyphId(0), "{sign}");
            assert_ne!(font(true).glyph_id(sign), GlyphId(0), "{sign}");
        }
    }
}
