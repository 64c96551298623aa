//! The roofline of a device with the modules of each model on it (Williams et al., 2009, doi:10.1145/1498765.1498785).

use super::label::spread;
use super::profile_page::{draw_key, identified, titled};
use super::scene::{BELOW_TITLE, GRID, HEIGHT, INK, MARGIN, MUTED, Point, SMALL, Scene, TEXT, Text, WIDTH};
use crate::report::{ModulePoint, ProfileStudy};

/// Powers of ten between which FLOPs per byte are shown.
const INTENSITY: [f64; 2] = [-1.0, 3.0];
/// Powers of ten that FLOP/s are shown below the highest.
const DEPTH: f64 = 4.0;

/// The plot, in logarithms to base 10.
struct Plot {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    y: [f64; 2],
}

impl Plot {
    fn at(&self, intensity: f64, rate: f64) -> Point {
        let place = |value: f64, [low, high]: [f64; 2]| ((value.log10() - low) / (high - low)).clamp(0.0, 1.0);
        let (x, y) = (place(intensity, INTENSITY), place(rate, self.y));
        (self.left + x * (self.right - self.left), self.bottom - y * (self.bottom - self.top))
    }
}

/// Modules that compute, at their FLOPs per byte and FLOP/s; of the first model with their names.
pub(super) fn compose(study: &ProfileStudy) -> Option<Scene> {
    let modules = || study.models.iter().flat_map(|model| &model.by_module).flat_map(|table| &table.modules);
    modules().find(|module| is_shown(module))?;
    let mut scene = titled(study, "Roofline: modules in prefill and decoding", HEIGHT);
    draw_key(&mut scene, study, BELOW_TITLE);
    let top = study.peak_flops_per_s.log10().ceil();
    let plot = Plot {
        left: MARGIN + 110.0,
        right: WIDTH - 330.0,
        top: BELOW_TITLE + 50.0,
        bottom: HEIGHT - 160.0,
        y: [top - DEPTH, top],
    };
    draw_axes(&mut scene, &plot);
    draw_roof(&mut scene, &plot, study);
    for (index, (model, identity)) in identified(study).into_iter().enumerate() {
        for (test, table) in model.by_module.iter().enumerate() {
            for module in table.modules.iter().filter(|module| is_shown(module)) {
                identity.marker(&mut scene, point(&plot, module), if test == 0 { 10.0 } else { 6.5 });
            }
        }
        if index == 0 {
            draw_names(&mut scene, &plot, &model.by_module);
        }
    }
    let note = "large markers: prefill; small ones: decoding; bytes are those of weights, keys and values";
    scene.text(Text::new(note, (plot.left, HEIGHT - 60.0)).size(SMALL).colour(MUTED));
    Some(scene)
}

fn is_shown(module: &ModulePoint) -> bool {
    module.flops > 0.0 && module.bytes > 0.0 && module.time_s > 0.0
}

fn point(plot: &Plot, module: &ModulePoint) -> Point {
    plot.at(module.flops / module.bytes, module.flops / module.time_s)
}

fn draw_axes(scene: &mut Scene, plot: &Plot) {
    for power in INTENSITY[0] as i32..=INTENSITY[1] as i32 {
        let (column, _) = plot.at(10f64.powi(power), 1.0);
        scene.line(vec![(column, plot.top), (column, plot.bottom)], GRID, 1.0);
        let label = if power < 0 { "0.1".to_owned() } else { format!("{}", 10i64.pow(power as u32)) };
        scene.text(Text::new(label, (column, plot.bottom + 24.0)).middle().size(SMALL).colour(MUTED));
    }
    for power in plot.y[0] as i32..=plot.y[1] as i32 {
        let (_, row) = plot.at(1.0, 10f64.powi(power));
        scene.line(vec![(plot.left, row), (plot.right, row)], GRID, 1.0);
        let label = crate::report::table::si(10f64.powi(power), "");
        let label = label.trim_end_matches(".00").replace(".00 ", " ").replace(".0 ", " ");
        scene.text(Text::new(label, (plot.left - 12.0, row)).end().size(SMALL).colour(MUTED));
    }
    let middle = (plot.left + plot.right) / 2.0;
    let name = "FLOPs per byte of weights, keys and values";
    scene.text(Text::new(name, (middle, plot.bottom + 56.0)).middle().size(TEXT));
    let middle = (plot.top + plot.bottom) / 2.0;
    scene.text(Text::new("FLOP/s", (MARGIN - 10.0, middle)).middle().upward());
}

/// The two roofs, each with its measured height.
fn draw_roof(scene: &mut Scene, plot: &Plot, study: &ProfileStudy) {
    let (peak, bandwidth) = (study.peak_flops_per_s, study.peak_bytes_per_s);
    let ridge = peak / bandwidth;
    let low = 10f64.powf(plot.y[0].max((bandwidth * 10f64.powf(INTENSITY[0])).log10()));
    let roof = vec![plot.at(low / bandwidth, low), plot.at(ridge, peak), plot.at(10f64.powf(INTENSITY[1]), peak)];
    scene.line(roof, INK, 2.5);
    // At the ridge: the lines to the names cross the other end.
    let (column, row) = plot.at(ridge, peak);
    let words = format!("peak {}", crate::report::table::si(peak, "FLOP/s"));
    scene.text(Text::new(words, (column, row - 22.0)).size(SMALL));
}

/// Names of modules at the right, in the order of their heights, with a line to each.
fn draw_names(scene: &mut Scene, plot: &Plot, tables: &[crate::report::ModuleTable]) {
    let named = tables.iter().flat_map(|table| {
        table.modules.iter().filter(|module| is_shown(module)).map(|module| (table.test.as_str(), module))
    });
    let named: Vec<(String, Point)> = named
        .map(|(test, module)| {
            let name = module.path.rsplit('.').next().unwrap_or(&module.path);
            (format!("{name}, {test}"), point(plot, module))
        })
        .collect();
    let wanted: Vec<f64> = named.iter().map(|(_, (_, row))| *row).collect();
    let rows = spread(&wanted, 30.0, plot.top + 10.0, plot.bottom - 10.0);
    for ((name, from), row) in named.into_iter().zip(rows) {
        scene.line(vec![from, (plot.right + 14.0, row)], GRID, 1.0);
        scene.text(Text::new(name, (plot.right + 20.0, row)).size(SMALL).colour(MUTED).fitted(300.0));
    }
}
