//! Held-out loss during training: the whole run with the jump at growth, and its later part magnified.

use plotters::style::RGBColor;

use super::axis::{Panel, Quantity, Scale};
use super::identity::{Identity, identified};
use super::label::spread;
use super::page::{seeds, titled};
use super::scene::{BELOW_TITLE, GRID, HEIGHT, INK, MARGIN, MUTED, Point, SMALL, Scene, TEXT, Text, WIDTH};
use crate::report::statistics::mean;
use crate::report::{Arm, EvalPoint, SeedRun, Study, caveat};

/// Start of the magnified part as a fraction of the shortest arm, so that every arm ends within it.
const MAGNIFIED_FROM: f64 = 0.5;
/// Height of the two-line label of an arm, pixels.
const LABEL_HEIGHT: f64 = 74.0;
/// The floor is on the scale unless it lies further below the curves than this many times their range: far below, it would
/// leave the panel empty.
const FLOOR_REACH: f64 = 1.0;
/// Most markers on a curve.
const MARKERS: usize = 12;

/// The quantity on the horizontal axis.
#[derive(Debug, Clone, Copy)]
struct Budget {
    title: &'static str,
    name: &'static str,
    unit: &'static str,
    spent: fn(&EvalPoint) -> u64,
}

const FLOPS: Budget = Budget {
    title: "Held-out loss against training compute",
    name: "training compute after growth",
    unit: "FLOP",
    spent: |eval| eval.train_flops,
};

const TOKENS: Budget = Budget {
    title: "Held-out loss against training tokens",
    name: "training after growth",
    unit: "tokens",
    spent: |eval| eval.tokens,
};

/// Loss over FLOPs; `None` if no arm was scored.
pub(super) fn against_flops(study: &Study) -> Option<Scene> {
    compose(study, FLOPS)
}

/// Loss over tokens; `None` if no arm was scored.
pub(super) fn against_tokens(study: &Study) -> Option<Scene> {
    compose(study, TOKENS)
}

/// The curves of an arm: `(budget, loss)` of each seed and of their mean, starting right after growth.
struct Curve<'a> {
    arm: &'a Arm,
    identity: Identity,
    seeds: Vec<Vec<Point>>,
    mean: Vec<Point>,
}

fn compose(study: &Study, budget: Budget) -> Option<Scene> {
    let scored = identified(study).into_iter().filter(|(arm, _)| arm.final_loss_nats().is_some());
    let curves: Vec<Curve> = scored.map(|(arm, identity)| curve(arm, identity, budget)).collect();
    let end = curves.iter().flat_map(|curve| &curve.mean).map(|point| point.0).fold(0.0, f64::max);
    if end <= 0.0 {
        return None;
    }
    let mut scene = titled(study, budget.title, HEIGHT);
    let bottom = HEIGHT - 185.0;
    let top = BELOW_TITLE + 50.0;
    let levels = levels(study);
    let losses = || curves.iter().flat_map(Curve::points).map(|point| point.1).chain([study.base.heldout_loss_nats]);
    let (lowest, highest) =
        losses().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), loss| (l.min(loss), h.max(loss)));
    let reach = lowest - FLOOR_REACH * (highest - lowest);
    let all = losses().chain(study.data.floor_nats.filter(|floor| *floor >= reach));
    let whole = Panel {
        left: MARGIN + 100.0,
        top,
        right: 730.0,
        bottom,
        x: Scale::with_bounds(0.0, end, Quantity::Decimal(budget.unit), 6),
        y: Scale::around(all, 0.04, Quantity::Plain, 8),
    };
    let ends = curves.iter().filter_map(|curve| curve.mean.last()).map(|point| point.0);
    let from = MAGNIFIED_FROM * ends.fold(end, f64::min);
    let late = curves.iter().flat_map(Curve::points).filter(|point| point.0 >= from).map(|point| point.1);
    let magnified = Panel {
        left: 935.0,
        top,
        right: 1240.0,
        bottom,
        x: Scale::with_bounds(from, end, Quantity::Decimal(budget.unit), 4),
        y: Scale::around(late, 0.08, Quantity::Plain, 8),
    };
    draw_window(&mut scene, &whole, &magnified);
    for (panel, heading) in [(&whole, "whole run"), (&magnified, "later part, magnified")] {
        panel.horizontal_grid(&mut scene);
        panel.horizontal_axis(&mut scene, budget.name);
        panel.vertical_ticks(&mut scene);
        panel.heading(&mut scene, heading);
    }
    whole.vertical_name(&mut scene, "held-out loss (nats per token)", MARGIN);
    draw_levels(&mut scene, &whole, &magnified, &levels);
    for panel in [&whole, &magnified] {
        draw_curves(&mut scene, panel, &curves);
    }
    draw_labels(&mut scene, &magnified, &curves);
    if let Some(caveat) = caveat(study) {
        scene.text(Text::new(caveat, (whole.left, HEIGHT - 86.0)).size(SMALL).colour(MUTED));
    }
    let note = note(study, &whole);
    scene
        .text(Text::new(note, (whole.left, HEIGHT - 58.0)).size(SMALL).colour(MUTED).fitted(WIDTH - 20.0 - whole.left));
    Some(scene)
}

/// What the lines are.
fn note(study: &Study, panel: &Panel) -> String {
    let seeds = seeds(&study.settings.seeds);
    let lines = match study.settings.seeds.len() {
        0 | 1 => format!("lines: {seeds}"),
        _ => format!("thick lines: means; thin lines: {seeds}"),
    };
    let floor = study.data.floor_nats.map_or_else(String::new, |floor| match panel.y.holds(floor) {
        true => "; dotted: floor, the entropy of the data".to_owned(),
        false => format!("; floor (entropy of the data): {floor:.3}, below the range"),
    });
    format!("{lines}; dashed: base before growth{floor}")
}

fn curve(arm: &Arm, identity: Identity, budget: Budget) -> Curve<'_> {
    let points = |run: &SeedRun| -> Vec<Point> {
        let start = (0.0, run.loss_after_growth_nats);
        let evals = run.evals.iter().filter(|eval| eval.step > 0);
        std::iter::once(start).chain(evals.map(|eval| ((budget.spent)(eval) as f64, eval.heldout_loss_nats))).collect()
    };
    let seeds: Vec<Vec<Point>> = arm.runs.iter().map(points).collect();
    // The mean is taken only where all seeds were scored.
    let shared = seeds[0].iter().filter_map(|(spent, _)| {
        let losses: Option<Vec<f64>> =
            seeds.iter().map(|seed| seed.iter().find(|point| point.0 == *spent).map(|point| point.1)).collect();
        Some((*spent, mean(&losses?)?))
    });
    Curve { arm, identity, mean: shared.collect(), seeds }
}

impl Curve<'_> {
    fn points(&self) -> impl Iterator<Item = &Point> {
        self.seeds.iter().flatten().chain(&self.mean)
    }
}

/// A constant loss for reference.
struct Level {
    name: &'static str,
    loss: f64,
    dashes: (f64, f64),
}

fn levels(study: &Study) -> Vec<Level> {
    let base = Level { name: "base", loss: study.base.heldout_loss_nats, dashes: (12.0, 8.0) };
    let floor = study.data.floor_nats.map(|loss| Level { name: "floor", loss, dashes: (2.0, 7.0) });
    std::iter::once(base).chain(floor).collect()
}

fn draw_levels(scene: &mut Scene, whole: &Panel, magnified: &Panel, levels: &[Level]) {
    for panel in [whole, magnified] {
        for level in levels.iter().filter(|level| panel.y.holds(level.loss)) {
            let row = panel.row(level.loss);
            scene.dashes((panel.left, row), (panel.right, row), level.dashes, MUTED, 2.5);
        }
    }
    let labelled: Vec<&Level> = levels.iter().filter(|level| whole.y.holds(level.loss)).collect();
    let rows: Vec<f64> = labelled.iter().map(|level| whole.row(level.loss)).collect();
    for (level, row) in labelled.iter().zip(spread(&rows, 28.0, whole.top, whole.bottom)) {
        let words = format!("{} {:.3}", level.name, level.loss);
        scene.text(Text::new(words, (whole.right + 10.0, row)).size(SMALL).colour(MUTED));
    }
}

/// Shades the part of the whole run that the magnified panel shows.
fn draw_window(scene: &mut Scene, whole: &Panel, magnified: &Panel) {
    let (left, top) = whole.at(magnified.x.low, magnified.y.high.min(whole.y.high));
    let (right, bottom) = whole.at(magnified.x.high, magnified.y.low.max(whole.y.low));
    let shade = RGBColor(243, 243, 243);
    scene.bar((left, top), (right, bottom), shade);
    scene.line(vec![(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], GRID, 2.0);
}

fn draw_curves(scene: &mut Scene, panel: &Panel, curves: &[Curve]) {
    let several = |curve: &&Curve| curve.seeds.len() > 1;
    for curve in curves.iter().filter(several) {
        for seed in &curve.seeds {
            scene.line(clipped(panel, seed), curve.identity.tint(0.55), 1.5);
        }
    }
    for curve in curves {
        scene.line(clipped(panel, &curve.mean), curve.identity.colour, 4.0);
    }
    // Markers tell the arms apart without colours; they lie above all lines.
    for curve in curves {
        let every = curve.mean.len().div_ceil(MARKERS);
        for (spent, loss) in curve.mean.iter().step_by(every).filter(|point| panel.x.holds(point.0)) {
            curve.identity.marker(scene, panel.at(*spent, *loss), 5.0);
        }
    }
}

/// The part of a line within the panel, starting exactly at its left edge.
fn clipped(panel: &Panel, points: &[Point]) -> Vec<Point> {
    let low = panel.x.low;
    let inside = points.iter().copied().filter(|point| point.0 >= low);
    let entry = points.windows(2).find(|pair| pair[0].0 < low && pair[1].0 > low).map(|pair| {
        let t = (low - pair[0].0) / (pair[1].0 - pair[0].0);
        (low, (pair[0].1 + t * (pair[1].1 - pair[0].1)).clamp(panel.y.low, panel.y.high))
    });
    entry.into_iter().chain(inside).map(|(spent, loss)| panel.at(spent, loss)).collect()
}

/// Draws the name and the final loss of each arm at the end of its curve.
fn draw_labels(scene: &mut Scene, panel: &Panel, curves: &[Curve]) {
    let ended: Vec<(&Curve, Point)> = curves.iter().filter_map(|curve| Some((curve, *curve.mean.last()?))).collect();
    let rows: Vec<f64> = ended.iter().map(|(_, end)| panel.row(end.1)).collect();
    let left = panel.right + 46.0;
    let room = WIDTH - 20.0 - left;
    let placed = spread(&rows, LABEL_HEIGHT, panel.top + 20.0, panel.bottom - 30.0);
    for (((curve, end), row), label_row) in ended.iter().zip(&rows).zip(placed) {
        let ink = curve.identity.ink();
        let column = panel.column(end.0);
        scene.line(
            vec![(column, *row), (left - 26.0, label_row), (left - 8.0, label_row)],
            curve.identity.tint(0.3),
            1.5,
        );
        curve.identity.marker(scene, (column, *row), 8.0);
        let name = Text::new(&curve.arm.name, (left, label_row - 14.0)).size(TEXT).bold().colour(ink);
        scene.text(name.fitted(room));
        let result = Text::new(result(curve.arm), (left, label_row + 16.0)).size(SMALL).colour(INK);
        scene.text(result.fitted(room));
    }
}

fn result(arm: &Arm) -> String {
    match arm.final_loss_nats() {
        Some(loss) => match loss.half_width {
            Some(half_width) => format!("{:.4} ± {half_width:.4}", loss.mean),
            None => format!("{:.4}", loss.mean),
        },
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::Mark;
    use super::*;
    use crate::report::fixture;

    #[test]
    fn a_curve_begins_with_the_loss_right_after_growth() {
        let study = fixture::study(2, 3);
        let (arm, identity) = identified(&study)[1];
        let curve = curve(arm, identity, FLOPS);
        assert_eq!(curve.mean[0], (0.0, mean(&[2.62; 3]).unwrap()));
        assert_eq!(curve.mean.last().unwrap().1, arm.final_loss_nats().unwrap().mean);
        assert_eq!(curve.mean.len(), curve.seeds[0].len());
    }

    #[test]
    fn seeds_are_averaged_only_where_all_were_scored() {
        let mut study = fixture::study(1, 3);
        let dropped = study.arms[0].runs[1].evals.remove(4);
        let (arm, identity) = identified(&study)[0];
        let curve = curve(arm, identity, TOKENS);
        assert_eq!(curve.mean.len(), curve.seeds[0].len() - 1);
        assert!(curve.mean.iter().all(|point| point.0 != dropped.tokens as f64));
    }

    #[test]
    fn a_clipped_line_begins_at_the_edge() {
        let scale = |low, high| Scale::with_bounds(low, high, Quantity::Plain, 4);
        let panel =
            Panel { left: 0.0, top: 0.0, right: 100.0, bottom: 100.0, x: scale(5.0, 15.0), y: scale(0.0, 10.0) };
        let line = clipped(&panel, &[(0.0, 10.0), (10.0, 0.0), (15.0, 0.0)]);
        assert_eq!(line, [(0.0, 50.0), (50.0, 100.0), (100.0, 100.0)]);
    }

    #[test]
    fn every_arm_ends_within_the_magnified_part() {
        let mut study = fixture::study(3, 1);
        study.arms[2].runs[0].evals.truncate(4);
        for compose in [against_flops, against_tokens] {
            let scene = compose(&study).unwrap();
            let ends = scene.marks.iter().filter_map(|mark| match mark {
                Mark::Line { points, width: 4.0, .. } => points.last(),
                _ => None,
            });
            // Three lines in the left panel, three in the right one, none of which is empty.
            assert_eq!(ends.filter(|end| end.0 >= 935.0).count(), 3);
        }
    }

    #[test]
    fn a_floor_far_below_the_curves_does_not_empty_the_panel() {
        for (floor_nats, is_shown) in [(1.702, true), (0.5, false)] {
            let mut study = fixture::study(3, 1);
            study.data.floor_nats = Some(floor_nats);
            let scene = against_flops(&study).unwrap();
            let curves = scene.marks.iter().filter_map(|mark| match mark {
                Mark::Line { points, width: 4.0, .. } if points.iter().all(|point| point.0 <= 730.0) => Some(points),
                _ => None,
            });
            let rows = curves.flatten().map(|point| point.1);
            let (top, bottom) = rows.fold((f64::INFINITY, 0.0), |(t, b): (f64, f64), row| (t.min(row), b.max(row)));
            let plot = HEIGHT - 185.0 - (BELOW_TITLE + 50.0);
            assert!(bottom - top > plot / 3.0, "floor {floor_nats}: the curves fill {} of {plot}", bottom - top);
            let says = ["dotted: floor", "below the range"].map(|words| scene.num_saying(words) > 0);
            assert_eq!(says, [is_shown, !is_shown]);
        }
    }

    #[test]
    fn without_scores_there_is_no_figure() {
        let mut study = fixture::study(1, 1);
        study.arms[0].runs[0].evals.clear();
        assert!(against_flops(&study).is_none());
    }
}
