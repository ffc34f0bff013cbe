//! Matrix product.

use std::any::Any;
use std::sync::Arc;

use super::bands::bands;
use super::contraction::{Band, Contraction};
use super::{Epilogue, check_count, check_float, check_whole, f16, f32, shape_error};
use crate::check::Class;
use crate::host_tensor::HostTensor;
use crate::op::{Absorbed, Attributes, Caps, Case, Cost, Op, OpError, Variant};
use crate::types::{DType, LANES, TensorType};

/// Matrix product over the innermost dimension of `a`, batched over the dimensions before.
///
/// `y[.., m, n] = epilogue(sum_k a[.., m, k] * w[.., k, n])`
///
/// # Shapes    `a: [.., M, K]` f32 | f16; `w: [K', N]` shared by all batches or `[.., K', N]`, any dtype, where `K'` is `K`
/// rounded up to a multiple of 4 (rows from `K` on are not used, and finite); then [`Epilogue`]'s ->
/// `y: [.., M, N]` as `a` or as the epilogue says, `N / 2` columns with GEGLU. If `stacked`: `w: [P, K', N]`, `bias: [P, N]`, no other operand -> `y: [P, .., M, N]`
/// # Numerics  class Contraction over K
/// # Source    torch.nn.functional.linear with the weight transposed; torch.matmul
#[derive(Clone, Debug, Default)]
pub struct MatMul {
    /// What follows the sums.
    pub epilogue: Epilogue,
    /// Whether `w` is several matrices, each of which all of `a` is multiplied with.
    pub stacked: bool,
}

/// The extents of a product: `batch` products of `[m, k] x [k, n]`, on one `a` if they are stacked.
struct Extents {
    batch: usize,
    m: usize,
    k: usize,
    n: usize,
    /// Whether every batch has its own `w`.
    batched_w: bool,
    /// Rows of the result that share one row of the epilogue's batch bias.
    batch_rows: usize,
}

impl MatMul {
    /// One product, or one for each batch.
    pub fn new(epilogue: Epilogue) -> Self {
        MatMul { epilogue, stacked: false }
    }

    /// The extents of a product of these types; one batch when `w` is shared, for then all rows are alike.
    fn extents(&self, a: &TensorType, w: &TensorType) -> Extents {
        let (k, n, rows) = (a.channels(), w.channels(), a.rows());
        let batch_rows = (rows / a.shape[0].max(1)).max(1);
        if self.stacked {
            return Extents { batch: w.shape[0], m: rows, k, n, batched_w: true, batch_rows };
        }
        if w.shape.len() == 2 {
            return Extents { batch: 1, m: rows, k, n, batched_w: false, batch_rows };
        }
        let m = a.shape[a.shape.len() - 2];
        Extents { batch: rows / m.max(1), m, k, n, batched_w: true, batch_rows }
    }

    fn contraction<'a>(&'a self, inputs: &'a [TensorType], caps: &Caps) -> Result<Contraction<'a>, OpError> {
        let (a, w) = (&inputs[0], &inputs[1]);
        let e = self.extents(a, w);
        let y = self.infer(inputs)?;
        check_whole(self.name(), "w", w, caps)?;
        let mut banded = vec![a, &y];
        banded.extend(self.epilogue.residual.then(|| inputs.last().expect("inferred")));
        let w_stride = if e.batched_w { w.shape[w.shape.len() - 2] * w.quads() } else { 0 };
        let bias_stride = if self.stacked { w.quads() } else { 0 };
        let (epilogue, batch_rows) = (&self.epilogue, e.batch_rows);
        let whole = Contraction {
            bands: Vec::new(),
            inputs,
            epilogue,
            batch_rows,
            batches: e.batch,
            conv: false,
            y: y.clone(),
        };
        let addressing = |products: usize, a_rows: usize, first: usize| {
            [products, a_rows, w_stride, bias_stride, first].map(|v| v as u32).to_vec()
        };
        if !self.stacked {
            if e.batched_w {
                for (name, ty) in ["a", "y", "residual"].into_iter().zip(&banded) {
                    check_whole(self.name(), name, ty, caps)?;
                }
            }
            let band = |rows| Band { y: rows, a: rows, addressing: addressing(e.batch, e.m, 0) };
            let bands = bands(self.name(), &banded, caps)?.into_iter().map(band).collect();
            return Ok(Contraction { bands, ..whole });
        }
        let every_product = Band { y: (0, y.rows()), a: (0, e.m), addressing: addressing(e.batch, 0, 0) };
        let fits = [a, &y].iter().all(|ty| ty.bytes() <= caps.max_binding_bytes);
        if fits {
            return Ok(Contraction { bands: vec![every_product], ..whole });
        }
        // One product after the other, if its rows of the result begin at an offset that can be bound.
        if !(e.m as u64 * y.row_bytes()).is_multiple_of(caps.binding_alignment) {
            check_whole(self.name(), "y", &y, caps)?;
            check_whole(self.name(), "a", a, caps)?;
            return Ok(Contraction { bands: vec![every_product], ..whole });
        }
        let own = TensorType::new(y.dtype, [e.m, e.n]);
        let of_product = bands(self.name(), &[a, &own], caps)?;
        let bands = (0..e.batch)
            .flat_map(|product| of_product.iter().map(move |rows| (product, *rows)))
            .map(|(product, (first, rows))| Band {
                y: (product * e.m + first, rows),
                a: (first, rows),
                addressing: addressing(1, 0, product),
            })
            .collect();
        Ok(Contraction { bands, batches: 1, ..whole })
    }
}

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn attributes(&self) -> Attributes {
        let stacked = self.stacked.then_some(("stacked", true.into()));
        self.epilogue.attributes().into_iter().chain(stacked).collect()
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, OpError> {
        check_count(self, inputs, 2 + self.epilogue.operands())?;
        let (a, w) = (&inputs[0], &inputs[1]);
        check_float(self, "a", a)?;
        let rank = a.shape.len();
        if rank < 2 {
            return Err(shape_error(self, "a", "[.., M, K]", a));
        }
        let rows = a.channels().next_multiple_of(LANES);
        if w.strips && w.shape.len() > 3 {
            return Err(shape_error(self, "w", "whole rows where there are batches of batches", w));
        }
        if self.stacked {
            if w.shape.len() != 3 || w.shape[1] != rows || self.epilogue.batch_bias || self.epilogue.residual
            {
                return Err(shape_error(self, "w", format!("[P, {rows}, N]"), w));
            }
            let shape: Vec<usize> =
                [w.shape[0]].iter().chain(&a.shape[..rank - 1]).chain([&w.channels()]).copied().collect();
            let y = self.epilogue.result(a.dtype, shape);
            self.epilogue.check(self, &inputs[2..], &y, w.channels(), 1, Some(w.shape[0]))?;
            return Ok(y);
        }
        let shared = w.shape.len() == 2;
        let batched = w.shape.len() == rank && rank > 2 && w.shape[..rank - 2] == a.shape[..rank - 2];
        if !(shared || batched) || w.shape[w.shape.len() - 2] != rows {
            let expected = format!("[{rows}, N] or [{}, {rows}, N]", join(&a.shape[..rank - 2]));
            return Err(shape_error(self, "w", expected, w));
        }
        let mut shape = a.shape.to_vec();
        shape[rank - 1] = self.epilogue.outputs(w.channels());
        let y = self.epilogue.result(a.dtype, shape);
        self.epilogue.check(self, &inputs[2..], &y, w.channels(), a.shape[0], None)?;
        Ok(y)
    }

    fn reference(&self, inputs: &[&HostTensor]) -> HostTensor {
        let types: Vec<TensorType> = inputs.iter().map(|t| t.ty().clone()).collect();
        let (a, w) = (inputs[0], inputs[1]);
        if self.stacked {
            let y = self.infer(&types).expect("inferred");
            let one = MatMul::new(self.epilogue.clone());
            let products = (0..w.shape()[0]).flat_map(|product| {
                let own = parts(&inputs[1..], product);
                one.reference(&[a].into_iter().chain(&own).collect::<Vec<_>>()).into_data()
            });
            return HostTensor::new(y, products.collect());
        }
        let e = self.extents(a.ty(), w.ty());
        let w_rows = w.shape()[w.shape().len() - 2];
        let y = self.infer(&types).expect("inferred");
        let columns = y.channels();
        let mut sums = vec![0.0f64; e.n];
        let mut data = Vec::with_capacity(y.shape.elements());
        for row in 0..e.batch * e.m {
            sums.fill(0.0);
            let base = if e.batched_w { row / e.m * w_rows } else { 0 };
            for k in 0..e.k {
                let x = a.at(row * e.k + k);
                let w_row = &w.data()[(base + k) * e.n..(base + k + 1) * e.n];
                sums.iter_mut().zip(w_row).for_each(|(sum, w)| *sum += x * f64::from(*w));
            }
            let sum = |column: usize| sums[column];
            let values = (row * columns..(row + 1) * columns)
                .map(|index| self.epilogue.apply(sum, index, columns, e.batch_rows, &inputs[2..]) as f32);
            data.extend(values);
        }
        HostTensor::new(y, data)
    }

    fn reference_at(&self, inputs: &[&HostTensor], positions: &[usize]) -> Option<Vec<f32>> {
        let types: Vec<TensorType> = inputs.iter().map(|t| t.ty().clone()).collect();
        let y = self.infer(&types).expect("inferred");
        let (a, w) = (inputs[0], inputs[1]);
        let e = self.extents(a.ty(), w.ty());
        if self.stacked {
            let one = MatMul::new(self.epilogue.clone());
            let elements = e.m * e.n;
            let products = (0..e.batch).flat_map(|product| {
                let first = positions.partition_point(|at| *at < product * elements);
                let end = positions.partition_point(|at| *at < (product + 1) * elements);
                let own: Vec<usize> =
                    positions[first..end].iter().map(|at| at - product * elements).collect();
                let parts = if own.is_empty() { Vec::new() } else { parts(&inputs[1..], product) };
                let operands: Vec<&HostTensor> = [a].into_iter().chain(&parts).collect();
                let values = (!own.is_empty()).then(|| one.reference_at(&operands, &own));
                values.flatten().unwrap_or_default()
            });
            return Some(products.collect());
        }
        let w_rows = w.shape()[w.shape().len() - 2];
        let columns = y.channels();
        let element = |at: &usize| {
            let row = at / columns;
            let base = if e.batched_w { row / e.m * w_rows } else { 0 };
            let sum =
                |column: usize| (0..e.k).map(|k| a.at(row * e.k + k) * w.at((base + k) * e.n + column)).sum();
            let value = self.epilogue.apply(sum, *at, columns, e.batch_rows, &inputs[2..]);
            y.dtype.round(value as f32)
        };
        Some(positions.iter().map(element).collect())
    }

    fn variants(&self, inputs: &[TensorType], caps: &Caps) -> Result<Vec<Variant>, OpError> {
        self.contraction(inputs, caps)?.variants(self.name(), caps)
    }

    fn cost(&self, inputs: &[TensorType]) -> Cost {
        let e = self.extents(&inputs[0], &inputs[1]);
        let y = self.epilogue.result(inputs[0].dtype, [e.batch * e.m, self.epilogue.outputs(e.n)]);
        Cost::new(2 * (e.batch * e.m * e.n * e.k) as u64, inputs, &y)
    }

    fn class(&self, inputs: &[TensorType]) -> Class {
        Class::Contraction { k: inputs[0].channels() }
    }

    fn absorb(&self, next: &dyn Op, slot: usize, types: &[TensorType]) -> Option<Absorbed> {
        let (epilogue, extra_operands) = self.epilogue.absorb(next, slot, types).filter(|_| !self.stacked)?;
        Some(Absorbed { op: Arc::new(MatMul::new(epilogue)), extra_operands })
    }

    fn stacked(&self, inputs: &[TensorType]) -> Option<Arc<dyn Op>> {
        let one = !self.stacked && inputs[1].shape.len() == 2;
        let takes = one && !self.epilogue.batch_bias && !self.epilogue.residual && !self.epilogue.geglu;
        takes.then(|| Arc::new(MatMul { stacked: true, ..self.clone() }) as Arc<dyn Op>)
    }

    fn joins_columns(&self, inputs: &[TensorType]) -> bool {
        let one = !self.stacked && inputs[1].shape.len() == 2;
        one && !self.epilogue.batch_bias && !self.epilogue.residual && !self.epilogue.geglu
    }

    fn operand_scales(&self, inputs: &[TensorType]) -> Vec<f64> {
        vec![1.0, self.epilogue.weight_scale(inputs[0].channels())]
    }

    fn cases(&self) -> Vec<Case> {
        let plain = MatMul::default();
        let mut cases = Vec::new();
        for (m, k, n) in
            [(1, 1, 1), (3, 5, 7), (8, 8, 8), (9, 12, 65), (64, 320, 64), (77, 33, 40), (17, 64, 129)]
        {
            let rows = usize::next_multiple_of(k, LANES);
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                let w = TensorType::new(dtype, [rows, n]).in_strips();
                cases.push(Case::new(plain.clone(), [f32([m, k]), w]));
            }
            cases.push(Case::new(plain.clone(), [f16([m, k]), f16([rows, n])]));
        }
        // Several blocks of rows and columns of every variant.
        cases.push(Case::new(plain.clone(), [f16([150, 70]), f16([72, 200])]));
        cases.push(Case::new(plain.clone(), [f16([150, 70]), f16([72, 200]).in_strips()]));
        cases.push(Case::new(plain.clone(), [f32([37, 30]), f32([32, 200]).in_strips()]));
        // Beyond any model's, for drivers that end long loops.
        cases.push(Case::new(plain.clone(), [f32([9, 65_536]), f32([65_536, 12])]));
        cases.push(Case::new(plain.clone(), [f32([3, 2, 7, 8]), f32([3, 2, 8, 9])]));
        let bias = MatMul::new(Epilogue::bias());
        cases.push(Case::new(bias, [f32([2, 5, 12]), f32([12, 10]), f32([10])]));
        for activation in super::Activation::ALL {
            let epilogue = Epilogue { bias: true, activation: Some(activation), ..Epilogue::default() };
            cases.push(Case::new(MatMul::new(epilogue), [f32([9, 12]), f32([12, 17]), f32([17])]));
        }
        let geglu = |bias| MatMul::new(Epilogue { bias, geglu: true, ..Epilogue::default() });
        for (m, k, n) in [(1, 1, 8), (9, 12, 24), (33, 20, 136), (130, 64, 256)] {
            let w = TensorType::new(DType::F16, [usize::next_multiple_of(k, LANES), n]).in_strips();
            cases.push(Case::new(geglu(true), [f32([m, k]), w, f32([n])]));
        }
        // In f16, gated products of long rows would not be finite.
        cases.push(Case::new(geglu(false), [f16([150, 3]), f16([4, 200]).in_strips()]));
        // Long sums of few rows and columns, which variants may split.
        for (m, k, n) in [(70, 4096, 72), (3, 9000, 130)] {
            let w = TensorType::new(DType::F16, [k, n]).in_strips();
            let bias = MatMul::new(Epilogue { residual: true, ..Epilogue::bias() });
            cases.push(Case::new(bias, [f32([m, k]), w.clone(), f32([n]), f32([m, n])]));
            cases.push(Case::new(plain.clone(), [f16([m, k]), w]));
        }
        cases.push(Case::new(geglu(true), [f32([9, 4096]), f16([4096, 136]).in_strips(), f32([136])]));
        cases.push(Case::new(plain.clone(), [f32([3, 9, 4096]), f32([3, 4096, 12])]));
        // Several blocks of rows in each of several products.
        cases.push(Case::new(plain.clone(), [f32([3, 43, 20]), f32([3, 20, 24])]));
        cases.push(Case::new(plain.clone(), [f16([3, 131, 20]), f16([3, 20, 24])]));
        let scaled = Epilogue { scale: Some(-0.25), residual: true, ..Epilogue::bias() };
        let types = [f32([9, 12]), f16([12, 17]), f32([17]), f32([9, 17])];
        cases.push(Case::new(MatMul::new(scaled), types));
        let scaled = Epilogue { scale: Some(0.5), geglu: true, ..Epilogue::bias() };
        cases.push(Case::new(MatMul::new(scaled), [f32([9, 12]), f16([12, 16]), f32([16])]));
        for (a, y) in [(f32([9, 12]), DType::F16), (f16([9, 12]), DType::F32)] {
            let cast = MatMul::new(Epilogue { dtype: Some(y), ..Epilogue::bias() });
            cases.push(Case::new(cast, [a, f16([12, 17]), f32([17])]));
        }
        let full = Epilogue { bias: true, batch_bias: true, residual: true, ..Epilogue::default() };
        let types = [f32([2, 11, 16]), f32([16, 18]), f32([18]), f32([2, 18]), f32([2, 11, 18])];
        cases.push(Case::new(MatMul::new(full), types));
        let stacked = |epilogue| MatMul { epilogue, stacked: true };
        let types = [f32([2, 19, 12]), f16([3, 12, 24]), f32([3, 24])];
        cases.push(Case::new(stacked(Epilogue::bias()), types));
        cases.push(Case::new(stacked(Epilogue::default()), [f32([1, 7, 6]), f32([2, 8, 10])]));
        let types = [f32([2, 19, 12]), f16([3, 12, 136]).in_strips(), f32([3, 136])];
        cases.push(Case::new(stacked(Epilogue::bias()), types));
        // Long sums of several products, each with its own bias.
        for a in [f32([1, 9, 4096]), f16([1, 9, 4096])] {
            cases.push(Case::new(stacked(Epilogue::bias()), [a, f16([3, 4096, 72]), f32([3, 72])]));
        }
        let batch_bias = MatMul::new(Epilogue { batch_bias: true, ..Epilogue::default() });
        cases.push(Case::new(batch_bias.clone(), [f16([3, 131, 20]), f16([3, 20, 24]), f32([3, 24])]));
        // More rows than a small binding holds: the second begins inside a batch.
        cases.push(Case::new(batch_bias, [f16([3, 131, 24]), f16([24, 32]), f32([3, 32])]));
        // Products whose rows begin where a small binding may.
        let types = [f16([2, 160, 16]), f16([3, 16, 20]), f32([3, 20])];
        cases.push(Case::new(stacked(Epilogue::bias()), types));
        cases
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// One of the tensors that are stacked in each of `stacks`.
fn parts(stacks: &[&HostTensor], index: usize) -> Vec<HostTensor> {
    stacks.iter().map(|x| part(x, index)).collect()
}

/// One of the tensors that are stacked in `x`.
fn part(x: &HostTensor, index: usize) -> HostTensor {
    let shape = &x.shape()[1..];
    let n = shape.iter().product::<usize>();
    HostTensor::new(TensorType::new(x.ty().dtype, shape), x.data()[index * n..(index + 1) * n].to_vec())
}

fn join(dims: &[usize]) -> String {
    dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Subgroups;
    use crate::ops::Scale;

    #[test]
    fn tiles_are_as_large_as_the_cores_of_an_adapters_kind_allow() {
        let chosen = |cores, edge: usize| {
            let types = [f32([edge, 1024]), f32([1024, edge])];
            let caps = Caps { cores, ..Caps::webgpu() };
            MatMul::default().variants(&types, &caps).expect("fits").last().map(|variant| variant.name)
        };
        assert_eq!(chosen(Caps::DISCRETE_CORES, 1024), Some("matmul_tiled_64x64"));
        assert_eq!(chosen(Caps::DISCRETE_CORES, 4096), Some("matmul_tiled_128x128"));
        assert_eq!(chosen(Caps::INTEGRATED_CORES, 1024), Some("matmul_tiled_128x128"));
    }

    #[test]
    fn only_columns_that_are_computed_alike_and_apart_lie_side_by_side() {
        let joins = |epilogue, stacked, w: &[usize]| {
            MatMul { epilogue, stacked }.joins_columns(&[f32([9, 12]), f32(w.to_vec())])
        };
        let active = Epilogue { activation: Some(super::super::Activation::Silu), ..Epilogue::bias() };
        assert!(joins(Epilogue::default(), false, &[12, 8]) && joins(active, false, &[12, 8]));
        assert!(!joins(Epilogue { geglu: true, ..Epilogue::default() }, false, &[12, 8]));
        assert!(!joins(Epilogue { residual: true, ..Epilogue::default() }, false, &[12, 8]));
        assert!(!joins(Epilogue { batch_bias: true, ..Epilogue::default() }, false, &[12, 8]));
        assert!(
            !joins(Epilogue::default(), true, &[3, 12, 8]) && !joins(Epilogue::default(), false, &[3, 12, 8])
        );
    }

    #[test]
    fn tiles_that_are_twice_as_wide_as_the_result_are_not_taken() {
        let usual = |n| {
            let types = [f32([1, 10_000, 1000]), f32([1, 1000, n])];
            let caps = Caps { cores: 8, ..Caps::webgpu() };
            let variants = MatMul::default().variants(&types, &caps).expect("fits");
            variants.last().expect("there are some").name
        };
        assert_eq!(
            [3, 64, 72, 128].map(usual),
            ["matmul_tiled_128x64", "matmul_tiled_128x64", "matmul_tiled_128x128", "matmul_tiled_128x128"]
        );
    }

    #[test]
    fn matrix_units_need_subgroups_of_one_size() {
        let offered = |min, max| {
            let types = [TensorType::new(DType::F16, [64, 64]), TensorType::new(DType::F16, [64, 64])];
            let subgroups = Some(Subgroups { min, max });
            let caps = Caps { cooperative: Some(8), subgroups, workgroup_bytes: 32 << 10, ..Caps::webgpu() };
            let variants = MatMul::default().variants(&types, &caps).expect("fits");
            variants.iter().any(|variant| variant.name == "matmul_cooperative")
        };
        assert!(offered(8, 8) && offered(32, 32));
        assert!(!offered(8, 32));
    }

    #[test]
    fn the_largest_tile_of_which_there_are_enough_comes_last() {
        let names = |m: usize, k: usize, n: usize, caps: &Caps| -> Vec<&'static str> {
            let variants = MatMul::default().variants(&[f32([m, k]), f32([k, n])], caps).expect("fits");
            variants.into_iter().map(|variant| variant.name).collect()
        };
        let [r, small, tall, square] =
            ["matmul_register", "matmul_tiled_64x64", "matmul_tiled_128x64", "matmul_tiled_128x128"];
        let caps = Caps::webgpu();
        assert_eq!(names(4096, 64, 1024, &caps), [r, small, tall, square]);
        assert_eq!(names(4096, 64, 512, &caps), [r, square, small, tall]);
        assert_eq!(names(2048, 64, 512, &caps), [r, square, tall, small]);
        // Few tiles and long sums, as long as one dispatch may do them.
        assert_eq!(names(64, 4096, 64, &caps), [r, square, tall, small, "matmul_tiled_split"]);
        let caps = Caps { max_dispatch_flops: 1_000_000, ..caps };
        assert_eq!(names(64, 4096, 64, &caps), [r, square, tall, small]);
    }

    #[test]
    fn a_scale_is_absorbed_and_several_are_one() {
        let y = f32([9, 17]);
        let scale = |op: &dyn Op, factor| {
            op.absorb(&Scale { factor }, 0, std::slice::from_ref(&y)).expect("absorbed").op
        };
        let scaled = scale(scale(&MatMul::new(Epilogue::bias()), 3.0).as_ref(), 0.5);
        let found: &MatMul = scaled.as_any().downcast_ref().expect("a product");
        assert_eq!(found.epilogue, Epilogue { scale: Some(1.5), ..Epilogue::bias() });
        assert!(
            scaled.absorb(&super::super::Add, 0, &[y.clone(), y.clone()]).is_none(),
            "it would not be scaled"
        );
    }
}
