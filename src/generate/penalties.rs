//! Penalties on tokens that were there before.

use std::borrow::Cow;
use std::collections::HashMap;

use super::Sampling;

/// The tokens of a sequence, counted as far as penalties need it.
#[derive(Debug, Clone, Default)]
pub(super) struct Penalties {
    /// Times that a token is in the output; 0 if it is in the prompt only.
    counts: HashMap<u32, usize>,
}

impl Penalties {
    /// Of a sequence that begins with a prompt.
    pub(super) fn new(sampling: &Sampling, prompt: &[u32]) -> Self {
        let counts = if sampling.repetition_penalty == 1.0 { &[] } else { prompt };
        Self { counts: counts.iter().map(|id| (*id, 0)).collect() }
    }

    /// Adds a token of the output.
    pub(super) fn push(&mut self, sampling: &Sampling, id: u32) {
        if has_penalties(sampling) {
            *self.counts.entry(id).or_insert(0) += 1;
        }
    }

    /// The logits, with those of tokens that were there before changed. They are copied only if there are such tokens.
    pub(super) fn apply<'a>(&self, sampling: &Sampling, logits: &'a [f32]) -> Cow<'a, [f32]> {
        if self.counts.is_empty() {
            return Cow::Borrowed(logits);
        }
        let mut logits = logits.to_vec();
        for (id, count) in &self.counts {
            let Some(logit) = logits.get_mut(*id as usize) else { continue };
            let mut x = f64::from(*logit);
            x = if x > 0.0 { x / sampling.repetition_penalty } else { x * sampling.repetition_penalty };
            x -= *count as f64 * sampling.frequency_penalty;
            x -= if *count > 0 { sampling.presence_penalty } else { 0.0 };
            // Keeps the logit finite when the penalty is near 0.
            *logit = if logit.is_finite() { (x as f32).clamp(f32::MIN, f32::MAX) } else { x as f32 };
        }
        Cow::Owned(logits)
    }
}

fn has_penalties(sampling: &Sampling) -> bool {
    sampling.repetition_penalty != 1.0 || sampling.frequency_penalty != 0.0 || sampling.presence_penalty != 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::SamplingFields;

    fn after(fields: SamplingFields, prompt: &[u32], output: &[u32]) -> Vec<f32> {
        let sampling = Sampling::new(fields).unwrap();
        let mut penalties = Penalties::new(&sampling, prompt);
        output.iter().for_each(|id| penalties.push(&sampling, *id));
        penalties.apply(&sampling, &[2.0, -2.0, 4.0, 1.0]).into_owned()
    }

    #[test]
    fn logits_are_copied_only_for_a_penalty() {
        let is_copied = |fields: SamplingFields| {
            let sampling = Sampling::new(fields).unwrap();
            let mut penalties = Penalties::new(&sampling, &[0]);
            penalties.push(&sampling, 1);
            matches!(penalties.apply(&sampling, &[1.0, 2.0]), Cow::Owned(_))
        };
        assert!(!is_copied(SamplingFields::default()));
        assert!(is_copied(SamplingFields { presence_penalty: 0.5, ..SamplingFields::default() }));
    }

    #[test]
    fn repetition_concerns_prompt_and_output_and_the_others_the_output() {
        let none = SamplingFields::default();
        assert_eq!(after(none, &[0, 1], &[2]), [2.0, -2.0, 4.0, 1.0]);
        let repetition = SamplingFields { repetition_penalty: 2.0, ..none };
        assert_eq!(after(repetition, &[0, 1, 9], &[2, 2]), [1.0, -4.0, 2.0, 1.0]);
        let frequency = SamplingFields { frequency_penalty: 0.5, ..none };
        assert_eq!(after(frequency, &[0, 1], &[2, 2, 3]), [2.0, -2.0, 3.0, 0.5]);
        let presence = SamplingFields { presence_penalty: 0.5, ..none };
        assert_eq!(after(presence, &[0, 1], &[2, 2, 3]), [2.0, -2.0, 3.5, 0.5]);
    }
}
