//! The metrics of one item.

use super::extraction::{exact_match, extracted};
use super::response::Response;
use super::tasks::{Filter, Key, Metric, Question};

/// The metrics of a response to a question, in the order of `metrics`.
///
/// - `exact_match`: whether the answer that `filter` finds in the text is the reference.
/// - `acc`: whether the choice of the largest log-likelihood is right, the first of several; with any number of true
///   choices, `Σ_true p / Σ p`.
/// - `acc_norm`: as `acc`, of the log-likelihood per character of the choice, without the space before it.
///
/// # Panics
/// If the response is not of the kind that the question asks for.
pub fn scores(question: &Question, response: &Response, metrics: &[Metric], filter: Filter) -> Vec<f64> {
    let answers = match (question, response) {
        (Question::Open { answer, .. }, Response::Text(text)) => {
            let is_right = exact_match(&extracted(text, filter), answer);
            return vec![f64::from(u8::from(is_right)); metrics.len()];
        }
        (Question::Choices { .. } | Question::Contexts { .. }, Response::Answers(answers)) => answers,
        _ => panic!("a response to another kind of question"),
    };
    let sums = || answers.iter().map(|answer| answer.log_likelihood);
    let is_right = |found: usize, gold: usize| f64::from(u8::from(found == gold));
    let score = |metric: &Metric| match (question, metric) {
        (Question::Choices { key: Key::Many(truths), .. }, _) => share_of_truth(sums(), truths),
        (Question::Choices { key: Key::One(gold), choices, .. }, Metric::AccNorm) => {
            let lengths = choices.iter().map(|choice| choice.chars().count() as f64);
            is_right(largest(sums().zip(lengths).map(|(sum, length)| sum / length)), *gold)
        }
        (Question::Choices { key: Key::One(gold), .. } | Question::Contexts { gold, .. }, _) => {
            is_right(largest(sums()), *gold)
        }
        (Question::Open { .. }, _) => unreachable!("scored above"),
    };
    metrics.iter().map(score).collect()
}

/// `numpy.argmax`: the first of the largest; NaN is the largest.
fn largest(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, value) in values.enumerate() {
        if index == 0 || value > best.1 || value.is_nan() {
            best = (index, value);
        }
        if value.is_nan() {
            break;
        }
    }
    best.0
}

fn share_of_truth(sums: impl Iterator<Item = f64>, truths: &[bool]) -> f64 {
    let probabilities: Vec<f64> = sums.map(f64::exp).collect();
    let total: f64 = probabilities.iter().sum();
    let shares = probabilities.iter().zip(truths).filter(|(_, is_true)| **is_true);
    shares.map(|(probability, _)| probability / total).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::scoring::Answer;

    fn answers(sums: &[f64]) -> Response {
        Response::Answers(sums.iter().map(|sum| Answer { log_likelihood: *sum, is_greedy: false }).collect())
    }

    fn choices(choices: &[&str], key: Key) -> Question {
        Question::Choices { text: String::new(), choices: choices.iter().map(|text| (*text).to_owned()).collect(), key }
    }

    #[test]
    fn the_norm_is_by_characters_and_the_first_of_equals_is_chosen() {
        let metrics = [Metric::Acc, Metric::AccNorm];
        let question = choices(&["ab", "äöüß"], Key::One(1));
        assert_eq!(scores(&question, &answers(&[-3.0, -4.0]), &metrics, Filter::None), [0.0, 1.0]);
        assert_eq!(
            scores(&question, &answers(&[-2.0, -4.0]), &metrics, Filter::None),
            [0.0, 0.0],
            "-1 and -1 a character"
        );
        assert_eq!(scores(&question, &answers(&[-1.0, f64::NAN]), &[Metric::Acc], Filter::None), [1.0], "as NumPy");
    }

    #[test]
    fn truth_is_a_share_of_probability() {
        let question = choices(&["a", "b", "c"], Key::Many(vec![true, false, true]));
        let answers = answers(&[0.5f64.ln(), 0.25f64.ln(), 0.05f64.ln()]);
        assert!((scores(&question, &answers, &[Metric::Acc], Filter::None)[0] - 0.55 / 0.8).abs() < 1e-12);
    }

    #[test]
    fn the_right_context_is_the_one_after_which_the_rest_is_likelier() {
        let contexts = ["x", "y"].map(str::to_owned).to_vec();
        let question = Question::Contexts { contexts, continuation: " z".to_owned(), gold: 1 };
        assert_eq!(scores(&question, &answers(&[-2.0, -1.0]), &[Metric::Acc], Filter::None), [1.0]);
    }
}
