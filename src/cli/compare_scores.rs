//! `compare-scores`: whether two evaluations differ by more than chance.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::output::{self, aligned, shown};
use crate::eval::{Comparison, compare, read_samples};

/// Test whether two evaluated models differ, item by item
///
/// A and B are what eval or lm-eval wrote with --log_samples: a directory, whose newest samples are taken, a results file, or one
/// samples_TASK_DATE.jsonl. Both models must have answered the same items. The interval is a paired bootstrap, p is McNemar's
/// exact test, and "detectable" is the smallest difference that this number of items detects with 80 % power.
#[derive(Debug, Clone, Args)]
pub struct CompareScoresArgs {
    /// Samples of the first model
    pub a: PathBuf,
    /// Samples of the second model
    pub b: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Compares two evaluations.
///
/// # Errors
/// If one has no samples, or they share no item.
pub fn run(args: &CompareScoresArgs) -> Result<(), Failure> {
    let (a, b) = (read_samples(&args.a)?, read_samples(&args.b)?);
    let rows = compare(&a, &b);
    if rows.is_empty() {
        return Err(Failure::invalid(format_args!(
            "{:?} and {:?} share no item of a task, expected some",
            args.a, args.b
        )));
    }
    output::print(&if args.json {
        format!("{:#}\n", json!({"a": args.a, "b": args.b, "comparisons": rows}))
    } else {
        let names = [("A", &args.a), ("B", &args.b)].map(|(letter, path)| format!("{letter}  {}\n", path.display()));
        format!("{}\n{}", names.concat(), as_text(&rows))
    })
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}

fn as_text(rows: &[Comparison]) -> String {
    let header = ["task", "metric", "items", "A", "B", "B - A", "95 % interval", "p", "detectable", ""];
    let mut table = vec![header.map(str::to_owned).to_vec()];
    for row in rows {
        let points = |share: f64| format!("{:.2}", 100.0 * share);
        let signed = |share: f64| format!("{:+.2}", 100.0 * share);
        let interval = &row.interval;
        let verdict = match (row.num_different, row.is_significant(), interval.difference > 0.0) {
            (0, _, _) if row.num_items == 1 => "the item has equal scores".to_owned(),
            (0, _, _) => format!("the {} items have equal scores", row.num_items),
            (_, false, _) => "no difference shown".to_owned(),
            (_, true, true) => "B is better".to_owned(),
            (_, true, false) => "A is better".to_owned(),
        };
        // Where no item differs, there is nothing to test.
        let tested = |text: Option<String>| text.filter(|_| row.num_different > 0).unwrap_or_else(|| "-".to_owned());
        table.push(vec![
            shown(&row.task),
            shown(&row.metric),
            row.num_items.to_string(),
            points(row.a),
            points(row.b),
            signed(interval.difference),
            tested(Some(format!("{} to {}", signed(interval.low), signed(interval.high)))),
            tested(row.mcnemar.map(|test| p_value(test.p_value))),
            tested(interval.detectable.map(points)),
            verdict,
        ]);
    }
    // The metrics of a task have the same items.
    let mut unpaired = BTreeMap::new();
    for row in rows.iter().filter(|row| row.task != "mean") {
        let most: &mut usize = unpaired.entry(&row.task).or_default();
        *most = row.num_unpaired.max(*most);
    }
    let note = match unpaired.values().sum() {
        0 => String::new(),
        1 => "1 item that only one model has, or that differs in its text, is left out\n".to_owned(),
        count => format!("{count} items that only one model has, or that differ in their text, are left out\n"),
    };
    format!("{}{note}", aligned(&table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::ItemScores;

    #[test]
    fn equal_scores_are_called_so_and_are_not_tested() {
        let evaluation = |scores: &[f64]| {
            let items = scores.iter().enumerate().map(|(id, score)| (id as u64, (String::new(), *score)));
            let mut of_task = ItemScores::default();
            of_task.metrics.insert("acc,none".to_owned(), items.collect());
            BTreeMap::from([("winogrande".to_owned(), of_task)])
        };
        let told = |a: &[f64], b: &[f64]| as_text(&compare(&evaluation(a), &evaluation(b)));
        let equal = told(&[1.0, 0.0, 1.0], &[1.0, 0.0, 1.0]);
        assert!(equal.contains("the 3 items have equal scores") && !equal.contains("1.000"), "{equal}");
        assert!(told(&[1.0], &[1.0]).contains("the item has equal scores"));
        // Two items that differ, but not in their sum.
        let tested = told(&[1.0, 0.0, 1.0], &[0.0, 1.0, 1.0]);
        assert!(tested.contains("1.000") && tested.contains("no difference shown"), "{tested}");
    }
}
