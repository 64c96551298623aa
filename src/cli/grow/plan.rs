//! The plan of a growth as text, and the result of its check.

use super::super::output::{aligned, operations, short_count, size};
use crate::upscale::{Cost, Forecast, Preservation};

/// The plan: growths, runs of layers, costs, files, warnings.
pub(super) fn plan_text(plan: &Forecast) -> String {
    let row = |name: &str, of: &dyn Fn(&Cost) -> String| vec![name.to_owned(), of(&plan.base), of(&plan.grown)];
    let experts = |c: &Cost| {
        c.config.moe.map_or("-".to_owned(), |moe| format!("{} of {}", moe.num_experts_per_tok, moe.num_local_experts))
    };
    let flops = format!("FLOPs per token at {}", Cost::context(&plan.base.config));
    let rows = [
        vec![String::new(), "base".to_owned(), "grown".to_owned()],
        row("layers", &|c| c.config.num_hidden_layers.to_string()),
        row("experts per layer", &experts),
        row("total parameters", &|c| short_count(c.total_parameters.into())),
        row("active parameters", &|c| short_count(c.active_parameters.into())),
        row(&flops, &|c| operations(c.forward_flops_per_token.into())),
        row("KV cache per token, 16 bit", &|c| size(c.kv_bytes_per_token)),
    ];
    let warnings: String = plan.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    let files = match &plan.files[..] {
        [file] => format!("{}, {}", file.name, size(plan.bytes_to_write)),
        files => format!("{} files of weights, {}", files.len(), size(plan.bytes_to_write)),
    };
    format!(
        "plan: {}\n{}{}{files}; {} free\n{warnings}",
        plan.title,
        plan.layers.iter().map(|run| format!("  {run}\n")).collect::<String>(),
        aligned(&rows),
        size(plan.free_bytes),
    )
}

/// The result of a check, a line per quantity.
pub(super) fn check_text(check: &Preservation) -> String {
    let d = &check.divergence;
    let verdict = match (check.expected, check.passed()) {
        (true, true) => "function preserved, up to rounding",
        (true, false) => "FAILED: the function should be preserved, and is not",
        (false, _) => "this growth changes the function; training has to repair the jump of the loss",
    };
    let rows = [
        ["tokens".to_owned(), d.num_tokens.to_string()],
        ["max |Δlogit|".to_owned(), format!("{:.3e} (largest |logit| {:.2})", d.max_abs_logit, d.base_max_abs_logit)],
        ["mean KL".to_owned(), format!("{:.3e} nats", d.mean_kl_nats)],
        ["same top-1 token".to_owned(), format!("{:.2} %", 100.0 * d.top1_agreement)],
        ["loss of the base".to_owned(), format!("{:.4} nats", d.base_loss_nats)],
        ["loss after growth".to_owned(), format!("{:.4} nats ({:+.4})", d.loss_nats, d.loss_nats - d.base_loss_nats)],
    ];
    format!("check: {verdict}\n{}", aligned(&rows.map(|row| row.to_vec())))
}
