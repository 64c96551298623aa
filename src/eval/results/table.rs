//! The table of results, in Markdown, with the columns and the order of lm-eval.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Width of the narrowest column, as in lm-eval.
const MIN_WIDTH: usize = 3;

/// The part of the results that a table shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Tasks and groups.
    Results,
    /// Groups alone.
    Groups,
}

/// Results as a table, of this crate or of lm-eval; `None` if there are none.
pub fn table(results: &Map<String, Value>, column: Column) -> Option<String> {
    let (key, title) = match column {
        Column::Results => ("results", "Tasks"),
        Column::Groups => ("groups", "Groups"),
    };
    let shown = results.get(key)?.as_object()?;
    let empty = Map::new();
    let section = |key: &str| results.get(key).and_then(Value::as_object).unwrap_or(&empty);
    let (versions, shots, directions) = (section("versions"), section("n-shot"), section("higher_is_better"));
    let header = [title, "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"];
    let mut rows = vec![header.map(str::to_owned)];
    for (name, depth) in hierarchy(section("group_subtasks"), shown) {
        let Some(scores) = shown.get(&name).and_then(Value::as_object) else { continue };
        let alias = scores.get("alias").and_then(Value::as_str).unwrap_or(&name);
        let indent = if depth > 0 { format!("{}- ", " ".repeat(depth)) } else { String::new() };
        let mut label = format!("{indent}{alias}");
        let mut version = versions.get(&name).map(plain).unwrap_or_default();
        let is_metric = |key: &&String| key.contains(',') && !key.contains("_stderr,");
        let metrics: BTreeSet<&String> = scores.keys().filter(is_metric).collect();
        for key in metrics {
            let (metric, filter) = key.split_once(',').unwrap_or((key, ""));
            let up = directions.get(&name).and_then(|directions| directions.get(metric)).and_then(Value::as_bool);
            let stderr = scores.get(&format!("{metric}_stderr,{filter}"));
            rows.push([
                std::mem::take(&mut label),
                std::mem::take(&mut version),
                filter.to_owned(),
                shots.get(&name).map(plain).unwrap_or_default(),
                metric.to_owned(),
                up.map_or("", |up| if up { "↑" } else { "↓" }).to_owned(),
                four_digits(&scores[key]),
                if stderr.is_some() { "±" } else { "" }.to_owned(),
                stderr.map(four_digits).unwrap_or_default(),
            ]);
        }
    }
    (rows.len() > 1).then(|| markdown(&rows, [1, 3, 6, 8]))
}

/// Names with their depth: groups and below them their children, sorted; then those in no group.
fn hierarchy(subtasks: &Map<String, Value>, shown: &Map<String, Value>) -> Vec<(String, usize)> {
    let children = |name: &str| -> BTreeSet<String> {
        let list = subtasks.get(name).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|child| child.as_str().map(str::to_owned)).collect()
    };
    let all: BTreeSet<String> = subtasks.keys().flat_map(|group| children(group)).collect();
    let roots: BTreeSet<&String> = subtasks.keys().filter(|group| !all.contains(*group)).collect();
    let mut ordered = Vec::new();
    let mut pending: Vec<(String, usize)> = roots.into_iter().rev().map(|name| (name.clone(), 0)).collect();
    while let Some((name, depth)) = pending.pop() {
        pending.extend(children(&name).into_iter().rev().map(|child| (child, depth + 1)));
        ordered.push((name, depth));
    }
    let known: BTreeSet<&String> = ordered.iter().map(|(name, _)| name).collect();
    let others: BTreeSet<&String> = shown.keys().filter(|name| !known.contains(name)).collect();
    let others: Vec<(String, usize)> = others.into_iter().map(|name| (name.clone(), 0)).collect();
    ordered.into_iter().chain(others).collect()
}

/// A version or a count: `1` for 1.0.
fn plain(value: &Value) -> String {
    match value.as_f64() {
        Some(number) => number.to_string(),
        None => value.as_str().unwrap_or_default().to_owned(),
    }
}

fn four_digits(value: &Value) -> String {
    value.as_f64().map_or_else(|| plain(value), |number| format!("{number:.4}"))
}

fn markdown<const N: usize, const R: usize>(rows: &[[String; N]], right: [usize; R]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(MIN_WIDTH);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut lines = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match right.contains(&column) {
            _ if index == 0 => format!("{cell:^width$}"),
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        lines.push(format!("|{}|", cells.collect::<Vec<_>>().join("|")));
        if index == 0 {
            let rules = widths.iter().enumerate().map(|(column, &width)| {
                if right.contains(&column) { format!("{}:", "-".repeat(width - 1)) } else { "-".repeat(width) }
            });
            lines.push(format!("|{}|", rules.collect::<Vec<_>>().join("|")));
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_come_before_their_tasks_and_metrics_in_order_of_name() {
        let results = json!({
            "results": {
                "winogrande": {"alias": "winogrande", "acc,none": 0.25, "acc_stderr,none": "N/A"},
                "mmlu_anatomy": {"alias": "anatomy", "acc_norm,none": 0.5, "acc,none": 1.0, "acc_stderr,none": 0.0},
                "mmlu": {"alias": "mmlu", "acc,none": 1.0, "acc_stderr,none": 0.0},
            },
            "groups": {"mmlu": {"alias": "mmlu", "acc,none": 1.0}},
            "group_subtasks": {"mmlu": ["mmlu_anatomy"]},
            "versions": {"winogrande": 1.0, "mmlu": 2, "mmlu_anatomy": 1.0},
            "n-shot": {"winogrande": 0, "mmlu_anatomy": 5},
            "higher_is_better": {"winogrande": {"acc": true}},
        });
        let results = results.as_object().unwrap();
        let expected = "\
|  Tasks   |Version|Filter|n-shot| Metric |   |Value |   |Stderr|
|----------|------:|------|-----:|--------|---|-----:|---|-----:|
|mmlu      |      2|none  |      |acc     |   |1.0000|±  |0.0000|
| - anatomy|      1|none  |     5|acc     |   |1.0000|±  |0.0000|
|          |       |none  |     5|acc_norm|   |0.5000|   |      |
|winogrande|      1|none  |     0|acc     |↑  |0.2500|±  |   N/A|
";
        assert_eq!(table(results, Column::Results).unwrap(), expected);
        assert!(table(results, Column::Groups).unwrap().starts_with("|Groups|"));
        assert_eq!(table(&Map::new(), Column::Results), None);
    }
}
