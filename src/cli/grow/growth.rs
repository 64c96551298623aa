//! From what was asked for to a view that can be read: nothing is written here, and no weight read but by routers that
//! are made of prompts.

use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::run_info::words;
use super::args::{GrowthArgs, RouterArg};
use super::gates;
use super::noise::Noise;
use crate::config::DecoderConfig;
use crate::formats::Checkpoint;
use crate::growth::mergekit::passthrough_yaml;
use crate::growth::{ExpertInit, Grown, GrowthPlan, LayerPlan, PlanError, RouterInit, UpcyclePlan};
use crate::weights::{LayerTensor, Projection, TensorId, WeightSource};

/// Experts beyond which a plan is taken for a typing error: each has to be listed.
const MOST_EXPERTS: usize = 4096;

/// A grown source, not read yet.
pub(in crate::cli) struct Growth<'a> {
    /// Its weights.
    pub source: Grown<&'a Checkpoint>,
    /// What may not be meant.
    pub warnings: Vec<String>,
    /// Files that say how to make it again.
    pub kept: Vec<(String, Vec<u8>)>,
    /// Whether it computes the function of its one base.
    pub preserves: bool,
    /// Whether numbers are computed on the way, and so rounded to the type that they have.
    pub rounds: bool,
    /// Some of the weights that noise is added to, if any is.
    pub noise: Option<Noise>,
}

impl Growth<'_> {
    /// What was done, in words.
    pub fn title(&self) -> String {
        let plans: Vec<String> = self.source.plans().map(GrowthPlan::to_string).collect();
        if plans.is_empty() { "a copy".to_owned() } else { plans.join(", then ") }
    }
}

/// The view of a base called `name` that these options ask for; of the base itself if none does.
///
/// # Errors
/// If a plan does not fit the base, or routers cannot be made of the prompts.
pub(in crate::cli) fn grown<'a>(base: &'a Checkpoint, name: &str, args: &GrowthArgs) -> Result<Growth<'a>, Failure> {
    let mut growth = Growth {
        source: Grown::all(base, [])?,
        warnings: Vec::new(),
        kept: Vec::new(),
        preserves: true,
        rounds: false,
        noise: None,
    };
    if let Some(plan) = args.depth() {
        growth.warnings.extend(warnings_of_depth(&plan, base.config()).map_err(|error| args.blame(error))?);
        if let Some(layers) = plan.layers(base.config().num_hidden_layers).map_err(|error| args.blame(error))? {
            let yaml = passthrough_yaml(name, &layers, None);
            growth.kept.push(("mergekit_config.yml".to_owned(), yaml.into_bytes()));
        }
        growth = growth.then(plan, args)?;
    }
    if let Some(plan) = args.upcycle()? {
        few_enough(plan.num_local_experts)?;
        growth = growth.widen(plan, args, base)?;
    }
    if let Some(num_parts) = args.granularity {
        if num_parts == 1 {
            growth.warnings.push("granularity 1 cuts nothing: each expert is one part".to_owned());
        }
        growth = growth.then(GrowthPlan::Granularity { num_parts }, args)?;
        few_enough(growth.source.config().moe.map_or(0, |moe| moe.num_local_experts))?;
    }
    Ok(growth)
}

impl<'a> Growth<'a> {
    fn then(mut self, plan: GrowthPlan, args: &GrowthArgs) -> Result<Self, Failure> {
        self.preserves &= plan.preserves_function(self.source.config()).map_err(|error| args.blame(error))?;
        self.rounds |= plan.rounds();
        self.source = self.source.then(plan).map_err(|error| args.blame(error))?;
        Ok(self)
    }

    /// Grows it wide.
    fn widen(self, plan: UpcyclePlan, args: &GrowthArgs, base: &Checkpoint) -> Result<Self, Failure> {
        let dense = self.source.clone();
        let mut wide = self.then(GrowthPlan::Upcycle(plan), args)?;
        let copies = plan.copies(dense.config().intermediate_size);
        wide.warnings.extend(warnings_of_mixture(&plan, copies));
        if let (ExpertInit::Noise { relative_std }, false) = (plan.init, copies) {
            let still = dense.clone().then(GrowthPlan::Upcycle(UpcyclePlan { init: ExpertInit::Copy, ..plan }))?;
            let expert = first_matrix(LayerTensor::Expert(0, Projection::Gate));
            let what = format!("noise {relative_std}");
            wide.noise = Some(Noise::sample(what, (&still, expert), (&wide.source, expert))?);
        }
        match (args.router, &args.prompts) {
            (Some(RouterArg::Hidden), Some(file)) => {
                let rows = gates::from_file(file, &dense, base, plan.num_local_experts)?;
                wide.then(GrowthPlan::Routers { rows, prompts: Some(words(&file.to_string_lossy())) }, args)
            }
            (Some(RouterArg::Hidden), None) => {
                let message = "--router hidden needs --prompts, a file with the prompt of one expert a line";
                Err(Failure::usage(message))
            }
            (_, Some(_)) => Err(Failure::usage("--prompts is for --router hidden")),
            (_, None) => Ok(wide),
        }
    }

    /// The growths for a record: routers of prompts are those of the upcycling before them.
    pub fn record(&self) -> Vec<Value> {
        let mut records: Vec<Value> = Vec::new();
        for plan in self.source.plans() {
            match (plan, records.last_mut()) {
                (GrowthPlan::Routers { prompts, .. }, Some(upcycle)) => {
                    upcycle["router"] = json!({"kind": "hidden", "prompts": prompts});
                }
                _ => records.push(json!(plan)),
            }
        }
        records
    }
}

fn few_enough(found: usize) -> Result<(), Failure> {
    if found > MOST_EXPERTS {
        return Err(Failure::invalid(format_args!(
            "the result would have {found} experts per layer, expected at most {MOST_EXPERTS}"
        )));
    }
    Ok(())
}

/// A matrix of the first layer.
pub(super) fn first_matrix(tensor: LayerTensor) -> TensorId {
    TensorId::Layer(0, tensor)
}

fn warnings_of_depth(plan: &GrowthPlan, base: &DecoderConfig) -> Result<Vec<String>, PlanError> {
    let num_layers = base.num_hidden_layers;
    let Some(layers) = plan.layers(num_layers)? else { return Ok(Vec::new()) };
    let mut warnings = Vec::new();
    if *plan == (GrowthPlan::DepthUpScaling { overlap: 0 }) {
        let twice = 2 * num_layers;
        warnings.push(format!(
            "overlap m = 0 drops no layer: each of the {num_layers} layers is there twice, {twice} in all"
        ));
    }
    let unused = layers.unused_layers();
    if !unused.is_empty() {
        warnings.push(format!("layers {unused:?} of the base are left out"));
    }
    if layers == LayerPlan::identity(num_layers)? {
        warnings.push("the result has the layers of the base, in their order: nothing grows deep".to_owned());
    }
    Ok(warnings)
}

fn warnings_of_mixture(plan: &UpcyclePlan, copies: bool) -> Vec<String> {
    let (experts, visited) = (plan.num_local_experts, plan.num_experts_per_tok);
    let mut warnings = Vec::new();
    if experts == 1 {
        warnings.push("there is 1 expert: the router has nothing to decide".to_owned());
    } else if copies && experts == visited {
        warnings.push(format!(
            "every token visits all {experts} experts, which are copies: nothing but {experts} times the cost of one MLP"
        ));
    } else if copies && plan.router == RouterInit::Zero {
        warnings.push(
            "a router of zeros before identical experts: every token visits the first ones, and nothing but the \
             balancing loss will tell them apart"
                .to_owned(),
        );
    }
    let asked = match plan.init {
        ExpertInit::Noise { relative_std } => Some(format!("noise {relative_std}")),
        ExpertInit::Drop { ratio } => Some(format!("drop ratio {ratio}")),
        ExpertInit::Copy => None,
    };
    if let Some(asked) = asked.filter(|_| copies) {
        warnings.push(format!("{asked} changes no number: the experts are copies"));
    }
    warnings
}
