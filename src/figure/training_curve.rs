//! Losses, or other numbers, of one training run.

use plotters::style::RGBColor;

use super::axis::{Panel, Quantity, Scale};
use super::scene::{BELOW_TITLE, HEIGHT, INK, MARGIN, MUTED, Point, SMALL, Scene, TEXT, Text, WIDTH};
use super::{Figure, FigureError, paint};

/// Colours of the lines, in their order, which colour-blind readers can tell apart.
const COLOURS: [RGBColor; 3] = [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 130, 95)];
/// Most points of a line that are marked: rare ones are measurements of their own, and told apart without colours.
const MARKERS: usize = 16;

/// Numbers of a run by its tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainingCurve {
    /// Name of the figure's files, without an ending.
    pub name: &'static str,
    /// Title of the figure.
    pub title: String,
    /// One line about the run.
    pub subtitle: String,
    /// The numbers and their unit: `loss (nats per token)`.
    pub axis: String,
    /// The lines, three at most: their names, and their points by the tokens read.
    pub lines: Vec<(&'static str, Vec<(u64, f64)>)>,
}

/// Draws a training curve; `None` if it has no point.
///
/// # Errors
/// [`FigureError::Drawing`] and [`FigureError::Encoding`] if a library fails.
pub fn draw_training(curve: &TrainingCurve) -> Result<Option<Figure>, FigureError> {
    let Some(scene) = compose(curve) else { return Ok(None) };
    Ok(Some(Figure { name: curve.name, svg: paint::svg(&scene)?, png: paint::png(&scene)? }))
}

fn compose(curve: &TrainingCurve) -> Option<Scene> {
    let all = || curve.lines.iter().flat_map(|(_, points)| points);
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
        y: Scale::around(all().map(|(_, value)| *value).filter(|value| value.is_finite()), 0.05, Quantity::Plain, 8),
    };
    panel.horizontal_grid(&mut scene);
    panel.horizontal_axis(&mut scene, "data seen in training");
    panel.vertical_ticks(&mut scene);
    panel.vertical_name(&mut scene, &curve.axis, MARGIN);
    let points = |values: &[(u64, f64)]| -> Vec<Point> {
        let finite = values.iter().filter(|(_, value)| value.is_finite());
        finite.map(|(tokens, value)| panel.at(*tokens as f64, *value)).collect()
    };
    let lines: Vec<(&str, Vec<Point>)> = curve.lines.iter().map(|(name, values)| (*name, points(values))).collect();
    let ends: Vec<f64> = lines.iter().map(|(_, points)| points.last().map_or(panel.bottom, |last| last.1)).collect();
    let rows = super::label::spread(&ends, 34.0, panel.top, panel.bottom);
    for (((name, points), row), colour) in lines.into_iter().zip(rows).zip(COLOURS) {
        let Some(last) = points.last() else { continue };
        let marked = if points.len() <= MARKERS { &points[..] } else { std::slice::from_ref(last) };
        marked.iter().for_each(|point| scene.disc(*point, 6.0, colour));
        scene.text(Text::new(name, (panel.right + 20.0, row)).size(TEXT).bold().colour(colour));
        scene.line(points, colour, 3.0);
    }
    Some(scene)
}

#[cfg(test)]
mod tests {
    use super::super::scene::Mark;
    use super::*;

    #[test]
    fn rare_points_are_marked_and_of_many_the_last() {
        let points = |count: u64| (0..count).map(|step| (step, 1.0 / (1.0 + step as f64))).collect();
        let curve =
            TrainingCurve { lines: vec![("training", points(40)), ("held-out", points(3))], ..Default::default() };
        let scene = compose(&curve).unwrap();
        let discs =
            |of| scene.marks.iter().filter(|mark| matches!(mark, Mark::Disc { colour, .. } if *colour == of)).count();
        assert_eq!((discs(COLOURS[0]), discs(COLOURS[1])), (1, 3));
    }

    #[test]
    fn a_curve_is_drawn_and_an_empty_one_is_not() {
        let curve = TrainingCurve {
            axis: "loss (nats per token)".to_owned(),
            lines: vec![("training", vec![(0, 3.0), (100, 2.0)]), ("held-out", Vec::new())],
            ..Default::default()
        };
        assert!(draw_training(&curve).unwrap().unwrap().svg.contains("nats per token"));
        assert_eq!(draw_training(&TrainingCurve::default()).unwrap(), None);
    }
}
