//! Pipelines by the shader they run, compiled once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kernels::{Bind, Dispatch, Shader, Target};

use super::error::DeviceError;
use super::gpu::Gpu;
use super::trusted::trusted_module;

/// A compiled shader with the layout of its bindings.
pub(super) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

/// Every pipeline of a device.
#[derive(Default)]
pub(super) struct Pipelines {
    compiled: Mutex<HashMap<Shader, Arc<Pipeline>>>,
}

impl Pipelines {
    pub(super) fn len(&self) -> usize {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn get(&self, gpu: &Gpu, dispatch: &Dispatch) -> Result<Arc<Pipeline>, DeviceError> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = compiled.get(&dispatch.shader) {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(compile(gpu, dispatch)?);
        compiled.insert(dispatch.shader.clone(), pipeline.clone());
        Ok(pipeline)
    }
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
            trusted_module(device, label, wgsl)
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
            cache: None,
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
