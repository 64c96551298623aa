//! Time and FLOPs by module: a row for each module, a bar for each model.

use super::axis::{Panel, Quantity, Scale};
use super::memory_bars::{draw_left_axis, rows};
use super::profile_page::{NOTATION, draw_key, draw_notes, identified, titled};
use super::scene::{BELOW_TITLE, INK, MARGIN, SMALL, Scene, Text, WIDTH};
use crate::report::{ModulePoint, ProfileStudy};

/// Left edge of the bars, right of the names.
const BARS: f64 = 270.0;
/// Gap between panels, pixels.
const GAP: f64 = 40.0;

/// Two panels a test: milliseconds, and FLOPs.
pub(super) fn compose(study: &ProfileStudy) -> Option<Scene> {
    let num_tests = study.models.iter().map(|model| model.by_module.len()).min().filter(|tests| *tests > 0)?;
    let paths = paths(study);
    let height = BELOW_TITLE + 260.0 + paths.len() as f64 * 58.0;
    let mut scene = titled(study, "Time and FLOPs by module", height);
    draw_key(&mut scene, study, BELOW_TITLE);
    let width = (WIDTH - MARGIN - BARS - GAP * (2 * num_tests - 1) as f64) / (2 * num_tests) as f64;
    for column in 0..2 * num_tests {
        let (test, is_time) = (column / 2, column % 2 == 0);
        let left = BARS + column as f64 * (width + GAP);
        let value = |module: &ModulePoint| if is_time { 1e3 * module.time_s } else { module.flops };
        let all = study.models.iter().flat_map(|model| &model.by_module[test].modules).map(value);
        let quantity = if is_time { Quantity::Plain } else { Quantity::Decimal("FLOP") };
        let panel = Panel {
            left,
            top: BELOW_TITLE + 80.0,
            right: left + width,
            bottom: height - 190.0,
            x: Scale::from_zero(1.06 * all.fold(0.0, f64::max), quantity, 3),
            y: Scale::with_bounds(0.0, 1.0, Quantity::Plain, 1),
        };
        panel.heading(&mut scene, &study.models[0].by_module[test].test);
        panel.horizontal_axis(&mut scene, if is_time { "time (ms)" } else { "work" });
        for (path, row) in paths.iter().zip(rows(&panel, paths.len())) {
            if column == 0 {
                let name = Text::new(short(path), (BARS - 14.0, row.middle)).end().size(SMALL).colour(INK);
                scene.text(name.fitted(BARS - 14.0 - 10.0));
            }
            let models = identified(study);
            let thickness = 2.0 * row.half / models.len() as f64;
            for (index, (model, identity)) in models.iter().enumerate() {
                let Some(module) = model.by_module[test].modules.iter().find(|module| module.path == *path) else {
                    continue;
                };
                let top = row.middle - row.half + index as f64 * thickness;
                let end = panel.column(value(module));
                scene.bar((panel.left, top), (end, top + thickness - 1.0), identity.colour);
            }
        }
        draw_left_axis(&mut scene, &panel);
    }
    let note = format!("modules of all layers together; bars from the top in the order of the key{}", clock(study));
    draw_notes(&mut scene, [&note, NOTATION]);
    Some(scene)
}

/// The clock of all times, as the end of a note.
fn clock(study: &ProfileStudy) -> String {
    let mut timings = study.models.iter().flat_map(|model| &model.by_module).map(|table| table.timing);
    let first = timings.next().flatten();
    match timings.all(|timing| timing == first) {
        true => first.map_or_else(String::new, |timing| format!("; times by {timing}")),
        false => "; times by different clocks".to_owned(),
    }
}

/// The modules of all models, in the order in which they compute.
fn paths(study: &ProfileStudy) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    for model in &study.models {
        let mut place = 0;
        for module in model.by_module.first().into_iter().flat_map(|table| &table.modules) {
            match paths.iter().position(|path| *path == module.path) {
                Some(found) => place = found + 1,
                None => {
                    paths.insert(place, module.path.clone());
                    place += 1;
                }
            }
        }
    }
    paths
}

/// A path without what all share.
fn short(path: &str) -> String {
    path.replace("layer.", "")
        .replace("self_attn.attention", "attention")
        .replace("self_attn.", "attention ")
        .replace('.', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Timing;
    use crate::report::fixture;

    #[test]
    fn a_clock_is_named_if_it_measured_all_times() {
        let mut study = fixture::profile();
        assert_eq!(compose(&study).unwrap().num_saying("times by"), 0);
        for timing in [Timing::DeviceEvents, Timing::HostClock] {
            for table in study.models.iter_mut().flat_map(|model| &mut model.by_module) {
                table.timing = Some(timing);
            }
            assert_eq!(compose(&study).unwrap().num_saying(&format!("; times by {timing}")), 1);
        }
        study.models[2].by_module[1].timing = Some(Timing::DeviceEvents);
        assert_eq!(compose(&study).unwrap().num_saying("; times by different clocks"), 1);
    }
}
