//! Tasks and groups by name.

use glob::Pattern;

use super::task::{Sampler, Task};
use super::{arc_challenge, gsm8k, hellaswag, mmlu, truthfulqa_mc2, winogrande};
use crate::eval::dataset::Split;
use crate::eval::error::EvalError;

/// Names of the Open LLM Leaderboard, with the number of examples that each of its tasks has in a prompt.
const LEADERBOARD: [&str; 2] = ["openllm", "h6"];
const LEADERBOARD_SHOTS: [(&str, usize); 6] =
    [("arc_challenge", 25), ("hellaswag", 10), ("truthfulqa_mc2", 0), ("mmlu", 5), ("winogrande", 5), ("gsm8k", 5)];

/// A task of a run.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The task.
    pub task: Task,
    /// Examples in each prompt.
    pub num_fewshot: usize,
}

impl Chosen {
    /// The split of the examples, if prompts have any.
    pub fn examples_split(&self) -> Option<Split> {
        (self.num_fewshot > 0).then_some(self.task.few_shots.split)
    }

    /// The splits that it reads: that of the examples and that of the items.
    pub fn splits(&self) -> impl Iterator<Item = Split> + Clone {
        self.examples_split().into_iter().chain([self.task.split])
    }
}

/// A group of tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its name in tables.
    pub alias: String,
    /// The version of its definition.
    pub version: f64,
    /// Names of its groups or tasks.
    pub children: Vec<String>,
    /// Whether it has a score: the mean `acc` of its tasks, weighted by their sizes.
    pub has_score: bool,
}

/// The tasks of a run, each once, and their groups.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The tasks, in the order of their names.
    pub tasks: Vec<Chosen>,
    /// The groups, parents first.
    pub groups: Vec<Group>,
}

/// Examples in a prompt of the Open LLM Leaderboard, of a task, a subject of MMLU or a group of subjects; `None` for others.
pub fn leaderboard_shots(task: &str) -> Option<usize> {
    let name = if task.starts_with("mmlu_") { "mmlu" } else { task };
    LEADERBOARD_SHOTS.iter().find(|(known, _)| *known == name).map(|(_, shots)| *shots)
}

/// All names, with a short description.
pub fn task_names() -> Vec<(String, &'static str)> {
    let mut names = vec![
        ("openllm".to_owned(), "the Open LLM Leaderboard (H6): the tasks below with 25, 10, 5, 0, 5, 5 examples"),
        ("h6".to_owned(), "another name of openllm"),
        ("arc_challenge".to_owned(), "ARC-Challenge"),
        ("hellaswag".to_owned(), "HellaSwag"),
        ("mmlu".to_owned(), "MMLU, 57 subjects"),
        ("truthfulqa_mc2".to_owned(), "TruthfulQA, MC2"),
        ("winogrande".to_owned(), "WinoGrande, partial scoring"),
        ("gsm8k".to_owned(), "GSM8K"),
    ];
    for category in &mmlu::CATEGORIES {
        names.push((category.name.to_owned(), "a category of MMLU"));
        names.extend(category.subjects.iter().map(|subject| (mmlu::task_name(subject), "a subject of MMLU")));
    }
    names
}

impl Selection {
    /// The tasks and groups of these names. A name may be a pattern of tasks, such as `mmlu_*`. `num_fewshot` replaces the number
    /// of examples of each task that can have another.
    ///
    /// # Errors
    /// [`EvalError::UnknownTask`].
    pub fn new(names: &[String], num_fewshot: Option<usize>) -> Result<Self, EvalError> {
        let mut selection = Self::default();
        for name in names {
            if LEADERBOARD.contains(&name.as_str()) {
                selection.add_leaderboard(num_fewshot)?;
            } else {
                expand(name).iter().try_for_each(|name| selection.add(name, num_fewshot))?;
            }
        }
        Ok(selection)
    }

    fn add_leaderboard(&mut self, num_fewshot: Option<usize>) -> Result<(), EvalError> {
        self.groups.push(Group {
            name: LEADERBOARD[0].to_owned(),
            alias: "Open LLM Leaderboard".to_owned(),
            version: 2.0,
            children: LEADERBOARD_SHOTS.iter().map(|(name, _)| (*name).to_owned()).collect(),
            has_score: false,
        });
        for (name, shots) in LEADERBOARD_SHOTS {
            let known = self.tasks.len();
            self.add(name, num_fewshot.or(Some(shots)))?;
            // The group names the split of the examples, so that no item can be among them.
            for Chosen { task, .. } in &mut self.tasks[known..] {
                if let Sampler::Random { leaves_out_item } = &mut task.few_shots.sampler {
                    *leaves_out_item = false;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, num_fewshot: Option<usize>) -> Result<(), EvalError> {
        if name == "mmlu" {
            let children = mmlu::CATEGORIES.iter().map(|category| category.name.to_owned()).collect();
            self.group("mmlu", "mmlu", children);
            return mmlu::CATEGORIES.iter().try_for_each(|category| self.add(category.name, num_fewshot));
        }
        if let Some(category) = mmlu::CATEGORIES.iter().find(|category| category.name == name) {
            let children = category.subjects.iter().map(|subject| mmlu::task_name(subject)).collect();
            self.group(category.name, category.alias, children);
            return category.subjects.iter().try_for_each(|subject| self.add(&mmlu::task_name(subject), num_fewshot));
        }
        let task = task(name).ok_or_else(|| EvalError::UnknownTask { found: name.to_owned(), known: known() })?;
        let num_fewshot = task.num_fewshot(num_fewshot);
        match self.tasks.iter().find(|known| known.task.name == task.name) {
            None => self.tasks.push(Chosen { num_fewshot, task }),
            Some(known) if known.num_fewshot == num_fewshot => {}
            Some(known) => {
                let (task, shots) = (task.name, [known.num_fewshot, num_fewshot]);
                return Err(EvalError::TwoNumbersOfExamples { task, shots });
            }
        }
        Ok(())
    }

    fn group(&mut self, name: &str, alias: &str, children: Vec<String>) {
        let (name, alias) = (name.to_owned(), alias.to_owned());
        if self.groups.iter().all(|known| known.name != name) {
            self.groups.push(Group { name, alias, version: 2.0, children, has_score: true });
        }
    }
}

/// The tasks that a pattern matches; the name itself if there is none.
fn expand(name: &str) -> Vec<String> {
    let is_pattern = name.contains(['*', '?']);
    let pattern = Pattern::new(name).ok().filter(|_| is_pattern);
    let tasks = task_names().into_iter().map(|(name, _)| name).filter(|name| task(name).is_some());
    let matching: Vec<String> =
        tasks.filter(|task| pattern.as_ref().is_some_and(|pattern| pattern.matches(task))).collect();
    if matching.is_empty() { vec![name.to_owned()] } else { matching }
}

fn task(name: &str) -> Option<Task> {
    match name {
        "arc_challenge" => Some(arc_challenge::task()),
        "gsm8k" => Some(gsm8k::task()),
        "hellaswag" => Some(hellaswag::task()),
        "truthfulqa_mc2" => Some(truthfulqa_mc2::task()),
        "winogrande" => Some(winogrande::task()),
        _ => {
            let subjects = mmlu::CATEGORIES.iter().flat_map(|category| category.subjects);
            subjects.copied().find(|subject| mmlu::task_name(subject) == name).map(mmlu::task)
        }
    }
}

/// The names for a message, without the subjects of MMLU.
fn known() -> String {
    let names = task_names().into_iter().map(|(name, _)| name).filter(|name| !name.starts_with("mmlu_"));
    format!("{}, mmlu_anatomy and so on", names.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str], num_fewshot: Option<usize>) -> Selection {
        Selection::new(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), num_fewshot).unwrap()
    }

    #[test]
    fn mmlu_has_57_subjects_in_four_categories() {
        let selection = of(&["mmlu"], Some(5));
        assert_eq!(selection.tasks.len(), 57);
        assert_eq!(selection.groups.iter().map(|group| group.children.len()).collect::<Vec<_>>(), [4, 19, 13, 12, 13]);
        assert!(selection.tasks.iter().all(|chosen| chosen.num_fewshot == 5));
    }

    #[test]
    fn the_leaderboard_has_its_own_number_of_examples_unless_another_is_given() {
        let shots = |selection: &Selection, name: &str| {
            selection.tasks.iter().find(|chosen| chosen.task.name == name).unwrap().num_fewshot
        };
        let selection = of(&["h6"], None);
        for (name, expected) in [("arc_challenge", 25), ("mmlu_virology", 5), ("truthfulqa_mc2", 0)] {
            assert_eq!(shots(&selection, name), expected, "{name}");
        }
        let selection = of(&["openllm"], Some(2));
        assert_eq!((shots(&selection, "hellaswag"), shots(&selection, "truthfulqa_mc2")), (2, 0));
    }

    #[test]
    fn a_task_that_is_named_twice_runs_once() {
        assert_eq!(of(&["mmlu_virology", "mmlu_other", "mmlu"], None).tasks.len(), 57);
    }

    #[test]
    fn a_pattern_names_all_tasks_that_it_matches() {
        assert_eq!(of(&["mmlu_*"], None).tasks.len(), 57);
        let tasks = of(&["mmlu_professional_*", "hella?wag"], None).tasks;
        assert_eq!((tasks.len(), tasks.last().unwrap().task.name.as_str()), (5, "hellaswag"));
        assert!(Selection::new(&["gpqa_*".to_owned()], None).is_err());
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let message = Selection::new(&["arc".to_owned()], None).unwrap_err().to_string();
        assert!(message.contains("\"arc\"") && message.contains("arc_challenge"), "{message}");
    }
}
