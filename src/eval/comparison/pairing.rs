//! The items that two evaluations share.

use std::collections::BTreeMap;

use serde::Serialize;

use super::bootstrap::{Interval, bootstrap};
use super::mcnemar::McNemar;
use super::samples::ItemScores;
use crate::eval::tasks::is_mmlu_subject;

/// The metric of MMLU.
const MMLU_METRIC: &str = "acc,none";

/// Two models on the same items of a task, or on several tasks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The task; `mmlu` for all its subjects, `mean` for the mean of all tasks.
    pub task: String,
    /// The metric and the filter: `acc,none`.
    pub metric: String,
    /// Items that both have answered.
    pub num_items: usize,
    /// Items that only one has, or that differ in their text; they are left out.
    pub num_unpaired: usize,
    /// Items whose scores differ.
    pub num_different: usize,
    /// Mean score of A.
    pub a: f64,
    /// Mean score of B.
    pub b: f64,
    /// The difference.
    pub interval: Interval,
    /// McNemar's test, if each item is right or wrong.
    pub mcnemar: Option<McNemar>,
}

impl Comparison {
    /// Whether chance does not explain the difference: the interval excludes 0, and so small a p-value is rare under chance.
    pub fn is_significant(&self) -> bool {
        self.interval.is_significant() && self.mcnemar.is_none_or(|test| test.p_value < 0.05)
    }
}

/// Scores of the same items under one metric.
struct Pairs {
    task: String,
    metric: String,
    scores: Vec<(f64, f64)>,
    num_unpaired: usize,
}

/// Compares all tasks and metrics that two evaluations share: each task, MMLU as a whole, and, of several tasks, the mean of their
/// main metrics (`acc_norm` where there is one), weighing tasks alike.
pub fn compare(a: &BTreeMap<String, ItemScores>, b: &BTreeMap<String, ItemScores>) -> Vec<Comparison> {
    let mut all = Vec::new();
    for (task, of_a) in a {
        let Some(of_b) = b.get(task) else { continue };
        for (metric, items_a) in &of_a.metrics {
            let Some(items_b) = of_b.metrics.get(metric) else { continue };
            let scores: Vec<(f64, f64)> = items_a
                .iter()
                .filter_map(|(id, (hash, score))| {
                    let (other_hash, other) = items_b.get(id)?;
                    (hash == other_hash).then_some((*score, *other))
                })
                .collect();
            let num_unpaired = items_a.len() + items_b.len() - 2 * scores.len();
            all.push(Pairs { task: task.clone(), metric: metric.clone(), scores, num_unpaired });
        }
    }
    all.retain(|pairs| !pairs.scores.is_empty());
    all.sort_by_key(is_mmlu);
    let num_subjects = all.iter().filter(|pairs| is_mmlu(pairs)).count();
    if num_subjects > 1 {
        let subjects = all.split_off(all.len() - num_subjects);
        let num_unpaired = subjects.iter().map(|pairs| pairs.num_unpaired).sum();
        let scores = subjects.into_iter().flat_map(|pairs| pairs.scores).collect();
        all.push(Pairs { task: "mmlu".to_owned(), metric: MMLU_METRIC.to_owned(), scores, num_unpaired });
    }
    let main: Vec<&Pairs> = all.iter().filter(|pairs| is_main(pairs, &all)).collect();
    let mean = (main.len() > 1).then(|| mean(&main));
    all.iter().map(comparison).chain(mean).collect()
}

/// Items that both evaluations have, with different prompts.
pub fn num_other_prompts(a: &BTreeMap<String, ItemScores>, b: &BTreeMap<String, ItemScores>) -> usize {
    let of_task = |(task, of_a): (&String, &ItemScores)| {
        let Some(of_b) = b.get(task) else { return 0 };
        let differs = |(id, prompt): &(&u64, &String)| of_b.prompts.get(id).is_some_and(|other| other != *prompt);
        of_a.prompts.iter().filter(differs).count()
    };
    a.iter().map(of_task).sum()
}

fn is_mmlu(pairs: &Pairs) -> bool {
    pairs.metric == MMLU_METRIC && is_mmlu_subject(&pairs.task)
}

/// Whether this is the metric that the leaderboard takes of its task.
fn is_main(pairs: &Pairs, all: &[Pairs]) -> bool {
    let has = |metric: &str| all.iter().any(|other| other.task == pairs.task && other.metric == metric);
    let main = ["acc_norm,none", "exact_match,strict-match", "acc,none"].into_iter().find(|metric| has(metric));
    // Of other tasks, the first metric.
    let first = all.iter().find(|other| other.task == pairs.task).map(|first| first.metric.as_str());
    main.or(first) == Some(pairs.metric.as_str())
}

fn means(scores: &[(f64, f64)]) -> (f64, f64) {
    let (sum_a, sum_b) = scores.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
    (sum_a / scores.len() as f64, sum_b / scores.len() as f64)
}

fn num_different(pairs: &Pairs) -> usize {
    pairs.scores.iter().filter(|(a, b)| a != b).count()
}

fn differences(pairs: &Pairs) -> Vec<f64> {
    pairs.scores.iter().map(|(a, b)| b - a).collect()
}

fn comparison(pairs: &Pairs) -> Comparison {
    let (a, b) = means(&pairs.scores);
    Comparison {
        task: pairs.task.clone(),
        metric: pairs.metric.clone(),
        num_items: pairs.scores.len(),
        num_unpaired: pairs.num_unpaired,
        num_different: num_different(pairs),
        a,
        b,
        interval: bootstrap(&[differences(pairs)]),
        mcnemar: McNemar::of(&pairs.scores),
    }
}

fn mean(tasks: &[&Pairs]) -> Comparison {
    let of_tasks = tasks.iter().map(|pairs| means(&pairs.scores));
    let (sum_a, sum_b) = of_tasks.fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
    let differences: Vec<Vec<f64>> = tasks.iter().map(|pairs| differences(pairs)).collect();
    Comparison {
        task: "mean".to_owned(),
        metric: String::new(),
        num_items: tasks.iter().map(|pairs| pairs.scores.len()).sum(),
        num_unpaired: tasks.iter().map(|pairs| pairs.num_unpaired).sum(),
        num_different: tasks.iter().map(|pairs| num_different(pairs)).sum(),
        a: sum_a / tasks.len() as f64,
        b: sum_b / tasks.len() as f64,
        interval: bootstrap(&differences),
        mcnemar: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(tasks: &[(&str, &str, &[f64])]) -> BTreeMap<String, ItemScores> {
        let mut all: BTreeMap<String, ItemScores> = BTreeMap::new();
        for (task, metric, scores) in tasks {
            let items = scores.iter().enumerate().map(|(id, score)| (id as u64, (format!("hash {id}"), *score)));
            all.entry((*task).to_owned()).or_default().metrics.insert((*metric).to_owned(), items.collect());
        }
        all
    }

    #[test]
    fn only_items_of_both_are_compared() {
        let a = evaluation(&[("x", "acc,none", &[1.0, 0.0, 1.0]), ("only a", "acc,none", &[1.0])]);
        let mut b = evaluation(&[("x", "acc,none", &[1.0, 1.0, 1.0, 1.0])]);
        let items = b.get_mut("x").unwrap().metrics.get_mut("acc,none").unwrap();
        items.insert(2, ("another text".to_owned(), 0.0));
        let [found] = &compare(&a, &b)[..] else { panic!("one task") };
        assert_eq!((found.num_items, found.num_unpaired, found.num_different), (2, 3, 1));
        assert_eq!((found.a, found.b, found.interval.difference), (0.5, 1.0, 0.5));
        assert_eq!(found.mcnemar.unwrap().only_b, 1);
    }

    #[test]
    fn subjects_of_mmlu_are_pooled_and_the_mean_takes_one_metric_of_each_task() {
        let a = evaluation(&[
            ("mmlu_anatomy", "acc,none", &[1.0]),
            ("mmlu_virology", "acc,none", &[0.0, 0.0]),
            ("h", "acc,none", &[0.0]),
            ("h", "acc_norm,none", &[1.0]),
        ]);
        let found = compare(&a, &a);
        let rows: Vec<(&str, &str, usize)> =
            found.iter().map(|row| (row.task.as_str(), row.metric.as_str(), row.num_items)).collect();
        assert_eq!(rows, [("h", "acc,none", 1), ("h", "acc_norm,none", 1), ("mmlu", "acc,none", 3), ("mean", "", 4)]);
        assert!((found[3].a - (1.0 + 1.0 / 3.0) / 2.0).abs() < 1e-12);
        assert!(found.iter().all(|row| row.num_different == 0));
    }

    #[test]
    fn prompts_that_differ_are_counted_where_both_have_them() {
        let of = |prompts: &[(u64, &str)]| {
            let prompts = prompts.iter().map(|(id, hash)| (*id, (*hash).to_owned())).collect();
            BTreeMap::from([("winogrande".to_owned(), ItemScores { prompts, ..ItemScores::default() })])
        };
        let a = of(&[(0, "p"), (1, "q"), (2, "r")]);
        assert_eq!(num_other_prompts(&a, &of(&[(0, "p"), (1, "x"), (3, "y")])), 1);
        assert_eq!(num_other_prompts(&a, &BTreeMap::new()), 0);
    }
}
