//! Weights on their way from a checkpoint to the device: checked against what a model expects, packed for kernels,
//! uploaded once and shared by every program.

mod pack;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use kernels::{DType, HostTensor, LANES, TensorType};
use loaders::{Checkpoint, Encoding, TensorEntry};

use crate::device::{DeviceTensor, Gpu};
use crate::error::Error;
use crate::graph::{Packing, Param};
use pack::pack;

pub(crate) use pack::values;

/// The weights of one network.
pub struct Weights {
    checkpoint: Checkpoint,
    /// Whether f32 matrices are rounded to f16; 16-bit ones keep their encoding either way.
    f16: bool,
    resident: Mutex<HashMap<Param, DeviceTensor>>,
    /// Shapes of the tensors that were asked for, where that is all that is wanted.
    recorded: Option<Mutex<BTreeMap<String, Vec<usize>>>>,
}

impl Weights {
    /// The weights in `checkpoint`; with `f16`, matrices that are stored as f32 take two bytes an element.
    pub fn new(checkpoint: Checkpoint, f16: bool) -> Self {
        Weights { checkpoint, f16, resident: Mutex::default(), recorded: None }
    }

    /// Weights that are nowhere: they have every tensor that a network asks for, and keep what it was.
    pub(crate) fn recording() -> Self {
        let nothing = Checkpoint::foretold("", []);
        Weights { recorded: Some(Mutex::default()), ..Weights::new(nothing, false) }
    }

    /// Shapes of the tensors that were asked for, by name.
    pub(crate) fn recorded(&self) -> BTreeMap<String, Vec<usize>> {
        let recorded = self.recorded.as_ref().map(|recorded| recorded.lock());
        recorded.map(|names| names.unwrap_or_else(PoisonError::into_inner).clone()).unwrap_or_default()
    }

    /// The checkpoint they come from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The parameter `name`, whose tensor in the checkpoint has to have one of the shapes `expected`, and its packed type.
    ///
    /// # Errors
    /// [`loaders::Error`] naming file, tensor, expected and found shape or dtype.
    pub fn param(
        &self,
        name: &str,
        packing: Packing,
        expected: &[&[usize]],
    ) -> Result<(Param, TensorType), Error> {
        let (dtype, shape) = self.checked(name, expected)?;
        let ty = match packing {
            Packing::Vector | Packing::GatedVector => TensorType::f32(shape),
            Packing::Linear | Packing::GatedLinear => {
                TensorType::new(dtype, [shape[1].next_multiple_of(LANES), shape[0]]).in_strips()
            }
            Packing::Transposed => {
                TensorType::new(dtype, [shape[0].next_multiple_of(LANES), shape[1]]).in_strips()
            }
            Packing::Conv => {
                let [o, i, kh, kw] = [0, 1, 2, 3].map(|d| shape[d]);
                TensorType::new(dtype, [kh, kw, i.next_multiple_of(LANES), o]).in_strips()
            }
        };
        Ok((Param::one(name.to_owned(), packing), ty))
    }

    /// How a tensor's matrix is stored on the device, and its shape.
    fn checked<'s>(&'s self, name: &str, expected: &[&'s [usize]]) -> Result<(DType, &'s [usize]), Error> {
        if let Some(recorded) = &self.recorded {
            let shape = expected.first().copied().unwrap_or_default();
            let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
            recorded.insert(name.to_owned(), shape.to_vec());
            return Ok((DType::F32, shape));
        }
        let entry = self.checkpoint.require(name)?;
        if !expected.contains(&entry.shape.as_slice()) {
            let shapes: Vec<String> = expected.iter().map(|s| format!("{s:?}")).collect();
            return Err(entry.unexpected(shapes.join(" or ")).into());
        }
        Ok((self.dtype(entry)?, &entry.shape))
    }

    /// The parameter on the device, uploaded now if it was not yet.
    ///
    /// # Errors
    /// [`Error`] of the file or the device.
    pub async fn on_device(&self, gpu: &Gpu, param: &Param, ty: &TensorType) -> Result<DeviceTensor, Error> {
        let known = self.resident.lock().unwrap_or_else(PoisonError::into_inner).get(param).cloned();
        if let Some(tensor) = known {
            return Ok(tensor);
        }
        let tensor = gpu.allocate(param.name(), ty.clone())?;
        let mut start = 0;
        for (name, part) in param.tensors.iter().zip(param.parts(ty)) {
            let packed = self.packed(name, param.packing, &part).await?;
            gpu.upload_bytes(&tensor, start, bytemuck::cast_slice(&packed)).await?;
            start += part.bytes();
        }
        self.resident.lock().unwrap_or_else(PoisonError::into_inner).insert(param.clone(), tensor.clone());
        Ok(tensor)
    }

    /// Takes what is on the device off it, as soon as no program holds it any more.
    pub fn release(&self) {
        self.resident.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The parameter in host memory, for the CPU reference.
    ///
    /// # Errors
    /// [`loaders::Error`].
    pub async fn on_host(&self, param: &Param, ty: &TensorType) -> Result<HostTensor, Error> {
        let mut bytes = Vec::new();
        for (name, part) in param.tensors.iter().zip(param.parts(ty)) {
            bytes.extend(bytemuck::cast_slice::<u32, u8>(&self.packed(name, param.packing, &part).await?));
        }
        Ok(HostTensor::from_bytes(ty.clone(), &bytes).0)
    }

    /// Rows of a table `[n, D]`, which stays in the file: embeddings are gathered on the host.
    ///
    /// # Errors
    /// [`loaders::Error`], also if the table is not `[n, columns]` or a row is not in it.
    pub async fn rows(&self, name: &str, rows: &[usize], columns: usize) -> Result<Vec<f32>, Error> {
        let entry = self.checkpoint.require(name)?;
        let &[n_rows, found] = entry.shape.as_slice() else {
            return Err(entry.unexpected(format!("[n, {columns}]")).into());
        };
        let highest = rows.iter().copied().max().unwrap_or(0);
        if found != columns || highest >= n_rows {
            return Err(entry.unexpected(format!("[> {highest}, {columns}]")).into());
        }
        self.dtype(entry)?;
        let row_bytes = entry.encoding.bytes() * columns as u64;
        let mut values = Vec::with_capacity(rows.len() * columns);
        let mut buffer = vec![0u8; row_bytes as usize];
        for row in rows {
            let start = *row as u64 * row_bytes;
            self.checkpoint.read_into(entry, start..start + row_bytes, &mut buffer).await?;
            values.extend(pack::values(&buffer, entry.encoding));
        }
        Ok(values)
    }

    async fn packed(&self, name: &str, packing: Packing, ty: &TensorType) -> Result<Vec<u32>, Error> {
        let entry = self.checkpoint.require(name)?;
        let bytes = self.checkpoint.read(entry).await?;
        Ok(pack(&bytes, entry.encoding, &entry.shape, packing, ty))
    }

    /// How a matrix of this tensor is stored on the device.
    fn dtype(&self, entry: &TensorEntry) -> Result<DType, Error> {
        match entry.encoding {
            Encoding::F32 if self.f16 => Ok(DType::F16),
            Encoding::F32 => Ok(DType::F32),
            Encoding::F16 => Ok(DType::F16),
            Encoding::Bf16 => Ok(DType::Bf16),
            other => Err(loaders::Error::unsupported(
                entry.source.label(),
                format!("tensor '{}' of dtype {other}", entry.name),
                "photogram reads F32, F16 and BF16",
            )
            .into()),
        }
    }
}
