//! What a contraction does to its sums before it stores them.

use super::{Activate, Activation, Cast, Geglu, Scale, check_float, check_shape, shape_error};
use crate::host_tensor::HostTensor;
use crate::op::{Attributes, Bind, Op, OpError, Operand};
use crate::types::{DType, LANES, Shape, TensorType};
use crate::wgsl::Shader;

/// `y = scale * (activation(sum + bias + batch_bias) + residual)`, each part optional; or `y = scale * geglu(sum + bias)`; then
/// rounded once.
///
/// Operands follow the contraction's own in this order: `bias: [N]`, `batch_bias: [B, .., N]` (one row for each batch of the
/// result; or more columns, N of them from `batch_column` on), `residual` (as the result).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Epilogue {
    /// Whether a bias for each column is added.
    pub bias: bool,
    /// Whether a bias for each batch and column is added: a time embedding.
    pub batch_bias: bool,
    /// Column of the batch bias that is the result's first, a multiple of 4: others may have theirs beside it.
    pub batch_column: usize,
    /// Applied after the biases.
    pub activation: Option<Activation>,
    /// Whether a tensor of the result's shape is added last.
    pub residual: bool,
    /// Whether [`Geglu`] with alternating quads follows the bias, and nothing else: the result has half as many columns as `w`.
    pub geglu: bool,
    /// Factor of the result, if it is not 1.
    pub scale: Option<f64>,
    /// Element type of the result, f32 or f16; that of the contraction's first operand if `None`.
    pub dtype: Option<DType>,
}

/// Quads of the widest batch bias: a half word has them.
const MAX_BATCH_QUADS: usize = 0xffff;

impl Epilogue {
    /// Nothing but a bias.
    pub fn bias() -> Self {
        Epilogue { bias: true, ..Epilogue::default() }
    }

    /// Columns of the result for `columns` of `w`.
    pub(super) fn outputs(&self, columns: usize) -> usize {
        if self.geglu { columns / 2 } else { columns }
    }

    /// Type of a contraction's result of this shape whose first operand has elements of type `operand`.
    pub(super) fn result(&self, operand: DType, shape: impl Into<Shape>) -> TensorType {
        TensorType::new(self.dtype.unwrap_or(operand), shape)
    }

    /// What to multiply weights of a variance of 1 by so that sums of `terms` products, or the products of two such sums, stay
    /// small, also where operands stand off from zero.
    pub(super) fn weight_scale(&self, terms: usize) -> f64 {
        if self.geglu { 1.0 / terms as f64 } else { 1.0 / (terms as f64).sqrt() }
    }

    /// Number of operands.
    pub(super) fn operands(&self) -> usize {
        usize::from(self.bias) + usize::from(self.batch_bias) + usize::from(self.residual)
    }

    pub(super) fn attributes(&self) -> Attributes {
        let activation = self.activation.map_or("none", Activation::name);
        vec![
            ("bias", self.bias.into()),
            ("batch_bias", self.batch_bias.into()),
            ("activation", activation.into()),
            ("residual", self.residual.into()),
        ]
        .into_iter()
        .chain((self.batch_column > 0).then_some(("batch_column", self.batch_column.into())))
        .chain(self.geglu.then_some(("geglu", true.into())))
        .chain(self.scale.map(|scale| ("scale", scale.into())))
        .chain(self.dtype.map(|dtype| ("dtype", if dtype == DType::F16 { "f16" } else { "f32" }.into())))
        .collect()
    }

    /// Checks the epilogue's operands against the result of a `w` with `columns`; `batches` is the result's outermost extent.
    /// `products` have a bias each, if there are several.
    pub(super) fn check(
        &self,
        op: &dyn Op,
        operands: &[TensorType],
        result: &TensorType,
        columns: usize,
        batches: usize,
        products: Option<usize>,
    ) -> Result<(), OpError> {
        if self.geglu {
            super::geglu::check_quads(op.name(), "columns of w", columns)?;
            let alone = !self.batch_bias && self.activation.is_none() && !self.residual && products.is_none();
            if !alone {
                return Err(shape_error(
                    op,
                    "w",
                    "one product with a bias at most, where GEGLU follows",
                    result,
                ));
            }
        }
        let mut rest = operands.iter();
        for (present, name, shape) in [
            (self.bias, "bias", products.into_iter().chain([columns]).collect()),
            (self.batch_bias, "batch_bias", vec![batches, result.channels()]),
            (self.residual, "residual", result.shape.to_vec()),
        ] {
            if !present {
                continue;
            }
            let found = rest.next().ok_or(OpError::OperandCount {
                op: op.name(),
                expected: self.operands(),
                found: operands.len(),
            })?;
            check_float(op, name, found)?;
            if name != "batch_bias" {
                check_shape(op, name, found, &shape)?;
            } else if !self.reads_columns(found, batches, columns) {
                let columns = self.batch_column + columns;
                return Err(shape_error(
                    op,
                    name,
                    format!("[{batches}, {columns} or more], from a multiple of {LANES} on"),
                    found,
                ));
            }
        }
        Ok(())
    }

    /// The stored value at row-major position `index` of a result with `columns` columns and `batch_rows` rows in each batch;
    /// `sum` gives that of a column of `w`, in the same row.
    pub(super) fn apply(
        &self,
        sum: impl Fn(usize) -> f64,
        index: usize,
        columns: usize,
        batch_rows: usize,
        operands: &[&HostTensor],
    ) -> f64 {
        let (row, column) = (index / columns, index % columns);
        let mut rest = operands.iter();
        let bias = if self.bias { rest.next() } else { None };
        let biased = |column: usize| sum(column) + bias.map_or(0.0, |bias| bias.at(column));
        if self.geglu {
            let [hidden, gate] = Geglu::QUADS.operands(column, columns);
            return self.factor() * biased(hidden) * Activation::Gelu.apply(biased(gate));
        }
        let mut value = biased(column);
        if self.batch_bias {
            let bias = rest.next().expect("inferred");
            value += bias.at(row / batch_rows * bias.ty().channels() + self.batch_column + column);
        }
        if let Some(activation) = self.activation {
            value = activation.apply(value);
        }
        if self.residual {
            value += rest.next().expect("inferred").at(index);
        }
        self.factor() * value
    }

    /// Whether `batch_bias` has a row for each of `batches`, and in it `columns` columns from a quad's first on.
    fn reads_columns(&self, batch_bias: &TensorType, batches: usize, columns: usize) -> bool {
        batch_bias.rows() == batches
            && self.batch_column.is_multiple_of(LANES)
            && self.batch_column + columns <= batch_bias.channels()
            && batch_bias.quads() <= MAX_BATCH_QUADS
    }

    /// The same where the batch bias is among the columns of a wider tensor from `first` on.
    pub(super) fn in_columns(&self, first: usize) -> Option<Epilogue> {
        self.batch_bias.then(|| Epilogue { batch_column: self.batch_column + first, ..self.clone() })
    }

    /// Position of the batch bias among `inputs` where this epilogue's start at `first`, if there is one.
    pub(super) fn batch_position(&self, first: usize) -> Option<usize> {
        self.positions(first)[1].1
    }

    /// Where a row of the batch bias has the result's first quad, and its quads, as `epilogue.wgsl` reads them.
    pub(super) fn batch_word(&self, inputs: &[TensorType], first: usize) -> u32 {
        let quads = self.batch_position(first).map_or(0, |i| inputs[i].quads());
        (self.batch_column / LANES) as u32 | (quads as u32) << 16
    }

    fn factor(&self) -> f64 {
        self.scale.unwrap_or(1.0)
    }

    /// The factor of the result as `epilogue.wgsl` reads it.
    pub(super) fn scale_word(&self) -> u32 {
        (self.factor() as f32).to_bits()
    }

    /// Its parts as `epilogue.wgsl` reads them: the activation's number, and a bit for each operand and for GEGLU.
    ///
    /// They are no flags of the shader, so that contractions which differ in them alone share a pipeline.
    pub(super) fn word(&self) -> u32 {
        let parts = [self.bias, self.batch_bias, self.residual, self.geglu];
        let bits = parts.into_iter().zip([1 << 8, 1 << 9, 1 << 10, 1 << 11]);
        Activation::number(self.activation)
            | bits.map(|(present, bit)| if present { bit } else { 0 }).sum::<u32>()
    }

    /// Each operand with its position among `inputs`, where this epilogue's start at `first`, if it is present.
    fn positions(&self, first: usize) -> [(&'static str, Option<usize>); 3] {
        let mut next = first;
        [("bias", self.bias), ("batch_bias", self.batch_bias), ("residual", self.residual)].map(
            |(name, present)| {
                let position = present.then_some(next);
                next += usize::from(present);
                (name, position)
            },
        )
    }

    /// Adds encodings; an absent operand gets the usual one.
    pub(super) fn specialise(
        &self,
        shader: Shader,
        inputs: &[TensorType],
        first: usize,
        result: &TensorType,
    ) -> Shader {
        self.positions(first).into_iter().fold(shader, |shader, (name, position)| {
            let usual = if name == "bias" { DType::F32 } else { result.dtype };
            shader.encoding(name, position.map_or(usual, |i| inputs[i].dtype))
        })
    }

    /// Bindings 2, 3 and 4: the residual is bound by the same rows as the result. In an absent operand's place stands
    /// `absent`, which is not read.
    pub(super) fn binds(
        &self,
        inputs: &[TensorType],
        first: usize,
        rows: (usize, usize),
        absent: Operand,
    ) -> Vec<Bind> {
        let bind = |(binding, (name, position)): (u32, (&str, Option<usize>))| {
            let Some(i) = position else { return Bind::read(binding, absent) };
            let bind = Bind::read(binding, Operand::Input(i));
            if name == "residual" { bind.rows(&inputs[i], rows.0, rows.1) } else { bind }
        };
        (2..).zip(self.positions(first)).map(bind).collect()
    }

    /// This epilogue followed by `next`, if it can be: `(epilogue, operands of next that it takes)`.
    pub(super) fn absorb(
        &self,
        next: &dyn Op,
        slot: usize,
        types: &[TensorType],
    ) -> Option<(Epilogue, Vec<usize>)> {
        if self.dtype.is_some() {
            return None;
        }
        if let Some(Cast { dtype }) = next.as_any().downcast_ref() {
            return Some((Epilogue { dtype: Some(*dtype), ..self.clone() }, Vec::new()));
        }
        if let Some(Scale { factor }) = next.as_any().downcast_ref() {
            let scale = Some(self.factor() * factor);
            return Some((Epilogue { scale, ..self.clone() }, Vec::new()));
        }
        if self.residual || self.geglu || self.scale.is_some() {
            return None;
        }
        if let Some(geglu) = next.as_any().downcast_ref::<Geglu>() {
            let is_alone = !self.batch_bias && self.activation.is_none();
            let takes = geglu.alternating && is_alone && types[slot].channels().is_multiple_of(2 * LANES);
            return takes.then(|| (Epilogue { geglu: true, ..self.clone() }, Vec::new()));
        }
        if let Some(Activate(activation)) = next.as_any().downcast_ref() {
            let fused = Epilogue { activation: Some(*activation), ..self.clone() };
            return self.activation.is_none().then_some((fused, Vec::new()));
        }
        if next.as_any().is::<super::Add>() {
            let other = 1 - slot;
            if types[other] == types[slot] {
                return Some((Epilogue { residual: true, ..self.clone() }, vec![other]));
            }
            let (batches, columns) = (types[slot].shape[0], types[slot].channels());
            let per_batch = types[other].shape.elements() == batches * columns
                && types[other].shape[0] == batches
                && types[other].channels() == columns;
            if per_batch && self.activation.is_none() && !self.batch_bias && types[slot].shape.len() == 4 {
                return Some((Epilogue { batch_bias: true, ..self.clone() }, vec![other]));
            }
        }
        None
    }
}
