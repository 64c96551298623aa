//! A source in another number format.

use super::step::{Step, stream_through};
use crate::config::DecoderConfig;
use crate::weights::{Dtype, Lineage, Sink, TensorId, WeightError, WeightSource};

/// A source each of whose weights is rounded to one type, to nearest, ties to even.
///
/// A weight that has the type already keeps its bytes. Reading fails for weights that are no floating-point numbers
/// ([`WeightError::NotComputable`]) and where a finite number would become infinite ([`WeightError::Overflow`]).
#[derive(Debug, Clone)]
pub struct Cast<S> {
    source: S,
    dtype: Dtype,
}

impl<S: WeightSource> Cast<S> {
    /// Reads no weight.
    ///
    /// # Panics
    /// If decoders do not compute with `dtype` ([`Dtype::is_computed_with`]).
    pub fn new(source: S, dtype: Dtype) -> Self {
        assert!(dtype.is_computed_with(), "nothing is rounded to {dtype}");
        Self { source, dtype }
    }
}

impl<S: WeightSource> WeightSource for Cast<S> {
    fn config(&self) -> &DecoderConfig {
        self.source.config()
    }

    fn dtype(&self, _: TensorId) -> Dtype {
        self.dtype
    }

    fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        if self.source.dtype(id) == self.dtype {
            return self.source.stream(id, sink);
        }
        stream_through(&self.source, id, &[Step::Cast(self.dtype)], sink)
    }

    fn lineage(&self, id: TensorId) -> Lineage {
        let mut lineage = self.source.lineage(id);
        if self.source.dtype(id) != self.dtype {
            lineage.steps.push(Step::Cast(self.dtype).change());
        }
        lineage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Change, MemoryWeights};

    #[test]
    fn a_cast_rounds_every_weight_and_says_so() {
        let base = MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 3);
        let cast = Cast::new(&base, Dtype::Bfloat16);
        for id in TensorId::all(base.config()) {
            assert_eq!(cast.read(id).unwrap(), base.read(id).unwrap().cast(Dtype::Bfloat16));
            assert_eq!(cast.lineage(id).steps, [Change::Cast { dtype: Dtype::Bfloat16 }]);
        }
        let same = Cast::new(&cast, Dtype::Bfloat16);
        assert_eq!(same.lineage(TensorId::Norm), cast.lineage(TensorId::Norm));
        assert_eq!(same.read(TensorId::Norm).unwrap(), cast.read(TensorId::Norm).unwrap());
    }
}
