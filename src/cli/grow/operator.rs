//! What was done to a base: one value for the people who read a plan and for the records that programs read.

use std::fmt;

use serde::Serialize;

use crate::growth::{ExpertInit, RouterInit, UpcyclePlan};

/// One growth.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(in crate::cli) enum Operator {
    /// Two copies of the layers, each less `overlap` of them.
    DepthUpScaling { overlap: usize },
    /// Copies of the layers, one on the other.
    Stack { copies: usize },
    /// Layers that compute nothing yet.
    IdentityBlocks { num_blocks: usize },
    /// Each MLP a mixture of experts.
    Upcycle {
        num_local_experts: usize,
        num_experts_per_tok: usize,
        router_aux_loss_coef: f64,
        experts: ExpertInit,
        router: Router,
        seed: u64,
    },
    /// Each expert in parts.
    Granularity { num_parts: usize },
    /// Layers of models, as a file of mergekit says.
    MergekitPassthrough {
        /// In words, for a title: records have the source of every layer.
        #[serde(skip)]
        layers: String,
    },
    /// Models as experts, as a file of mergekit-moe says.
    MergekitMoe { num_local_experts: usize, gate_mode: &'static str, seed: u64 },
}

/// How routers start.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(in crate::cli) enum Router {
    /// Drawn, or zeros.
    Init(RouterInit),
    /// From the hidden states of prompts.
    Hidden {
        /// `hidden`.
        kind: &'static str,
        /// The file that they stand in.
        prompts: String,
    },
}

impl Operator {
    /// An upcycling; with the name of a file of prompts, its routers are made of them.
    pub fn upcycle(plan: UpcyclePlan, prompts: Option<String>) -> Self {
        Self::Upcycle {
            num_local_experts: plan.num_local_experts,
            num_experts_per_tok: plan.num_experts_per_tok,
            router_aux_loss_coef: plan.router_aux_loss_coef,
            experts: plan.init,
            router: prompts.map_or(Router::Init(plan.router), |prompts| Router::Hidden { kind: "hidden", prompts }),
            seed: plan.seed,
        }
    }
}

/// `depth up-scaling, m = 8`; `8×top-2 mixture, experts with noise 0.01, router normal(0.02)`.
impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::DepthUpScaling { overlap } => write!(f, "depth up-scaling, m = {overlap}"),
            Self::Stack { copies: 1 } => f.write_str("a stack of 1 copy"),
            Self::Stack { copies } => write!(f, "a stack of {copies} copies"),
            Self::IdentityBlocks { num_blocks: 1 } => f.write_str("1 identity block"),
            Self::IdentityBlocks { num_blocks } => write!(f, "{num_blocks} identity blocks"),
            Self::Upcycle { num_local_experts, num_experts_per_tok, experts, router, .. } => {
                write!(f, "{num_local_experts}×top-{num_experts_per_tok} mixture, experts ")?;
                match experts {
                    ExpertInit::Copy => f.write_str("copied")?,
                    ExpertInit::Noise { relative_std } => write!(f, "with noise {relative_std}")?,
                    ExpertInit::Drop { ratio } => write!(f, "with {ratio} of their dimensions re-drawn")?,
                }
                match router {
                    Router::Init(init) => write!(f, ", router {init}"),
                    Router::Hidden { prompts, .. } => write!(f, ", router hidden from {prompts}"),
                }
            }
            Self::Granularity { num_parts } => {
                write!(f, "experts in {num_parts} part{}", if *num_parts == 1 { "" } else { "s" })
            }
            Self::MergekitPassthrough { layers } => write!(f, "mergekit passthrough: {layers}"),
            Self::MergekitMoe { num_local_experts, gate_mode, .. } => {
                write!(f, "mergekit-moe: {num_local_experts} experts, gates {gate_mode}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_title_tells_every_setting() {
        let plan = UpcyclePlan { init: ExpertInit::Drop { ratio: 0.5 }, ..UpcyclePlan::new(8, 2) };
        let expected = "8×top-2 mixture, experts with 0.5 of their dimensions re-drawn, router normal(0.02)";
        assert_eq!(Operator::upcycle(plan, None).to_string(), expected);
        let plan = UpcyclePlan { init: ExpertInit::Noise { relative_std: 0.01 }, ..plan };
        let operator = Operator::upcycle(plan, Some("prompts.txt".to_owned()));
        assert_eq!(operator.to_string(), "8×top-2 mixture, experts with noise 0.01, router hidden from prompts.txt");
        assert_eq!(Operator::Stack { copies: 3 }.to_string(), "a stack of 3 copies");
    }

    #[test]
    fn a_record_is_made_of_kinds_and_numbers() {
        let plan = UpcyclePlan { router: RouterInit::Zero, seed: 7, ..UpcyclePlan::new(4, 2) };
        let expected = json!({
            "kind": "upcycle",
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "router_aux_loss_coef": 0.02,
            "experts": {"kind": "copy"},
            "router": {"kind": "zero"},
            "seed": 7,
        });
        assert_eq!(json!(Operator::upcycle(plan, None)), expected);
        let hidden = json!(Operator::upcycle(plan, Some("p.txt".to_owned())));
        assert_eq!(hidden["router"], json!({"kind": "hidden", "prompts": "p.txt"}));
        assert_eq!(json!(Operator::DepthUpScaling { overlap: 8 }), json!({"kind": "depth_up_scaling", "overlap": 8}));
    }
}
