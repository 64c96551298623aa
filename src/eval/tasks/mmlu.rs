//! MMLU (Hendrycks et al., 2020, arXiv:2009.03300): questions of 57 subjects with four choices; the letter of the choice is scored.

use serde_json::{Map, Value, json};

use super::doc::{Key, Question, text, texts};
use super::task::{FewShots, Filter, Metric, Sampler, Task};
use crate::eval::dataset::{DataSet, Split};
use crate::eval::error::ItemFault;
use crate::python::strip;

const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// Groups of subjects, in the order of lm-eval.
pub(super) const CATEGORIES: [Category; 4] = [
    Category {
        name: "mmlu_stem",
        alias: "stem",
        subjects: &[
            "abstract_algebra",
            "anatomy",
            "astronomy",
            "college_biology",
            "college_chemistry",
            "college_computer_science",
            "college_mathematics",
            "college_physics",
            "computer_security",
            "conceptual_physics",
            "electrical_engineering",
            "elementary_mathematics",
            "high_school_biology",
            "high_school_chemistry",
            "high_school_computer_science",
            "high_school_mathematics",
            "high_school_physics",
            "high_school_statistics",
            "machine_learning",
        ],
    },
    Category {
        name: "mmlu_other",
        alias: "other",
        subjects: &[
            "business_ethics",
            "clinical_knowledge",
            "college_medicine",
            "global_facts",
            "human_aging",
            "management",
            "marketing",
            "medical_genetics",
            "miscellaneous",
            "nutrition",
            "professional_accounting",
            "professional_medicine",
            "virology",
        ],
    },
    Category {
        name: "mmlu_social_sciences",
        alias: "social sciences",
        subjects: &[
            "econometrics",
            "high_school_geography",
            "high_school_government_and_politics",
            "high_school_macroeconomics",
            "high_school_microeconomics",
            "high_school_psychology",
            "human_sexuality",
            "professional_psychology",
            "public_relations",
            "security_studies",
            "sociology",
            "us_foreign_policy",
        ],
    },
    Category {
        name: "mmlu_humanities",
        alias: "humanities",
        subjects: &[
            "formal_logic",
            "high_school_european_history",
            "high_school_us_history",
            "high_school_world_history",
            "international_law",
            "jurisprudence",
            "logical_fallacies",
            "moral_disputes",
            "moral_scenarios",
            "philosophy",
            "prehistory",
            "professional_law",
            "world_religions",
        ],
    },
];

/// Subjects whose scores are averaged, weighted by their sizes.
pub(super) struct Category {
    pub name: &'static str,
    pub alias: &'static str,
    pub subjects: &'static [&'static str],
}

/// The task of a subject; the leaderboard takes 5 examples.
pub(super) fn task(subject: &str) -> Task {
    Task {
        name: task_name(subject),
        alias: subject.to_owned(),
        version: 1.0,
        data_set: DataSet {
            path: "cais/mmlu",
            config: Some(subject.to_owned()),
            folders: &[],
            shares_folder: true,
            suffix: None,
        },
        split: Split::Test,
        few_shots: FewShots { split: Split::Dev, default: 0, is_fixed: false, sampler: Sampler::First },
        description: format!(
            "The following are multiple choice questions (with answers) about {}.\n\n",
            subject.replace('_', " ")
        ),
        metrics: &[Metric::Acc],
        filters: &[Filter::None],
        generation: None,
        question,
    }
}

/// Whether this is the name of the task of a subject.
pub(in crate::eval) fn is_mmlu_subject(task: &str) -> bool {
    CATEGORIES.iter().flat_map(|category| category.subjects).any(|subject| task_name(subject) == task)
}

/// The name of the task of a subject.
pub(super) fn task_name(subject: &str) -> String {
    format!("mmlu_{subject}")
}

/// Rows have the fields of the hub, or those of a CSV file: a column for each choice, the answer as a letter or an index.
fn question(fields: &mut Map<String, Value>, data_set: &DataSet) -> Result<Question, ItemFault> {
    let question = text(fields, "question")?.to_owned();
    let choices = match fields.contains_key("choices") {
        true => texts(fields, "choices")?,
        false => columns(fields)?,
    };
    let answer = fields.get("answer").ok_or(ItemFault::Missing { field: "answer" })?;
    let number = answer.as_u64().map(|number| number as usize);
    let written = answer.as_str().map(str::trim);
    let letter = |text: &str| LETTERS.iter().position(|letter| *letter == text);
    let gold = number.or_else(|| written.and_then(|text| text.parse().ok().or_else(|| letter(text))));
    let gold = gold.filter(|gold| *gold < LETTERS.len() && choices.len() == LETTERS.len());
    let no_choice = || ItemFault::Answer { field: "answer", found: answer.to_string(), num_choices: choices.len() };
    let gold = gold.ok_or_else(no_choice)?;
    let lettered = LETTERS.iter().zip(&choices).map(|(letter, choice)| format!("{letter}. {choice}\n"));
    let text = format!("{}\n{}Answer:", strip(&question), lettered.collect::<String>());
    if !fields.contains_key("choices") {
        let subject = data_set.config.as_deref().unwrap_or_default();
        let hub = json!({"question": question, "subject": subject, "choices": choices, "answer": gold});
        *fields = hub.as_object().cloned().unwrap_or_default();
    }
    Ok(Question::Choices { text, choices: LETTERS.map(str::to_owned).to_vec(), key: Key::One(gold) })
}

fn columns(fields: &Map<String, Value>) -> Result<Vec<String>, ItemFault> {
    let names = if fields.contains_key("A") { LETTERS } else { ["choice0", "choice1", "choice2", "choice3"] };
    names.iter().map(|name| text(fields, name).map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_choice_is_shown_as_it_is() {
        let fields = json!({"question": " Which? ", "choices": ["one", "", "three", "four"], "answer": 1});
        let mut fields = fields.as_object().unwrap().clone();
        let Question::Choices { text, choices, key } = question(&mut fields, &task("virology").data_set).unwrap()
        else {
            panic!("four choices");
        };
        assert_eq!(text, "Which?\nA. one\nB. \nC. three\nD. four\nAnswer:");
        assert_eq!((choices.concat(), key), ("ABCD".to_owned(), Key::One(1)));
    }
}
