//! From what was asked for to a view that can be read: nothing is written here, and no weight read but by routers that
//! are made of prompts.

use super::super::failure::Failure;
use super::super::run_info::words;
use super::args::{DepthArg, GrowthArgs, RouterArg};
use super::gates;
use super::noise::Noise;
use super::operator::Operator;
use crate::formats::Checkpoint;
use crate::growth::mergekit::passthrough_yaml;
use crate::growth::{
    BlockExpansion, ExpertInit, FineGrained, GivenRouters, Grown, GrowthPlan, LayerPlan, PlanError, Recipe, UpcyclePlan,
};
use crate::weights::{LayerTensor, Projection, TensorId, WeightSource};

/// Experts beyond which a plan is taken for a typing error: each has to be listed.
const MOST_EXPERTS: usize = 4096;

/// A grown source, not read yet.
pub(in crate::cli) struct Growth<'a> {
    /// Its weights.
    pub source: Box<dyn WeightSource + 'a>,
    /// What was done, in the order in which it was.
    pub operators: Vec<Operator>,
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
        match self.operators[..] {
            [] => "a copy".to_owned(),
            _ => self.operators.iter().map(Operator::to_string).collect::<Vec<_>>().join(", then "),
        }
    }
}

impl<'a> Growth<'a> {
    /// The base as it is.
    fn none(base: &'a Checkpoint) -> Self {
        Self {
            source: Box::new(base),
            operators: Vec::new(),
            warnings: Vec::new(),
            kept: Vec::new(),
            preserves: true,
            rounds: false,
            noise: None,
        }
    }

    /// Grows it deep; `name` is what a mergekit file calls the base.
    fn deepen(mut self, depth: DepthArg, name: &str) -> Result<Self, PlanError> {
        let num_layers = self.source.config().num_hidden_layers;
        let (plan, operator) = depth_plan(depth, num_layers)?;
        if let GrowthPlan::Splice(layers) = &plan {
            self.preserves = layers.as_slice().iter().copied().eq(0..num_layers);
            self.warnings.extend(warnings_of(layers, self.preserves));
        }
        if operator == (Operator::DepthUpScaling { overlap: 0 }) {
            let found = 2 * num_layers;
            self.warnings.push(format!(
                "--dus 0 leaves no layer out: each of the {num_layers} stands there twice, {found} in all"
            ));
        }
        if let Some(yaml) = passthrough_yaml(name, &plan, None) {
            self.kept.push(("mergekit_config.yml".to_owned(), yaml.into_bytes()));
        }
        self.operators.push(operator);
        self.source = Box::new(Grown::new(self.source, plan)?);
        Ok(self)
    }

    /// Grows it wide.
    fn widen(mut self, plan: UpcyclePlan, args: &GrowthArgs, base: &Checkpoint) -> Result<Self, Failure> {
        let growth_plan = GrowthPlan::Upcycle(plan);
        growth_plan.config(self.source.config()).map_err(|error| args.blame(error))?;
        let expert = first_matrix(LayerTensor::Expert(0, Projection::Gate));
        let copies = matches!(growth_plan.recipe(self.source.config(), expert), Recipe::Copy { .. });
        self.preserves &= copies;
        self.warnings.extend(warnings_of_mixture(&plan, args, copies));
        let rows = match (args.router, &args.prompts) {
            (Some(RouterArg::Hidden), Some(file)) => {
                Some(gates::from_file(file, &self.source, base, plan.num_local_experts)?)
            }
            (Some(RouterArg::Hidden), None) => {
                let message = "--router hidden needs --prompts, a file with the prompt of one expert a line";
                return Err(Failure::usage(message));
            }
            (_, Some(_)) => return Err(Failure::usage("--prompts is for --router hidden")),
            (_, None) => None,
        };
        if let (ExpertInit::Noise { relative_std }, false) = (plan.init, copies) {
            let upcycled = |plan| Grown::new(&self.source, GrowthPlan::Upcycle(plan));
            let (still, noisy) = (upcycled(UpcyclePlan { init: ExpertInit::Copy, ..plan })?, upcycled(plan)?);
            self.noise = Some(Noise::sample(format!("--noise {relative_std}"), (&still, expert), (&noisy, expert))?);
        }
        let prompts = args.prompts.as_ref().map(|file| words(&file.to_string_lossy()));
        self.operators.push(Operator::upcycle(plan, prompts));
        self.source = Box::new(Grown::new(self.source, growth_plan)?);
        if let Some(rows) = rows {
            self.source = Box::new(GivenRouters::new(self.source, rows)?);
        }
        Ok(self)
    }

    /// Cuts its experts into finer ones.
    fn cut(mut self, num_parts: usize) -> Result<Self, PlanError> {
        if num_parts == 1 {
            self.warnings.push("--granularity 1 cuts nothing: each expert is one part".to_owned());
        }
        self.operators.push(Operator::Granularity { num_parts });
        self.rounds |= !num_parts.is_power_of_two();
        self.source = Box::new(FineGrained::new(self.source, num_parts)?);
        Ok(self)
    }
}

/// The view of a base called `name` that these options ask for; of the base itself if none does.
///
/// # Errors
/// If a plan does not fit the base, or routers cannot be made of the prompts.
pub(in crate::cli) fn grown<'a>(base: &'a Checkpoint, name: &str, args: &GrowthArgs) -> Result<Growth<'a>, Failure> {
    let mut growth = Growth::none(base);
    if let Some(depth) = args.depth() {
        growth = growth.deepen(depth, name).map_err(|error| args.blame(error))?;
    }
    if let Some(plan) = args.upcycle()? {
        few_enough(plan.num_local_experts)?;
        growth = growth.widen(plan, args, base)?;
    }
    if let Some(num_parts) = args.granularity {
        growth = growth.cut(num_parts).map_err(|error| args.blame(error))?;
        few_enough(growth.source.config().moe.map_or(0, |moe| moe.num_local_experts))?;
    }
    Ok(growth)
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

fn depth_plan(depth: DepthArg, num_layers: usize) -> Result<(GrowthPlan, Operator), PlanError> {
    Ok(match depth {
        DepthArg::UpScale(overlap) => (
            GrowthPlan::Splice(LayerPlan::depth_up_scaling(num_layers, overlap)?),
            Operator::DepthUpScaling { overlap },
        ),
        DepthArg::Stack(copies) => {
            (GrowthPlan::Splice(LayerPlan::stack(num_layers, copies)?), Operator::Stack { copies })
        }
        DepthArg::IdentityBlocks(num_blocks) => (
            GrowthPlan::Expand(BlockExpansion::identity_blocks(num_layers, num_blocks)?),
            Operator::IdentityBlocks { num_blocks },
        ),
    })
}

fn warnings_of(layers: &LayerPlan, is_base: bool) -> Vec<String> {
    let unused = layers.unused_layers();
    let left_out = (!unused.is_empty()).then(|| format!("layers {unused:?} of the base are left out"));
    let nothing =
        is_base.then(|| "the result has the layers of the base, in their order: nothing grows deep".to_owned());
    left_out.into_iter().chain(nothing).collect()
}

fn warnings_of_mixture(plan: &UpcyclePlan, args: &GrowthArgs, copies: bool) -> Vec<String> {
    let (experts, visited) = (plan.num_local_experts, plan.num_experts_per_tok);
    let mut warnings = Vec::new();
    if experts == 1 {
        warnings.push("there is 1 expert: the router has nothing to decide".to_owned());
    } else if copies && experts == visited {
        warnings.push(format!(
            "every token visits all {experts} experts, which are copies: nothing but {experts} times the cost of one MLP"
        ));
    } else if copies && args.router == Some(RouterArg::Zero) {
        warnings.push(
            "a router of zeros before identical experts: every token visits the first ones, and nothing but the \
             balancing loss will tell them apart"
                .to_owned(),
        );
    }
    let asked =
        [("--noise", args.noise), ("--drop", args.drop)].into_iter().find_map(|(name, size)| Some((name, size?)));
    if let Some((name, size)) = asked.filter(|_| copies) {
        warnings.push(format!("{name} {size} changes no number: the experts are copies"));
    }
    warnings
}
