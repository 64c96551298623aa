//! Scales with round ticks, and panels with a light grid, a left and a bottom axis, and units in the axis names.

use super::scene::{GRID, INK, MUTED, Point, SMALL, Scene, TEXT, Text};

/// How a quantity is shown: its unit and the prefixes that go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantity {
    /// Shown without a unit.
    Plain,
    /// Shown with decimal prefixes of this unit.
    Decimal(&'static str),
    /// Shown with binary prefixes: KiB, MiB.
    Bytes,
}

/// Ratio of the ends of a logarithmic scale above which only powers of ten get a tick.
const WIDE: f64 = 300.0;
/// Largest ratio of neighbouring ticks below that: 5 follows 2.
const TICK_RATIO: f64 = 2.5;

/// A scale from a low to a high value, linear or logarithmic, with ticks at round numbers of its prefixed unit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    pub low: f64,
    pub high: f64,
    /// Distance of the ticks; `None` on a logarithmic scale.
    step: Option<f64>,
    divisor: f64,
    prefix: &'static str,
    quantity: Quantity,
}

impl Scale {
    /// From 0 to a little above `high`.
    pub fn from_zero(high: f64, quantity: Quantity, ticks: usize) -> Self {
        let high = if high > 0.0 { high } else { 1.0 };
        Self::with_bounds(0.0, high, quantity, ticks)
    }

    /// Around all of these values, with `slack` of their range as margin on either side.
    pub fn around(values: impl IntoIterator<Item = f64>, slack: f64, quantity: Quantity, ticks: usize) -> Self {
        let (low, high) =
            values.into_iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        // Equal values need a range too, and noise should not fill the panel.
        let range = (high - low).max(1e-2 * high.abs()).max(1e-9);
        let spare = (range - (high - low)) / 2.0 + slack * range;
        Self::with_bounds(low - spare, high + spare, quantity, ticks)
    }

    /// Exactly from `low` to `high`.
    pub fn with_bounds(low: f64, high: f64, quantity: Quantity, ticks: usize) -> Self {
        let magnitude = low.abs().max(high.abs());
        let (divisor, prefix) = quantity.prefix(magnitude);
        let step = round_step((high - low) / divisor / ticks as f64) * divisor;
        Self { low, high, step: Some(step), divisor, prefix, quantity }
    }

    /// Logarithmic, from `low` to `high`, both positive and finite, or to the next ticks if fewer than two are between them. The
    /// unit has the prefix of the middle.
    pub fn logarithmic(low: f64, high: f64, quantity: Quantity) -> Self {
        let (divisor, prefix) = quantity.prefix((low * high).sqrt());
        let exactly = |low, high| Self { low, high, step: None, divisor, prefix, quantity };
        if exactly(low, high).ticks().len() >= 2 {
            return exactly(low, high);
        }
        let nearby = exactly(low / TICK_RATIO, high * TICK_RATIO).ticks();
        let below = nearby.iter().rfind(|tick| **tick <= low).unwrap_or(&low);
        let above = nearby.iter().find(|tick| **tick >= high && *tick > below).unwrap_or(&high);
        exactly(*below, *above)
    }

    /// 0 at the low end, 1 at the high end.
    pub fn place(&self, value: f64) -> f64 {
        match self.step {
            Some(_) => (value - self.low) / (self.high - self.low),
            None => (value / self.low).ln() / (self.high / self.low).ln(),
        }
    }

    /// Whether a value lies on the scale.
    pub fn holds(&self, value: f64) -> bool {
        (0.0..=1.0).contains(&self.place(value))
    }

    /// The round values on the scale.
    pub fn ticks(&self) -> Vec<f64> {
        let Some(step) = self.step else { return self.powers() };
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(|index| index as f64 * step).collect()
    }

    /// The powers of ten on the scale, with 2 and 5 times each if it is narrow.
    fn powers(&self) -> Vec<f64> {
        let digits: &[f64] = if self.high / self.low > WIDE { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let all = (first..=last).flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
        all.filter(|tick| (self.low * (1.0 - 1e-9)..=self.high * (1.0 + 1e-9)).contains(tick)).collect()
    }

    /// The label of a tick: the value in the prefixed unit.
    pub fn tick_label(&self, value: f64) -> String {
        let step = self.step.unwrap_or(value) / self.divisor;
        let decimals = (-(step.log10() + 1e-9).floor()).clamp(0.0, 9.0) as usize;
        let decimals = if decimals == 0 && step < 1.0 { 1 } else { decimals };
        let shown = format!("{:.decimals$}", value / self.divisor);
        // A rounded negative zero.
        if shown.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') {
            shown.trim_start_matches('-').to_owned()
        } else {
            shown.replace('-', "−")
        }
    }

    /// The prefixed unit: `TFLOP`, `MiB`.
    pub fn unit(&self) -> String {
        match self.quantity {
            Quantity::Plain => String::new(),
            Quantity::Decimal(unit) => match (self.prefix, unit) {
                ("", unit) => unit.to_owned(),
                (prefix, "tokens") => format!("{} tokens", spelled(prefix)),
                (prefix, "tok/s") => format!("{prefix} tok/s"),
                (prefix, unit) => format!("{prefix}{unit}"),
            },
            Quantity::Bytes => format!("{}B", self.prefix),
        }
    }
}

impl Quantity {
    fn prefix(self, magnitude: f64) -> (f64, &'static str) {
        let (base, prefixes): (f64, [&'static str; 7]) = match self {
            Self::Plain => return (1.0, ""),
            Self::Decimal(_) => (1e3, ["", "k", "M", "G", "T", "P", "E"]),
            Self::Bytes => (1024.0, ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]),
        };
        let steps = (0..6).take_while(|power| magnitude >= base.powi(power + 1)).count();
        (base.powi(steps as i32), prefixes[steps])
    }
}

fn spelled(prefix: &str) -> &'static str {
    match prefix {
        "k" => "thousand",
        "M" => "million",
        "G" => "billion",
        _ => "trillion",
    }
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|step| *step >= least * 0.999).unwrap_or(10.0 * power)
}

/// An area of the figure with two scales.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Panel {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
    pub x: Scale,
    pub y: Scale,
}

impl Panel {
    /// Position of a pair of values.
    pub fn at(&self, x: f64, y: f64) -> Point {
        (self.column(x), self.row(y))
    }

    pub fn column(&self, x: f64) -> f64 {
        self.left + self.x.place(x) * (self.right - self.left)
    }

    pub fn row(&self, y: f64) -> f64 {
        self.bottom - self.y.place(y) * (self.bottom - self.top)
    }

    /// Draws vertical grid lines and the bottom axis with its ticks; the unit follows the name in brackets.
    pub fn horizontal_axis(&self, scene: &mut Scene, name: &str) {
        for tick in self.x.ticks() {
            let column = self.column(tick);
            scene.line(vec![(column, self.top), (column, self.bottom)], GRID, 1.0);
            let label = Text::new(self.x.tick_label(tick), (column, self.bottom + 24.0));
            scene.text(label.middle().size(SMALL).colour(MUTED));
        }
        scene.line(vec![(self.left, self.bottom), (self.right, self.bottom)], MUTED, 1.5);
        let unit = self.x.unit();
        let name = if unit.is_empty() { name.to_owned() } else { format!("{name} ({unit})") };
        let middle = (self.left + self.right) / 2.0;
        scene.text(Text::new(name, (middle, self.bottom + 62.0)).middle().size(TEXT));
    }

    /// Draws horizontal grid lines and the left axis, without labels.
    pub fn horizontal_grid(&self, scene: &mut Scene) {
        for tick in self.y.ticks() {
            let row = self.row(tick);
            scene.line(vec![(self.left, row), (self.right, row)], GRID, 1.0);
        }
        scene.line(vec![(self.left, self.top), (self.left, self.bottom)], MUTED, 1.5);
    }

    /// Draws the tick labels of the left axis.
    pub fn vertical_ticks(&self, scene: &mut Scene) {
        for tick in self.y.ticks() {
            let label = Text::new(self.y.tick_label(tick), (self.left - 12.0, self.row(tick)));
            scene.text(label.end().size(SMALL).colour(MUTED));
        }
    }

    /// Draws the name of the left axis, reading upwards at this column.
    pub fn vertical_name(&self, scene: &mut Scene, name: &str, column: f64) {
        let middle = (self.top + self.bottom) / 2.0;
        scene.text(Text::new(name, (column, middle)).middle().upward());
    }

    /// Draws a heading above the panel.
    pub fn heading(&self, scene: &mut Scene, words: &str) {
        let heading = Text::new(words, (self.left, self.top - 24.0)).size(TEXT).bold().colour(INK);
        scene.text(heading.fitted(self.right - self.left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_of_the_prefixed_unit() {
        let scale = Scale::from_zero(11.98e12, Quantity::Decimal("FLOP"), 6);
        assert_eq!(scale.unit(), "TFLOP");
        let labels: Vec<String> = scale.ticks().iter().map(|tick| scale.tick_label(*tick)).collect();
        assert_eq!(labels, ["0", "2", "4", "6", "8", "10"]);
    }

    #[test]
    fn bytes_have_binary_prefixes() {
        let scale = Scale::from_zero(50.0 * 1048576.0, Quantity::Bytes, 5);
        assert_eq!(scale.unit(), "MiB");
        assert_eq!(scale.ticks()[1], 10.0 * 1048576.0);
        assert_eq!(scale.tick_label(scale.ticks()[1]), "10");
    }

    #[test]
    fn counts_of_tokens_are_spelled_out() {
        assert_eq!(Scale::from_zero(1.6e6, Quantity::Decimal("tokens"), 4).unit(), "million tokens");
        assert_eq!(Scale::from_zero(160.0, Quantity::Decimal("tokens"), 4).unit(), "tokens");
    }

    #[test]
    fn narrow_ranges_get_the_decimals_they_need() {
        let scale = Scale::with_bounds(1.8812, 1.9107, Quantity::Plain, 5);
        let labels: Vec<String> = scale.ticks().iter().map(|tick| scale.tick_label(*tick)).collect();
        assert_eq!(labels, ["1.89", "1.90", "1.91"]);
        let scale = Scale::with_bounds(-0.5, 0.5, Quantity::Plain, 4);
        assert_eq!(scale.tick_label(scale.ticks()[0]), "−0.5");
        assert_eq!(scale.tick_label(-0.0), "0.0");
    }

    #[test]
    fn a_logarithmic_scale_gives_equal_ratios_equal_lengths() {
        let scale = Scale::logarithmic(1e8, 1e12, Quantity::Decimal("FLOP/s"));
        assert!((scale.place(1e9) - 0.25).abs() < 1e-12 && scale.holds(1e8) && scale.holds(1e12));
        let labels = |scale: &Scale| scale.ticks().iter().map(|tick| scale.tick_label(*tick)).collect::<Vec<_>>();
        assert_eq!(labels(&scale), ["0.1", "1", "10", "100", "1000"]);
        assert_eq!(scale.unit(), "GFLOP/s");
        let narrow = Scale::logarithmic(300.0, 12e3, Quantity::Decimal("tok/s"));
        assert_eq!(labels(&narrow), ["0.5", "1", "2", "5", "10"]);
    }

    #[test]
    fn a_logarithmic_scale_has_two_ticks_at_least() {
        let labels = |low, high| {
            let scale = Scale::logarithmic(low, high, Quantity::Plain);
            assert!(scale.holds(low) && scale.holds(high), "{low} to {high}: {scale:?}");
            scale.ticks().iter().map(|tick| scale.tick_label(*tick)).collect::<Vec<_>>()
        };
        assert_eq!(labels(21.0, 44.8), ["20", "50"]);
        assert_eq!(labels(15.0, 30.0), ["10", "20", "50"]);
        assert_eq!(labels(20.0, 45.0), ["20", "50"]);
        assert_eq!(labels(19.0, 51.0), ["20", "50"]);
        assert_eq!(labels(20.0, 20.0), ["20", "50"]);
        assert_eq!(labels(30.0, 30.0), ["20", "50"]);
        for low in 1..400 {
            assert!(labels(f64::from(low), 2.0 * f64::from(low)).len() >= 2, "from {low}");
        }
    }

    #[test]
    fn a_scale_around_values_holds_them() {
        for values in [vec![1.0, 2.0, 3.0], vec![5.0], vec![0.0, 0.0], vec![-3.0, 1e9]] {
            let scale = Scale::around(values.clone(), 0.05, Quantity::Plain, 5);
            assert!(values.iter().all(|value| scale.holds(*value)), "{values:?}");
            assert!(scale.ticks().len() < 20, "{values:?}");
        }
    }

    #[test]
    fn a_panel_maps_corners_to_corners() {
        let scale = || Scale::with_bounds(0.0, 10.0, Quantity::Plain, 5);
        let panel = Panel { left: 100.0, top: 50.0, right: 300.0, bottom: 250.0, x: scale(), y: scale() };
        assert_eq!(panel.at(0.0, 0.0), (100.0, 250.0));
        assert_eq!(panel.at(10.0, 10.0), (300.0, 50.0));
    }
}
