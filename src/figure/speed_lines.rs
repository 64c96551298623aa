//! Speed against context and batch: prefill, decoding of one sequence, decoding of several; with what the peaks allow.

use super::axis::{Panel, Quantity, Scale};
use super::profile_page::{draw_key, draw_notes, side_by_side, titled};
use super::scene::{BELOW_TITLE, GRID, MARGIN, MUTED, SMALL, Scene, TEXT, Text, WIDTH};
use crate::report::{ProfileStudy, SpeedPoint};

/// Height of the figure, pixels.
const FIGURE: f64 = 900.0;
/// Left of the first panel, and between panels, pixels: tick labels and the name of the axis.
const GAP: f64 = 110.0;
/// Distance of the models at a place on the horizontal axis, pixels, so that no marker hides another.
const APART: f64 = 18.0;

/// A panel: its heading, the name of its axis, the points that it shows, and their place on the axis.
type View = (&'static str, &'static str, fn(&SpeedPoint, usize) -> bool, fn(&SpeedPoint) -> usize);

const VIEWS: [View; 3] = [
    ("prefill", "prompt length (tokens)", |point, _| point.is_prefill && point.batch == 1, |point| point.context),
    (
        "decoding, one sequence",
        "context (tokens)",
        |point, _| !point.is_prefill && point.batch == 1,
        |point| point.context,
    ),
    (
        "decoding",
        "batch size (sequences)",
        |point, context| !point.is_prefill && point.context == context,
        |point| point.batch,
    ),
];

/// A panel for each view; `None` if nothing was timed.
pub(super) fn compose(study: &ProfileStudy) -> Option<Scene> {
    let points = || study.models.iter().flat_map(|model| &model.speeds);
    points().next()?;
    let context = points().filter(|point| !point.is_prefill && point.batch > 1).map(|point| point.context).min();
    let context = context.unwrap_or(0);
    let mut scene = titled(study, "Prefill and decoding against context and batch", FIGURE);
    draw_key(&mut scene, study, BELOW_TITLE);
    let width = (WIDTH - 2.0 * MARGIN - 3.0 * GAP) / 3.0;
    for (index, (heading, axis, is_shown, place)) in VIEWS.into_iter().enumerate() {
        let shown = || points().filter(|point| is_shown(point, context));
        let mut ticks: Vec<usize> = shown().map(place).collect();
        ticks.sort_unstable();
        ticks.dedup();
        let bound = |point: &SpeedPoint| point.bound_tokens_per_s(study.peak_flops_per_s, study.peak_bytes_per_s);
        let speeds = shown().flat_map(|point| [point.tokens_per_s(), bound(point)]);
        let speeds = speeds.filter(|speed| *speed > 0.0 && speed.is_finite());
        let (lowest, highest) =
            speeds.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), s| (low.min(s), high.max(s)));
        if highest == 0.0 {
            continue;
        }
        let left = MARGIN + GAP + index as f64 * (width + GAP);
        let column = |point: &SpeedPoint| ticks.iter().position(|tick| *tick == place(point)).unwrap_or(0) as f64;
        let panel = Panel {
            left,
            top: BELOW_TITLE + 90.0,
            right: left + width,
            bottom: FIGURE - 200.0,
            x: Scale::with_bounds(-0.4, ticks.len().max(2) as f64 - 0.6, Quantity::Plain, 4),
            y: Scale::logarithmic(0.7 * lowest, 1.4 * highest, Quantity::Decimal("tok/s")),
        };
        let heading = if index == 2 { format!("{heading} at context {context}") } else { heading.to_owned() };
        panel.heading(&mut scene, &heading);
        panel.horizontal_grid(&mut scene);
        panel.vertical_name(&mut scene, &format!("speed ({})", panel.y.unit()), left - 88.0);
        panel.vertical_ticks(&mut scene);
        scene.line(vec![(panel.left, panel.bottom), (panel.right, panel.bottom)], MUTED, 1.5);
        for (place, tick) in ticks.iter().enumerate() {
            let at = panel.column(place as f64);
            scene.line(vec![(at, panel.top), (at, panel.bottom)], GRID, 1.0);
            scene.text(Text::new(tick.to_string(), (at, panel.bottom + 24.0)).middle().size(SMALL).colour(MUTED));
        }
        let middle = (panel.left + panel.right) / 2.0;
        scene.text(Text::new(axis, (middle, panel.bottom + 62.0)).middle().size(TEXT));
        for (model, identity, sideways) in side_by_side(study, APART) {
            let mut points: Vec<&SpeedPoint> = model.speeds.iter().filter(|point| is_shown(point, context)).collect();
            points.sort_by_key(|point| place(point));
            let at = |rate: &dyn Fn(&SpeedPoint) -> f64| -> Vec<(f64, f64)> {
                let positive = points.iter().filter(|point| rate(point) > 0.0 && rate(point).is_finite());
                let at = positive.map(|point| panel.at(column(point), rate(point)));
                at.map(|(x, y)| (x + sideways, y)).collect()
            };
            let bounds = at(&bound);
            for pair in bounds.windows(2) {
                scene.dashes(pair[0], pair[1], (5.0, 6.0), identity.colour, 1.8);
            }
            bounds.into_iter().for_each(|point| identity.marker(&mut scene, point, 4.5));
            let measured = at(&SpeedPoint::tokens_per_s);
            scene.line(measured.clone(), identity.colour, 3.0);
            measured.into_iter().for_each(|point| identity.marker(&mut scene, point, 8.0));
        }
    }
    let notes = [
        "solid, large markers: medians of the repetitions; dashed, small markers: what the measured peaks allow",
        "tok/s: tokens per second; logarithmic scales, one for each panel; models side by side at each length or batch",
    ];
    draw_notes(&mut scene, notes);
    Some(scene)
}

#[cfg(test)]
mod tests {
    use plotters::style::RGBColor;

    use super::super::scene::Mark;
    use super::*;
    use crate::report::fixture;

    #[test]
    fn equal_speeds_hide_no_marker_and_all_are_in_a_panel() {
        let mut study = fixture::profile();
        let speeds = study.models[0].speeds.clone();
        study.models.iter_mut().for_each(|model| model.speeds.clone_from(&speeds));
        let scene = compose(&study).unwrap();
        // Of the key and of each point, measured and allowed.
        let (mut dense, mut wide) = (Vec::new(), Vec::new());
        for mark in &scene.marks {
            match mark {
                Mark::Disc { centre, colour, .. } if *colour != RGBColor(255, 255, 255) => dense.push(*centre),
                Mark::Bar { from, to, colour } if *colour != RGBColor(255, 255, 255) => {
                    wide.push(((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0));
                }
                _ => {}
            }
        }
        assert_eq!((dense.len(), wide.len()), (1 + 2 * (2 + 2 + 3), 1 + 2 * (2 + 2 + 3)));
        for (a, b) in dense.iter().zip(&wide).skip(1) {
            assert!((b.0 - a.0 - 2.0 * APART).abs() < 1e-9 && (a.1 - b.1).abs() < 1e-9);
            assert!(a.1 > BELOW_TITLE + 90.0 && a.1 < FIGURE - 200.0);
        }
    }
}
