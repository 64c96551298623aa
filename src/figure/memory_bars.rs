//! Memory of the arms: weights, KV cache and the rest up to the peak of inference; the peak of training.

use plotters::style::RGBColor;

use super::axis::{Panel, Quantity, Scale};
use super::identity::{Identity, identified};
use super::page::titled;
use super::scene::{BELOW_TITLE, GRID, HEIGHT, INK, MARGIN, MUTED, PAPER, SMALL, Scene, TEXT, Text, WIDTH, mix};
use crate::report::table::binary_bytes;
use crate::report::{Arm, Study};

/// Left edge of the bars, right of the names.
const BARS: f64 = 330.0;

/// The parts of a bar, each with its share of white.
const PARTS: [(&str, f64); 3] =
    [("weights", 0.0), ("keys and values", 0.45), ("the rest, up to the measured peak", 0.75)];

/// One bar per arm.
pub(super) fn compose(study: &Study) -> Option<Scene> {
    let arms = identified(study);
    let height = (420.0 + 100.0 * arms.len() as f64).min(HEIGHT);
    let mut scene = titled(study, "Memory while generating and while training", height);
    let trained: Vec<u64> = study.arms.iter().filter_map(|arm| arm.memory.train_peak_bytes).collect();
    let (top, bottom) = (BELOW_TITLE + 80.0, height - 150.0);
    let bytes = |high: f64, ticks| Scale::from_zero(high, Quantity::Bytes, ticks);
    let longest = study.arms.iter().map(|arm| parts(arm).iter().sum::<u64>()).max()?;
    let right = if trained.is_empty() { WIDTH - MARGIN } else { 1060.0 };
    let panel =
        |left, right, x| Panel { left, top, right, bottom, x, y: Scale::with_bounds(0.0, 1.0, Quantity::Plain, 1) };
    let generating = panel(BARS, right, bytes(1.34 * longest as f64, 6));
    generating.horizontal_axis(&mut scene, "memory while generating");
    draw_key(&mut scene, &generating);
    let rows = rows(&generating, arms.len());
    for ((arm, identity), row) in arms.iter().zip(&rows) {
        let name = Text::new(&arm.name, (BARS - 16.0, row.middle)).end().size(TEXT).bold().colour(identity.ink());
        scene.text(name.fitted(BARS - 16.0 - 20.0));
        draw_bar(&mut scene, &generating, arm, *identity, row);
    }
    draw_left_axis(&mut scene, &generating);
    if let Some(highest) = trained.into_iter().max() {
        let training = panel(1120.0, WIDTH - MARGIN, bytes(1.5 * highest as f64, 4));
        training.horizontal_axis(&mut scene, "peak memory while training");
        for ((arm, identity), row) in arms.iter().zip(&rows) {
            draw_tick(&mut scene, &training, arm, *identity, row);
        }
        draw_left_axis(&mut scene, &training);
    }
    Some(scene)
}

/// Position and half height of a bar.
pub(super) struct BarRow {
    pub middle: f64,
    pub half: f64,
}

/// `count` rows, evenly spaced over the panel.
pub(super) fn rows(panel: &Panel, count: usize) -> Vec<BarRow> {
    let pitch = (panel.bottom - panel.top) / count as f64;
    let half = (pitch * 0.32).min(38.0);
    (0..count).map(|index| BarRow { middle: panel.top + (index as f64 + 0.5) * pitch, half }).collect()
}

pub(super) fn draw_left_axis(scene: &mut Scene, panel: &Panel) {
    scene.line(vec![(panel.left, panel.top), (panel.left, panel.bottom)], MUTED, 1.5);
}

/// Bytes of weights, of keys and values, and of the rest.
fn parts(arm: &Arm) -> [u64; 3] {
    let memory = &arm.memory;
    let held = memory.weight_bytes.saturating_add(memory.kv_cache_bytes);
    let rest = memory.inference_peak_bytes.unwrap_or(held).saturating_sub(held);
    [memory.weight_bytes, memory.kv_cache_bytes, rest]
}

fn draw_key(scene: &mut Scene, panel: &Panel) {
    let mut left = panel.left;
    let row = panel.top - 38.0;
    let grey = RGBColor(90, 90, 90);
    for (name, tint) in PARTS {
        let colour = mix(grey, PAPER, tint);
        scene.bar((left, row - 11.0), (left + 22.0, row + 11.0), colour);
        let words = Text::new(name, (left + 32.0, row)).size(SMALL).colour(INK);
        left += 32.0 + words.width() + 40.0;
        scene.text(words);
    }
}

fn draw_bar(scene: &mut Scene, panel: &Panel, arm: &Arm, identity: Identity, row: &BarRow) {
    let (top, bottom) = (row.middle - row.half, row.middle + row.half);
    let mut below = 0u64;
    for (bytes, (_, tint)) in parts(arm).into_iter().zip(PARTS) {
        let (left, right) = (panel.column(below as f64), panel.column((below + bytes) as f64));
        scene.bar((left, top), (right, bottom), identity.tint(tint));
        let words = Text::new(binary_bytes(bytes as f64), ((left + right) / 2.0, row.middle)).middle().size(SMALL);
        let words = words.colour(legible_on(identity.tint(tint)));
        if words.width() + 12.0 < right - left {
            scene.text(words);
        }
        below += bytes;
    }
    let end = panel.column(below as f64);
    let total = match arm.memory.inference_peak_bytes {
        Some(peak) => {
            // The peak can be less than weights and cache together if part of them was never resident.
            let at = panel.column(peak as f64);
            scene.line(vec![(at, top - 6.0), (at, bottom + 6.0)], INK, 3.0);
            format!("peak {}", binary_bytes(peak as f64))
        }
        None => "peak not measured".to_owned(),
    };
    scene.text(Text::new(total, (end + 14.0, row.middle)).size(SMALL).fitted(panel.right - end - 14.0));
}

/// White on dark colours, black on light ones.
fn legible_on(RGBColor(red, green, blue): RGBColor) -> RGBColor {
    let lightness = 0.299 * f64::from(red) + 0.587 * f64::from(green) + 0.114 * f64::from(blue);
    if lightness > 135.0 { INK } else { PAPER }
}

fn draw_tick(scene: &mut Scene, panel: &Panel, arm: &Arm, identity: Identity, row: &BarRow) {
    let words = match arm.memory.train_peak_bytes {
        Some(peak) => {
            let at = panel.column(peak as f64);
            scene.line(vec![(panel.left, row.middle), (at, row.middle)], GRID, 3.0);
            scene.line(vec![(at, row.middle - row.half), (at, row.middle + row.half)], identity.colour, 6.0);
            Text::new(binary_bytes(peak as f64), (at + 14.0, row.middle))
        }
        None => Text::new("not measured", (panel.left + 14.0, row.middle)),
    };
    scene.text(words.size(SMALL));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn the_parts_of_a_bar_add_up_to_the_measured_peak() {
        let study = fixture::study(5, 1);
        for arm in &study.arms {
            assert_eq!(Some(parts(arm).iter().sum::<u64>()), arm.memory.inference_peak_bytes);
        }
    }

    #[test]
    fn without_a_peak_there_is_no_rest() {
        let mut study = fixture::study(1, 1);
        study.arms[0].memory.inference_peak_bytes = None;
        assert_eq!(parts(&study.arms[0])[2], 0);
        study.arms[0].memory.inference_peak_bytes = Some(1);
        assert_eq!(parts(&study.arms[0])[2], 0);
    }
}
