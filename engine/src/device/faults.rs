//! Failures on purpose: what tests have happen to a device.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What is to go wrong. Nothing, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// The allocation, counted from 0, that finds no memory.
    pub fail_allocation: Option<u64>,
    /// The submission, counted from 0, at which the device is lost.
    pub lose_at_submission: Option<u64>,
    /// The submission, counted from 0, that the device says it did and did not.
    pub skip_submission: Option<u64>,
    /// The submission, counted from 0, from which on nothing seems to finish.
    pub hang_at_submission: Option<u64>,
    /// How much later than the device every wait ends.
    pub late: Option<Duration>,
    /// How long a device may finish nothing before it counts as hung, if not as long as usual.
    pub patience: Option<Duration>,
}

/// A plan and how far it has come.
#[derive(Default)]
pub(super) struct Faults {
    plan: Mutex<FaultPlan>,
    allocations: AtomicU64,
    submissions: AtomicU64,
}

/// What becomes of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It runs.
    Done,
    /// It does not run.
    Skipped,
    /// The device is lost before.
    Lost,
    /// It runs, and nobody learns that it has.
    Hung,
}

impl Faults {
    /// Follows another plan, and counts from 0 again.
    pub(super) fn arm(&self, plan: FaultPlan) {
        [&self.allocations, &self.submissions]
            .into_iter()
            .for_each(|count| count.store(0, Ordering::Relaxed));
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = plan;
    }

    fn plan(&self) -> FaultPlan {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an allocation. Whether it fails.
    pub(super) fn fails_allocation(&self) -> bool {
        let number = self.allocations.fetch_add(1, Ordering::Relaxed);
        self.plan().fail_allocation == Some(number)
    }

    /// Counts a submission.
    pub(super) fn fate_of_submission(&self) -> Fate {
        let number = Some(self.submissions.fetch_add(1, Ordering::Relaxed));
        match () {
            () if self.plan().lose_at_submission == number => Fate::Lost,
            () if self.plan().skip_submission == number => Fate::Skipped,
            () if self.hangs(number) => Fate::Hung,
            () => Fate::Done,
        }
    }

    /// What becomes of a submission of nothing, which is not counted.
    pub(super) fn fate_of_nothing(&self) -> Fate {
        let last = self.submissions.load(Ordering::Relaxed).checked_sub(1);
        if self.hangs(last) { Fate::Hung } else { Fate::Done }
    }

    fn hangs(&self, number: Option<u64>) -> bool {
        self.plan().hang_at_submission.is_some_and(|first| number.is_some_and(|number| number >= first))
    }

    pub(super) fn late(&self) -> Option<Duration> {
        self.plan().late
    }

    pub(super) fn patience(&self) -> Option<Duration> {
        self.plan().patience
    }

    /// Allocations and submissions so far.
    pub(super) fn counts(&self) -> [u64; 2] {
        [&self.allocations, &self.submissions].map(|count| count.load(Ordering::Relaxed))
    }
}
