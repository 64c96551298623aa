//! Speed against context and batch: prefill, decoding of one sequence, decoding of several; with what the peaks allow.

use super::axis::{Panel, Quantity, Scale};
use super::profile_page::{draw_key, identified, titled};
use super::scene::{BELOW_TITLE, GRID, MARGIN, MUTED, SMALL, Scene, TEXT, Text, WIDTH};
use crate::report::{ProfileStudy, SpeedPoint};

/// Height of the figure, pixels.
const FIGURE: f64 = 820.0;

/// A panel: its heading, the name of its axis, the points that it shows, and their place on the axis.
type View = (&'static str, &'static str, fn(&SpeedPoint, usize) -> bool, fn(&SpeedPoint) -> usize);

const VIEWS: [View; 3] = [
    ("prefill", "tokens of the prompt", |point, _| point.is_prefill && point.batch == 1, |point| point.context),
    (
        "decoding, one sequence",
        "tokens in the cache",
        |point, _| !point.is_prefill && point.batch == 1,
        |point| point.context,
    ),
    (
        "decoding, batches",
        "sequences",
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
    let width = (WIDTH - 2.0 * MARGIN - 3.0 * 80.0) / 3.0;
    for (index, (heading, axis, is_shown, place)) in VIEWS.into_iter().enumerate() {
        let shown = || points().filter(|point| is_shown(point, context));
        let mut ticks: Vec<usize> = shown().map(place).collect();
        ticks.sort_unstable();
        ticks.dedup();
        let bound = |point: &SpeedPoint| point.bound_tokens_per_s(study.peak_flops_per_s, study.peak_bytes_per_s);
        let highest = shown().map(|point| point.tokens_per_s().max(bound(point))).fold(0.0, f64::max);
        let left = MARGIN + 80.0 + index as f64 * (width + 80.0);
        let column = |point: &SpeedPoint| ticks.iter().position(|tick| *tick == place(point)).unwrap_or(0) as f64;
        let panel = Panel {
            left,
            top: BELOW_TITLE + 90.0,
            right: left + width,
            bottom: FIGURE - 150.0,
            x: Scale::with_bounds(-0.3, ticks.len().max(2) as f64 - 0.7, Quantity::Plain, 4),
            y: Scale::from_zero(1.05 * highest, Quantity::Decimal("tok/s"), 5),
        };
        panel.heading(&mut scene, &format!("{heading} ({})", panel.y.unit()));
        panel.horizontal_grid(&mut scene);
        panel.vertical_ticks(&mut scene);
        scene.line(vec![(panel.left, panel.bottom), (panel.right, panel.bottom)], MUTED, 1.5);
        for (place, tick) in ticks.iter().enumerate() {
            let at = panel.column(place as f64);
            scene.line(vec![(at, panel.top), (at, panel.bottom)], GRID, 1.0);
            scene.text(Text::new(tick.to_string(), (at, panel.bottom + 24.0)).middle().size(SMALL).colour(MUTED));
        }
        let axis = if index == 2 { format!("{axis} at {context} tokens") } else { axis.to_owned() };
        let middle = (panel.left + panel.right) / 2.0;
        scene.text(Text::new(axis, (middle, panel.bottom + 62.0)).middle().size(TEXT));
        for (model, identity) in identified(study) {
            let mut points: Vec<&SpeedPoint> = model.speeds.iter().filter(|point| is_shown(point, context)).collect();
            points.sort_by_key(|point| place(point));
            let at = |rate: &dyn Fn(&SpeedPoint) -> f64| -> Vec<(f64, f64)> {
                points.iter().map(|point| panel.at(column(point), rate(point))).collect()
            };
            for pair in at(&bound).windows(2) {
                scene.dashes(pair[0], pair[1], (5.0, 6.0), identity.tint(0.35), 1.8);
            }
            let measured = at(&SpeedPoint::tokens_per_s);
            scene.line(measured.clone(), identity.colour, 3.0);
            measured.into_iter().for_each(|point| identity.marker(&mut scene, point, 8.0));
        }
    }
    let note = "lines: medians; dashes: what the measured peaks allow for the FLOPs and bytes counted; each panel has its own scale";
    scene.text(Text::new(note, (MARGIN, FIGURE - 54.0)).size(SMALL).colour(MUTED));
    Some(scene)
}
