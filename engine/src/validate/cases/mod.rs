//! Single operations recorded elsewhere, in PyTorch's conventions: `name.json` beside `name.safetensors`.
//!
//! The JSON is a list of `{"name", "op", "attributes": {..}, "inputs": {"input": "tensor"}, "outputs": ["tensor"]}`, where `op` is a
//! function of torch.nn.functional, inputs have the names of its parameters and attributes are its other arguments.

mod arguments;
mod embedding;
mod express;

use std::collections::BTreeMap;
use std::path::Path;

use kernels::check::{Comparison, compare_values};
use kernels::{DType, HostTensor, TensorType};
use loaders::safetensors::Limits;
use loaders::{Checkpoint, Encoding, Error as LoadError, FileSource, read_whole};
use serde_json::{Map, Value};

use crate::device::{Gpu, Program};
use crate::error::Error;
use crate::graph::Rate;
use crate::plan::{Choice, PlanStep, build_plan};
use express::{Expressed, express};

/// Bytes of a list of cases.
const MAX_BYTES: u64 = 16 << 20;
/// Bytes of the tensors of one case.
const MAX_TENSOR_BYTES: u64 = 1 << 30;

/// What became of a case.
#[derive(Clone, Debug)]
pub struct CaseReport {
    /// Its name in the file.
    pub name: String,
    /// Its function.
    pub op: String,
    /// Each variant that computed it, compared with what was recorded; or why none can.
    pub result: Result<Vec<(&'static str, Comparison)>, String>,
}

impl CaseReport {
    /// Whether a variant differs from what was recorded.
    pub fn fails(&self) -> bool {
        self.result.as_ref().is_ok_and(|variants| variants.iter().any(|(_, comparison)| !comparison.pass))
    }
}

/// A tensor as PyTorch has it: rows one after the other, no padding.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub(super) shape: Vec<usize>,
    pub(super) encoding: Encoding,
    pub(super) values: Vec<f32>,
}

/// An operation with its operands.
pub(super) struct RecordedCase {
    pub(super) op: String,
    pub(super) attributes: Map<String, Value>,
    /// Operands by name; several for a list of tensors, none where it is null.
    pub(super) inputs: BTreeMap<String, Vec<Recorded>>,
    pub(super) output: Recorded,
}

/// A list of cases and the tensors beside it.
pub struct Cases {
    label: String,
    rows: Vec<Value>,
    tensors: Checkpoint,
}

impl Cases {
    /// Reads the list at `path` and the header of the safetensors file beside it.
    ///
    /// # Errors
    /// [`Error::Load`] naming the file and what is wrong with it.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let label = path.display().to_string();
        let bytes = read_whole(&FileSource::open(path)?, MAX_BYTES).await?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| LoadError::malformed(&label, "JSON", "a list of cases", error.to_string()))?;
        let Value::Array(rows) = value else {
            return Err(LoadError::malformed(&label, "JSON", "a list of cases", "something else").into());
        };
        let tensors = Checkpoint::open(path.with_extension("safetensors"), &Limits::default()).await?;
        Ok(Cases { label, rows, tensors })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Computes case `index` with every variant on `gpu`.
    ///
    /// # Errors
    /// [`Error::Load`] for a case that is not described as it should be; those of the device.
    pub async fn run(&self, gpu: &Gpu, index: usize) -> Result<CaseReport, Error> {
        let (name, case) = self.case(index).await?;
        let result = if case.op == "embedding" {
            self.embedding(index, &case).await?
        } else {
            match express(&case) {
                Ok(expressed) => run_variants(gpu, &case, expressed).await?,
                Err(reason) => Err(reason),
            }
        };
        Ok(CaseReport { name, op: case.op, result })
    }

    async fn case(&self, index: usize) -> Result<(String, RecordedCase), Error> {
        let row = &self.rows[index];
        let malformed = |what: &str, expected: &str| -> Error {
            let found = row.get(what).map_or_else(|| "none".to_owned(), ToString::to_string);
            LoadError::malformed(&self.label, format!("case {index}, key '{what}'"), expected, found).into()
        };
        let string =
            |key: &str| row[key].as_str().map(str::to_owned).ok_or_else(|| malformed(key, "a string"));
        let (name, op) = (string("name")?, string("op")?);
        let attributes = match row.get("attributes") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(attributes)) => attributes.clone(),
            Some(_) => return Err(malformed("attributes", "an object")),
        };
        let given = row["inputs"].as_object().ok_or_else(|| malformed("inputs", "an object"))?;
        let mut inputs = BTreeMap::new();
        for (parameter, value) in given {
            let mut tensors = Vec::new();
            let names = match value {
                Value::Null => continue,
                Value::Array(names) => names.iter().collect(),
                one => vec![one],
            };
            for tensor in names {
                let tensor = tensor.as_str().ok_or_else(|| malformed("inputs", "names of tensors"))?;
                tensors.push(self.tensor(tensor).await?);
            }
            inputs.insert(parameter.clone(), tensors);
        }
        let outputs = row["outputs"].as_array().filter(|outputs| outputs.len() == 1);
        let output = outputs.and_then(|outputs| outputs[0].as_str());
        let output = output.ok_or_else(|| malformed("outputs", "a list of one tensor's name"))?;
        let output = self.tensor(output).await?;
        Ok((name, RecordedCase { op, attributes, inputs, output }))
    }

    async fn tensor(&self, name: &str) -> Result<Recorded, Error> {
        let entry = self.tensors.require(name)?;
        if entry.bytes > MAX_TENSOR_BYTES {
            return Err(entry.unexpected(format!("at most {MAX_TENSOR_BYTES} bytes")).into());
        }
        let bytes = self.tensors.read(entry).await?;
        let values = match entry.encoding {
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => {
                crate::weights::values(&bytes, entry.encoding).collect()
            }
            Encoding::Bool | Encoding::U8 => bytes.iter().map(|byte| f32::from(*byte)).collect(),
            Encoding::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            // For what only says where something is.
            _ => Vec::new(),
        };
        Ok(Recorded { shape: entry.shape.clone(), encoding: entry.encoding, values })
    }
}

type Variants = Result<Vec<(&'static str, Comparison)>, String>;

async fn run_variants(gpu: &Gpu, case: &RecordedCase, expressed: Expressed) -> Result<Variants, Error> {
    let Expressed { graph, operands, to_torch, shape } = expressed;
    let output = graph.ty(graph.outputs()[0]).clone();
    let shape = shape.of(&output.shape);
    if without_ones(&shape) != without_ones(&case.output.shape) {
        return Ok(Err(format!("{shape:?} comes out, {:?} was recorded", case.output.shape)));
    }
    let fastest = match build_plan(&graph, gpu.caps(), Choice::Fastest) {
        Ok(plan) => plan,
        Err(error) => return Ok(Err(error.source.to_string())),
    };
    let offered = |step: &PlanStep| step.op.variants(&step.input_types, gpu.caps()).map_or(0, |v| v.len());
    // The operation that most can be tried of; the last of several.
    let Some((decisive, step)) = fastest.steps.iter().enumerate().max_by_key(|(_, step)| offered(step))
    else {
        return Ok(Err("nothing is dispatched for it".to_owned()));
    };
    let mut uploaded = Vec::with_capacity(operands.len());
    for operand in &operands {
        uploaded.push(gpu.upload_new("operand", operand).await?);
    }
    let to = gpu.allocate("result", output.clone())?;
    let mut found = Vec::new();
    for number in 0..offered(step) {
        let plan = build_plan(&graph, gpu.caps(), Choice::Number(number))?;
        let name = plan.steps[decisive].variant.name;
        let program = Program::compile(gpu, plan, Vec::new())?;
        gpu.upload_bytes(&to, 0, &vec![super::UNWRITTEN; output.bytes() as usize]).await?;
        program.run(gpu, &[Rate::Step], &uploaded, std::slice::from_ref(&to)).await?;
        let values = to_torch(&gpu.read(&to).await?);
        let dtype = judged_as(case.output.encoding, output.dtype);
        let class = step.op.class(&step.input_types);
        let (expected, values) = without_equal_infinities(&case.output.values, &values);
        found.push((name, compare_values(&expected, &values, class, dtype)));
    }
    Ok(Ok(found))
}

/// Both, with zeros where they have the same infinity, or both no number: operands that are not finite give such results, and where
/// they are the recorded ones there is nothing to measure.
fn without_equal_infinities(expected: &[f32], found: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let alike = |e: f32, f: f32| !e.is_finite() && (e == f || e.is_nan() && f.is_nan());
    expected.iter().zip(found).map(|(e, f)| if alike(*e, *f) { (0.0, 0.0) } else { (*e, *f) }).unzip()
}

/// Whose tolerance holds for a result of `ours` that was recorded as `recorded`: of the two, the one that keeps fewer bits.
fn judged_as(recorded: Encoding, ours: DType) -> DType {
    match recorded {
        Encoding::F32 | Encoding::F64 => ours,
        _ => DType::F16,
    }
}

/// Whether a tensor of these extents has no more than `most` elements.
fn is_at_most(shape: &[usize], most: u64) -> bool {
    let elements = shape.iter().try_fold(1u64, |product, extent| product.checked_mul(*extent as u64));
    elements.is_some_and(|elements| elements <= most)
}

/// Extents but for those of 1, which PyTorch has or leaves out as functions please.
fn without_ones(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|extent| *extent != 1).collect()
}

/// A tensor of ours with the values of a recorded one.
pub(super) fn host(recorded: &Recorded, shape: &[usize]) -> Result<HostTensor, String> {
    let dtype = match recorded.encoding {
        Encoding::F32 => DType::F32,
        Encoding::F16 => DType::F16,
        Encoding::Bf16 => DType::Bf16,
        other => return Err(format!("tensors of {other} are not computed with")),
    };
    Ok(HostTensor::new(TensorType::new(dtype, shape), recorded.values.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_recorded_in_16_bits_is_judged_as_such() {
        for encoding in [Encoding::F32, Encoding::F64] {
            assert_eq!(judged_as(encoding, DType::F32), DType::F32);
            assert_eq!(judged_as(encoding, DType::F16), DType::F16);
        }
        assert_eq!(judged_as(Encoding::F16, DType::F32), DType::F16);
        assert_eq!(judged_as(Encoding::Bf16, DType::F32), DType::F16);
    }

    #[test]
    fn only_equal_infinities_are_left_out() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let expected = [1.0, inf, -inf, nan, inf, inf, nan, 2.0];
        let (expected, found) =
            without_equal_infinities(&expected, &[1.0, inf, -inf, nan, -inf, 3.0, inf, nan]);
        assert_eq!(expected[..6], [1.0, 0.0, 0.0, 0.0, inf, inf]);
        assert_eq!(found[..7], [1.0, 0.0, 0.0, 0.0, -inf, 3.0, inf]);
        assert!(expected[6].is_nan() && expected[7] == 2.0 && found[7].is_nan());
    }

    #[test]
    fn sizes_that_overflow_are_too_large() {
        assert!(is_at_most(&[1 << 14, 1 << 14], 1 << 28));
        assert!(!is_at_most(&[1 << 14, 1 << 15], 1 << 28));
        assert!(!is_at_most(&[usize::MAX, 3, 5], 1 << 28));
    }
}
