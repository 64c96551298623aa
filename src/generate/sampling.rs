//! How the next token is chosen, checked.

use std::hash::{BuildHasher, RandomState};
use std::ops::Deref;

/// How the next token is chosen from logits, unchecked; [`Sampling`] is the checked form.
///
/// The steps are taken in this order, as transformers does: repetition penalty, frequency and presence penalty,
/// temperature, top-k, top-p, min-p. The rest is renormalized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingFields {
    /// Divides the logits; 0 chooses the most likely token (greedy).
    pub temperature: f64,
    /// Keeps this many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest most likely tokens whose probabilities sum to at least this (Holtzman et al., 2020, arXiv:1904.09751,
    /// §3.1); 1 keeps all, 0 the most likely one.
    pub top_p: f64,
    /// Keeps tokens of at least this probability relative to that of the most likely one (Nguyen et al., 2024,
    /// arXiv:2407.01082, §3); 0 keeps all.
    pub min_p: f64,
    /// Divides positive logits and multiplies negative ones of tokens of the prompt or the output (Keskar et al., 2019,
    /// arXiv:1909.05858, §4.1); 1 changes nothing.
    pub repetition_penalty: f64,
    /// Subtracted from the logit of a token for each time it is in the output.
    pub frequency_penalty: f64,
    /// Subtracted from the logit of a token that is in the output.
    pub presence_penalty: f64,
    /// Of the random numbers.
    pub seed: u64,
}

impl Default for SamplingFields {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: 0,
        }
    }
}

/// How the next token is chosen from logits.
///
/// ```
/// use deepwide::generate::{Sampling, SamplingFields};
///
/// let nucleus = Sampling::new(SamplingFields { temperature: 0.7, top_p: 0.9, ..SamplingFields::default() })?;
/// assert!(!nucleus.is_greedy());
/// assert!(Sampling::new(SamplingFields { top_p: 1.1, ..SamplingFields::default() }).is_err());
/// # Ok::<(), deepwide::generate::SamplingFault>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sampling(SamplingFields);

/// A number of [`SamplingFields`] that is out of its range.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("found {field} = {found}, expected a number {expected}")]
pub struct SamplingFault {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub found: f64,
    /// Its range, in words.
    pub expected: &'static str,
}

impl Sampling {
    /// The most likely token, always.
    pub fn greedy() -> Self {
        Self::default()
    }

    /// Checks the fields.
    ///
    /// # Errors
    /// The first field out of its range.
    pub fn new(fields: SamplingFields) -> Result<Self, SamplingFault> {
        let SamplingFields { temperature, top_p, min_p, repetition_penalty, .. } = fields;
        let penalty = |x: f64| (-2.0..=2.0).contains(&x);
        let rules = [
            ("temperature", temperature, temperature >= 0.0 && temperature.is_finite(), "of at least 0"),
            ("top_p", top_p, (0.0..=1.0).contains(&top_p), "from 0 to 1"),
            ("min_p", min_p, (0.0..=1.0).contains(&min_p), "from 0 to 1"),
            (
                "repetition_penalty",
                repetition_penalty,
                repetition_penalty > 0.0 && repetition_penalty.is_finite(),
                "above 0",
            ),
            ("frequency_penalty", fields.frequency_penalty, penalty(fields.frequency_penalty), "from -2 to 2"),
            ("presence_penalty", fields.presence_penalty, penalty(fields.presence_penalty), "from -2 to 2"),
        ];
        match rules.into_iter().find(|(_, _, is_kept, _)| !is_kept) {
            Some((field, found, _, expected)) => Err(SamplingFault { field, found, expected }),
            None => Ok(Self(fields)),
        }
    }

    /// Whether nothing is drawn.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

impl Deref for Sampling {
    type Target = SamplingFields;

    fn deref(&self) -> &SamplingFields {
        &self.0
    }
}

/// A seed for a run that is given none: the standard library draws the keys of its hash maps from the system.
pub fn fresh_seed() -> u64 {
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let refusal = |change: fn(&mut SamplingFields)| {
            let mut fields = SamplingFields::default();
            change(&mut fields);
            Sampling::new(fields).map(|_| ()).map_err(|fault| fault.field)
        };
        assert_eq!(refusal(|f| f.temperature = -0.1), Err("temperature"));
        assert_eq!(refusal(|f| f.temperature = f64::NAN), Err("temperature"));
        assert_eq!(refusal(|f| f.temperature = f64::INFINITY), Err("temperature"));
        assert_eq!(refusal(|f| f.temperature = 1e-40), Ok(()));
        assert_eq!(refusal(|f| f.top_p = 1.01), Err("top_p"));
        assert_eq!(refusal(|f| f.top_p = 0.0), Ok(()));
        assert_eq!(refusal(|f| f.min_p = -0.01), Err("min_p"));
        assert_eq!(refusal(|f| f.repetition_penalty = 0.0), Err("repetition_penalty"));
        assert_eq!(refusal(|f| f.frequency_penalty = 2.1), Err("frequency_penalty"));
        assert_eq!(refusal(|f| f.presence_penalty = f64::NAN), Err("presence_penalty"));
        let fault = Sampling::new(SamplingFields { top_p: 2.0, ..SamplingFields::default() }).unwrap_err();
        assert_eq!(fault.to_string(), "found top_p = 2, expected a number from 0 to 1");
    }
}
