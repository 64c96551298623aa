//! A study as JSON. Studies that break a rule are neither written nor read.

use super::records::{Arm, SeedRun, Study};

/// Why a study cannot be written, read or drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The text is not JSON, or not a study.
    #[error("the text is not a record of a study: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The text is JSON of something else.
    #[error("expected a record of a comparison, which has arms, or of a profile, which has models")]
    OtherRecord,
    /// No scale holds a number.
    #[error("found the number {value:e}, which cannot be drawn")]
    OutOfRange {
        /// What was found.
        value: f64,
    },
    /// There is nothing to compare.
    #[error("the study has no arms")]
    NoArms,
    /// Two arms have the same name.
    #[error("two arms are named {name:?}")]
    DuplicateArm {
        /// The name.
        name: String,
    },
    /// A loss, a time or another real number is infinite or not a number: JSON cannot hold it, and no figure can show it.
    #[error("{field} of arm {arm:?} is {value}, expected a finite number")]
    NotFinite {
        /// The arm, or `study` for a number that all arms share.
        arm: String,
        /// The field, with step and seed.
        field: String,
        /// What was found.
        value: f64,
    },
    /// A timing is empty.
    #[error("a timing of arm {arm:?} has no samples")]
    NoSamples {
        /// The arm.
        arm: String,
    },
    /// A timed run took no time.
    #[error("a timing of arm {arm:?} has a sample of {sample_s} s, expected more than 0")]
    NoTime {
        /// The arm.
        arm: String,
        /// What was found.
        sample_s: f64,
    },
    /// The shares of experts do not form a block of layers × topics × experts.
    #[error("expert_load of arm {arm:?} is not layers × {num_topics} topics × {num_experts} experts")]
    RaggedExpertLoad {
        /// The arm.
        arm: String,
        /// Number of topics.
        num_topics: usize,
        /// Experts of its config.
        num_experts: usize,
    },
}

impl Study {
    /// The study as indented JSON, keys in the order of the fields.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn to_json(&self) -> Result<String, RecordError> {
        self.check()?;
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The study that [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// [`RecordError::Malformed`], or as [`check`](Self::check).
    pub fn from_json(text: &str) -> Result<Self, RecordError> {
        let study: Self = serde_json::from_str(text)?;
        study.check()?;
        Ok(study)
    }

    /// Checks that the study can be written, tabulated and drawn.
    ///
    /// # Errors
    /// The first broken rule, as its [`RecordError`].
    pub fn check(&self) -> Result<(), RecordError> {
        if self.arms.is_empty() {
            return Err(RecordError::NoArms);
        }
        let settings = &self.settings;
        let loads = self.rounds.iter().filter_map(|round| Some(("other_load_cpus", round.other_load_cpus?)));
        all_finite("study", loads)?;
        all_finite(
            "study",
            [
                ("heldout_loss_nats of the base", self.base.heldout_loss_nats),
                ("floor_nats", self.data.floor_nats.unwrap_or(0.0)),
                ("learning_rate", settings.learning_rate),
                ("warmup_fraction", settings.warmup_fraction),
                ("weight_decay", settings.weight_decay),
            ],
        )?;
        for (index, arm) in self.arms.iter().enumerate() {
            if self.arms[..index].iter().any(|before| before.name == arm.name) {
                return Err(RecordError::DuplicateArm { name: arm.name.clone() });
            }
            arm.runs.iter().try_for_each(|run| check_run(&arm.name, run))?;
            check_timings(arm)?;
            check_expert_load(arm)?;
        }
        Ok(())
    }
}

fn all_finite<'a>(arm: &str, numbers: impl IntoIterator<Item = (&'a str, f64)>) -> Result<(), RecordError> {
    match numbers.into_iter().find(|(_, value)| !value.is_finite()) {
        Some((field, value)) => Err(RecordError::NotFinite { arm: arm.to_owned(), field: field.to_owned(), value }),
        None => Ok(()),
    }
}

fn check_run(arm: &str, run: &SeedRun) -> Result<(), RecordError> {
    let placed = |place: String| {
        move |error| match error {
            RecordError::NotFinite { arm, field, value } => {
                RecordError::NotFinite { arm, field: format!("{field} {place}"), value }
            }
            other => other,
        }
    };
    let seed = run.seed;
    all_finite(
        arm,
        [
            ("loss_before_growth_nats", run.loss_before_growth_nats),
            ("loss_after_growth_nats", run.loss_after_growth_nats),
            ("wall_s", run.wall_s),
        ],
    )
    .map_err(placed(format!("with seed {seed}")))?;
    for point in &run.curve {
        let numbers = [
            ("train_loss_nats", point.train_loss_nats),
            ("learning_rate", point.learning_rate),
            ("grad_norm", point.grad_norm),
            ("aux_loss", point.aux_loss.unwrap_or(0.0)),
            ("tokens_per_second", point.tokens_per_second),
        ];
        all_finite(arm, numbers).map_err(placed(format!("at step {} with seed {seed}", point.step)))?;
    }
    for point in &run.evals {
        all_finite(arm, [("heldout_loss_nats", point.heldout_loss_nats)])
            .map_err(placed(format!("at step {} with seed {seed}", point.step)))?;
    }
    let Some(router) = &run.router else { return Ok(()) };
    let load_cv = router.load_cv.iter().map(|value| ("load_cv", *value));
    let entropy = router.entropy_nats.iter().map(|value| ("entropy_nats", *value));
    all_finite(arm, load_cv.chain(entropy)).map_err(placed(format!("with seed {seed}")))
}

fn check_timings(arm: &Arm) -> Result<(), RecordError> {
    for timing in &arm.timings {
        if timing.samples_s.is_empty() {
            return Err(RecordError::NoSamples { arm: arm.name.clone() });
        }
        all_finite(&arm.name, timing.samples_s.iter().map(|value| ("samples_s", *value)))?;
        if let Some(sample_s) = timing.samples_s.iter().copied().find(|sample_s| *sample_s <= 0.0) {
            return Err(RecordError::NoTime { arm: arm.name.clone(), sample_s });
        }
    }
    Ok(())
}

fn check_expert_load(arm: &Arm) -> Result<(), RecordError> {
    let Some(load) = &arm.expert_load else { return Ok(()) };
    let num_topics = load.topics.len();
    let num_experts = arm.config.moe.map_or(0, |moe| moe.num_local_experts);
    let whole = num_experts > 0
        && load.share.iter().all(|layer| layer.len() == num_topics)
        && load.share.iter().flatten().all(|experts| experts.len() == num_experts);
    if !whole {
        return Err(RecordError::RaggedExpertLoad { arm: arm.name.clone(), num_topics, num_experts });
    }
    all_finite(&arm.name, load.share.iter().flatten().flatten().map(|value| ("share", *value)))
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn refused(change: impl FnOnce(&mut Study)) -> RecordError {
        let mut study = fixture::study(3, 1);
        study.check().unwrap();
        change(&mut study);
        study.to_json().unwrap_err()
    }

    #[test]
    fn a_study_survives_json_bit_for_bit() {
        for study in [fixture::study(1, 1), fixture::study(5, 3)] {
            let json = study.to_json().unwrap();
            let again = Study::from_json(&json).unwrap();
            assert!(again == study, "a number changed on the way");
            assert!(again.to_json().unwrap() == json);
        }
    }

    #[test]
    fn an_older_record_without_a_micro_batch_size_is_read() {
        let json = fixture::study(1, 1).to_json().unwrap();
        let old = json.replace("    \"micro_batch_size\": 8,\n", "");
        assert_ne!(old, json);
        assert_eq!(Study::from_json(&old).unwrap().settings.micro_batch_size, None);
    }

    #[test]
    fn keys_are_in_the_order_of_the_fields() {
        let json = fixture::study(1, 1).to_json().unwrap();
        let at = |key: &str| json.find(&format!("\"{key}\"")).unwrap();
        assert!(["run", "base", "data", "settings", "arms"].map(at).is_sorted());
    }

    #[test]
    fn text_that_is_not_a_study_is_refused() {
        assert!(matches!(Study::from_json("{}"), Err(RecordError::Malformed(_))));
        let json = fixture::study(1, 1).to_json().unwrap();
        assert!(matches!(Study::from_json(&json[..json.len() / 2]), Err(RecordError::Malformed(_))));
    }

    #[test]
    fn a_study_is_checked_when_it_is_read() {
        let json = fixture::study(3, 1).to_json().unwrap();
        let twice = json.replace("DUS m = 2", "dense control");
        assert_ne!(twice, json);
        assert!(matches!(Study::from_json(&twice), Err(RecordError::DuplicateArm { .. })));
    }

    #[test]
    fn a_study_has_arms_with_different_names() {
        assert!(matches!(refused(|study| study.arms.clear()), RecordError::NoArms));
        let error = refused(|study| study.arms[1].name = study.arms[0].name.clone());
        assert!(matches!(error, RecordError::DuplicateArm { name } if name == "dense control"));
    }

    #[test]
    fn a_loss_that_is_not_a_number_is_refused_with_its_step() {
        let error = refused(|study| study.arms[1].runs[0].evals[2].heldout_loss_nats = f64::NAN);
        let message = error.to_string();
        assert!(message.starts_with("heldout_loss_nats at step "), "{message}");
        assert!(message.contains("\"DUS m = 2\""), "{message}");
    }

    #[test]
    fn every_real_number_is_finite() {
        let breaks: [fn(&mut Study); 10] = [
            |s| s.base.heldout_loss_nats = f64::INFINITY,
            |s| s.data.floor_nats = Some(f64::NAN),
            |s| s.settings.learning_rate = f64::NAN,
            |s| s.arms[0].runs[0].loss_after_growth_nats = f64::NAN,
            |s| s.arms[0].runs[0].wall_s = f64::NAN,
            |s| s.arms[0].runs[0].curve[0].grad_norm = f64::INFINITY,
            |s| s.arms[2].runs[0].curve[0].aux_loss = Some(f64::NAN),
            |s| s.arms[2].runs[0].router.as_mut().unwrap().entropy_nats[0] = f64::NAN,
            |s| s.arms[0].timings[0].samples_s[0] = f64::NAN,
            |s| s.arms[2].expert_load.as_mut().unwrap().share[0][0][0] = f64::NAN,
        ];
        for change in breaks {
            assert!(matches!(refused(change), RecordError::NotFinite { .. }));
        }
    }

    #[test]
    fn timings_have_samples_above_zero() {
        let error = refused(|study| study.arms[0].timings[0].samples_s.clear());
        assert!(matches!(error, RecordError::NoSamples { .. }));
        let error = refused(|study| study.arms[0].timings[0].samples_s[1] = 0.0);
        assert!(matches!(error, RecordError::NoTime { sample_s: 0.0, .. }));
    }

    #[test]
    fn expert_shares_form_a_block() {
        let error = refused(|study| {
            study.arms[2].expert_load.as_mut().unwrap().share[1][0].pop();
        });
        assert!(matches!(error, RecordError::RaggedExpertLoad { num_experts: 8, .. }));
    }
}
