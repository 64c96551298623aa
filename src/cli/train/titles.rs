//! The words of the pictures of a run.

use crate::finetune::{Job, Method, Titles};

/// What is drawn of a run, of which model.
pub(super) fn titles(job: &Job<'_>) -> Titles {
    let settings = job.settings;
    let (loss, unit) = loss(job.method());
    let base = &job.sources.readable_names()[0];
    let growth = job.growth.source.plans().next().map(|_| job.growth.title());
    let (model, grown) = model(base, growth.as_deref());
    let subtitle = format!(
        "{grown}{} updates of {} rows of at most {} tokens, peak learning rate {}",
        settings.schedule.num_steps, settings.batch_size, settings.max_length, settings.schedule.peak
    );
    Titles { loss, unit, model, subtitle }
}

/// The name and the unit of a loss.
fn loss(method: Method) -> (&'static str, &'static str) {
    match method {
        Method::Pretraining => ("Next-token loss", "nats per token"),
        Method::Sft => ("Fine-tuning loss", "nats per trained token"),
        Method::Dpo => ("Preference loss", "per pair"),
    }
}

/// The model for the title, which is not the base if it was grown, and the growth for the line below.
fn model(base: &str, growth: Option<&str>) -> (String, String) {
    match growth {
        Some(growth) => (format!("grown {base}"), format!("grown by {growth}; ")),
        None => (base.to_owned(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grown_model_is_not_called_by_the_name_of_its_base_alone() {
        let (name, grown) = model("smollm2", Some("depth up-scaling, m = 6"));
        assert_eq!((name.as_str(), grown.as_str()), ("grown smollm2", "grown by depth up-scaling, m = 6; "));
        assert_eq!(model("smollm2", None), ("smollm2".to_owned(), String::new()));
    }
}
