//! Memory over time, stacked by kind: a row of panels for each test, a panel for each model.

use plotters::style::RGBColor;

use super::axis::{Panel, Quantity, Scale};
use super::profile_page::{NOTATION, draw_notes, identified, titled};
use super::scene::{BELOW_TITLE, INK, MARGIN, SMALL, Scene, Text, WIDTH};
use crate::report::table::binary_bytes;
use crate::report::{MemoryPoint, ProfileStudy};

/// Kinds from the bottom up, in colours that colour-blind readers can tell apart. Kinds that can lie on each other differ in
/// lightness too, for print without colours.
const KINDS: [(&str, RGBColor); 5] = [
    ("weights", RGBColor(0, 66, 110)),
    ("optimizer", RGBColor(86, 180, 233)),
    ("keys and values", RGBColor(120, 205, 170)),
    ("gradients", RGBColor(245, 225, 120)),
    ("activations", RGBColor(213, 94, 0)),
];
/// Steps in which a panel is drawn; each shows the highest moment in it.
const STEPS: usize = 60;
/// Height of a row of panels, pixels.
const ROW: f64 = 400.0;

/// Panels of every test that all models have; `None` if memory was not counted.
pub(super) fn compose(study: &ProfileStudy) -> Option<Scene> {
    let num_tests = study.models.iter().map(|model| model.memory.len()).min().filter(|tests| *tests > 0)?;
    let height = BELOW_TITLE + 140.0 + num_tests as f64 * ROW;
    let mut scene = titled(study, "Memory over time by kind", height);
    draw_key(&mut scene);
    let count = study.models.len() as f64;
    let width = (WIDTH - 2.0 * MARGIN - 110.0 - 40.0 * (count - 1.0)) / count;
    for test in 0..num_tests {
        let curves = || study.models.iter().map(|model| &model.memory[test]);
        let highest = curves().flat_map(|curve| &curve.points).map(total).max().unwrap_or(0) as f64;
        let longest = curves().filter_map(|curve| curve.points.last()).map(|point| point.at_ns).max().unwrap_or(0);
        for (index, (model, identity)) in identified(study).into_iter().enumerate() {
            let curve = &model.memory[test];
            let left = MARGIN + 110.0 + index as f64 * (width + 40.0);
            let top = BELOW_TITLE + 90.0 + test as f64 * ROW;
            let panel = Panel {
                left,
                top,
                right: left + width,
                bottom: top + ROW - 150.0,
                x: Scale::with_bounds(0.0, (longest as f64 / 1e6).max(1e-3), Quantity::Plain, 4),
                y: Scale::from_zero(1.05 * highest, Quantity::Bytes, 4),
            };
            panel.horizontal_grid(&mut scene);
            panel.horizontal_axis(&mut scene, "time (ms)");
            if index == 0 {
                panel.vertical_ticks(&mut scene);
                let name = format!("{}: memory ({})", curve.test, panel.y.unit());
                panel.vertical_name(&mut scene, &name, MARGIN - 10.0);
            }
            let peak = curve.points.iter().map(total).max().unwrap_or(0);
            let heading = format!("{}, peak {}", model.name, binary_bytes(peak as f64));
            let heading = Text::new(heading, (left, top - 24.0)).size(SMALL).bold().colour(identity.ink());
            scene.text(heading.fitted(width));
            draw_stack(&mut scene, &panel, &curve.points);
        }
    }
    draw_notes(&mut scene, ["heap, or pool of the device, at both ends of every module", NOTATION]);
    Some(scene)
}

fn total(point: &MemoryPoint) -> u64 {
    parts(point).into_iter().sum()
}

/// Bytes of each kind, in the order of [`KINDS`].
fn parts(point: &MemoryPoint) -> [u64; 5] {
    [point.weights, point.optimizer, point.cache, point.gradients, point.activations]
}

/// The highest moment of each step, with its part of the time.
fn steps(points: &[MemoryPoint]) -> Vec<(f64, f64, MemoryPoint)> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let length = last.at_ns.saturating_sub(first.at_ns).max(1) as f64 / STEPS as f64;
    let mut held = *first;
    (0..STEPS)
        .map(|step| {
            let (from, to) = (step as f64 * length, (step + 1) as f64 * length);
            let mut inside = points.iter().filter(|point| {
                let at = point.at_ns.saturating_sub(first.at_ns) as f64;
                at >= from && (at < to || step + 1 == STEPS)
            });
            let shown = inside.clone().max_by_key(|point| total(point)).copied().unwrap_or(held);
            held = inside.next_back().copied().unwrap_or(held);
            (from / 1e6, to / 1e6, shown)
        })
        .collect()
}

fn draw_stack(scene: &mut Scene, panel: &Panel, points: &[MemoryPoint]) {
    let steps = steps(points);
    let mut below = vec![0u64; steps.len()];
    for (kind, (_, colour)) in KINDS.into_iter().enumerate() {
        for ((from, to, point), below) in steps.iter().zip(&mut below) {
            let bytes = parts(point)[kind];
            if bytes > 0 {
                let (top, bottom) = (panel.row((*below + bytes) as f64), panel.row(*below as f64));
                scene.bar((panel.column(*from), top), (panel.column(*to), bottom), colour);
            }
            *below += bytes;
        }
    }
}

fn draw_key(scene: &mut Scene) {
    let (mut left, row) = (MARGIN, BELOW_TITLE);
    for (name, colour) in KINDS {
        scene.bar((left, row - 11.0), (left + 22.0, row + 11.0), colour);
        let words = Text::new(name, (left + 32.0, row)).size(SMALL).colour(INK);
        left += 32.0 + words.width() + 40.0;
        scene.text(words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_touch_differ_in_lightness() {
        let lightness = |name: &str| {
            let RGBColor(r, g, b) = KINDS.into_iter().find(|kind| kind.0 == name).unwrap().1;
            0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b)
        };
        let touching = [
            ("weights", "optimizer"),
            ("weights", "keys and values"),
            ("keys and values", "activations"),
            ("optimizer", "gradients"),
            ("optimizer", "activations"),
            ("gradients", "activations"),
        ];
        for (below, above) in touching {
            assert!((lightness(below) - lightness(above)).abs() > 30.0, "{below}, {above}");
        }
    }

    #[test]
    fn a_step_shows_its_highest_moment_and_an_empty_one_what_was_before() {
        let point =
            |at_ns, activations| MemoryPoint { at_ns, weights: 5, cache: 0, optimizer: 0, gradients: 0, activations };
        let drawn = steps(&[point(0, 1), point(1, 9), point(2, 3), point(6_000, 4)]);
        assert_eq!(drawn.len(), STEPS);
        assert_eq!([drawn[0].2.activations, drawn[1].2.activations, drawn[STEPS - 1].2.activations], [9, 3, 4]);
        assert!(steps(&[]).is_empty());
    }
}
