//! `compare-scores`: whether two evaluations differ by more than chance.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::failure::Failure;
use super::output::{self, aligned, shown};
use crate::eval::{Comparison, ItemScores, compare, num_other_prompts, read_samples};

/// Test whether two evaluated models differ, item by item
///
/// A and B are what eval or lm-eval wrote with --log_samples: a directory, whose newest samples are taken, a results file, or one
/// samples_TASK_DATE.jsonl. Both models must have answered the same items. The interval is a paired bootstrap, p is McNemar's
/// exact test, and "detectable" is the smallest difference that this number of items detects with 80 % power. A model is better if the
/// interval excludes 0 and p is below 0.05.
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
        format!("{:#}\n", as_json(args, &a, &b, &rows))
    } else {
        let names = [("A", &args.a, &a), ("B", &args.b, &b)]
            .map(|(letter, path, tasks)| format!("{letter}  {}{}\n", path.display(), logs_in_words(path, tasks)));
        let note = match num_other_prompts(&a, &b) {
            0 => String::new(),
            1 => "1 item has different prompts in A and B, for example another number of examples\n".to_owned(),
            count => {
                format!("{count} items have different prompts in A and B, for example another number of examples\n")
            }
        };
        format!("{}\n{}{note}", names.concat(), as_text(&rows))
    })
}

fn as_json(
    args: &CompareScoresArgs,
    a: &BTreeMap<String, ItemScores>,
    b: &BTreeMap<String, ItemScores>,
    rows: &[Comparison],
) -> Value {
    // A path may not be UTF-8.
    let logs = |tasks: &BTreeMap<String, ItemScores>| -> Vec<String> {
        tasks.values().map(|of_task| of_task.log.to_string_lossy().into_owned()).collect()
    };
    json!({
        "a": args.a.to_string_lossy(),
        "b": args.b.to_string_lossy(),
        "a_samples": logs(a),
        "b_samples": logs(b),
        "comparisons": rows,
        "num_other_prompts": num_other_prompts(a, b),
    })
}

/// The logs that a directory or a results file stands for, those of a run as `samples_*_DATE.jsonl`.
fn logs_in_words(path: &Path, tasks: &BTreeMap<String, ItemScores>) -> String {
    let mut runs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for log in tasks.values().map(|of_task| of_task.log.as_path()).filter(|log| *log != path) {
        let name = log.file_name().and_then(OsStr::to_str).unwrap_or_default();
        runs.entry(name.rsplit_once('_').map_or(name, |(_, date)| date)).or_default().push(name);
    }
    let names = runs.into_iter().map(|(date, names)| match names[..] {
        [name] => name.to_owned(),
        _ => format!("samples_*_{date}"),
    });
    let names: Vec<String> = names.collect();
    if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) }
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

    #[test]
    fn the_logs_of_a_directory_are_named_by_their_runs() {
        let of = |logs: &[&str]| -> BTreeMap<String, ItemScores> {
            let log = |log: &&str| ItemScores { log: Path::new("scores").join(log), ..ItemScores::default() };
            logs.iter().map(|name| ((*name).to_owned(), log(name))).collect()
        };
        let told = |logs: &[&str]| logs_in_words(Path::new("scores"), &of(logs));
        assert_eq!(told(&["samples_arc_easy_1.jsonl"]), ": samples_arc_easy_1.jsonl");
        let several = told(&["samples_arc_easy_1.jsonl", "samples_gsm8k_2.jsonl", "samples_hellaswag_1.jsonl"]);
        assert_eq!(several, ": samples_*_1.jsonl, samples_gsm8k_2.jsonl");
        let given = logs_in_words(Path::new("scores/samples_a_1.jsonl"), &of(&["samples_a_1.jsonl"]));
        assert_eq!(given, "", "a log that was given");
    }

    #[cfg(unix)]
    #[test]
    fn paths_of_a_record_need_not_be_utf_8() {
        use std::os::unix::ffi::OsStrExt;
        let folder = Path::new(OsStr::from_bytes(b"sc\xffres"));
        let args = CompareScoresArgs { a: folder.to_owned(), b: "b".into(), json: true };
        let of_task = ItemScores { log: folder.join("samples_arc_easy_1.jsonl"), ..ItemScores::default() };
        let tasks = BTreeMap::from([("arc_easy".to_owned(), of_task)]);
        let record = as_json(&args, &tasks, &tasks, &[]);
        assert_eq!(record["num_other_prompts"], 0);
        assert_eq!((&record["a"], &record["b"]), (&json!("sc\u{fffd}res"), &json!("b")));
        assert_eq!(record["b_samples"], json!(["sc\u{fffd}res/samples_arc_easy_1.jsonl"]));
    }

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
