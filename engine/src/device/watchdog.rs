//! When a device that finishes nothing counts as hung.

use std::time::Duration;

/// How long one wait lasts before the device is looked at again.
pub(super) const POLL: Duration = Duration::from_millis(250);

/// How long a device may finish nothing before it counts as hung. A wait is for three submissions at most, of a second each on a
/// slow software adapter: a machine that is a hundred times as busy does not use it up. Drivers' own watchdogs end a GPU's
/// work after some seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// What one wait has seen of its device.
pub(super) struct Watchdog {
    patience: Duration,
    waited: Duration,
    finished: u64,
}

impl Watchdog {
    /// For a wait that begins when `finished` submissions are done.
    pub(super) fn new(patience: Duration, finished: u64) -> Self {
        Watchdog { patience, waited: Duration::ZERO, finished }
    }

    /// How long the next look at the device may last.
    pub(super) fn look(&self) -> Duration {
        POLL.min(self.patience)
    }

    /// Notes a look that lasted `took` and saw no end, when `finished` submissions were done. How long was waited in vain, once
    /// that is too long.
    pub(super) fn note(&mut self, took: Duration, finished: u64) -> Option<Duration> {
        if finished != self.finished {
            (self.waited, self.finished) = (Duration::ZERO, finished);
            return None;
        }
        // A process that was stopped for long has not waited for long.
        self.waited += took.min(self.look());
        (self.waited >= self.patience).then_some(self.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_where_nothing_is_finished_for_long() {
        let mut watchdog = Watchdog::new(4 * POLL, 7);
        assert_eq!(
            [(); 5].map(|()| watchdog.note(POLL, 7)),
            [None, None, None, Some(4 * POLL), Some(5 * POLL)]
        );
        let mut short = Watchdog::new(POLL / 2, 0);
        assert_eq!(short.look(), POLL / 2);
        assert_eq!(short.note(POLL / 2, 0), Some(POLL / 2));
    }

    #[test]
    fn what_another_wait_saw_finished_renews_patience() {
        let mut watchdog = Watchdog::new(2 * POLL, 0);
        let finished = [0, 1, 1, 2, 2, 2];
        assert_eq!(
            finished.map(|finished| watchdog.note(POLL, finished)),
            [None, None, None, None, None, Some(2 * POLL)]
        );
    }

    #[test]
    fn a_stopped_process_has_waited_for_one_look() {
        let mut watchdog = Watchdog::new(PATIENCE, 0);
        assert_eq!(watchdog.note(10 * PATIENCE, 0), None);
        assert_eq!(watchdog.waited, POLL);
    }
}
