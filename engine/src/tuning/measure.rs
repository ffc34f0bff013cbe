//! Timing the variants of an operation, and checking each before it may be chosen.

use std::collections::HashMap;

use kernels::HostTensor;
use kernels::check::{Comparison, Hard, quick_noise};

use super::{Choices, Task};
use crate::device::{Clock, DeviceError, DeviceTensor, Gpu, Program};
use crate::error::Error;
use crate::graph::{Graph, Rate};
use crate::plan::{Choice, PlanError, build_plan};
use crate::validate::{Against, Expected, UNWRITTEN, validate_variants};

/// Runs of which a variant's time is the shortest.
pub const RUNS: usize = 5;
/// The part of the usual variant's time that another must save to be chosen: less is noise.
const LEAST_GAIN: f64 = 0.02;

/// A variant's time and what is wrong with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The variant.
    pub variant: &'static str,
    /// Nanoseconds; `None` where it was not run, or no clock saw it run.
    pub ns: Option<f64>,
    /// Why it cannot be chosen.
    pub wrong: Option<String>,
}

impl Measured {
    /// Keeps the shortest time. A counter that has started anew shows no time at all.
    fn note(&mut self, ns: f64) {
        self.ns = self.ns.into_iter().chain(Some(ns).filter(|ns| *ns > 0.0)).reduce(f64::min);
    }

    fn ns_if_right(&self) -> Option<f64> {
        self.ns.filter(|_| self.wrong.is_none())
    }
}

/// What was found about a task.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// What can be computed in several ways.
    pub task: Task,
    /// What results were compared with.
    pub against: Against,
    /// Its variants in their order: the last is the usual one.
    pub variants: Vec<Measured>,
}

impl Tuned {
    /// The variant that a plan takes without a choice.
    pub fn usual(&self) -> &Measured {
        self.variants.last().expect("a task has variants")
    }

    /// The fastest right variant, or the usual one if that is hardly slower; `None` if none is right or could be timed.
    pub fn chosen(&self) -> Option<&Measured> {
        let timed = self.variants.iter().filter_map(|variant| Some((variant, variant.ns_if_right()?)));
        let (fastest, ns) = timed.min_by(|a, b| a.1.total_cmp(&b.1))?;
        let is_noise = self.usual().ns_if_right().is_some_and(|usual| ns > (1.0 - LEAST_GAIN) * usual);
        Some(if is_noise { self.usual() } else { fastest })
    }

    /// Notes in `choices` what was chosen, and forgets an earlier choice if nothing was.
    pub fn choose(&self, choices: &mut Choices) {
        match self.chosen() {
            Some(chosen) => choices.insert(self.task.key(), chosen.variant),
            None => choices.remove(&self.task.key()),
        }
    }

    /// How many times as fast as the usual variant the chosen one is; `None` if either has no time.
    pub fn gain(&self) -> Option<f64> {
        Some(self.usual().ns? / self.chosen()?.ns?)
    }
}

/// Measures on one device.
pub struct Tuner {
    gpu: Gpu,
    clock: Clock,
    /// Runs of each variant, of which the shortest counts.
    runs: usize,
    /// By operation and variant, what is wrong with it on the operation's own cases.
    on_cases: HashMap<&'static str, HashMap<&'static str, String>>,
}

/// An operation on its operands: what its variants are run with.
struct Bench<'a> {
    task: &'a Task,
    graph: Graph,
    inputs: Vec<DeviceTensor>,
    output: DeviceTensor,
}

impl Tuner {
    /// Times with the most exact clock of `gpu`.
    pub fn new(gpu: Gpu) -> Self {
        let clock = gpu.clock();
        Tuner { gpu, clock, runs: RUNS, on_cases: HashMap::new() }
    }

    /// Times each variant as often as that.
    pub fn with_runs(self, runs: usize) -> Self {
        Tuner { runs, ..self }
    }

    /// What variants are timed with.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Checks and times every variant of `task`.
    ///
    /// # Errors
    /// [`Error`] if memory runs out or the device fails. A variant that is wrong or refused is no error.
    pub async fn tune(&mut self, task: &Task) -> Result<Tuned, Error> {
        let operands: Vec<HostTensor> =
            task.inputs.iter().enumerate().map(|(i, ty)| quick_noise(ty, i as u64 + 1)).collect();
        let mut expected = Expected::of(task.op.as_ref(), &task.inputs, &operands);
        let bench = self.bench(task, &operands).await?;
        drop(operands);

        let (mut programs, mut variants) = self.compiled(&bench)?;
        self.check_cases(task, &variants).await?;
        for (program, measured) in programs.iter().zip(&mut variants) {
            let Some(program) = program else { continue };
            let wrong = self.check(program, &bench, &mut expected).await?;
            let on_cases = self.on_cases[task.op.name()].get(measured.variant).cloned();
            measured.wrong = on_cases.or(wrong);
        }
        for (program, measured) in programs.iter_mut().zip(&variants) {
            if measured.wrong.is_some() {
                *program = None;
            }
        }
        // In turns: an adapter that changes its pace meanwhile does so to all of them.
        for _ in 0..self.runs {
            for (program, measured) in programs.iter().zip(&mut variants) {
                let Some(program) = program else { continue };
                let ns = self.time(program, &bench).await?;
                measured.note(ns);
            }
        }
        Ok(Tuned { task: task.clone(), against: expected.against, variants })
    }

    async fn bench<'a>(&self, task: &'a Task, operands: &[HostTensor]) -> Result<Bench<'a>, Error> {
        let mut graph = Graph::new();
        let ids: Vec<_> =
            task.inputs.iter().map(|ty| graph.input("operand", ty.clone(), Rate::Step)).collect();
        let result = graph.apply_arc(task.op.name(), task.op.clone(), &ids)?;
        graph.output(result);
        let mut inputs = Vec::with_capacity(operands.len());
        for operand in operands {
            inputs.push(self.gpu.upload_new("operand", operand).await?);
        }
        let output = self.gpu.allocate("result", graph.ty(result).clone())?;
        Ok(Bench { task, graph, inputs, output })
    }

    /// Each variant's program, unless the driver refuses it.
    fn compiled(&self, bench: &Bench<'_>) -> Result<(Vec<Option<Program>>, Vec<Measured>), Error> {
        let caps = self.gpu.caps();
        let offered = bench.task.op.variants(&bench.task.inputs, caps);
        let offered =
            offered.map_err(|source| PlanError { node: bench.task.op.name().to_owned(), source })?;
        let (mut programs, mut variants) = (Vec::new(), Vec::new());
        for (number, variant) in offered.iter().enumerate() {
            let plan = build_plan(&bench.graph, caps, Choice::Number(number))?;
            let mut measured = Measured { variant: variant.name, ns: None, wrong: None };
            programs.push(match Program::compile(&self.gpu, plan, Vec::new()) {
                Ok(program) => Some(program),
                Err(DeviceError::Refused { message }) => {
                    measured.wrong = Some(format!("refused by the driver: {message}"));
                    None
                }
                Err(error) => return Err(error.into()),
            });
            variants.push(measured);
        }
        Ok((programs, variants))
    }

    /// Runs the operation's own cases, once for all tasks of its name.
    async fn check_cases(&mut self, task: &Task, variants: &[Measured]) -> Result<(), Error> {
        let name = task.op.name();
        if self.on_cases.contains_key(name) {
            return Ok(());
        }
        let is_refused =
            |name: &str| variants.iter().any(|known| known.variant == name && known.wrong.is_some());
        let mut wrong = HashMap::new();
        for case in task.op.cases() {
            if case.op.variants(&case.inputs, self.gpu.caps()).is_err() {
                continue;
            }
            let verdicts =
                validate_variants(&self.gpu, &case, &Hard::ALL, |variant| !is_refused(variant.name)).await?;
            for verdict in verdicts.iter().filter(|verdict| !verdict.pass()) {
                let found = described(&verdict.comparison, verdict.padding_is_zero);
                let on = super::key(case.op.as_ref(), &case.inputs);
                wrong
                    .entry(verdict.variant)
                    .or_insert_with(|| format!("{on} ({}): {found}", verdict.hard.name()));
            }
        }
        self.on_cases.insert(name, wrong);
        Ok(())
    }

    /// What is wrong with a program's result, which becomes the expected one where it is the first that is right.
    async fn check(
        &self,
        program: &Program,
        bench: &Bench<'_>,
        expected: &mut Expected,
    ) -> Result<Option<String>, Error> {
        let ty = bench.output.ty();
        self.gpu.upload_bytes(&bench.output, 0, &vec![UNWRITTEN; ty.bytes() as usize]).await?;
        program.run(&self.gpu, &[Rate::Step], &bench.inputs, std::slice::from_ref(&bench.output)).await?;
        let bytes = self.gpu.read_bytes(&bench.output).await?;
        let (found, padding_is_zero) = HostTensor::from_bytes(ty.clone(), &bytes);
        let comparisons = expected.compare(bench.task.op.as_ref(), &bench.task.inputs, &found);
        let wrong = comparisons.iter().find(|comparison| !comparison.pass || !padding_is_zero);
        let wrong = match wrong {
            Some(comparison) => Some(described(comparison, padding_is_zero)),
            None if !padding_is_zero => Some("padding is not zero".to_owned()),
            None => {
                let infinite = found.data().iter().filter(|value| !value.is_finite()).count();
                (infinite > 0).then(|| format!("{infinite} values not finite"))
            }
        };
        if wrong.is_none() {
            expected.whole.get_or_insert(found);
        }
        Ok(wrong)
    }

    async fn time(&self, program: &Program, bench: &Bench<'_>) -> Result<f64, Error> {
        let outputs = std::slice::from_ref(&bench.output);
        let times = program.run_timed(&self.gpu, self.clock, &[Rate::Step], &bench.inputs, outputs).await?;
        Ok(times.iter().map(|time| time.ns).sum())
    }
}

fn described(comparison: &Comparison, padding_is_zero: bool) -> String {
    let Comparison { max_abs, worst, nmse, non_finite, .. } = comparison;
    let padding = if padding_is_zero { "" } else { ", padding is not zero" };
    format!("max abs {max_abs:.1e} at {worst}, nmse {nmse:.1e}, {non_finite} values not finite{padding}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kernels::TensorType;
    use kernels::ops::MatMul;

    use super::*;

    fn tuned(variants: &[(&'static str, Option<f64>, bool)]) -> Tuned {
        let measured = |(variant, ns, is_right): &(&'static str, Option<f64>, bool)| Measured {
            variant,
            ns: *ns,
            wrong: (!is_right).then(|| "wrong".to_owned()),
        };
        let inputs = vec![TensorType::f32([4, 4]); 2];
        Tuned {
            task: Task { op: Arc::new(MatMul::default()), inputs, calls: 1 },
            against: Against::Reference,
            variants: variants.iter().map(measured).collect(),
        }
    }

    #[test]
    fn the_shortest_time_is_kept() {
        let mut measured = Measured { variant: "a", ns: None, wrong: None };
        for (ns, shortest) in
            [(0.0, None), (5.0, Some(5.0)), (7.0, Some(5.0)), (0.0, Some(5.0)), (3.0, Some(3.0))]
        {
            measured.note(ns);
            assert_eq!(measured.ns, shortest, "after {ns}");
        }
    }

    #[test]
    fn the_fastest_right_variant_is_chosen_unless_the_usual_one_is_hardly_slower() {
        let chosen = |variants: &[(&'static str, Option<f64>, bool)]| {
            tuned(variants).chosen().map(|measured| measured.variant)
        };
        assert_eq!(chosen(&[("a", Some(5.0), true), ("b", Some(9.0), true)]), Some("a"));
        assert_eq!(chosen(&[("a", Some(5.0), false), ("b", Some(9.0), true)]), Some("b"));
        assert_eq!(chosen(&[("a", Some(99.0), true), ("b", Some(100.0), true)]), Some("b"));
        assert_eq!(chosen(&[("a", Some(9.0), true), ("b", Some(9.0), false)]), Some("a"));
        assert_eq!(chosen(&[("a", None, true), ("b", Some(9.0), true)]), Some("b"));
        assert_eq!(chosen(&[("a", Some(1.0), false), ("b", None, true)]), None);
        assert_eq!(tuned(&[("a", Some(5.0), true), ("b", Some(10.0), true)]).gain(), Some(2.0));
        assert_eq!(tuned(&[("a", Some(5.0), true), ("b", None, false)]).gain(), None);

        let mut choices = Choices::default();
        let noted = |choices: &Choices| choices.iter().map(|(_, v)| v.to_owned()).collect::<Vec<_>>();
        tuned(&[("a", Some(5.0), true), ("b", Some(9.0), true)]).choose(&mut choices);
        assert_eq!(noted(&choices), ["a"]);
        tuned(&[("a", Some(5.0), false), ("b", None, true)]).choose(&mut choices);
        assert!(choices.is_empty());
    }
}
