//! Experts in CubeCL against the reference on Flex.

use burn::module::{Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::cube::{assert_equal, results};
use crate::device::check::{flat, numbers};
use crate::kernel::blocks::BlockFormat;
use crate::kernel::blocks::fixture::blocks;
use crate::kernel::expert_mlp::{
    Experts, QuantizedExpert, QuantizedExperts, StackedExperts, expert_mlp, expert_mlp_reference,
};
use crate::kernel::quantized_weight::QuantizedWeight;

type ExpertMlp = fn(Tensor<2>, Tensor<2>, Tensor<2, Int>, &Experts) -> Tensor<2>;

#[test]
fn experts_are_those_of_the_reference() {
    // Tokens, experts, experts per token, width, hidden size: with idle experts; with more visits than a low tile and than a
    // full tile has rows.
    for [tokens, num_experts, k, width, hidden] in
        [[1, 1, 1, 1, 1], [3, 9, 1, 5, 7], [19, 5, 2, 33, 70], [47, 3, 1, 70, 33], [250, 3, 2, 65, 20]]
    {
        let run = |f: ExpertMlp, device: &Device| {
            let matrices =
                [[num_experts * width, hidden], [num_experts * width, hidden], [num_experts * hidden, width]];
            let shapes = [[tokens, hidden], [tokens, num_experts], matrices[0], matrices[1], matrices[2]];
            let run = |[x, scores, gate, up, down]: [Tensor<2>; 5]| {
                let stack = |matrices: Tensor<2>, shape: [usize; 3]| {
                    Param::initialized(Default::default(), matrices.reshape(shape))
                };
                let experts = Experts::Stacked(StackedExperts {
                    gate_proj: stack(gate, [num_experts, width, hidden]),
                    up_proj: stack(up, [num_experts, width, hidden]),
                    down_proj: stack(down, [num_experts, hidden, width]),
                });
                let chosen = scores.clone().without_autodiff().topk_with_indices(k, 1).1;
                let weights = scores.gather(1, chosen.clone());
                f(x, if k > 1 { softmax(weights, 1) } else { weights }, chosen, &experts)
            };
            results(shapes, run, device)
        };
        let case =
            format!("{num_experts} experts of width {width}, hidden size {hidden}, {k} for each of {tokens} tokens");
        assert_equal(&case, |device| run(expert_mlp, device), |device| run(expert_mlp_reference, device));
    }
}

/// Eight experts of random blocks, whose gates have the given formats. Two are one, and one has the gate of another.
fn experts_in_blocks(
    gates: [BlockFormat; 2],
    format: BlockFormat,
    [width, hidden]: [usize; 2],
    device: &Device,
) -> QuantizedExperts {
    let matrix = |format, shape: [usize; 2], salt: usize| {
        let bytes = blocks(format, shape.iter().product(), salt as u64);
        QuantizedWeight::from_blocks(format, shape, &bytes, device)
    };
    let expert = |index: usize| QuantizedExpert {
        gate: matrix(gates[index % 2], [width, hidden], 3 * index),
        up: matrix(format, [width, hidden], 3 * index + 1),
        down: matrix(format, [hidden, width], 3 * index + 2),
    };
    let mut experts: Vec<_> = (0..8).map(expert).collect();
    experts[6] = experts[5].clone();
    experts[7].gate = experts[0].gate.clone();
    QuantizedExperts::new(experts)
}

/// `f` of that many tokens, each with two of five of eight experts.
fn of_two_experts(f: ExpertMlp, tokens: usize, x: Tensor<2>, experts: QuantizedExperts) -> Tensor<2> {
    const VISITED: [i64; 5] = [0, 2, 5, 6, 7];
    let chosen = (0..tokens).flat_map(|t| [3 * t + t / 2, 3 * t + t / 2 + 1 + t % 3].map(|i| VISITED[i % 5]));
    let chosen = TensorData::new(chosen.collect::<Vec<_>>(), [tokens, 2]);
    let (chosen, weights) = (Tensor::from_data(chosen, &x.device()), numbers(1, [tokens, 2], &x.device()));
    f(x, weights, chosen, &Experts::Quantized(experts))
}

#[test]
fn quantized_experts_are_those_of_the_reference() {
    use BlockFormat::{Q2_K, Q4_0, Q5_1, Q6_K, Q8_0};

    for (format, sizes) in
        [(Q4_0, [64, 96]), (Q8_0, [32, 64]), (Q5_1, [96, 32]), (Q2_K, [256, 256]), (Q6_K, [256, 512])]
    {
        // Parts of a tile, several tiles, and the last with more rows than read blocks.
        for tokens in [1, 2, 5, 70, 150] {
            let run = |f: ExpertMlp, device: &Device| {
                let experts = experts_in_blocks([format; 2], format, sizes, device);
                assert!(experts.has_kernel(device, 2 * tokens), "on the device alone");
                let x = numbers(0, [tokens, sizes[1]], device);
                [experts.clone(), experts.train().valid()]
                    .map(|experts| flat(of_two_experts(f, tokens, x.clone(), experts)))
                    .to_vec()
            };
            let case = format!("experts in {format:?}, {tokens} tokens");
            assert_equal(&case, |device| run(expert_mlp, device), |device| run(expert_mlp_reference, device));
        }
    }
}

#[test]
fn quantized_experts_of_several_formats_and_their_gradients_are_those_of_the_reference() {
    for gates in [[BlockFormat::Q4_0; 2], [BlockFormat::Q4_0, BlockFormat::Q8_0]] {
        let run = |f: ExpertMlp, device: &Device| {
            let experts = |device: &Device| experts_in_blocks(gates, BlockFormat::Q8_0, [32, 64], device);
            let mut found = vec![flat(of_two_experts(f, 9, numbers(0, [9, 64], device), experts(device)))];
            let trained = |[x]: [Tensor<2>; 1]| {
                let experts = experts(&x.device());
                of_two_experts(f, 9, x, experts)
            };
            found.extend(results([[9, 64]], trained, device));
            found
        };
        let case = format!("experts with gates in {gates:?}");
        assert_equal(&case, |device| run(expert_mlp, device), |device| run(expert_mlp_reference, device));
    }
}

#[test]
fn matrices_in_one_buffer_keep_their_values() {
    for format in BlockFormat::ALL {
        let values = |device: &Device| {
            let experts = experts_in_blocks([format; 2], format, [256, 256], device);
            let others = experts_in_blocks([format; 2], format, [256, 256], device);
            // Parts of two buffers.
            let parts = QuantizedExperts::new(vec![experts[3].clone(), others[4].clone()]);
            assert!(experts[5].up.shares_memory(&experts[6].up) && !experts[5].up.shares_memory(&experts[4].up));
            let matrices = [&experts[4].up, &experts[7].gate, &parts[0].gate, &parts[1].down];
            let rows = experts[3].up.rows(Tensor::from_data([[255, 0, 7]], device));
            matrices.iter().map(|weight| weight.values()).chain([flat(rows)]).collect()
        };
        assert_equal(&format!("experts in {format:?}"), values, values);
    }
}
