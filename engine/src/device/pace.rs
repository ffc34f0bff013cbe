//! How much work one submission may hold, from how fast those before it were done.

use std::time::{Duration, Instant};

/// How long a submission should take on a GPU: others draw on it too, and an interrupt waits for its end.
const SUBMISSION: Duration = Duration::from_millis(50);

/// Work of a submission on a software adapter, where interrupting means waiting for it; as [`crate::plan::PlanStep::dispatch_work`] counts.
const SOFTWARE_WORK: u64 = 4_000_000_000;

/// That of a GPU's first submissions: [`SUBMISSION`] at 0.5 TFLOP/s, as [`kernels::Caps::GPU_DISPATCH_FLOPS`] reckons.
const FIRST_WORK: u64 = 25_000_000_000;

/// The least, however slow the GPU: with less, submitting would take as long.
const LEAST_WORK: u64 = 1_000_000_000;

/// The most, whatever the GPU: more would not be faster.
const MOST_WORK: u64 = 5_000_000_000_000;

/// How many times the work of one submission the next may be thought to fit.
const MOST_GROWTH: u64 = 2;

/// Seconds below which a clock of the host tells nothing.
const SHORTEST: f64 = 1e-4;

/// What was seen of a device's speed.
pub(super) struct Pace {
    software: bool,
    work: u64,
    /// No later than when the device was done with what was noted last.
    free: Option<Instant>,
}

impl Pace {
    pub(super) fn new(software: bool) -> Self {
        Pace { software, work: if software { SOFTWARE_WORK } else { FIRST_WORK }, free: None }
    }

    /// Work that a submission may hold.
    pub(super) fn work(&self) -> u64 {
        self.work
    }

    /// Whether anything was noted.
    #[cfg(test)]
    pub(super) fn is_told(&self) -> bool {
        self.free.is_some()
    }

    /// Notes that a submission of `work`, which somebody looked at, was done at `done`. It began when it was submitted, or when the
    /// one before was done.
    pub(super) fn note(&mut self, work: u64, submitted: Instant, looked: Instant, done: Instant) {
        let begun = self.free.map_or(submitted, |free| free.max(submitted));
        // Another thread was faster to tell of a later one.
        let Some(took) = done.checked_duration_since(begun).filter(|took| !took.is_zero()) else { return };
        // Of what had not to be waited for, nobody knows when it was done: it took less, and the next may have begun earlier.
        let is_seen = done.saturating_duration_since(looked).as_secs_f64() >= SHORTEST;
        self.free = Some(if is_seen { done } else { begun });
        // Little work tells nothing of speed, unless it was waited for longer than a submission should take.
        let is_long = done.saturating_duration_since(begun.max(looked)) > SUBMISSION;
        if self.software || (work < self.work / 4 && !is_long) {
            return;
        }
        let fitting = (work as f64 / took.as_secs_f64().max(SHORTEST) * SUBMISSION.as_secs_f64()) as u64;
        // A host that wakes late takes the next submission for a short one.
        let fitting = fitting.min(MOST_GROWTH * self.work);
        // By half the way: one submission may have waited for another program.
        let next = (self.work / 2 + fitting / 2).clamp(LEAST_WORK, MOST_WORK);
        if is_seen || next > self.work {
            self.work = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(pace: &mut Pace, work_per_second: f64, submissions: usize) -> u64 {
        let mut now = pace.free.unwrap_or_else(Instant::now);
        for _ in 0..submissions {
            let submitted = now;
            now += Duration::from_secs_f64(pace.work() as f64 / work_per_second);
            pace.note(pace.work(), submitted, submitted, now);
        }
        pace.work()
    }

    #[test]
    fn submissions_grow_to_what_a_gpu_does_in_their_time() {
        let mut pace = Pace::new(false);
        let fast = after(&mut pace, 20e12, 40);
        assert!((0.98e12..1.02e12).contains(&(fast as f64)), "{fast}");
        let slow = after(&mut pace, 1e12, 40);
        assert!((49e9..51e9).contains(&(slow as f64)), "{slow}");
        // A submission of a tenth of a TFLOP/s takes no longer.
        let slower = after(&mut pace, 0.1e12, 40);
        assert!((4.9e9..5.1e9).contains(&(slower as f64)), "{slower}");
        assert_eq!(after(&mut pace, 1e9, 40), LEAST_WORK);
        assert_eq!(after(&mut pace, 1e18, 80), MOST_WORK);
    }

    /// A host that looks once everything has long been done, several submissions at a time.
    #[test]
    fn what_was_done_before_anyone_looked_does_not_pass_for_fast() {
        let mut pace = Pace::new(false);
        let steady = after(&mut pace, 0.5e12, 40);
        // After what `after` has seen.
        let mut now = Instant::now() + Duration::from_secs(60);
        for _ in 0..20 {
            let submitted = now;
            now += Duration::from_secs(1);
            for _ in 0..3 {
                pace.note(pace.work(), submitted, now, now);
            }
        }
        assert_eq!(pace.work(), steady, "nor for slow");
        // Nor is a wait of microseconds one in which it was seen.
        for _ in 0..20 {
            let submitted = now;
            now += Duration::from_secs(1);
            for _ in 0..3 {
                pace.note(pace.work(), submitted, now, now + Duration::from_micros(20));
            }
        }
        assert_eq!(pace.work(), steady, "nor for slow");
        // A device that is done at once: what is known is that it takes no longer than the host.
        let mut pace = Pace::new(false);
        for _ in 0..40 {
            let submitted = now;
            now += Duration::from_millis(1);
            pace.note(pace.work(), submitted, now, now);
        }
        assert_eq!(pace.work(), MOST_WORK);
    }

    #[test]
    fn a_host_that_wakes_late_is_not_taken_at_its_word() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = Pace::new(false);
        // Done at 50 ms, and known at 99; the next, of 50 ms too, at 100.
        pace.note(FIRST_WORK, start, start, at(99));
        let slower = pace.work();
        pace.note(FIRST_WORK, start, at(99), at(100));
        assert!(pace.work() <= slower * 3 / 2, "{} after {slower}", pace.work());
        // What takes longer than it should makes all smaller, as little as it is.
        let mut pace = Pace::new(false);
        assert_eq!(after(&mut pace, 1e18, 80), MOST_WORK);
        let (mut now, little) = (start + Duration::from_secs(60), MOST_WORK / 50);
        for _ in 0..40 {
            let submitted = now;
            now += Duration::from_millis(100);
            pace.note(little, submitted, submitted, now);
        }
        assert!(pace.work() <= little / 2 + little / 100, "{}", pace.work());
    }

    /// However little it is, and also behind something tiny whose end nobody saw.
    #[test]
    fn what_is_waited_for_too_long_makes_submissions_smaller() {
        for (wait, is_smaller) in [(45, false), (60, true)] {
            let mut pace = Pace::new(false);
            assert_eq!(after(&mut pace, 1e18, 80), MOST_WORK);
            let submitted = Instant::now() + Duration::from_secs(60);
            let looked = submitted + Duration::from_millis(1);
            pace.note(1, submitted, looked, looked);
            pace.note(MOST_WORK / 50, submitted, looked, looked + Duration::from_millis(wait));
            assert_eq!(pace.work() < MOST_WORK, is_smaller, "{wait} ms");
        }
    }

    #[test]
    fn what_is_told_out_of_order_says_nothing() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = Pace::new(false);
        pace.note(FIRST_WORK, start, start, at(100));
        let work = pace.work();
        pace.note(FIRST_WORK, start, start, at(50));
        pace.note(FIRST_WORK, start, start, at(100));
        assert_eq!(pace.work(), work);
    }

    #[test]
    fn submissions_are_no_longer_than_dispatches_may_be() {
        assert!(Pace::new(true).work() <= kernels::Caps::SOFTWARE_DISPATCH_FLOPS);
        assert!(Pace::new(false).work() <= kernels::Caps::GPU_DISPATCH_FLOPS);
    }

    #[test]
    fn waiting_small_work_and_software_say_nothing_of_speed() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = Pace::new(false);
        pace.note(1, start, start, at(20));
        pace.note(FIRST_WORK / 4 - 1, start, start, at(50));
        assert_eq!(pace.work(), FIRST_WORK);
        // Submitted beside the first, done 50 ms after it: it took 50 ms. Of what is thought to fit twice as much is believed.
        pace.note(FIRST_WORK * 3, start, start, at(100));
        assert_eq!(pace.work(), FIRST_WORK / 2 * 3);
        pace.note(FIRST_WORK / 2, start, start, at(150));
        assert_eq!(pace.work(), FIRST_WORK / 4 * 3 + FIRST_WORK / 4, "a quarter tells");
        let mut software = Pace::new(true);
        software.note(SOFTWARE_WORK, start, start, start + Duration::from_secs(9));
        assert_eq!(software.work(), SOFTWARE_WORK);
    }
}
