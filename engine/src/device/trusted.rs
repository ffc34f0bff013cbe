//! The project's only `unsafe`: shader modules without run-time checks, wgpu's experimental features, stored pipelines.
#![allow(
    unsafe_code,
    reason = "create_shader_module_trusted, ExperimentalFeatures and create_pipeline_cache are unsafe; this module is the reviewed exception"
)]

/// A module for WGSL of the `kernels` crate, without bounds checks, loop bounding and division guards.
///
/// Those checks cost up to a factor of three on some drivers. What stands in for them: every dispatch comes from
/// `Op::variants`, whose windows and grids the tests hold against the operand's bytes, every index in `kernels/wgsl` is
/// guarded by the extents in its `Params`, and the kernel tests also run with the checks on.
pub(super) fn trusted_module(device: &wgpu::Device, label: &str, wgsl: String) -> wgpu::ShaderModule {
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(wgsl.into()) };
    // SAFETY: the source is assembled from this repository's files alone; their loops are bounded by Params and their
    // indices by the operands' extents, see above.
    unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}

/// A cache of pipelines that begins with `data`, or empty.
///
/// `data` is what such a cache gave before, whole: `pipelines.rs` holds it against its hash.
pub(super) fn pipeline_cache(device: &wgpu::Device, data: Option<&[u8]>) -> wgpu::PipelineCache {
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data, fallback: true };
    // SAFETY: wgpu asks that `data` came from `PipelineCache::get_data`. It did, but for somebody who can write the user's own
    // cache folder and make the hash fit; wgpu itself refuses another adapter's, driver's or version's.
    unsafe { device.create_pipeline_cache(&descriptor) }
}

/// The leave to use cooperative matrices.
pub(super) fn experimental_features() -> wgpu::ExperimentalFeatures {
    // SAFETY: wgpu asks that its users expect bugs, undefined behaviour among them. One is known, #8805: modules that use the
    // Vulkan memory model without its operands. `probe.rs` compares a product with its reference before models are given them.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}
