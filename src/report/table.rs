//! The table of a study, one row per arm, for the terminal and as Markdown.
//!
//! [`rows`] gives each cell its raw value beside its text, so that the table can be checked against the record. A dash
//! marks what was not measured.

use comfy_table::{Cell as TableCell, CellAlignment, Table, presets};

use super::records::{Arm, Study, Workload};

/// Widest table for a terminal, in characters. A wider one is split into cost above and quality below, and those again
/// if need be.
pub const MAX_WIDTH: usize = 120;

/// What a column of the table shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Column {
    /// Layers after growth.
    Layers,
    /// All parameters.
    TotalParameters,
    /// Parameters that one token passes through.
    ActiveParameters,
    /// FLOPs of the forward pass for one token.
    ForwardFlops,
    /// Bytes of keys and values that one token adds to the cache.
    KvBytes,
    /// Weight bytes that one decoding step reads.
    DecodeWeightBytes {
        /// Sequences at once.
        batch: usize,
    },
    /// Peak memory of prefill and decoding, bytes.
    PeakMemory,
    /// Speed of this workload, tokens per second.
    Speed(Workload),
    /// Held-out loss of the base, nats per token.
    LossBefore,
    /// Held-out loss right after growth, nats per token.
    LossAtGrowth,
    /// Final held-out loss, mean over seeds, nats per token.
    LossFinal,
    /// Half the width of its 95 % interval over seeds, nats per token.
    LossInterval,
    /// Final held-out loss above the floor of the data, nats per token.
    GapToFloor,
}

/// One number of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// Its column.
    pub column: Column,
    /// The number as the record gives it, in the column's unit; `None` if it was not measured.
    pub value: Option<f64>,
    /// The number as the table shows it.
    pub text: String,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Name of the arm.
    pub arm: String,
    /// Its numbers, one for each of [`columns`].
    pub cells: Vec<Cell>,
}

/// The columns of a study. Only what some arm has gets a column: batch sizes, workloads, an interval over several seeds,
/// the gap to a known floor.
pub fn columns(study: &Study) -> Vec<Column> {
    let mut batches: Vec<usize> =
        study.arms.iter().flat_map(|arm| &arm.cost.decode_weight_bytes).map(|(batch, _)| *batch).collect();
    batches.sort_unstable();
    batches.dedup();
    let cost =
        [Column::Layers, Column::TotalParameters, Column::ActiveParameters, Column::ForwardFlops, Column::KvBytes];
    let loss = [Column::LossBefore, Column::LossAtGrowth, Column::LossFinal];
    let has_interval = study.arms.iter().any(|arm| arm.runs.len() > 1);
    cost.into_iter()
        .chain(batches.into_iter().map(|batch| Column::DecodeWeightBytes { batch }))
        .chain([Column::PeakMemory])
        .chain(study.workloads().into_iter().map(Column::Speed))
        .chain(loss)
        .chain(has_interval.then_some(Column::LossInterval))
        .chain(study.data.floor_nats.map(|_| Column::GapToFloor))
        .collect()
}

/// The rows of the table, in the order of the arms.
pub fn rows(study: &Study) -> Vec<Row> {
    let columns = columns(study);
    let cell = |arm: &Arm, column: Column| {
        let value = column.value(study, arm);
        let text = value.map_or_else(|| "–".to_owned(), |value| column.text(value) + &column.spread(arm));
        Cell { column, value, text }
    };
    let row =
        |arm: &Arm| Row { arm: printable(&arm.name), cells: columns.iter().map(|column| cell(arm, *column)).collect() };
    study.arms.iter().map(row).collect()
}

/// The table for a terminal; split, cost above quality, if it would be wider than [`MAX_WIDTH`].
pub fn to_text(study: &Study) -> String {
    let (rows, columns) = (rows(study), columns(study));
    let whole = build(&rows, &columns);
    if fits(&whole) {
        return whole;
    }
    let (cost, quality): (Vec<Column>, Vec<Column>) = columns.into_iter().partition(|column| column.is_cost());
    fitting(&rows, &cost) + "\n" + &fitting(&rows, &quality)
}

/// Two tables in GitHub Markdown: cost, then quality.
pub fn to_markdown(study: &Study) -> String {
    let rows = rows(study);
    let (cost, quality): (Vec<Column>, Vec<Column>) = columns(study).into_iter().partition(|column| column.is_cost());
    markdown(&rows, &cost) + "\n" + &markdown(&rows, &quality)
}

fn markdown(rows: &[Row], columns: &[Column]) -> String {
    let line = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let mut table = line("arm", columns.iter().map(|column| column.header().replace('\n', " ")).collect());
    table += &line(":---", columns.iter().map(|_| "---:".to_owned()).collect());
    for row in rows {
        let name = row.arm.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;");
        let shown = row.cells.iter().filter(|cell| columns.contains(&cell.column));
        table += &line(&name, shown.map(|cell| cell.text.clone()).collect());
    }
    table
}

impl Column {
    /// The number of this column for one arm, as the record gives it.
    fn value(self, study: &Study, arm: &Arm) -> Option<f64> {
        let loss = arm.final_loss_nats();
        let count = |n: u64| Some(n as f64);
        match self {
            Self::Layers => Some(arm.config.num_hidden_layers as f64),
            Self::TotalParameters => count(arm.cost.total_parameters),
            Self::ActiveParameters => count(arm.cost.active_parameters),
            Self::ForwardFlops => count(arm.cost.forward_flops_per_token),
            Self::KvBytes => count(arm.cost.kv_bytes_per_token),
            Self::DecodeWeightBytes { batch } => arm.decode_weight_bytes(batch).and_then(count),
            Self::PeakMemory => arm.memory.inference_peak_bytes.and_then(count),
            Self::Speed(workload) => arm.timing(workload).map(|timing| timing.tokens_per_second()),
            Self::LossBefore => arm.loss_before_growth_nats(),
            Self::LossAtGrowth => arm.loss_after_growth_nats(),
            Self::LossFinal => loss.map(|loss| loss.mean),
            Self::LossInterval => loss.and_then(|loss| loss.half_width),
            Self::GapToFloor => Some(loss?.mean - study.data.floor_nats?),
        }
    }

    fn text(self, value: f64) -> String {
        match self {
            Self::Layers => format!("{value}"),
            Self::TotalParameters | Self::ActiveParameters => si(value, ""),
            Self::ForwardFlops => si(value, "FLOP"),
            Self::KvBytes | Self::DecodeWeightBytes { .. } | Self::PeakMemory => binary_bytes(value),
            Self::Speed(_) => si(value, ""),
            Self::LossBefore | Self::LossAtGrowth | Self::LossFinal | Self::LossInterval | Self::GapToFloor => {
                format!("{value:.4}")
            }
        }
    }

    /// Half the interquartile range of a speed, in percent of the median: ` ±3%`.
    fn spread(self, arm: &Arm) -> String {
        let Self::Speed(workload) = self else { return String::new() };
        let timing = arm.timing(workload).filter(|timing| timing.samples_s.len() > 1);
        timing.map_or_else(String::new, |timing| format!(" ±{:.0}%", 50.0 * timing.relative_spread()))
    }

    fn header(self) -> String {
        match self {
            Self::Layers => "layers".to_owned(),
            Self::TotalParameters => "params\ntotal".to_owned(),
            Self::ActiveParameters => "params\nactive".to_owned(),
            Self::ForwardFlops => "forward\nper\ntoken".to_owned(),
            Self::KvBytes => "KV\nper\ntoken".to_owned(),
            Self::DecodeWeightBytes { batch } => format!("weights\nread\nb={batch}"),
            Self::PeakMemory => "peak\nmemory".to_owned(),
            Self::Speed(Workload::Prefill { tokens }) => format!("prefill\n{tokens}\ntok/s"),
            Self::Speed(Workload::Decode { batch, .. }) => format!("decode\nb={batch}\ntok/s"),
            Self::LossBefore => "loss\nbefore\nnats".to_owned(),
            Self::LossAtGrowth => "loss at\ngrowth\nnats".to_owned(),
            Self::LossFinal => "loss\nfinal\nnats".to_owned(),
            Self::LossInterval => "final\n± 95 %\nnats".to_owned(),
            Self::GapToFloor => "gap to\nfloor\nnats".to_owned(),
        }
    }

    fn is_cost(self) -> bool {
        !matches!(
            self,
            Self::Speed(_)
                | Self::LossBefore
                | Self::LossAtGrowth
                | Self::LossFinal
                | Self::LossInterval
                | Self::GapToFloor
        )
    }
}

/// As many tables as these columns need to fit.
fn fitting(rows: &[Row], columns: &[Column]) -> String {
    let table = build(rows, columns);
    if fits(&table) || columns.len() < 2 {
        return table;
    }
    let (left, right) = columns.split_at(columns.len().div_ceil(2));
    fitting(rows, left) + "\n" + &fitting(rows, right)
}

fn fits(table: &str) -> bool {
    table.lines().all(|line| line.chars().count() <= MAX_WIDTH)
}

fn build(rows: &[Row], columns: &[Column]) -> String {
    let right = |text: String| TableCell::new(text).set_alignment(CellAlignment::Right);
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let headers = columns.iter().map(|column| right(column.header()));
    table.set_header([TableCell::new("arm")].into_iter().chain(headers));
    for row in rows {
        let cells = row.cells.iter().filter(|cell| columns.contains(&cell.column)).map(|cell| right(cell.text.clone()));
        table.add_row([TableCell::new(&row.arm)].into_iter().chain(cells));
    }
    table.trim_fmt() + "\n"
}

/// Three significant digits with a decimal prefix: `1.05M`, `2.31 MFLOP`, `498`.
pub(crate) fn si(value: f64, unit: &str) -> String {
    let (scaled, prefix) = scaled(value, 1000.0, &["", "k", "M", "G", "T", "P", "E"]);
    let space = if unit.is_empty() { "" } else { " " };
    format!("{}{space}{prefix}{unit}", three_digits(scaled))
}

/// Three significant digits with a binary prefix: `4.2 MiB`.
pub(crate) fn binary_bytes(bytes: f64) -> String {
    let (scaled, prefix) = scaled(bytes, 1024.0, &["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]);
    if prefix.is_empty() { format!("{scaled} B") } else { format!("{} {prefix}B", three_digits(scaled)) }
}

fn scaled<'a>(value: f64, base: f64, prefixes: &[&'a str]) -> (f64, &'a str) {
    let mut scaled = value;
    let mut prefix = 0;
    // 999.5 would be shown as 1000.
    while scaled.abs() >= base.min(999.5) && prefix + 1 < prefixes.len() {
        scaled /= base;
        prefix += 1;
    }
    (scaled, prefixes[prefix])
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude >= 99.95 || value == 0.0 => format!("{value:.0}"),
        magnitude if magnitude >= 9.995 => format!("{value:.1}"),
        magnitude if magnitude >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A name without the control characters that could move a terminal's cursor or break a file of text.
pub(crate) fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::fixture;
    use super::*;

    /// The number of a cell, computed from the JSON without the code of the table.
    fn from_json(study: &Value, arm: &Value, column: Column) -> Option<f64> {
        let losses_at = |key: &str| -> Vec<f64> {
            arm["runs"].as_array().unwrap().iter().map(|run| run[key].as_f64().unwrap()).collect()
        };
        let finals: Vec<f64> = arm["runs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|run| run["evals"].as_array().unwrap().last().unwrap()["heldout_loss_nats"].as_f64().unwrap())
            .collect();
        let mean = |xs: &[f64]| xs.iter().sum::<f64>() / xs.len() as f64;
        let cost = |key: &str| arm["cost"][key].as_f64();
        match column {
            Column::Layers => arm["config"]["num_hidden_layers"].as_f64(),
            Column::TotalParameters => cost("total_parameters"),
            Column::ActiveParameters => cost("active_parameters"),
            Column::ForwardFlops => cost("forward_flops_per_token"),
            Column::KvBytes => cost("kv_bytes_per_token"),
            Column::DecodeWeightBytes { batch } => {
                let pairs = arm["cost"]["decode_weight_bytes"].as_array().unwrap();
                pairs.iter().find(|pair| pair[0].as_u64() == Some(batch as u64)).and_then(|pair| pair[1].as_f64())
            }
            Column::PeakMemory => arm["memory"]["inference_peak_bytes"].as_f64(),
            Column::Speed(workload) => {
                let workload = serde_json::to_value(workload).unwrap();
                let timings = arm["timings"].as_array().unwrap();
                let timing = timings.iter().find(|timing| timing["workload"] == workload).unwrap();
                let mut samples: Vec<f64> =
                    timing["samples_s"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
                samples.sort_by(f64::total_cmp);
                assert_eq!(samples.len() % 2, 1);
                Some(timing["num_tokens"].as_f64().unwrap() / samples[samples.len() / 2])
            }
            Column::LossBefore => Some(mean(&losses_at("loss_before_growth_nats"))),
            Column::LossAtGrowth => Some(mean(&losses_at("loss_after_growth_nats"))),
            Column::LossFinal => Some(mean(&finals)),
            Column::LossInterval => {
                let spread = finals.iter().map(|x| (x - mean(&finals)).powi(2)).sum::<f64>() / 2.0;
                Some(4.303 * (spread / 3.0).sqrt())
            }
            Column::GapToFloor => Some(mean(&finals) - study["data"]["floor_nats"].as_f64().unwrap()),
        }
    }

    #[test]
    fn every_number_of_the_table_follows_from_the_json() {
        let study = fixture::study(5, 3);
        let json: Value = serde_json::from_str(&study.to_json().unwrap()).unwrap();
        for (row, arm) in rows(&study).iter().zip(json["arms"].as_array().unwrap()) {
            assert_eq!(row.arm, arm["name"].as_str().unwrap());
            assert_eq!(row.cells.len(), 18);
            for cell in &row.cells {
                let expected = from_json(&json, arm, cell.column).unwrap();
                let found = cell.value.unwrap();
                assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{cell:?}, expected {expected}");
            }
        }
    }

    /// The number that a text shows, in the unit of the column.
    fn parsed(text: &str) -> f64 {
        let digits: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let suffix = text[digits.len()..].trim_start();
        let binary = suffix.ends_with("iB");
        let base: f64 = if binary { 1024.0 } else { 1000.0 };
        let power = suffix.chars().next().and_then(|c| "kMGT".find(c.to_ascii_lowercase()).or("KMGT".find(c)));
        digits.parse::<f64>().unwrap() * power.map_or(1.0, |power| base.powi(power as i32 + 1))
    }

    #[test]
    fn every_text_shows_its_value_to_three_digits() {
        for row in rows(&fixture::study(5, 3)) {
            for cell in row.cells {
                let value = cell.value.unwrap();
                let error = (parsed(&cell.text) - value).abs();
                assert!(error <= 0.0051 * value.abs() || error <= 5.1e-5, "{cell:?} shows {}", parsed(&cell.text));
            }
        }
    }

    #[test]
    fn every_text_of_a_row_is_in_both_tables() {
        let study = fixture::study(5, 3);
        let (text, markdown) = (to_text(&study), to_markdown(&study));
        for row in rows(&study) {
            for shown in row.cells.iter().map(|cell| &cell.text).chain([&row.arm]) {
                assert!(text.contains(shown.as_str()) && markdown.contains(shown.as_str()), "{shown}");
            }
        }
    }

    #[test]
    fn a_table_too_wide_for_a_terminal_is_split_in_two() {
        let wide = to_text(&fixture::study(5, 3));
        assert!(wide.lines().all(|line| line.chars().count() <= MAX_WIDTH), "{wide}");
        assert_eq!(wide.matches('┌').count(), 2, "{wide}");

        let mut study = fixture::study(3, 1);
        study.data.floor_nats = None;
        for arm in &mut study.arms {
            arm.timings.clear();
            arm.cost.decode_weight_bytes.truncate(1);
        }
        let narrow = to_text(&study);
        assert_eq!(narrow.matches('┌').count(), 1, "{narrow}");
    }

    #[test]
    fn even_long_names_leave_tables_that_fit() {
        let mut study = fixture::study(3, 3);
        study.arms[0].name = "x".repeat(60);
        let text = to_text(&study);
        assert!(text.matches('┌').count() > 2 && text.lines().all(|line| line.chars().count() <= MAX_WIDTH), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let mut study = fixture::study(3, 1);
        study.arms[1].memory.inference_peak_bytes = None;
        study.arms[1].runs.clear();
        study.arms[1].timings.remove(0);
        let row = rows(&study).remove(1);
        let dashes = row.cells.iter().filter(|cell| cell.text == "–").count();
        assert_eq!(dashes, 1 + 1 + 4);
        assert!(row.cells.iter().all(|cell| (cell.text == "–") == cell.value.is_none()));
    }

    #[test]
    fn a_study_without_seeds_or_floor_has_no_such_columns() {
        let mut study = fixture::study(3, 1);
        study.data.floor_nats = None;
        assert!(!columns(&study).contains(&Column::LossInterval));
        assert!(!columns(&study).contains(&Column::GapToFloor));
        assert!(columns(&fixture::study(3, 3)).contains(&Column::LossInterval));
    }

    #[test]
    fn numbers_keep_three_digits_across_prefixes() {
        assert_eq!([0.0, 7.0, 498.4, 999.6, 1049.0].map(|x| si(x, "")), ["0", "7.00", "498", "1.00k", "1.05k"]);
        assert_eq!(si(2_310_000.0, "FLOP"), "2.31 MFLOP");
        assert_eq!(binary_bytes(768.0), "768 B");
        assert_eq!(binary_bytes(4.0 * 1048576.0), "4.00 MiB");
        assert_eq!(binary_bytes(1020.0 * 1048576.0), "0.996 GiB");
    }

    #[test]
    fn a_name_cannot_break_out_of_its_cell() {
        let mut study = fixture::study(1, 1);
        study.arms[0].name = "a|b\u{1b}[2J<i>\n".to_owned();
        assert!(!to_text(&study).contains('\u{1b}'));
        let markdown = to_markdown(&study);
        assert!(markdown.contains("a\\|b\u{fffd}[2J&lt;i>\u{fffd}"), "{markdown}");
    }
}
