//! The results of a run as one JSON object.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::sample::task_hash;
use super::task_scores::TaskScores;
use crate::eval::statistics::Estimate;
use crate::eval::tasks::{Chosen, Generation, Group, Metric, Sampler, Task, leaderboard_shots};

/// The version of lm-eval whose definitions of tasks and schema of results these are.
pub const LM_EVAL_VERSION: &str = "0.4.13";

/// The score of each task on the leaderboard.
const LEADERBOARD_METRICS: [(&str, &str); 6] = [
    ("arc_challenge", "acc_norm,none"),
    ("hellaswag", "acc_norm,none"),
    ("mmlu", "acc,none"),
    ("truthfulqa_mc2", "acc,none"),
    ("winogrande", "acc,none"),
    ("gsm8k", "exact_match,strict-match"),
];

/// The part of the results that scores decide: from `results` to `n-samples`, and `task_hashes`.
pub fn results(scores: &[TaskScores<'_>], groups: &[Group]) -> Map<String, Value> {
    let names: Vec<&str> = scores.iter().map(|scores| scores.task.chosen.task.name.as_str()).collect();
    let mut results = Map::new();
    for of_task in scores {
        let task = &of_task.task.chosen.task;
        let mut metrics = head(&task.name, &task.alias);
        metrics.insert("sample_len".to_owned(), json!(of_task.task.items.len()));
        for (metric, filter, estimate) in of_task.estimates() {
            insert(&mut metrics, metric, filter.name(), estimate);
        }
        results.insert(task.name.clone(), metrics.into());
    }
    let mut group_results = Map::new();
    for group in groups.iter().rev() {
        let metrics = group_metrics(group, groups, scores);
        if group.has_score {
            group_results.insert(group.name.clone(), metrics.clone().into());
        }
        results.insert(group.name.clone(), metrics.into());
    }
    let by_task = |of: &dyn Fn(&TaskScores<'_>) -> Value| -> BTreeMap<String, Value> {
        names.iter().map(|name| (*name).to_owned()).zip(scores.iter().map(of)).collect()
    };
    let mut versions = by_task(&|scores| json!(scores.task.chosen.task.version));
    versions.extend(groups.iter().map(|group| (group.name.clone(), json!(group.version.to_string()))));
    let mut shots = by_task(&|scores| json!(scores.task.chosen.num_fewshot));
    let mut directions = by_task(&|scores| {
        scores.task.chosen.task.metrics.iter().map(|metric| (metric.name().to_owned(), json!(true))).collect()
    });
    // Parents before their children, as lm-eval goes through them: a group of groups has neither.
    for group in groups {
        let mut values: Vec<&Value> = group.children.iter().filter_map(|child| shots.get(child)).collect();
        values.dedup();
        if let [shared] = values[..] {
            let shared = shared.clone();
            shots.insert(group.name.clone(), shared);
        }
        let children = group.children.iter().filter_map(|child| directions.get(child)?.as_object());
        let all: Map<String, Value> = children.flatten().map(|(name, up)| (name.clone(), up.clone())).collect();
        if !all.is_empty() {
            directions.insert(group.name.clone(), all.into());
        }
    }
    let num_samples =
        |scores: &TaskScores<'_>| json!({"original": scores.task.num_original, "effective": scores.task.items.len()});
    let subtasks: Map<String, Value> = groups.iter().map(|group| (group.name.clone(), json!(group.children))).collect();
    let sections = [
        ("results", Some(results.into())),
        ("groups", (!group_results.is_empty()).then(|| group_results.into())),
        ("group_subtasks", Some(subtasks.into())),
        ("configs", Some(json!(by_task(&|scores| config(&scores.task.chosen))))),
        ("versions", Some(json!(versions))),
        ("n-shot", Some(json!(shots))),
        ("higher_is_better", Some(json!(directions))),
        ("n-samples", Some(names.iter().map(|name| (*name).to_owned()).zip(scores.iter().map(num_samples)).collect())),
        ("task_hashes", Some(json!(by_task(&|scores| json!(task_hash(scores)))))),
    ];
    sections.into_iter().filter_map(|(name, section)| Some((name.to_owned(), section?))).collect()
}

/// H6, the plain mean of the six tasks of the Open LLM Leaderboard; `None` unless all six were evaluated whole, with as many
/// examples as there.
pub fn leaderboard_mean(record: &Map<String, Value>) -> Option<f64> {
    let is_whole = record["n-samples"].as_object()?.values().all(|count| count["original"] == count["effective"]);
    let has_shots = |(task, shots): (&String, &Value)| json!(leaderboard_shots(task)) == *shots;
    let is_comparable = is_whole && record["n-shot"].as_object()?.iter().all(has_shots);
    let score = |(task, metric): (&str, &str)| record["results"].get(task)?.get(metric)?.as_f64();
    let scores = LEADERBOARD_METRICS.into_iter().map(score).collect::<Option<Vec<f64>>>().filter(|_| is_comparable)?;
    Some(scores.iter().sum::<f64>() / scores.len() as f64)
}

fn head(name: &str, alias: &str) -> Map<String, Value> {
    [("name", name), ("alias", alias)].into_iter().map(|(key, text)| (key.to_owned(), json!(text))).collect()
}

fn insert(metrics: &mut Map<String, Value>, metric: Metric, filter: &str, estimate: Estimate) {
    let name = metric.name();
    metrics.insert(format!("{name},{filter}"), number(estimate.value));
    let stderr = estimate.stderr.map_or(json!("N/A"), number);
    metrics.insert(format!("{name}_stderr,{filter}"), stderr);
}

/// A number; what is none is named, since JSON has only null for it.
fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(format!("{value}")) }
}

fn group_metrics(group: &Group, groups: &[Group], scores: &[TaskScores<'_>]) -> Map<String, Value> {
    let mut metrics = head(&group.name, &group.alias);
    let mut leaves = Vec::new();
    add_leaves(group, groups, &mut leaves);
    let members: Vec<&TaskScores<'_>> =
        scores.iter().filter(|scores| leaves.contains(&scores.task.chosen.task.name)).collect();
    if !group.has_score {
        return metrics;
    }
    let parts: Vec<Estimate> = members
        .iter()
        .flat_map(|scores| scores.estimates())
        .filter_map(|(metric, _, estimate)| (metric == Metric::Acc).then_some(estimate))
        .collect();
    metrics.insert("sample_len".to_owned(), json!(parts.iter().map(|part| part.count).sum::<usize>()));
    if let Some(pooled) = Estimate::pooled(&parts) {
        insert(&mut metrics, Metric::Acc, "none", pooled);
        metrics.insert("sample_count".to_owned(), json!({"acc,none": pooled.count}));
    }
    metrics
}

/// The tasks below a group.
fn add_leaves(group: &Group, groups: &[Group], leaves: &mut Vec<String>) {
    for child in &group.children {
        match groups.iter().find(|group| group.name == *child) {
            Some(group) => add_leaves(group, groups, leaves),
            None => leaves.push(child.clone()),
        }
    }
}

/// The definition of a task, as far as it has a value in lm-eval's.
fn config(chosen: &Chosen) -> Value {
    let Chosen { task, num_fewshot } = chosen;
    let Task { few_shots, metrics, .. } = task;
    let metrics =
        metrics.iter().map(|metric| json!({"metric": metric.name(), "aggregation": "mean", "higher_is_better": true}));
    let mut config = json!({
        "task": task.name,
        "dataset_path": task.data_set.path,
        "dataset_name": task.data_set.config,
        format!("{}_split", task.split.name()): task.split.name(),
        "description": task.description,
        "target_delimiter": " ",
        "fewshot_delimiter": "\n\n",
        "fewshot_split": few_shots.split.name(),
        "fewshot_config": {"sampler": if few_shots.sampler == Sampler::First { "first_n" } else { "default" }},
        "num_fewshot": num_fewshot,
        "metric_list": metrics.collect::<Vec<_>>(),
        "output_type": if task.generation.is_some() { "generate_until" } else { "multiple_choice" },
        "repeats": 1,
        "metadata": {"version": task.version},
    });
    if let Some(Generation { until, .. }) = task.generation {
        config["generation_kwargs"] = json!({"until": until, "do_sample": false, "temperature": 0.0});
    }
    if task.alias != task.name {
        config["task_alias"] = json!(task.alias);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of the leaderboard with a score of 0.5 in each task.
    fn record() -> Map<String, Value> {
        let scores = LEADERBOARD_METRICS.map(|(task, metric)| (task.to_owned(), json!({metric: 0.5})));
        let shots = json!({
            "arc_challenge": 25, "hellaswag": 10, "mmlu_anatomy": 5, "mmlu_stem": 5,
            "truthfulqa_mc2": 0, "winogrande": 5, "gsm8k": 5,
        });
        let samples =
            json!({"arc_challenge": {"original": 9, "effective": 9}, "gsm8k": {"original": 3, "effective": 3}});
        let sections =
            [("results", scores.into_iter().collect::<Map<_, _>>().into()), ("n-shot", shots), ("n-samples", samples)];
        sections.into_iter().map(|(name, section)| (name.to_owned(), section)).collect()
    }

    #[test]
    fn the_mean_of_the_leaderboard_is_one_of_whole_tasks_with_its_examples() {
        assert_eq!(leaderboard_mean(&record()), Some(0.5));
        for task in ["arc_challenge", "mmlu_anatomy", "truthfulqa_mc2"] {
            let mut other = record();
            other["n-shot"][task] = json!(3);
            assert_eq!(leaderboard_mean(&other), None, "{task}");
        }
        let mut limited = record();
        limited["n-samples"]["gsm8k"]["effective"] = json!(2);
        assert_eq!(leaderboard_mean(&limited), None);
        let mut five = record();
        five["results"].as_object_mut().unwrap().shift_remove("gsm8k");
        assert_eq!(leaderboard_mean(&five), None);
    }
}
