//! Dropout whose masks are functions of places, not of the state of a generator (Srivastava et al., 2014, JMLR 15).
//!
//! A hash of the token, the column and the module decides whether an element is dropped. So a token has the same mask however its
//! batch is cut and packed, a run that is resumed has those of one that was never stopped, and the gradient computes the mask again
//! instead of keeping it.

#[cfg(feature = "flex")]
mod autodiff;
#[cfg(feature = "flex")]
mod cpu;

use std::sync::Arc;

#[cfg(feature = "flex")]
use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::{Device, Tensor, TensorData};

/// Whether this device has a kernel.
pub fn has_kernel(device: &Device) -> bool {
    super::is_flex(device)
}

/// The elements of the input of a module that are dropped.
#[derive(Debug, Clone)]
pub struct DropoutMask {
    /// A random number of each row.
    rows: Arc<[u32]>,
    /// A random number of the module.
    module: u32,
    /// Elements are dropped if their hash is below: `probability · 2³²`.
    threshold: u32,
    /// Factor of the others.
    scale: f32,
}

impl DropoutMask {
    /// A mask that drops each element with this probability. `rows` has a random number of each row, `module` is one of the module.
    ///
    /// # Panics
    /// If the probability is not at least 0 and below 1.
    pub fn new(rows: Arc<[u32]>, module: u32, probability: f64) -> Self {
        assert!((0.0..1.0).contains(&probability), "dropout: probability {probability}");
        let threshold = (probability * f64::from(u32::MAX)) as u32;
        Self { rows, module, threshold, scale: (1.0 / (1.0 - probability)) as f32 }
    }

    /// The mask of some of the rows.
    ///
    /// # Panics
    /// If there is no such row.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        Self { rows: rows.iter().map(|row| self.rows[*row]).collect(), ..self.clone() }
    }

    /// The random number of a row in this module.
    #[inline(always)]
    fn row(&self, row: usize) -> u32 {
        mixed(self.rows[row] ^ self.module)
    }

    /// The factor of an element: 0 if it is dropped.
    #[inline(always)]
    fn factor(&self, row: u32, column: u32) -> f32 {
        // The golden ratio spreads consecutive columns.
        let hash = mixed(row.wrapping_add(column.wrapping_mul(0x9e37_79b9)));
        if hash < self.threshold { 0.0 } else { self.scale }
    }
}

/// A bijection in which every bit of the result depends on every bit of `bits` (`lowbias32` of Wellons, 2018, *Prospecting for
/// Hash Functions*).
#[inline(always)]
fn mixed(mut bits: u32) -> u32 {
    bits = (bits ^ bits >> 16).wrapping_mul(0x7feb_352d);
    bits = (bits ^ bits >> 15).wrapping_mul(0x846c_a68b);
    bits ^ bits >> 16
}

/// `x ∘ mask / (1 − p)`: each element is zero with probability `p`.
///
/// # Shapes
/// - `x`, result: `[.., width]`, with as many rows as the mask
///
/// # Panics
/// If the number of rows differs.
pub fn dropout<const D: usize>(x: Tensor<D>, mask: &DropoutMask) -> Tensor<D> {
    check(&x, mask);
    #[cfg(feature = "flex")]
    if has_kernel(&x.device()) {
        return Tensor::from_dispatch(<Dispatch as Dropout>::dropout_rows(x.into_dispatch(), mask.clone()));
    }
    dropout_reference(x, mask)
}

/// The same by a product with the mask, which is made on the host.
///
/// # Panics
/// As [`dropout`].
pub fn dropout_reference<const D: usize>(x: Tensor<D>, mask: &DropoutMask) -> Tensor<D> {
    check(&x, mask);
    let (shape, device) = (x.dims(), x.device());
    let columns = 0..shape[D - 1] as u32;
    let rows = (0..mask.rows.len()).map(|row| mask.row(row));
    let factors: Vec<f32> = rows.flat_map(|row| columns.clone().map(move |column| mask.factor(row, column))).collect();
    x * Tensor::from_data(TensorData::new(factors, shape), &device)
}

fn check<const D: usize>(x: &Tensor<D>, mask: &DropoutMask) {
    let shape = x.dims();
    assert_eq!(shape[..D - 1].iter().product::<usize>(), mask.rows.len(), "dropout: rows of {shape:?} and of the mask");
}

/// The operation on a backend, which is its own gradient.
#[cfg(feature = "flex")]
#[backend_extension(Flex, Autodiff)]
trait Dropout: Backend {
    /// The elements times their factors.
    fn dropout_rows(x: FloatTensor<Self>, mask: DropoutMask) -> FloatTensor<Self>;
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;
    use crate::kernel::fixture::random;

    fn mask(num_rows: u32, module: u32, probability: f64) -> DropoutMask {
        DropoutMask::new((0..num_rows).collect(), module, probability)
    }

    #[test]
    fn the_kernel_gives_the_output_and_gradient_of_the_reference_to_the_bit() {
        let device = Device::flex().autodiff();
        for (batch_size, seq_length, width) in [(1, 1, 1), (2, 3, 7), (3, 40, 600)] {
            let x = random([batch_size, seq_length, width], &device).require_grad();
            let scale = random([batch_size, seq_length, width], &device);
            let mask = mask((batch_size * seq_length) as u32, 5, 0.3);
            let run = |f: fn(Tensor<3>, &DropoutMask) -> Tensor<3>| {
                let y = f(x.clone(), &mask);
                let grads = (y.clone() * scale.clone()).sum().backward();
                [y.inner().into_data(), x.grad(&grads).unwrap().into_data()]
            };
            assert_eq!(run(dropout), run(dropout_reference));
        }
    }

    fn ones(mask: &DropoutMask) -> Vec<f32> {
        let x = Tensor::<2>::ones([mask.rows.len(), 512], &Device::flex());
        dropout(x, mask).into_data().try_into_vec().unwrap()
    }

    #[test]
    fn elements_are_dropped_as_often_as_asked_and_the_mean_stays() {
        for probability in [0.0, 0.05, 0.5, 0.9] {
            let found = ones(&mask(512, 1, probability));
            let dropped = found.iter().filter(|x| **x == 0.0).count() as f64 / found.len() as f64;
            assert!((dropped - probability).abs() < 0.005, "{dropped} {probability}");
            let mean = found.iter().map(|x| f64::from(*x)).sum::<f64>() / found.len() as f64;
            assert!((mean - 1.0).abs() < 0.05, "{mean}");
        }
    }

    #[test]
    fn masks_depend_on_row_and_module_and_not_on_the_other_rows() {
        let whole = ones(&mask(8, 1, 0.5));
        assert_eq!(ones(&mask(8, 1, 0.5).select(&[5, 2]))[..512], whole[5 * 512..6 * 512]);
        // Independent masks agree in half of the elements.
        let agree = |a: &[f32], b: &[f32]| a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64;
        assert!((agree(&whole, &ones(&mask(8, 2, 0.5))) - 0.5).abs() < 0.05);
        assert!((agree(&whole[..512], &whole[512..1024]) - 0.5).abs() < 0.1);
    }

    #[test]
    #[should_panic(expected = "dropout: rows of [2, 3] and of the mask")]
    fn a_mask_of_other_rows_is_refused() {
        dropout(Tensor::<2>::ones([2, 3], &Device::flex()), &mask(3, 1, 0.5));
    }
}
