//! Pipelines by the shader they run, compiled once, and by several threads at once where a plan needs several.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use kernels::{Bind, Dispatch, Shader, Target};

use super::error::DeviceError;
use super::gpu::Gpu;
use super::trusted;

/// A compiled shader with the layout of its bindings.
pub(super) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

/// Every pipeline of a device.
#[derive(Default)]
pub(super) struct Pipelines {
    compiled: Mutex<HashMap<Shader, Arc<Pipeline>>>,
    /// What the driver keeps of them from one run of the program to the next, where it takes it from us.
    stored: OnceLock<wgpu::PipelineCache>,
}

impl Pipelines {
    pub(super) fn len(&self) -> usize {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn get(&self, gpu: &Gpu, dispatch: &Dispatch) -> Result<Arc<Pipeline>, DeviceError> {
        if let Some(pipeline) = self.known(&dispatch.shader) {
            return Ok(pipeline);
        }
        let pipeline = Arc::new(compile(gpu, dispatch)?);
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(compiled.entry(dispatch.shader.clone()).or_insert(pipeline).clone())
    }

    fn known(&self, shader: &Shader) -> Option<Arc<Pipeline>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner).get(shader).cloned()
    }

    /// Compiles what `dispatches` need and is not there yet, on as many threads as the machine runs at once.
    pub(super) fn compile_all<'d>(
        &self,
        gpu: &Gpu,
        dispatches: impl Iterator<Item = &'d Dispatch>,
    ) -> Result<(), DeviceError> {
        let mut missing: HashMap<&Shader, &Dispatch> = HashMap::new();
        for dispatch in dispatches.filter(|dispatch| self.known(&dispatch.shader).is_none()) {
            missing.entry(&dispatch.shader).or_insert(dispatch);
        }
        let threads = thread::available_parallelism().map_or(1, usize::from).min(missing.len());
        let queue = Mutex::new(missing.into_values());
        let work = || -> Result<(), DeviceError> {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(dispatch) = next else { return Ok(()) };
                self.get(gpu, dispatch)?;
            }
        };
        thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let joined = others
                .into_iter()
                .map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            joined.fold(own, Result::and)
        })
    }
}

impl Gpu {
    /// Lets the driver take pipelines from what [`Gpu::stored_pipelines`] gave in another run, or begin anew where `stored` is
    /// `None`. Whether it was taken: it is not if a byte of it changed, nor where the backend has no such thing.
    ///
    /// `stored` has to come from where nobody else writes, such as a user's own folder: drivers trust it.
    pub fn use_stored_pipelines(&self, stored: Option<&[u8]>) -> bool {
        if !self.device().features().contains(wgpu::Features::PIPELINE_CACHE) {
            return false;
        }
        let data = stored.map(unsealed);
        if data == Some(None) {
            return false;
        }
        let cache = self.checked(|| trusted::pipeline_cache(self.device(), data.flatten()));
        cache.is_ok_and(|cache| self.pipeline_cache().stored.set(cache).is_ok())
    }

    /// What the driver would like to be given in the next run, if anything.
    pub fn stored_pipelines(&self) -> Option<Vec<u8>> {
        self.pipeline_cache().stored.get()?.get_data().map(|data| sealed(&data))
    }
}

/// `data` after its hash.
fn sealed(data: &[u8]) -> Vec<u8> {
    [&kernels::fnv1a([data]).to_le_bytes(), data].concat()
}

/// What [`sealed`] was given.
fn unsealed(bytes: &[u8]) -> Option<&[u8]> {
    let (hash, data) = bytes.split_first_chunk()?;
    (u64::from_le_bytes(*hash) == kernels::fnv1a([data])).then_some(data)
}

fn compile(gpu: &Gpu, dispatch: &Dispatch) -> Result<Pipeline, DeviceError> {
    let device = gpu.device();
    let label = dispatch.shader.file;
    let target = Target { immediates: gpu.has_immediates(), enable_subgroups: false };
    gpu.checked(|| {
        let wgsl = dispatch.shader.wgsl(target);
        let module = if gpu.checks_shaders() {
            let source = wgpu::ShaderSource::Wgsl(wgsl.into());
            device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(label), source })
        } else {
            trusted::trusted_module(device, label, wgsl)
        };
        let entries: Vec<wgpu::BindGroupLayoutEntry> = dispatch.binds.iter().map(storage_entry).collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(label),
            entries: &entries,
        });
        let params_bytes = dispatch.params.len() as u32 * 4;
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(label),
            bind_group_layouts: &[Some(&layout), gpu.params_layout()],
            immediate_size: if gpu.has_immediates() { params_bytes } else { 0 },
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: false,
            },
            cache: gpu.pipeline_cache().stored.get(),
        });
        Pipeline { pipeline, layout }
    })
}

fn storage_entry(bind: &Bind) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding: bind.binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: !bind.write },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_not_taken() {
        let whole = sealed(b"pipelines");
        assert_eq!(unsealed(&whole), Some(b"pipelines".as_slice()));
        for i in 0..whole.len() {
            let mut changed = whole.clone();
            changed[i] ^= 1;
            assert_eq!(unsealed(&changed), None, "byte {i}");
            assert_eq!(unsealed(&whole[..i]), None, "{i} bytes");
        }
    }
}
