//! Tokens colored by their experts.

use std::fmt::Write;
use std::io::{self, IsTerminal};

use crate::cli::failure::Failure;
use crate::cli::model::Loaded;
use crate::cli::output::aligned;
use crate::generate::{Output, TokenText};

/// Foreground colors of a terminal with 256 colors, far apart; more experts take them again.
const COLORS: [u8; 12] = [39, 208, 42, 201, 226, 196, 141, 51, 214, 112, 170, 250];

/// The layer whose experts are shown.
#[derive(Debug)]
pub(super) struct RoutingView {
    layer: usize,
    num_experts: usize,
    has_colors: bool,
}

impl RoutingView {
    /// Of a layer, or of the middle one.
    ///
    /// # Errors
    /// If the model has no experts or no such layer.
    pub(super) fn new(loaded: &Loaded, layer: Option<usize>) -> Result<Self, Failure> {
        let Some((num_layers, num_experts)) = loaded.experts() else {
            return Err(Failure::invalid("the model has no experts").for_option("--show-routing"));
        };
        let layer = layer.unwrap_or(num_layers / 2);
        if layer >= num_layers {
            let message = format!("the model has {num_layers} layers, expected one from 0 to {}", num_layers - 1);
            return Err(Failure::invalid(message).for_option(format_args!("--show-routing={layer}")));
        }
        Ok(Self { layer, num_experts, has_colors: has_colors() })
    }

    /// The text of tokens, each in the color of its expert; without colors, behind its number.
    pub(super) fn colored(&self, tokens: &[TokenText]) -> String {
        let mut text = String::new();
        for token in tokens.iter().filter(|token| !token.text.is_empty()) {
            let expert = token.token.experts[self.layer];
            let _infallible = match self.has_colors {
                true => {
                    let color = COLORS[expert as usize % COLORS.len()];
                    write!(text, "\x1b[38;5;{color}m{}\x1b[0m", token.text)
                }
                false => write!(text, "[{expert}]{}", token.text),
            };
        }
        text
    }

    /// How often each expert was the heaviest one, in this layer and in all.
    pub(super) fn shares(&self, outputs: &[Output]) -> String {
        let mut counts = vec![[0usize; 2]; self.num_experts];
        for token in outputs.iter().flat_map(|output| &output.tokens) {
            for (layer, expert) in token.token.experts.iter().enumerate() {
                counts[*expert as usize][0] += usize::from(layer == self.layer);
                counts[*expert as usize][1] += 1;
            }
        }
        let total = |which: usize| counts.iter().map(|count| count[which]).sum::<usize>().max(1) as f64;
        let totals = [total(0), total(1)];
        let mut rows = vec![vec!["expert".to_owned(), format!("layer {}", self.layer), "all layers".to_owned()]];
        rows.extend(counts.iter().enumerate().map(|(expert, count)| {
            let share = |which: usize| format!("{:.1} %", 100.0 * count[which] as f64 / totals[which]);
            vec![expert.to_string(), share(0), share(1)]
        }));
        aligned(&rows)
    }
}

/// Whether stdout shows colors: a terminal, unless `NO_COLOR` is set, or `CLICOLOR_FORCE` asks for them.
fn has_colors() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_set("CLICOLOR_FORCE") || (io::stdout().is_terminal() && !is_set("NO_COLOR"))
}
