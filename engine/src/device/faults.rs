//! Failures on purpose: what tests have happen to a device.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What is to go wrong. Nothing, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// The allocation, counted from 0, that finds no memory.
    pub fail_allocation: Option<u64>,
    /// The submission, counted from 0, at which the device is lost.
    pub lose_at_submission: Option<u64>,
    /// The submission, counted from 0, that the device says it did and did not.
    pub skip_submission: Option<u64>,
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
            () => Fate::Done,
        }
    }

    /// Allocations and submissions so far.
    pub(super) fn counts(&self) -> [u64; 2] {
        [&self.allocations, &self.submissions].map(|count| count.load(Ordering::Relaxed))
    }
}
