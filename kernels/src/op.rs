//! The contract of an operation, and of the shader variants that compute it.

use std::any::Any;
use std::fmt;
use std::ops::Add;
use std::sync::Arc;

use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::types::{DType, Shape, TensorType};
use crate::wgsl::Shader;

/// An operation: what it means (`infer`, `reference`) and how a GPU computes it (`variants`).
///
/// Operations are values: a graph holds `Arc<dyn Op>` and nothing matches on their kind.
pub trait Op: fmt::Debug + Send + Sync + Any {
    /// Stem of its WGSL files, and its name in labels, dumps and tables.
    fn name(&self) -> &'static str;

    /// Everything that distinguishes two operations of one name.
    fn attributes(&self) -> Attributes {
        Vec::new()
    }

    /// The type of the result; the only place where shapes and dtypes of operands are checked.
    ///
    /// # Errors
    /// [`OpError`] naming the operand, what was expected and what was found.
    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError>;

    /// The result by its defining loops, accumulated in `f64` and rounded once to the result's dtype.
    ///
    /// `inputs` must have passed [`Op::infer`].
    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor;

    /// Elements of [`Op::reference`] at ascending row-major `positions`, where they cost no more than their share of it.
    fn reference_at(&self, inputs: &[&HostTensor], positions: &[usize]) -> Option<Vec<f32>> {
        let _ = (inputs, positions);
        None
    }

    /// The ways to compute it on an adapter with `caps`, the safest first: that one runs within WebGPU's default limits,
    /// without f16 and without subgroups. The last is the one expected to be fastest. No two have one name.
    ///
    /// No binding of any dispatch exceeds `caps.max_binding_bytes`: larger operands are worked on in bands of rows.
    ///
    /// # Errors
    /// [`OpError::TooLarge`] if an operand that cannot be split exceeds the limit.
    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError>;

    /// Arithmetic and traffic.
    fn cost(&self, inputs: &[TensorType]) -> Cost;

    /// How exact a variant must be: the row of the tolerance table in [`crate::check`].
    fn class(&self, inputs: &[TensorType]) -> Class;

    /// Where the result lies among the first operand's bytes, in bytes from their start, if it is these bytes under another
    /// shape: nothing is dispatched where an adapter can bind them there.
    fn view(&self, inputs: &[TensorType]) -> Option<u64> {
        let _ = inputs;
        None
    }

    /// The operation that computes several of these on one first operand at once: each of their other operands is stacked in a
    /// new outermost dimension, and so are their results.
    fn stacked(&self, inputs: &[TensorType]) -> Option<Arc<dyn Op>> {
        let _ = inputs;
        None
    }

    /// Whether this operation, with several of its weights side by side in columns, gives side by side what it gives with each.
    fn joins_columns(&self, inputs: &[TensorType]) -> bool {
        let _ = inputs;
        false
    }

    /// The operation that reads what operand `slot` has among the columns of a wider tensor instead, from column `first` on.
    fn in_columns(&self, slot: usize, first: usize) -> Option<Arc<dyn Op>> {
        let _ = (slot, first);
        None
    }

    /// This operation with `next` folded into it, when `next` reads this operation's result as operand `slot`.
    ///
    /// `types` are the types of `next`'s operands.
    fn absorb(&self, next: &dyn Op, slot: usize, types: &[TensorType]) -> Option<Absorbed> {
        let _ = (next, slot, types);
        None
    }

    /// What to multiply random operands of a variance of 1 by so that the result is about as large: for checks at a model's
    /// shapes, where sums of thousands of products would leave f16. 1 for operands beyond the last.
    fn operand_scales(&self, inputs: &[TensorType]) -> Vec<f64> {
        let _ = inputs;
        Vec::new()
    }

    /// Inputs on which variants are compared with the reference: size 1, under a tile, one off a tile, odd, not a multiple
    /// of the vector width.
    fn cases(&self) -> Vec<Case>;

    /// The operation as [`Any`], so that [`Op::absorb`] can recognise another operation.
    fn as_any(&self) -> &dyn Any;
}

/// A fusion: the operation that computes both, and which of the absorbed operation's operands follow its own.
#[derive(Clone, Debug)]
pub struct Absorbed {
    /// The fused operation.
    pub op: Arc<dyn Op>,
    /// Operands of the absorbed operation that the fused one takes after its own, in order.
    pub extra_operands: Vec<usize>,
}

/// One comparison: an operation and the types of its operands.
#[derive(Clone, Debug)]
pub struct Case {
    /// The operation, with attributes.
    pub op: Arc<dyn Op>,
    /// Operand types.
    pub inputs: Vec<TensorType>,
}

impl Case {
    /// A case of `op` on operands of these types.
    pub fn new(op: impl Op, inputs: impl Into<Vec<TensorType>>) -> Self {
        Case { op: Arc::new(op), inputs: inputs.into() }
    }
}

/// Name and value of each attribute, in a fixed order.
pub type Attributes = Vec<(&'static str, Attribute)>;

/// An attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A count, an extent, an axis.
    Int(i64),
    /// A real number.
    Float(f64),
    /// A switch.
    Flag(bool),
    /// A choice by name.
    Name(&'static str),
    /// Several extents.
    Ints(Vec<i64>),
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attribute::Int(v) => write!(f, "{v}"),
            Attribute::Float(v) => write!(f, "{v:?}"),
            Attribute::Flag(v) => write!(f, "{v}"),
            Attribute::Name(v) => f.write_str(v),
            Attribute::Ints(v) => write!(f, "{v:?}"),
        }
    }
}

impl From<usize> for Attribute {
    fn from(v: usize) -> Self {
        Attribute::Int(v as i64)
    }
}

impl From<f64> for Attribute {
    fn from(v: f64) -> Self {
        Attribute::Float(v)
    }
}

impl From<bool> for Attribute {
    fn from(v: bool) -> Self {
        Attribute::Flag(v)
    }
}

impl From<&'static str> for Attribute {
    fn from(v: &'static str) -> Self {
        Attribute::Name(v)
    }
}

impl From<&[usize]> for Attribute {
    fn from(v: &[usize]) -> Self {
        Attribute::Ints(v.iter().map(|x| *x as i64).collect())
    }
}

/// Why operands do not fit an operation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OpError {
    /// Too few or too many operands.
    #[error("{op}: expected {expected} operands, found {found}")]
    OperandCount {
        /// Operation.
        op: &'static str,
        /// How many it takes.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// An operand's shape.
    #[error("{op}: {operand}: expected {expected}, found {found}")]
    Shape {
        /// Operation.
        op: &'static str,
        /// Operand by its name in the operation's documentation.
        operand: &'static str,
        /// What the operation takes.
        expected: String,
        /// What was given.
        found: Shape,
    },
    /// An operand's element type.
    #[error("{op}: {operand}: expected {expected}, found {found}")]
    DType {
        /// Operation.
        op: &'static str,
        /// Operand by its name in the operation's documentation.
        operand: &'static str,
        /// What the operation takes.
        expected: &'static str,
        /// What was given.
        found: DType,
    },
    /// A count that must divide another.
    #[error("{op}: {what} {value} is not a multiple of {divisor}")]
    NotDivisible {
        /// Operation.
        op: &'static str,
        /// What is divided.
        what: &'static str,
        /// Its size.
        value: usize,
        /// What should divide it.
        divisor: usize,
    },
    /// An operand that cannot be split exceeds the adapter's binding limit.
    #[error("{op}: {operand} takes {bytes} bytes in one binding, the adapter allows {limit}")]
    TooLarge {
        /// Operation.
        op: &'static str,
        /// Operand by its name in the operation's documentation.
        operand: &'static str,
        /// Bytes it takes.
        bytes: u64,
        /// The adapter's limit.
        limit: u64,
    },
    /// More workgroups side by side than the adapter takes.
    #[error("{op}: {count} {what}, the adapter takes {limit} at most")]
    TooMany {
        /// Operation.
        op: &'static str,
        /// What there are too many of.
        what: &'static str,
        /// How many.
        count: usize,
        /// The adapter's limit.
        limit: u32,
    },
    /// A loop over an operand would be left before its end.
    #[error("{op}: {operand} takes {iterations} iterations, software drivers end loops after {limit}")]
    TooLong {
        /// Operation.
        op: &'static str,
        /// Operand by its name in the operation's documentation.
        operand: &'static str,
        /// Iterations of all loops of an invocation.
        iterations: usize,
        /// The driver's limit.
        limit: usize,
    },
}

/// Range of subgroup sizes an adapter may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subgroups {
    /// Smallest.
    pub min: u32,
    /// Largest.
    pub max: u32,
}

/// What an adapter offers to kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// Subgroup operations and the sizes they come in, if the adapter has them.
    pub subgroups: Option<Subgroups>,
    /// Bytes of one storage binding.
    pub max_binding_bytes: u64,
    /// Multiple at which a binding may start in its buffer.
    pub binding_alignment: u64,
    /// Workgroups along one axis of a dispatch.
    pub max_groups_per_axis: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Floating-point operations of one dispatch: drivers take a device for dead that works on one for seconds, and nothing
    /// interrupts it.
    pub max_dispatch_flops: u64,
    /// Extent of its square cooperative matrices, f16 with f32 sums, 8 or 16, if it has f16 arithmetic and them.
    pub cooperative: Option<u32>,
    /// Cores of adapters of its kind, for no adapter tells its own: variants are ordered, and long sums split, such that there
    /// are two workgroups for each. With fewer, some cores would wait for others at the end. What is measured goes before it.
    pub cores: usize,
    /// Whether the adapter is a CPU: large register tiles and no barriers pay there.
    pub software: bool,
}

impl Caps {
    /// A tenth of a second at 0.5 TFLOP/s, which a slow integrated GPU does; watchdogs wait for two.
    pub const GPU_DISPATCH_FLOPS: u64 = 50_000_000_000;
    /// Six tenths of a second of two CPU cores: llvmpipe does 40 GFLOP/s of products and convolutions on them.
    pub const SOFTWARE_DISPATCH_FLOPS: u64 = 24_000_000_000;

    /// A tenth of a second at 1 TFLOP/s: the smallest GPUs with matrix units do two and more.
    pub const MATRIX_DISPATCH_FLOPS: u64 = 100_000_000_000;
    /// Cores of a large GPU: 64 to 128 of those that one buys beside a computer.
    pub const DISCRETE_CORES: usize = 128;
    /// Cores of one that shares its memory with a CPU: 8 to 32.
    pub const INTEGRATED_CORES: usize = 16;

    /// What every WebGPU adapter has.
    pub fn webgpu() -> Self {
        Caps {
            subgroups: None,
            max_binding_bytes: 128 << 20,
            binding_alignment: 256,
            max_groups_per_axis: 65_535,
            workgroup_bytes: 16 << 10,
            max_dispatch_flops: Self::GPU_DISPATCH_FLOPS,
            cooperative: None,
            cores: Self::DISCRETE_CORES,
            software: false,
        }
    }
}

/// Arithmetic operations (a multiply-add counts two) and bytes that must move at least.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read and written once each.
    pub bytes: u64,
}

impl Cost {
    /// The cost of `flops` on operands and a result of these types.
    pub fn new(flops: u64, inputs: &[TensorType], output: &TensorType) -> Self {
        let bytes = inputs.iter().map(TensorType::bytes).sum::<u64>() + output.bytes();
        Cost { flops, bytes }
    }
}

impl Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

/// One way to compute an operation: dispatches that run one after the other.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Name in tables and tuning files, such as `matmul_register`.
    pub name: &'static str,
    /// In order; each sees what the ones before it wrote.
    pub dispatches: Vec<Dispatch>,
    /// Intermediate tensors, addressed by [`Operand::Scratch`].
    pub scratch: Vec<TensorType>,
}

/// One launch of a shader.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The shader, specialised: what identifies a pipeline.
    pub shader: Shader,
    /// Its storage bindings.
    pub binds: Vec<Bind>,
    /// The words of its `Params`, at most 16.
    pub params: Vec<u32>,
    /// Workgroups along x, y and z.
    pub grid: [u32; 3],
    /// Floating-point operations of the tiles that its workgroups multiply, what tiles have beyond their operands among them; 0 of
    /// a shader without tiles, which takes the time that its bytes take.
    pub tile_flops: u64,
}

/// Which tensor stands behind a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// An operand of the operation.
    Input(usize),
    /// Its result.
    Output,
    /// An intermediate tensor of the variant.
    Scratch(usize),
    /// A `u32` of the operation's own, to which it adds how many values of its first operand are not finite, told by their bits.
    Tally,
}

/// Bytes of what [`Operand::Tally`] binds.
pub const TALLY_BYTES: u64 = 4;

/// A storage binding of a dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Bind {
    /// `@binding` in group 0.
    pub binding: u32,
    /// The tensor.
    pub operand: Operand,
    /// Whether the shader declares it `read_write`.
    pub write: bool,
    /// Bytes of the tensor that are bound, `(offset, length)`; all of it if `None`.
    pub window: Option<(u64, u64)>,
}

impl Bind {
    /// A whole operand, read.
    pub fn read(binding: u32, operand: Operand) -> Self {
        Bind { binding, operand, write: false, window: None }
    }

    /// A whole operand, written.
    pub fn write(binding: u32, operand: Operand) -> Self {
        Bind { binding, operand, write: true, window: None }
    }

    /// The same binding of `rows` rows of `ty` from `first_row` on.
    pub fn rows(mut self, ty: &TensorType, first_row: usize, rows: usize) -> Self {
        if first_row > 0 || rows < ty.rows() {
            self.window = Some((first_row as u64 * ty.row_bytes(), rows as u64 * ty.row_bytes()));
        }
        self
    }
}

/// A grid of at least `groups` workgroups whose axes stay within `max_per_axis`; shaders recover the linear index as
/// `workgroup_id.x + workgroup_id.y * num_workgroups.x` and must ignore the excess.
pub fn fold_grid(groups: u64, max_per_axis: u32) -> [u32; 3] {
    let max = u64::from(max_per_axis);
    let y = groups.div_ceil(max).max(1);
    let x = groups.div_ceil(y).max(1);
    [x as u32, y as u32, 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dispatch_ends_long_before_a_watchdog_looks() {
        // A slow integrated GPU, and two cores of a CPU at the slowest contraction that BENCHMARKS.md measured, attention;
        // empty columns of tiles are work, too.
        assert!(Caps::GPU_DISPATCH_FLOPS as f64 / 0.5e12 <= 0.1);
        assert!(Caps::MATRIX_DISPATCH_FLOPS as f64 / 1e12 <= 0.1);
        assert!(Caps::SOFTWARE_DISPATCH_FLOPS as f64 / 27e9 <= 1.0);
    }
}
