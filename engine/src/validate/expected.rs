//! What a right result is: all of a reference, or elements of it where all would take too long.

use kernels::check::{Comparison, compare, compare_values};
use kernels::{HostTensor, Op, TensorType};

/// Operations of which the whole reference is computed, where elements could be.
const WHOLE_FLOPS: u64 = 1 << 28;
/// Elements of larger ones that are computed, and neighbours among them: those of a row of an attention share its softmax.
const SAMPLES: usize = 2048;
const NEIGHBOURS: usize = 16;

/// What a variant's result was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// All of the reference.
    Reference,
    /// Some of the reference's elements, and all of the first right variant's.
    Samples,
    /// All of the first right variant's: the reference of so large an operation takes too long.
    Variant,
}

/// What a right result is.
pub(crate) struct Expected {
    /// What there is to compare with.
    pub(crate) against: Against,
    /// Positions and values.
    samples: Option<(Vec<usize>, Vec<f32>)>,
    /// All of a right result, once one is known.
    pub(crate) whole: Option<HostTensor>,
}

impl Expected {
    /// What `op` should give for `operands`, whose types are `inputs`, at a price that can be paid.
    pub(crate) fn of(op: &dyn Op, inputs: &[TensorType], operands: &[HostTensor]) -> Self {
        let operands: Vec<&HostTensor> = operands.iter().collect();
        if op.cost(inputs).flops <= WHOLE_FLOPS {
            return Expected {
                against: Against::Reference,
                samples: None,
                whole: Some(op.reference(&operands)),
            };
        }
        let output = op.infer(inputs).map_or(0, |ty| ty.shape.elements());
        let positions = positions(output);
        let samples = op.reference_at(&operands, &positions).map(|values| (positions, values));
        let against = if samples.is_some() { Against::Samples } else { Against::Variant };
        Expected { against, samples, whole: None }
    }

    /// [`Expected::of`], where an operation without samples is computed in full, however long that takes.
    pub(crate) fn surely_of(op: &dyn Op, inputs: &[TensorType], operands: &[HostTensor]) -> Self {
        let expected = Expected::of(op, inputs, operands);
        if expected.against != Against::Variant {
            return expected;
        }
        let whole = op.reference(&operands.iter().collect::<Vec<_>>());
        Expected { against: Against::Reference, samples: None, whole: Some(whole) }
    }

    /// `found` compared with all that is known by now.
    pub(crate) fn compare(&self, op: &dyn Op, inputs: &[TensorType], found: &HostTensor) -> Vec<Comparison> {
        let (class, dtype) = (op.class(inputs), found.ty().dtype);
        let samples = self.samples.as_ref().map(|(positions, values)| {
            let found: Vec<f32> = positions.iter().map(|at| found.data()[*at]).collect();
            compare_values(values, &found, class, dtype)
        });
        let whole = self.whole.as_ref().map(|whole| compare(whole, found, class, dtype));
        samples.into_iter().chain(whole).collect()
    }
}

/// Ascending positions all over a result in runs of neighbours, the first and the last among them.
fn positions(elements: usize) -> Vec<usize> {
    if elements <= SAMPLES {
        return (0..elements).collect();
    }
    let runs = SAMPLES / NEIGHBOURS;
    let last = (elements - NEIGHBOURS) as u128;
    let start = |run: usize| (last * run as u128 / (runs as u128 - 1)) as usize;
    (0..runs).flat_map(|run| start(run)..start(run) + NEIGHBOURS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_reach_from_the_first_element_to_the_last() {
        assert_eq!(positions(0), [] as [usize; 0]);
        assert_eq!(positions(1), [0]);
        assert_eq!(positions(5), [0, 1, 2, 3, 4]);
        for elements in [SAMPLES, SAMPLES + 1, SAMPLES + 2 * NEIGHBOURS, 1_000_003] {
            let many = positions(elements);
            assert_eq!((many.len(), many[0], many[many.len() - 1]), (SAMPLES, 0, elements - 1), "{elements}");
            assert!(many.is_sorted(), "{elements}");
        }
    }
}
