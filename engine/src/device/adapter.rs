//! Which adapters there are, what they can do, and which one to take.

use kernels::{Caps, Subgroups};

use super::gpu::{Gpu, GpuOptions};

/// An adapter as a person sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterReport {
    /// Position in the list, accepted by [`AdapterChoice::Index`].
    pub index: usize,
    /// Name the driver gives.
    pub name: String,
    /// `Vulkan`, `Metal`, `Dx12`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Driver and version.
    pub driver: String,
    /// Bytes of one storage binding.
    pub max_binding_bytes: u64,
    /// Bytes of one buffer.
    pub max_buffer_bytes: u64,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// f16 arithmetic in shaders.
    pub f16: bool,
    /// Smallest and largest subgroup, if there are subgroup operations.
    pub subgroups: Option<(u32, u32)>,
    /// Cooperative matrices as `MxNxK ab->cr`.
    pub cooperative_matrices: Vec<String>,
    /// Timestamps, by which `profile` times kernels.
    pub timestamps: bool,
    /// What it offers and is not used, and why, a line each.
    pub notes: Vec<String>,
    /// Whether `auto` takes it.
    pub chosen: bool,
    /// Why `auto` takes it or not.
    pub reason: String,
}

/// Which adapter to open.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AdapterChoice {
    /// The best one: discrete before integrated before virtual before software.
    #[default]
    Auto,
    /// By position in the list.
    Index(usize),
    /// By a part of its name, whatever the case.
    Name(String),
}

impl std::str::FromStr for AdapterChoice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.parse() {
            Ok(index) => AdapterChoice::Index(index),
            Err(_) if text == "auto" => AdapterChoice::Auto,
            Err(_) => AdapterChoice::Name(text.to_owned()),
        })
    }
}

impl std::fmt::Display for AdapterChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AdapterChoice::Auto => f.write_str("at all"),
            AdapterChoice::Index(index) => write!(f, "number {index}"),
            AdapterChoice::Name(name) => write!(f, "named '{name}'"),
        }
    }
}

/// Every adapter of this machine, in the driver's order. Those that offer matrix units are opened, to try them.
pub async fn list_adapters() -> Vec<AdapterReport> {
    let adapters = enumerate(&instance()).await;
    let best = best(&adapters);
    let mut reports = Vec::with_capacity(adapters.len());
    for (index, adapter) in adapters.iter().enumerate() {
        reports.push(AdapterReport { notes: notes(adapter).await, ..report(index, adapter, best) });
    }
    reports
}

/// What opening the adapter tells.
async fn notes(adapter: &wgpu::Adapter) -> Vec<String> {
    if cooperative_extent(adapter).is_none() {
        return Vec::new();
    }
    match Gpu::open_adapter(adapter, &GpuOptions::default()).await {
        Ok(gpu) => gpu.notes().to_vec(),
        Err(error) => vec![error.to_string()],
    }
}

pub(super) fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    wgpu::Instance::new(descriptor.with_env())
}

pub(super) async fn enumerate(instance: &wgpu::Instance) -> Vec<wgpu::Adapter> {
    instance.enumerate_adapters(wgpu::Backends::PRIMARY).await
}

/// The adapter that `choice` means.
pub(super) fn find(adapters: &[wgpu::Adapter], choice: &AdapterChoice) -> Option<usize> {
    match choice {
        AdapterChoice::Auto => best(adapters),
        AdapterChoice::Index(index) => (*index < adapters.len()).then_some(*index),
        AdapterChoice::Name(name) => {
            let name = name.to_lowercase();
            adapters.iter().position(|a| a.get_info().name.to_lowercase().contains(&name))
        }
    }
}

fn best(adapters: &[wgpu::Adapter]) -> Option<usize> {
    (0..adapters.len()).min_by_key(|i| (rank(adapters[*i].get_info().device_type), *i))
}

fn rank(kind: wgpu::DeviceType) -> u32 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

fn kind(kind: wgpu::DeviceType) -> &'static str {
    match kind {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Other => "other",
        wgpu::DeviceType::Cpu => "software",
    }
}

fn report(index: usize, adapter: &wgpu::Adapter, best: Option<usize>) -> AdapterReport {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let chosen = best == Some(index);
    let reason = match (chosen, info.device_type) {
        (true, wgpu::DeviceType::Cpu) => "the only kind there is: no GPU driver was found".to_owned(),
        (true, t) => {
            format!("the first {} adapter; discrete goes before integrated before software", kind(t))
        }
        (false, t) => format!("{} adapter, and there is a better or an earlier one", kind(t)),
    };
    AdapterReport {
        index,
        name: info.name.clone(),
        backend: format!("{:?}", info.backend),
        kind: kind(info.device_type),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        f16: features.contains(wgpu::Features::SHADER_F16),
        subgroups: subgroups(&info, features).map(|s| (s.min, s.max)),
        cooperative_matrices: adapter
            .cooperative_matrix_properties()
            .iter()
            .map(|p| format!("{}x{}x{} {:?}->{:?}", p.m_size, p.n_size, p.k_size, p.ab_type, p.cr_type))
            .collect(),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        notes: Vec::new(),
        chosen,
        reason,
    }
}

/// The features that kernels and timing use, as far as the adapter has them.
pub(super) fn wanted_features(available: wgpu::Features) -> wgpu::Features {
    available
        & (wgpu::Features::IMMEDIATES
            | wgpu::Features::PIPELINE_CACHE
            | wgpu::Features::SUBGROUP
            | wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES)
}

/// What kernels on matrix units need.
pub(super) const COOPERATIVE_FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
    .union(wgpu::Features::SHADER_F16)
    .union(wgpu::Features::SUBGROUP);

/// Extent of the largest square cooperative matrices of f16 with f32 sums that WGSL has words for.
pub(super) fn cooperative_extent(adapter: &wgpu::Adapter) -> Option<u32> {
    if !adapter.features().contains(COOPERATIVE_FEATURES) {
        return None;
    }
    let offered = adapter.cooperative_matrix_properties();
    [16, 8].into_iter().find(|extent| {
        offered.iter().any(|p| {
            [p.m_size, p.n_size, p.k_size] == [*extent; 3]
                && p.ab_type == wgpu::CooperativeScalarType::F16
                && p.cr_type == wgpu::CooperativeScalarType::F32
        })
    })
}

/// What kernels may count on.
pub(super) fn caps(info: &wgpu::AdapterInfo, limits: &wgpu::Limits, features: wgpu::Features) -> Caps {
    Caps {
        subgroups: subgroups(info, features),
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        binding_alignment: u64::from(limits.min_storage_buffer_offset_alignment),
        max_groups_per_axis: limits.max_compute_workgroups_per_dimension,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        max_dispatch_flops: match info.device_type {
            wgpu::DeviceType::Cpu => Caps::SOFTWARE_DISPATCH_FLOPS,
            _ => Caps::GPU_DISPATCH_FLOPS,
        },
        cooperative: None,
        cores: cores(info.device_type),
        software: info.device_type == wgpu::DeviceType::Cpu,
    }
}

fn cores(kind: wgpu::DeviceType) -> usize {
    match kind {
        wgpu::DeviceType::IntegratedGpu => Caps::INTEGRATED_CORES,
        _ => Caps::DISCRETE_CORES,
    }
}

fn subgroups(info: &wgpu::AdapterInfo, features: wgpu::Features) -> Option<Subgroups> {
    features
        .contains(wgpu::Features::SUBGROUP)
        .then_some(Subgroups { min: info.subgroup_min_size, max: info.subgroup_max_size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integrated_gpu_has_fewer_cores() {
        assert!(cores(wgpu::DeviceType::IntegratedGpu) < cores(wgpu::DeviceType::DiscreteGpu));
        assert_eq!(cores(wgpu::DeviceType::Other), cores(wgpu::DeviceType::DiscreteGpu));
    }
}
