//! Final held-out loss against compute, size and latency, each with its Pareto frontier.

use plotters::style::RGBColor;

use super::axis::{Panel, Quantity, Scale};
use super::identity::{Identity, identified};
use super::label::spread;
use super::page::titled;
use super::scene::{BELOW_TITLE, HEIGHT, INK, MARGIN, MUTED, SMALL, Scene, TEXT, Text, WIDTH};
use crate::report::statistics::Estimate;
use crate::report::{Arm, Study, Workload, caveat};

/// Left edge of the labels, which all panels share.
const LABELS: f64 = 1300.0;
/// Gap between panels, pixels.
const GAP: f64 = 40.0;
/// Height of the two-line label of an arm, pixels.
const LABEL_HEIGHT: f64 = 74.0;
/// What an arm of the frontier beats in both numbers. A line along the frontier would run through the intervals of its arms.
const BEATEN: RGBColor = RGBColor(236, 236, 236);

/// The cost of an arm, if it was measured.
type CostOf = Box<dyn Fn(&Arm) -> Option<f64>>;

/// A cost on the horizontal axis.
struct Axis {
    name: String,
    quantity: Quantity,
    cost: CostOf,
}

/// An arm with its loss.
struct Scored<'a> {
    arm: &'a Arm,
    identity: Identity,
    loss: Estimate,
}

/// Loss over each cost that was measured; `None` if no arm was scored.
pub(super) fn compose(study: &Study) -> Option<Scene> {
    let scored: Vec<Scored> = identified(study)
        .into_iter()
        .filter_map(|(arm, identity)| Some(Scored { arm, identity, loss: arm.final_loss_nats()? }))
        .collect();
    if scored.is_empty() {
        return None;
    }
    let axes: Vec<Axis> =
        axes(study).into_iter().filter(|axis| scored.iter().any(|scored| (axis.cost)(scored.arm).is_some())).collect();
    let mut scene = titled(study, "Final held-out loss against what the model costs to run", HEIGHT);
    let left = MARGIN + 100.0;
    let width = (LABELS - 46.0 - left - GAP * (axes.len() - 1) as f64) / axes.len() as f64;
    let ends = scored.iter().flat_map(|s| {
        let half_width = s.loss.half_width.unwrap_or(0.0);
        [s.loss.mean - half_width, s.loss.mean + half_width]
    });
    let y = Scale::around(ends, 0.12, Quantity::Plain, 7);
    let panels: Vec<Panel> = axes
        .iter()
        .enumerate()
        .map(|(index, axis)| Panel {
            left: left + index as f64 * (width + GAP),
            top: BELOW_TITLE + 20.0,
            right: left + index as f64 * (width + GAP) + width,
            bottom: HEIGHT - 185.0,
            x: Scale::from_zero(
                1.12 * scored.iter().filter_map(|scored| (axis.cost)(scored.arm)).fold(0.0, f64::max),
                axis.quantity,
                4,
            ),
            y: y.clone(),
        })
        .collect();
    for (index, (panel, axis)) in panels.iter().zip(&axes).enumerate() {
        draw_beaten(&mut scene, panel, axis, &scored);
        panel.horizontal_grid(&mut scene);
        panel.horizontal_axis(&mut scene, &axis.name);
        if index == 0 {
            panel.vertical_ticks(&mut scene);
            panel.vertical_name(&mut scene, "final held-out loss (nats per token)", MARGIN);
        }
    }
    draw_labels(&mut scene, &panels, &scored);
    for (panel, axis) in panels.iter().zip(&axes) {
        draw_points(&mut scene, panel, axis, &scored);
    }
    let note = "grey: worse than an arm in both loss and cost; the arms at its edge are the Pareto frontier";
    let intervals =
        if scored.iter().any(|s| s.loss.half_width.is_some()) { "; bars: 95 % intervals over seeds" } else { "" };
    if let Some(caveat) = caveat(study) {
        scene.text(Text::new(caveat, (left, HEIGHT - 86.0)).size(SMALL).colour(MUTED));
    }
    scene.text(Text::new(format!("{note}{intervals}"), (left, HEIGHT - 58.0)).size(SMALL).colour(MUTED));
    Some(scene)
}

fn axes(study: &Study) -> Vec<Axis> {
    let compute = Axis {
        name: "forward pass".to_owned(),
        quantity: Quantity::Decimal("FLOP/token"),
        cost: Box::new(|arm| Some(arm.cost.forward_flops_per_token as f64)),
    };
    let weights = Axis {
        name: "weights".to_owned(),
        quantity: Quantity::Bytes,
        cost: Box::new(|arm| Some(arm.memory.weight_bytes as f64)),
    };
    let latency = study.smallest_decode().map(|workload| Axis {
        name: match workload {
            Workload::Decode { batch, .. } => format!("decode step, batch {batch} (ms)"),
            Workload::Prefill { .. } => "prefill (ms)".to_owned(),
        },
        quantity: Quantity::Plain,
        cost: Box::new(move |arm| arm.timing(workload).map(|timing| timing.ms_per_step())),
    });
    [compute, weights].into_iter().chain(latency).collect()
}

/// Draws the name of each arm at the right, joined to its points by a thin line.
fn draw_labels(scene: &mut Scene, panels: &[Panel], scored: &[Scored]) {
    let (Some(first), Some(last)) = (panels.first(), panels.last()) else { return };
    let rows: Vec<f64> = scored.iter().map(|scored| last.row(scored.loss.mean)).collect();
    let placed = spread(&rows, LABEL_HEIGHT, last.top + 20.0, last.bottom - 30.0);
    for ((scored, row), label_row) in scored.iter().zip(&rows).zip(placed) {
        let guide = vec![(first.left, *row), (last.right, *row), (LABELS - 22.0, label_row), (LABELS - 8.0, label_row)];
        scene.line(guide, scored.identity.tint(0.5), 1.5);
        let room = WIDTH - 20.0 - LABELS;
        let name = Text::new(&scored.arm.name, (LABELS, label_row - 14.0)).size(TEXT).bold();
        scene.text(name.colour(scored.identity.ink()).fitted(room));
        let loss = Text::new(format!("{:.4}", scored.loss.mean), (LABELS, label_row + 16.0)).size(SMALL).colour(INK);
        scene.text(loss);
    }
}

/// Shades what the frontier beats, a bar for each of its arms.
fn draw_beaten(scene: &mut Scene, panel: &Panel, axis: &Axis, scored: &[Scored]) {
    let points: Vec<(f64, f64)> =
        scored.iter().filter_map(|scored| Some(((axis.cost)(scored.arm)?, scored.loss.mean))).collect();
    let frontier = frontier(&points);
    let ends = frontier.iter().skip(1).map(|(cost, _)| *cost).chain([panel.x.high]);
    for ((cost, loss), end) in frontier.iter().zip(ends) {
        scene.bar(panel.at(*cost, panel.y.high), panel.at(end, *loss), BEATEN);
    }
}

fn draw_points(scene: &mut Scene, panel: &Panel, axis: &Axis, scored: &[Scored]) {
    for scored in scored {
        let Some(cost) = (axis.cost)(scored.arm) else { continue };
        if let Some(half_width) = scored.loss.half_width {
            let (low, high) = (scored.loss.mean - half_width, scored.loss.mean + half_width);
            scene.line(vec![panel.at(cost, low), panel.at(cost, high)], scored.identity.colour, 2.5);
            for end in [low, high] {
                let (x, y) = panel.at(cost, end);
                scene.line(vec![(x - 7.0, y), (x + 7.0, y)], scored.identity.colour, 2.5);
            }
        }
        scored.identity.marker(scene, panel.at(cost, scored.loss.mean), 10.0);
    }
}

/// The points that no other point beats in both numbers, cheapest first.
fn frontier(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut best = f64::INFINITY;
    sorted.retain(|point| {
        let better = point.1 < best;
        best = best.min(point.1);
        better
    });
    sorted
}

#[cfg(test)]
mod tests {
    use super::super::scene::Mark;
    use super::*;
    use crate::report::fixture;

    #[test]
    fn the_frontier_has_the_points_that_none_beats() {
        let points = [(3.0, 1.0), (1.0, 3.0), (2.0, 3.5), (2.0, 2.0), (4.0, 1.0)];
        assert_eq!(frontier(&points), [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]);
        assert_eq!(frontier(&[]), []);
    }

    #[test]
    fn what_the_frontier_beats_is_shaded_and_no_line_runs_along_an_interval() {
        let scene = compose(&fixture::study(3, 3)).unwrap();
        let vertical = scene.marks.iter().filter_map(|mark| match mark {
            Mark::Line { points, width, .. } if *width > 2.0 && points[0].0 == points[1].0 => Some(points),
            _ => None,
        });
        let mut columns: Vec<f64> = vertical.map(|points| points[0].0).collect();
        assert_eq!(columns.len(), 9, "an interval for each arm in each panel");
        columns.dedup();
        assert_eq!(columns.len(), 9);
        let shaded = scene.marks.iter().any(|mark| matches!(mark, Mark::Bar { colour, .. } if *colour == BEATEN));
        assert!(shaded);
    }

    #[test]
    fn only_measured_costs_get_a_panel() {
        let mut study = fixture::study(3, 1);
        assert_eq!(axes(&study).len(), 3);
        for arm in &mut study.arms {
            arm.timings.clear();
        }
        assert_eq!(axes(&study).len(), 2);
        assert!(compose(&study).is_some());
    }
}
