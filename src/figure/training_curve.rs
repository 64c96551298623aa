//! The losses of one training run.

use plotters::style::RGBColor;

use super::axis::{Panel, Quantity, Scale};
use super::scene::{BELOW_TITLE, HEIGHT, INK, MARGIN, MUTED, Point, SMALL, Scene, TEXT, Text, WIDTH};
use super::{Figure, FigureError, paint};

const TRAIN: RGBColor = RGBColor(86, 180, 233);
const HELD_OUT: RGBColor = RGBColor(213, 94, 0);

/// The losses of a run by its tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainingCurve {
    /// Title of the figure.
    pub title: String,
    /// One line about the run.
    pub subtitle: String,
    /// The unit of the losses: `nats per token`, `per pair`.
    pub unit: &'static str,
    /// Tokens read, and the loss since the last point.
    pub train: Vec<(u64, f64)>,
    /// Tokens read, and the loss on held-out data.
    pub heldout: Vec<(u64, f64)>,
}

/// Draws a training curve; `None` if it has no point.
///
/// # Errors
/// [`FigureError::Drawing`] and [`FigureError::Encoding`] if a library fails.
pub fn draw_training(curve: &TrainingCurve) -> Result<Option<Figure>, FigureError> {
    let Some(scene) = compose(curve) else { return Ok(None) };
    Ok(Some(Figure { name: "loss", svg: paint::svg(&scene)?, png: paint::png(&scene)? }))
}

fn compose(curve: &TrainingCurve) -> Option<Scene> {
    let all = || curve.train.iter().chain(&curve.heldout);
    let end = all().map(|(tokens, _)| *tokens).max()?;
    let mut scene = Scene::new(HEIGHT);
    let width = WIDTH - 2.0 * MARGIN;
    scene.text(Text::new(&curve.title, (MARGIN, 44.0)).size(34.0).bold().fitted(width).colour(INK));
    scene.text(Text::new(&curve.subtitle, (MARGIN, 84.0)).size(SMALL).fitted(width).colour(MUTED));
    let panel = Panel {
        left: MARGIN + 100.0,
        top: BELOW_TITLE,
        right: WIDTH - 250.0,
        bottom: HEIGHT - 110.0,
        x: Scale::with_bounds(0.0, end.max(1) as f64, Quantity::Decimal("tokens"), 8),
        y: Scale::around(all().map(|(_, loss)| *loss).filter(|loss| loss.is_finite()), 0.05, Quantity::Plain, 8),
    };
    panel.horizontal_grid(&mut scene);
    panel.horizontal_axis(&mut scene, "training");
    panel.vertical_ticks(&mut scene);
    panel.vertical_name(&mut scene, &format!("loss ({})", curve.unit), MARGIN);
    let points = |losses: &[(u64, f64)]| -> Vec<Point> {
        let finite = losses.iter().filter(|(_, loss)| loss.is_finite());
        finite.map(|(tokens, loss)| panel.at(*tokens as f64, *loss)).collect()
    };
    let lines = [("training", points(&curve.train), TRAIN, 3.0), ("held-out", points(&curve.heldout), HELD_OUT, 4.0)];
    let ends: Vec<f64> =
        lines.iter().map(|(_, points, ..)| points.last().map_or(panel.bottom, |last| last.1)).collect();
    let rows = super::label::spread(&ends, 34.0, panel.top, panel.bottom);
    for ((name, points, colour, width), row) in lines.into_iter().zip(rows) {
        let Some(last) = points.last() else { continue };
        scene.disc(*last, 6.0, colour);
        scene.text(Text::new(name, (panel.right + 20.0, row)).size(TEXT).bold().colour(colour));
        scene.line(points, colour, width);
    }
    Some(scene)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_drawn_and_an_empty_one_is_not() {
        let curve = TrainingCurve { unit: "nats per token", train: vec![(0, 3.0), (100, 2.0)], ..Default::default() };
        assert!(draw_training(&curve).unwrap().unwrap().svg.contains("nats per token"));
        assert_eq!(draw_training(&TrainingCurve::default()).unwrap(), None);
    }
}
