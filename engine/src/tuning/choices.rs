//! Which variant computes which operation, as far as it was measured. A value: it knows no device and no file.

use std::collections::{BTreeMap, BTreeSet};

use kernels::{Op, TensorType};

/// Variants by what they compute, and those that are not to be taken at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    variants: BTreeMap<String, String>,
    distrusted: BTreeSet<String>,
}

impl Choices {
    /// The variant chosen for `op` on operands of these types.
    pub fn get(&self, op: &dyn Op, inputs: &[TensorType]) -> Option<&str> {
        // Most plans are made without any choice: no key is written for them.
        if self.is_empty() { None } else { self.variants.get(&key(op, inputs)).map(String::as_str) }
    }

    /// Chooses `variant` for what has this [`key`], in the place of an earlier choice.
    pub fn insert(&mut self, key: impl Into<String>, variant: impl Into<String>) {
        self.variants.insert(key.into(), variant.into());
    }

    /// Forgets the choice for what has this [`key`].
    pub fn remove(&mut self, key: &str) {
        self.variants.remove(key);
    }

    /// Key and variant of each choice, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variants.iter().map(|(key, variant)| (key.as_str(), variant.as_str()))
    }

    /// Never takes the variant of this name again while there is another: it was found wrong.
    pub fn distrust(&mut self, variant: impl Into<String>) {
        self.distrusted.insert(variant.into());
    }

    /// Takes the variant of this name again. Whether it was distrusted.
    pub fn trust(&mut self, variant: &str) -> bool {
        self.distrusted.remove(variant)
    }

    /// Whether the variant of this name may be taken.
    pub fn trusts(&self, variant: &str) -> bool {
        !self.distrusted.contains(variant)
    }

    /// Names of variants that are not taken, sorted.
    pub fn distrusted(&self) -> impl Iterator<Item = &str> {
        self.distrusted.iter().map(String::as_str)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.variants.len()
    }

    /// Whether nothing was chosen.
    pub fn is_empty(&self) -> bool {
        self.variants.is_empty()
    }
}

/// An attribute that says where an operand lies: operations that differ in it alone cost the same.
const ADDRESSING: &str = "batch_column";

/// What tells operations with operands of different cost apart, the same in every run of the program:
/// `matmul bias=true batch_bias=false activation=none residual=false on f32[9, 12], f16[12, 17], f32[17]`.
pub fn key(op: &dyn Op, inputs: &[TensorType]) -> String {
    let mut key = op.name().to_owned();
    for (name, value) in op.attributes().into_iter().filter(|(name, _)| *name != ADDRESSING) {
        key.push_str(&format!(" {name}={value}"));
    }
    let types: Vec<String> = inputs.iter().map(ToString::to_string).collect();
    key.push_str(&format!(" on {}", types.join(", ")));
    key
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kernels::DType;
    use kernels::ops::{Conv2d, Epilogue, MatMul};

    use super::*;

    #[test]
    fn a_key_is_written_as_files_have_it() {
        let product = MatMul::new(Epilogue::bias());
        let types = [TensorType::f32([9, 12]), TensorType::new(DType::F16, [12, 17]), TensorType::f32([17])];
        assert_eq!(
            key(&product, &types),
            "matmul bias=true batch_bias=false activation=none residual=false on f32[9, 12], f16[12, 17], f32[17]"
        );
        let conv = Conv2d { padding: [0, 1, 0, 1], ..Conv2d::default() };
        let types = [TensorType::f32([1, 8, 6, 4]), TensorType::f32([3, 3, 4, 24])];
        assert_eq!(
            key(&conv, &types),
            "conv2d stride=[1, 1] padding=[0, 1, 0, 1] bias=false batch_bias=false activation=none residual=false on f32[1, 8, 6, 4], f32[3, 3, 4, 24]"
        );
    }

    #[test]
    fn where_an_operand_lies_makes_no_difference() {
        let keyed = |batch_column| {
            let epilogue = Epilogue { batch_bias: true, batch_column, ..Epilogue::default() };
            let types = [[1, 8, 6, 4], [3, 3, 4, 24], [1, 1, 1, 64]].map(TensorType::f32);
            key(&Conv2d { epilogue, ..Conv2d::default() }, &types)
        };
        assert_eq!(keyed(0), keyed(40));
    }

    #[test]
    fn cases_that_differ_have_keys_that_differ() {
        let cases = kernels::ops::cases();
        let keys: BTreeSet<String> = cases.iter().map(|case| key(case.op.as_ref(), &case.inputs)).collect();
        let distinct: BTreeSet<String> =
            cases.iter().map(|case| format!("{:?} {:?}", case.op, case.inputs)).collect();
        assert_eq!(keys.len(), distinct.len());
    }
}
