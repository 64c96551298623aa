//! The roofline of a device with the modules of each model on it (Williams et al., 2009, doi:10.1145/1498765.1498785).

use super::axis::{Panel, Quantity, Scale};
use super::label::spread;
use super::profile_page::{NOTATION, draw_key, draw_notes, side_by_side, titled};
use super::scene::{BELOW_TITLE, HEIGHT, INK, MARGIN, MUTED, Point, SMALL, Scene, Text, WIDTH};
use crate::report::{ModulePoint, ProfileStudy};

/// Powers of ten of FLOPs per byte that are shown at least.
const INTENSITY: [f64; 2] = [-1.0, 3.0];
/// Powers of ten of FLOP/s that are shown at least below the highest.
const DEPTH: f64 = 4.0;
/// Distance of the models at the same FLOPs per byte, pixels, so that no marker hides another.
const APART: f64 = 18.0;
/// Height of a name, pixels.
const LINE: f64 = 30.0;

/// A module in a test: its name, and the place of its rightmost marker.
struct Named {
    name: String,
    at: Point,
}

/// Modules that compute, at their FLOPs per byte and FLOP/s.
pub(super) fn compose(study: &ProfileStudy) -> Option<Scene> {
    let panel = panel(study)?;
    let mut scene = titled(study, "Roofline: modules in prefill and decoding", HEIGHT);
    draw_key(&mut scene, study, BELOW_TITLE);
    panel.horizontal_grid(&mut scene);
    panel.horizontal_axis(&mut scene, "arithmetic intensity");
    panel.vertical_ticks(&mut scene);
    panel.vertical_name(&mut scene, &format!("speed ({})", panel.y.unit()), MARGIN - 10.0);
    draw_roof(&mut scene, &panel, study);
    let ridge = panel.at(study.peak_flops_per_s / study.peak_bytes_per_s, study.peak_flops_per_s);
    draw_names(&mut scene, &panel, named(study, &panel), ridge);
    for (model, identity, sideways) in side_by_side(study, APART) {
        for (test, table) in model.by_module.iter().enumerate() {
            for module in table.modules.iter().filter(|module| is_shown(module)) {
                let (column, row) = point(&panel, module);
                identity.marker(&mut scene, (column + sideways, row), if test == 0 { 10.0 } else { 6.5 });
            }
        }
    }
    let markers = "large markers: prefill; small ones: decoding; models side by side; bytes: weights, keys and values";
    draw_notes(&mut scene, [markers, NOTATION]);
    Some(scene)
}

fn is_shown(module: &ModulePoint) -> bool {
    module.flops > 0.0 && module.bytes > 0.0 && module.time_s > 0.0
}

/// FLOPs per byte, and FLOP/s.
fn values(module: &ModulePoint) -> (f64, f64) {
    (module.flops / module.bytes, module.flops / module.time_s)
}

fn point(panel: &Panel, module: &ModulePoint) -> Point {
    let (intensity, rate) = values(module);
    panel.at(intensity, rate)
}

/// The plot, whose scales hold all modules and the ridge; `None` without a module to show.
fn panel(study: &ProfileStudy) -> Option<Panel> {
    let modules = study.models.iter().flat_map(|model| &model.by_module).flat_map(|table| &table.modules);
    let shown: Vec<(f64, f64)> = modules.filter(|module| is_shown(module)).map(values).collect();
    let (first, peak) = (shown.first()?, study.peak_flops_per_s);
    let around = |low: f64, high: f64| [low.log10().floor(), high.log10().ceil()];
    let (mut x, mut y) = (around(first.0, peak / study.peak_bytes_per_s), around(first.1, peak));
    for (intensity, rate) in shown {
        x = [x[0].min(intensity.log10().floor()), x[1].max(intensity.log10().ceil())];
        y = [y[0].min(rate.log10().floor()), y[1].max(rate.log10().ceil())];
    }
    let scale =
        |[low, high]: [f64; 2], unit| Scale::logarithmic(10f64.powf(low), 10f64.powf(high), Quantity::Decimal(unit));
    Some(Panel {
        left: MARGIN + 110.0,
        right: WIDTH - 330.0,
        top: BELOW_TITLE + 50.0,
        bottom: HEIGHT - 190.0,
        x: scale([x[0].min(INTENSITY[0]), x[1].max(INTENSITY[1])], "FLOP/byte"),
        y: scale([y[0].min(y[1] - DEPTH), y[1]], "FLOP/s"),
    })
}

/// The two roofs, each with its measured height.
fn draw_roof(scene: &mut Scene, panel: &Panel, study: &ProfileStudy) {
    let (peak, bandwidth) = (study.peak_flops_per_s, study.peak_bytes_per_s);
    let ridge = peak / bandwidth;
    let low = panel.x.low.max(panel.y.low / bandwidth);
    let roof = [(low, low * bandwidth), (ridge, peak), (panel.x.high, peak)];
    scene.line(roof.map(|(intensity, rate)| panel.at(intensity, rate)).to_vec(), INK, 2.5);
    let si = crate::report::table::si;
    let (column, row) = panel.at(ridge, peak);
    scene.text(Text::new(format!("peak {}", si(peak, "FLOP/s")), (column, row - 22.0)).size(SMALL));
    let middle = (low * ridge).sqrt();
    let (column, row) = panel.at(middle, middle * bandwidth);
    scene.text(Text::new(si(bandwidth, "B/s"), (column - 14.0, row - 14.0)).end().size(SMALL));
}

/// Every module in every test, once for all models that have it.
fn named(study: &ProfileStudy, panel: &Panel) -> Vec<Named> {
    let mut all: Vec<Named> = Vec::new();
    for (model, _, sideways) in side_by_side(study, APART) {
        for table in &model.by_module {
            for module in table.modules.iter().filter(|module| is_shown(module)) {
                let name = format!("{}, {}", module.path.rsplit('.').next().unwrap_or(&module.path), table.test);
                let (column, row) = point(panel, module);
                let at = (column + sideways, row);
                match all.iter_mut().find(|named| named.name == name) {
                    Some(named) if named.at.0 < at.0 => named.at = at,
                    Some(_) => {}
                    None => all.push(Named { name, at }),
                }
            }
        }
    }
    all
}

/// Names in the order of their heights, with a line to each: of modules left of the ridge beside them if there is room below
/// the roof, and else at the right margin. To the right of the ridge, a module that stands alone has its name above it: a line
/// would run through others.
fn draw_names(scene: &mut Scene, panel: &Panel, named: Vec<Named>, (ridge, roof): Point) {
    let (left, right): (Vec<Named>, Vec<Named>) = named.into_iter().partition(|named| named.at.0 < ridge);
    let columns: Vec<f64> = right.iter().map(|named| named.at.0).collect();
    let stands_alone = |named: &Named| {
        let room = label(&named.name).width() / 2.0 + 50.0;
        columns.iter().filter(|column| (**column - named.at.0).abs() < room).count() == 1
            && named.at.0 + room < panel.right
    };
    let (alone, right): (Vec<Named>, Vec<Named>) = right.into_iter().partition(stands_alone);
    for Named { name, at: (column, row) } in &alone {
        let above = row - 26.0;
        let row = if above - 16.0 > roof { above } else { row + 26.0 };
        scene.text(Text { at: (*column, row), ..label(name) }.middle());
    }
    let column = left.iter().map(|named| named.at.0).fold(0.0, f64::max) + 44.0;
    let width = left.iter().map(|named| label(&named.name).width()).fold(0.0, f64::max);
    let next = columns.into_iter().fold(panel.right, f64::min) - 100.0;
    let margin = panel.right + 24.0;
    let groups = match column + width < next && left.len() as f64 * LINE < 0.6 * (panel.bottom - panel.top) {
        true => vec![(left, column, panel.top), (right, margin, roof)],
        false => vec![(left.into_iter().chain(right).collect(), margin, roof)],
    };
    for (group, column, top) in groups {
        let wanted: Vec<f64> = group.iter().map(|named| named.at.1).collect();
        let rows = spread(&wanted, LINE, top + 14.0, panel.bottom - 16.0);
        for (Named { name, at }, row) in group.iter().zip(rows) {
            scene.line(vec![*at, (column - 6.0, row)], MUTED, 1.0);
            scene.text(Text { at: (column, row), ..label(name) }.fitted(WIDTH - 10.0 - column));
        }
    }
}

fn label(name: &str) -> Text {
    Text::new(name, (0.0, 0.0)).size(SMALL).colour(INK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn the_scales_hold_every_module_and_every_module_has_a_name() {
        let mut study = fixture::profile();
        study.models[0].by_module[0].modules[1].time_s = 1e3;
        study.models[1].by_module[1].modules[1].bytes = 1e-3;
        let panel = panel(&study).unwrap();
        let modules = study.models.iter().flat_map(|model| &model.by_module).flat_map(|table| &table.modules);
        for module in modules.filter(|module| is_shown(module)) {
            let (intensity, rate) = values(module);
            assert!(panel.x.holds(intensity) && panel.y.holds(rate), "{module:?}");
        }
        let names: Vec<String> = named(&study, &panel).into_iter().map(|named| named.name).collect();
        for name in ["qkv_proj, pp256", "experts, pp256", "gate_up_proj, tg16 @ d256"] {
            assert_eq!(names.iter().filter(|found| *found == name).count(), 1, "{name} of {names:?}");
        }
    }

    #[test]
    fn without_a_module_that_computes_there_is_no_figure() {
        let mut study = fixture::profile();
        study.models.iter_mut().for_each(|model| model.by_module.clear());
        assert!(compose(&study).is_none());
    }
}
