//! Renders a scene to SVG and to PNG, through one function over plotters' backends.

use std::error::Error;

use plotters::coord::Shift;
use plotters::element::{Circle, PathElement, Polygon, Rectangle, Text as Words};
use plotters::prelude::{DrawingArea, DrawingBackend, IntoDrawingArea, IntoFont, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, FontTransform, TextStyle};

use super::bitmap::{Bitmap, PLOTTERS_EM};
use super::error::FigureError;
use super::scene::{Anchor, Mark, PAPER, Point, Scene, Text, WIDTH};
use super::text::{FAMILY, HALF_CAPITAL, HALF_X};

/// Backend units per pixel: SVG gains half-pixel positions, PNG is supersampled.
const FINENESS: u32 = 2;

/// Renders an SVG document of the size of the scene.
pub(super) fn svg(scene: &Scene) -> Result<String, FigureError> {
    let mut document = String::new();
    paint(scene, SVGBackend::with_string(&mut document, size(scene)))?;
    let (width, height) = size(scene);
    let fine = format!("width=\"{width}\" height=\"{height}\" viewBox");
    let shown = format!("width=\"{}\" height=\"{}\" viewBox", width / FINENESS, height / FINENESS);
    Ok(document.replacen(&fine, &shown, 1))
}

/// Renders a PNG file of the size of the scene.
pub(super) fn png(scene: &Scene) -> Result<Vec<u8>, FigureError> {
    let (width, height) = size(scene);
    let mut fine = vec![255; (width * height * 3) as usize];
    paint(scene, Bitmap::new(&mut fine, (width, height)))?;
    let pixels = averaged(&fine, width as usize);
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width / FINENESS, height / FINENESS);
    encoder.set_color(png::ColorType::Rgb);
    // Flat areas and text compress better as they are than as differences of neighbouring pixels.
    encoder.set_filter(png::Filter::NoFilter);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(file)
}

fn size(scene: &Scene) -> (u32, u32) {
    (WIDTH as u32 * FINENESS, scene.height.round() as u32 * FINENESS)
}

/// Averages each block of `FINENESS` × `FINENESS` pixels.
fn averaged(fine: &[u8], width: usize) -> Vec<u8> {
    let fineness = FINENESS as usize;
    let rows = fine.len() / (3 * width);
    let mut pixels = Vec::with_capacity(fine.len() / (fineness * fineness));
    for y in (0..rows).step_by(fineness) {
        for x in (0..width).step_by(fineness) {
            for channel in 0..3 {
                let block = (0..fineness).flat_map(|dy| (0..fineness).map(move |dx| (x + dx, y + dy)));
                let sum: usize = block.map(|(x, y)| usize::from(fine[(y * width + x) * 3 + channel])).sum();
                pixels.push((sum / (fineness * fineness)) as u8);
            }
        }
    }
    pixels
}

/// Draws every mark of the scene.
fn paint<B: DrawingBackend>(scene: &Scene, backend: B) -> Result<(), FigureError>
where
    B::ErrorType: 'static,
{
    let area = backend.into_drawing_area();
    area.fill(&PAPER).map_err(drawing)?;
    for mark in &scene.marks {
        draw(&area, mark)?;
    }
    area.present().map_err(drawing)
}

fn drawing(error: impl Error + Send + Sync + 'static) -> FigureError {
    FigureError::Drawing { source: Box::new(error) }
}

fn draw<B: DrawingBackend>(area: &DrawingArea<B, Shift>, mark: &Mark) -> Result<(), FigureError>
where
    B::ErrorType: 'static,
{
    let drawn = match mark {
        Mark::Line { points, colour, width } => {
            let style = colour.stroke_width((width * f64::from(FINENESS)).round() as u32);
            area.draw(&PathElement::new(points.iter().map(fine).collect::<Vec<_>>(), style))
        }
        Mark::Area { points, colour } => {
            area.draw(&Polygon::new(points.iter().map(fine).collect::<Vec<_>>(), colour.filled()))
        }
        Mark::Bar { from, to, colour } => area.draw(&Rectangle::new([fine(from), fine(to)], colour.filled())),
        Mark::Disc { centre, radius, colour } => {
            area.draw(&Circle::new(fine(centre), (radius * f64::from(FINENESS)).round() as u32, colour.filled()))
        }
        Mark::Text(text) => area.draw(&words(text)),
    };
    drawn.map_err(drawing)
}

fn fine(point: &Point) -> (i32, i32) {
    let place = |pixels: f64| (pixels * f64::from(FINENESS)).round() as i32;
    (place(point.0), place(point.1))
}

fn words(text: &Text) -> Words<'_, (i32, i32), &str> {
    // Backends centre the x-height on the point; digits and capitals, half of all labels, look better centred themselves.
    let down = text.size * (HALF_CAPITAL - HALF_X);
    let at = if text.upward { (text.at.0 + down, text.at.1) } else { (text.at.0, text.at.1 + down) };
    let h_pos = match text.anchor {
        Anchor::Start => HPos::Left,
        Anchor::Middle => HPos::Center,
        Anchor::End => HPos::Right,
    };
    let style = if text.bold { FontStyle::Bold } else { FontStyle::Normal };
    let turn = if text.upward { FontTransform::Rotate270 } else { FontTransform::None };
    let size = text.size * f64::from(FINENESS) * PLOTTERS_EM;
    let font = (FAMILY, size, style).into_font().transform(turn);
    let style = TextStyle::from(font).color(&text.colour).pos(Pos::new(h_pos, VPos::Center));
    Words::new(text.words.as_str(), fine(&at), style)
}

#[cfg(test)]
mod tests {
    use super::super::scene::INK;
    use super::*;

    fn decoded(file: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width, info.height, pixels)
    }

    #[test]
    fn an_empty_scene_is_white() {
        let (width, height, pixels) = decoded(&png(&Scene::new(300.0)).unwrap());
        assert_eq!((width, height), (1600, 300));
        assert!(pixels.iter().all(|channel| *channel == 255));
    }

    #[test]
    fn a_bar_covers_its_pixels_and_no_others() {
        let mut scene = Scene::new(100.0);
        scene.bar((10.0, 20.0), (30.0, 50.0), INK);
        let (width, _, pixels) = decoded(&png(&scene).unwrap());
        let dark = |x: usize, y: usize| pixels[(y * width as usize + x) * 3] < 60;
        assert!(dark(11, 21) && dark(29, 49));
        assert!(!dark(8, 30) && !dark(32, 30) && !dark(20, 18) && !dark(20, 52));
    }

    #[test]
    fn svg_has_the_size_of_the_scene_and_finer_coordinates() {
        let document = svg(&Scene::new(300.0)).unwrap();
        assert!(document.starts_with("<svg width=\"1600\" height=\"300\" viewBox=\"0 0 3200 600\""), "{document}");
        assert!(document.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn words_are_escaped_in_svg() {
        let mut scene = Scene::new(100.0);
        scene.text(Text::new("<script>alert('x')</script> & \"quotes\"", (10.0, 50.0)));
        let document = svg(&scene).unwrap();
        assert!(!document.contains("<script") && document.contains("&lt;script&gt;"), "{document}");
        assert!(document.contains("&amp; &quot;quotes&quot;"));
    }

    #[test]
    fn text_stays_within_its_bounds() {
        let mut scene = Scene::new(400.0);
        let upward = Text::new("Held-up", (700.0, 200.0)).middle().upward();
        scene.text(Text::new("Held-up", (200.0, 200.0)).end());
        scene.text(upward);
        let (width, _, pixels) = decoded(&png(&scene).unwrap());
        let dark: Vec<Point> = (0..pixels.len() / 3)
            .filter(|index| pixels[index * 3] < 128)
            .map(|index| ((index % width as usize) as f64, (index / width as usize) as f64))
            .collect();
        let texts: Vec<_> =
            scene.marks.iter().filter_map(|mark| if let Mark::Text(t) = mark { Some(t) } else { None }).collect();
        for point in &dark {
            let inside = texts.iter().any(|text| {
                let ((left, top), (right, bottom)) = text.bounds();
                (left..=right).contains(&point.0) && (top..=bottom).contains(&point.1)
            });
            assert!(inside, "{point:?}");
        }
        for text in texts {
            let ((left, top), (right, bottom)) = text.bounds();
            let within = |p: &&Point| p.0 >= left && p.0 <= right && p.1 >= top && p.1 <= bottom;
            assert!(dark.iter().filter(within).count() > 100);
        }
    }
}
