//! Experts as a composition: the tokens of each are gathered, and each computes in its own way.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// `y_t = Σ_j weights[t, j] · expert(e, x_t)`, `e = chosen[t, j]`, where `expert` maps the gathered tokens of one expert,
/// of which it gets the indices too.
///
/// For experts whose products [`expert_mlp`](super::expert_mlp) does not know, as those with adapters. Tokens are sorted by
/// expert on the host; results are summed in the order of `j`.
///
/// # Shapes
/// - `x`, result: `[num_tokens, hidden_size]`
/// - `weights`, `chosen`: `[num_tokens, num_experts_per_tok]`
/// - `expert`: `[num_visits, hidden_size]` to the same
///
/// # Panics
/// If the sizes disagree or an expert does not exist.
pub fn expert_mlp_grouped(
    x: Tensor<2>,
    weights: Tensor<2>,
    chosen: Tensor<2, Int>,
    num_experts: usize,
    expert: impl Fn(usize, &[usize], Tensor<2>) -> Tensor<2>,
) -> Tensor<2> {
    let [num_tokens, hidden_size] = x.dims();
    let [_, k] = chosen.dims();
    assert_eq!(weights.dims(), [num_tokens, k], "expert_mlp: tokens and routing");
    if num_tokens == 0 {
        return x;
    }
    let device = x.device();
    let mut visits = vec![Vec::new(); num_experts];
    for (visit, index) in chosen.into_data().iter::<i64>().enumerate() {
        let of_expert = usize::try_from(index).ok().and_then(|index| visits.get_mut(index));
        of_expert.unwrap_or_else(|| panic!("expert_mlp: expert {index} of {num_experts}")).push(visit);
    }
    // In training, an expert without visits computes a row that nothing reads: its parameters get gradients of zero and not none.
    let idle_rows = usize::from(device.is_autodiff());
    let (mut outputs, mut place, mut num_rows) = (Vec::new(), vec![0; num_tokens * k], 0);
    for (index, visits) in visits.iter().enumerate() {
        visits.iter().enumerate().for_each(|(row, visit)| place[*visit] = num_rows + row);
        let tokens: Vec<usize> = match visits.as_slice() {
            [] => vec![0; idle_rows],
            visits => visits.iter().map(|visit| visit / k).collect(),
        };
        num_rows += tokens.len();
        if !tokens.is_empty() {
            let rows = x.clone().select(0, indices(&tokens, &device));
            outputs.push(expert(index, &tokens, rows));
        }
    }
    let sorted = Tensor::cat(outputs, 0).select(0, indices(&place, &device));
    let of_visits = sorted.reshape([num_tokens, k, hidden_size]);
    (of_visits * weights.reshape([num_tokens, k, 1])).sum_dim(1).reshape([num_tokens, hidden_size])
}

fn indices(indices: &[usize], device: &Device) -> Tensor<1, Int> {
    let len = indices.len();
    let indices: Vec<i64> = indices.iter().map(|index| *index as i64).collect();
    Tensor::from_data(TensorData::new(indices, [len]), device)
}
