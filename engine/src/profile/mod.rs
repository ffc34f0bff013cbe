//! Where a picture's time goes: what was measured, as plain data, and sums over it.
//!
//! [`Pipeline::profile`](crate::pipelines::Pipeline::profile) fills it; `photogram profile` prints it.

mod measure;
mod roof;

use std::collections::HashMap;
use std::time::Duration;

use kernels::{Cost, TensorType};

pub use crate::device::{Clock, HostTime};
pub(crate) use measure::{Work, measure_roof, measure_section};
pub use roof::Roof;

/// How to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProfileOptions {
    /// Runs of which each figure is the median; at least 1.
    pub repeat: usize,
    /// What dispatches are timed with; the most exact clock of the adapter if `None`.
    pub clock: Option<Clock>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// What dispatches were timed with.
    pub clock: Clock,
    /// Runs of which each figure is the median.
    pub repeat: usize,
    /// What the adapter can do.
    pub roof: Roof,
    /// The most bytes of device buffers that the sections held at once.
    pub peak_bytes: u64,
    /// In the order in which they run; one that dispatches nothing is left out.
    pub sections: Vec<Section>,
}

/// A part of the work that is run as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// What it is: `text_encoder`, `prompt`, `step`, `decode`.
    pub name: String,
    /// Its operations in order.
    pub operations: Vec<Operation>,
    /// The same without any timing of dispatches: each figure is the median of the runs.
    pub host: HostTime,
}

/// An operation and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Module path.
    pub path: String,
    /// The variant that computes it.
    pub kernel: &'static str,
    /// Types of its operands.
    pub inputs: Vec<TensorType>,
    /// Type of its result.
    pub output: TensorType,
    /// Arithmetic, and bytes that must move at least.
    pub cost: Cost,
    /// Its dispatches in order.
    pub dispatches: Vec<TimedDispatch>,
}

/// A dispatch and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedDispatch {
    /// Stem of the shader's file.
    pub shader: &'static str,
    /// Workgroups along x, y and z.
    pub grid: [u32; 3],
    /// Nanoseconds.
    pub ns: f64,
}

impl Operation {
    /// Nanoseconds of all its dispatches.
    pub fn ns(&self) -> f64 {
        self.dispatches.iter().map(|dispatch| dispatch.ns).sum()
    }
}

/// A sum over operations.
#[derive(Clone, Debug, PartialEq)]
pub struct Total {
    /// What they have in common: a kernel, a module path.
    pub name: String,
    /// Operations.
    pub calls: usize,
    /// Their dispatches.
    pub dispatches: usize,
    /// Nanoseconds.
    pub ns: f64,
    /// Arithmetic, and bytes that must move at least.
    pub cost: Cost,
    /// Nanoseconds that the operations, one after the other, would take at the roof.
    pub ns_at_roof: f64,
}

impl Total {
    fn new(name: String) -> Self {
        Total { name, calls: 0, dispatches: 0, ns: 0.0, cost: Cost::default(), ns_at_roof: 0.0 }
    }

    /// An operation alone.
    pub fn of_operation(operation: &Operation, roof: &Roof) -> Total {
        let mut total = Total::new(operation.path.clone());
        total.add(operation, roof);
        total
    }

    fn add(&mut self, operation: &Operation, roof: &Roof) {
        self.calls += 1;
        self.dispatches += operation.dispatches.len();
        self.ns += operation.ns();
        self.cost = self.cost + operation.cost;
        self.ns_at_roof += roof.ns(operation.cost);
    }

    /// The sum of sums, called `name`.
    pub fn of(name: impl Into<String>, totals: &[Total]) -> Total {
        totals.iter().fold(Total::new(name.into()), |sum, total| Total {
            calls: sum.calls + total.calls,
            dispatches: sum.dispatches + total.dispatches,
            ns: sum.ns + total.ns,
            cost: sum.cost + total.cost,
            ns_at_roof: sum.ns_at_roof + total.ns_at_roof,
            ..sum
        })
    }

    /// Floating-point operations per second.
    pub fn flops_per_s(&self) -> f64 {
        per_second(self.cost.flops as f64, self.ns)
    }

    /// Bytes per second.
    pub fn bytes_per_s(&self) -> f64 {
        per_second(self.cost.bytes as f64, self.ns)
    }

    /// The part of what the roof allows, 1 being all. Above 1 where caches serve what the roof's copy fetched from memory.
    pub fn of_roof(&self) -> f64 {
        if self.ns > 0.0 { self.ns_at_roof / self.ns } else { 0.0 }
    }
}

impl Section {
    /// Its dispatches.
    pub fn dispatches(&self) -> usize {
        self.operations.iter().map(|operation| operation.dispatches.len()).sum()
    }

    /// Nanoseconds of all dispatches.
    pub fn ns(&self) -> f64 {
        self.operations.iter().map(Operation::ns).sum()
    }

    /// Wall time in which no dispatch ran.
    pub fn idle(&self) -> Duration {
        self.host.wall.saturating_sub(Duration::from_nanos(self.ns() as u64))
    }

    /// Everything.
    pub fn total(&self, roof: &Roof) -> Total {
        Total::of(self.name.clone(), &self.by_kernel(roof))
    }

    /// Sums by kernel, the slowest first.
    pub fn by_kernel(&self, roof: &Roof) -> Vec<Total> {
        self.sums(roof, |operation| operation.kernel.to_owned())
    }

    /// Sums by the first `depth` names of the module path, the slowest first.
    pub fn by_layer(&self, roof: &Roof, depth: usize) -> Vec<Total> {
        self.sums(roof, |operation| layer(&operation.path, depth).to_owned())
    }

    fn sums(&self, roof: &Roof, name: impl Fn(&Operation) -> String) -> Vec<Total> {
        let (mut totals, mut known): (Vec<Total>, HashMap<String, usize>) = Default::default();
        for operation in &self.operations {
            let place = *known.entry(name(operation)).or_insert_with_key(|name| {
                totals.push(Total::new(name.clone()));
                totals.len() - 1
            });
            totals[place].add(operation, roof);
        }
        // Stable: equals stay in the order in which they run.
        totals.sort_by(|a, b| b.ns.total_cmp(&a.ns));
        totals
    }
}

/// The first `depth` names of a module path, each with the number that follows it: `unet.down_blocks.0.resnets.1` has three.
pub fn layer(path: &str, depth: usize) -> &str {
    let (mut names, mut end) = (0, 0);
    for part in path.split('.') {
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        names += usize::from(!is_number);
        if names > depth {
            break;
        }
        end += part.len() + usize::from(end > 0);
    }
    &path[..end]
}

fn per_second(count: f64, ns: f64) -> f64 {
    if ns > 0.0 { count / (ns * 1e-9) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operation of 100 floating-point operations and 40 bytes.
    fn operation(path: &str, kernel: &'static str, ns: &[f64]) -> Operation {
        let dispatch = |ns: &f64| TimedDispatch { shader: "s", grid: [1; 3], ns: *ns };
        Operation {
            path: path.to_owned(),
            kernel,
            inputs: Vec::new(),
            output: TensorType::f32([1]),
            cost: Cost { flops: 100, bytes: 40 },
            dispatches: ns.iter().map(dispatch).collect(),
        }
    }

    fn section() -> Section {
        Section {
            name: "step".to_owned(),
            operations: vec![
                operation("unet.conv_in", "conv", &[10.0]),
                operation("unet.down_blocks.0.resnets.1.conv1", "conv", &[20.0, 5.0]),
                operation("unet.down_blocks.0.resnets.1", "add", &[7.0]),
            ],
            host: HostTime {
                submissions: 1,
                recording: Duration::ZERO,
                submitting: Duration::ZERO,
                wall: Duration::from_nanos(50),
            },
        }
    }

    /// 10 GFLOP/s and 2 GB/s: an operation of the section takes 10 ns for its arithmetic and 20 ns for its bytes.
    const ROOF: Roof = Roof { flops_per_s: 1e10, bytes_per_s: 2e9 };

    #[test]
    fn sums_by_kernel_are_those_of_its_operations() {
        let totals = section().by_kernel(&ROOF);
        let conv = Total {
            name: "conv".to_owned(),
            calls: 2,
            dispatches: 3,
            ns: 35.0,
            cost: Cost { flops: 200, bytes: 80 },
            ns_at_roof: 40.0,
        };
        assert_eq!(totals[0], conv);
        assert_eq!((totals.len(), totals[1].name.as_str(), totals[1].ns), (2, "add", 7.0));
        assert!((conv.flops_per_s() - 200.0 / 35e-9).abs() < 1.0);
        assert!((conv.bytes_per_s() - 80.0 / 35e-9).abs() < 1.0);
        assert!((conv.of_roof() - 40.0 / 35.0).abs() < 1e-12);
    }

    #[test]
    fn a_layer_is_named_by_the_start_of_its_path() {
        let path = "unet.down_blocks.0.resnets.1.conv1";
        let layers = [1, 2, 3, 4, 9].map(|depth| layer(path, depth));
        assert_eq!(layers, ["unet", "unet.down_blocks.0", "unet.down_blocks.0.resnets.1", path, path]);
        assert_eq!([layer("", 3), layer("add", 3), layer("a..b", 9)], ["", "add", "a..b"]);
        let totals = section().by_layer(&ROOF, 3);
        let found: Vec<(&str, usize, f64)> =
            totals.iter().map(|total| (total.name.as_str(), total.dispatches, total.ns)).collect();
        assert_eq!(found, [("unet.down_blocks.0.resnets.1", 3, 32.0), ("unet.conv_in", 1, 10.0)]);
    }

    #[test]
    fn a_section_is_the_sum_of_its_parts() {
        let section = section();
        let total = section.total(&ROOF);
        assert_eq!((total.calls, total.dispatches, total.ns), (3, section.dispatches(), section.ns()));
        for totals in [section.by_kernel(&ROOF), section.by_layer(&ROOF, 2)] {
            assert_eq!(totals.iter().map(|total| total.ns).sum::<f64>(), 42.0);
            assert_eq!(totals.iter().map(|total| total.dispatches).sum::<usize>(), 4);
            assert_eq!(totals.iter().fold(Cost::default(), |sum, total| sum + total.cost), total.cost);
        }
        assert_eq!(section.idle(), Duration::from_nanos(8));
        let busy = Section { host: HostTime { wall: Duration::from_nanos(1), ..section.host }, ..section };
        assert_eq!(busy.idle(), Duration::ZERO);
    }

    #[test]
    fn what_took_no_time_has_no_speed() {
        let total = Total::new("nothing".to_owned());
        assert_eq!([total.flops_per_s(), total.bytes_per_s(), total.of_roof()], [0.0; 3]);
    }
}
