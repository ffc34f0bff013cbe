//! How much work one submission may hold, from how soon those before it were done.
//!
//! A host knows when it submitted something and when it learned that it was done; when the device began and ended it does not know.
//! Nothing rests on that. What was known to be done soon after it was submitted was done fast, however late the host looked, and the
//! next may hold more; what was known late and was not much makes the next hold less, whoever was late.

use std::time::Duration;

/// How soon a submission should be known to be done, behind those that are in flight before it. Others draw on a GPU too, and an
/// interrupt waits for this.
const SOON: Duration = Duration::from_millis(50);

/// How late it may be.
const LATE: Duration = Duration::from_millis(100);

/// Work of a submission on a software adapter, where interrupting means waiting for it; as [`crate::plan::PlanStep::dispatch_work`] counts.
const SOFTWARE_WORK: u64 = 4_000_000_000;

/// That of a GPU's first submissions: [`SOON`] at 0.5 TFLOP/s, as [`kernels::Caps::GPU_DISPATCH_FLOPS`] reckons.
const FIRST_WORK: u64 = 25_000_000_000;

/// The least, however slow the GPU: [`SOON`] at 0.1 TFLOP/s. With less, one whose host is always late would do next to nothing.
const LEAST_WORK: u64 = 5_000_000_000;

/// The most, whatever the GPU: more would not be faster.
const MOST_WORK: u64 = 5_000_000_000_000;

/// How many times the work of one submission the next may be thought to fit.
const MOST_GROWTH: u64 = 2;

/// Work of a submission: a constant of software adapters, of GPUs what was learned.
pub(super) struct Pace {
    software: bool,
    work: u64,
}

impl Pace {
    pub(super) fn new(software: bool) -> Self {
        Pace { software, work: if software { SOFTWARE_WORK } else { FIRST_WORK } }
    }

    /// Work that a submission may hold.
    pub(super) fn work(&self) -> u64 {
        self.work
    }

    /// Notes that `work` was known to be done `took` after the first of it was submitted.
    pub(super) fn note(&mut self, work: u64, took: Duration) {
        let fitting = (work as f64 / took.as_secs_f64() * SOON.as_secs_f64()) as u64;
        let is_more = fitting > self.work && work >= self.work / 4;
        if !self.software && (is_more || took > LATE) {
            let fitting = fitting.min(MOST_GROWTH * self.work);
            // By half the way: it may have waited for another program.
            self.work = (self.work / 2 + fitting / 2).clamp(LEAST_WORK, MOST_WORK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Work of a submission after so many that a device of `speed` floating-point operations per second did one by one.
    fn after(pace: &mut Pace, speed: f64, submissions: usize) -> u64 {
        for _ in 0..submissions {
            pace.note(pace.work(), Duration::from_secs_f64(pace.work() as f64 / speed));
        }
        pace.work()
    }

    #[test]
    fn submissions_grow_to_what_is_done_soon_and_shrink_to_what_is_not_late() {
        let mut pace = Pace::new(false);
        let fast = after(&mut pace, 20e12, 40);
        assert!((0.98e12..=1e12).contains(&(fast as f64)), "{fast}");
        let slow = after(&mut pace, 1e12, 40);
        assert!((50e9..=100e9).contains(&(slow as f64)), "{slow}");
        let slower = after(&mut pace, 0.2e12, 40);
        assert!((10e9..=20e9).contains(&(slower as f64)), "{slower}");
        assert_eq!(after(&mut pace, 1e9, 40), LEAST_WORK);
        assert_eq!(after(&mut pace, 1e18, 80), MOST_WORK);
    }

    #[test]
    fn what_is_neither_soon_nor_late_changes_nothing() {
        for (ms, change) in [(49, 1), (51, 0), (100, 0), (101, -1)] {
            let mut pace = Pace::new(false);
            pace.note(FIRST_WORK, Duration::from_millis(ms));
            assert_eq!((pace.work() as i64 - FIRST_WORK as i64).signum(), change, "{ms} ms");
        }
    }

    #[test]
    fn little_work_is_no_sign_of_speed_and_one_of_lateness() {
        let soon = Duration::from_micros(1);
        let mut pace = Pace::new(false);
        pace.note(FIRST_WORK / 4 - 1, soon);
        assert_eq!(pace.work(), FIRST_WORK);
        pace.note(FIRST_WORK / 4, soon);
        assert_eq!(pace.work(), FIRST_WORK / 2 + FIRST_WORK, "half the way to twice as much, however soon");
        let mut pace = Pace::new(false);
        pace.note(1, 2 * LATE);
        assert_eq!(pace.work(), FIRST_WORK / 2, "half the way to nothing");
        let mut pace = Pace::new(false);
        pace.note(8 * FIRST_WORK, 3 * SOON);
        assert!(pace.work() > FIRST_WORK, "much work is one of speed all the same");
    }

    #[test]
    fn submissions_are_no_longer_than_dispatches_may_be() {
        assert!(Pace::new(true).work() <= kernels::Caps::SOFTWARE_DISPATCH_FLOPS);
        assert!(Pace::new(false).work() <= kernels::Caps::GPU_DISPATCH_FLOPS);
        let seconds = |work, speed| work as f64 / speed;
        assert!(
            seconds(3 * SOFTWARE_WORK, 27e9) < 0.5,
            "half of what an interrupt may take, of those in flight"
        );
        assert_eq!(seconds(FIRST_WORK, 0.5e12), SOON.as_secs_f64());
        assert_eq!(seconds(LEAST_WORK, 0.1e12), SOON.as_secs_f64());
    }

    #[test]
    fn software_keeps_its_pace() {
        for took in [Duration::ZERO, Duration::from_secs(9)] {
            let mut pace = Pace::new(true);
            pace.note(SOFTWARE_WORK, took);
            assert_eq!(pace.work(), SOFTWARE_WORK);
        }
    }
}
