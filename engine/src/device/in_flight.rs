//! Which submissions may still run, and how many may.

use std::collections::VecDeque;
use std::time::Instant;

use super::pace::Pace;

/// Full submissions that may be unfinished at once; of smaller ones as many as have their work, up to the second number.
const MAX_FULL: usize = 2;
const MAX_SMALL: usize = 8;

/// Submissions that may still run, oldest first, and what those that ran told of the device's pace. `S` can be waited for.
pub(super) struct InFlight<S> {
    queue: VecDeque<Entry<S>>,
    /// Submissions that were ever added.
    added: u64,
    pace: Pace,
}

struct Entry<S> {
    submission: S,
    work: u64,
    submitted: Instant,
}

impl<S: Clone> InFlight<S> {
    pub(super) fn new(pace: Pace) -> Self {
        InFlight { queue: VecDeque::new(), added: 0, pace }
    }

    /// How many were ever added: all of them are done once something is that is submitted from now on.
    pub(super) fn added(&self) -> u64 {
        self.added
    }

    fn settled(&self) -> u64 {
        self.added - self.queue.len() as u64
    }

    /// How many may be unfinished.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn pace(&self) -> &Pace {
        &self.pace
    }

    #[cfg(test)]
    pub(super) fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Adds a submission of `work`, given to the queue no earlier than `submitted`.
    pub(super) fn add(&mut self, submission: S, work: u64, submitted: Instant) {
        self.queue.push_back(Entry { submission, work, submitted });
        self.added += 1;
    }

    /// The oldest, and how many are done once it is, if it has to be waited for before anything else is submitted.
    pub(super) fn excess(&self) -> Option<(S, u64)> {
        let work: u64 = self.queue.iter().map(|entry| entry.work).sum();
        let are_many = self.queue.len() > MAX_FULL && work > MAX_FULL as u64 * self.pace.work();
        let is_excess = are_many || self.queue.len() > MAX_SMALL;
        let oldest = self.queue.front().filter(|_| is_excess)?;
        Some((oldest.submission.clone(), self.settled() + 1))
    }

    /// Notes that the first `count` of all that were added are known to be done at `done`.
    pub(super) fn settle(&mut self, count: u64, done: Instant) {
        let newly = count.saturating_sub(self.settled()) as usize;
        let finished = self.queue.drain(..newly);
        let spans = finished.map(|entry| (entry.work, entry.submitted));
        if let Some((work, first)) = spans.reduce(|(a, first), (b, next)| (a + b, first.min(next))) {
            self.pace.note(work, done.saturating_duration_since(first));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn as_many_are_unfinished_as_have_the_work_of_two_full_ones() {
        let mut in_flight = InFlight::new(Pace::new(true));
        let full = in_flight.pace().work();
        let now = Instant::now();
        let mut add = |name, work| {
            in_flight.add(name, work, now);
            let excess = in_flight.excess();
            if let Some((_, count)) = excess {
                in_flight.settle(count, now);
            }
            (excess, in_flight.len())
        };
        assert_eq!(
            [add("a", 9 * full), add("b", full)],
            [(None, 1), (None, 2)],
            "the next is prepared meanwhile"
        );
        assert_eq!(add("c", 1), (Some(("a", 1)), 2));
        assert_eq!(add("d", full - 1), (None, 3), "two full ones' work");
        for (len, name) in (4..=8).zip(["e", "f", "g", "h", "i"]) {
            assert_eq!(add(name, 0), (None, len));
        }
        assert_eq!(add("j", 0), (Some(("b", 2)), 8), "however little they are");
    }

    #[test]
    fn what_is_found_done_at_once_tells_of_its_pace_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let first = Pace::new(false).work();
        let fill = || {
            let mut in_flight = InFlight::new(Pace::new(false));
            // Two threads: what was submitted first may be added last.
            [20, 10, 30].into_iter().for_each(|ms| in_flight.add((), first / 4, at(ms)));
            in_flight
        };
        let told = |work, took| {
            let mut pace = Pace::new(false);
            pace.note(work, Duration::from_millis(took));
            pace.work()
        };
        let mut in_flight = fill();
        in_flight.settle(0, at(30));
        assert_eq!((in_flight.len(), in_flight.pace().work()), (3, first));
        in_flight.settle(2, at(30));
        let once = told(first / 4 * 2, 20);
        assert!(once > first);
        assert_eq!((in_flight.len(), in_flight.added(), in_flight.pace().work()), (1, 3, once));
        in_flight.settle(2, at(9000));
        in_flight.settle(1, at(9000));
        assert_eq!((in_flight.len(), in_flight.pace().work()), (1, once), "that they are done was known");
        in_flight.settle(3, at(9000));
        assert!(in_flight.pace().work() < once);
        let mut together = fill();
        together.settle(3, at(9000));
        assert_eq!((together.len(), together.pace().work()), (0, told(first / 4 * 3, 8990)));
    }

    /// Who submits, waits and reads in the simulation.
    #[derive(Clone, Copy, Debug)]
    struct Host {
        /// Work between two reads, and whether something tiny comes first.
        step: f64,
        has_tiny: bool,
        /// How long it does something else: after each submission, in multiples of the device's time, and seconds between steps.
        busy: f64,
        busy_between: f64,
        /// Seconds by which one in ten of its waits ends late.
        late: f64,
        /// Whether it reads each step's result, and after how many steps more.
        reads: Option<usize>,
    }

    /// A host that submits as [`crate::device::Program::run`] does, and the device.
    struct Simulation {
        host: Host,
        in_flight: InFlight<f64>,
        start: Instant,
        now: f64,
        /// When the device will be done.
        free: f64,
        waits: usize,
        reads: VecDeque<(f64, u64)>,
    }

    impl Simulation {
        fn new(host: Host) -> Self {
            let in_flight = InFlight::new(Pace::new(false));
            Simulation {
                host,
                in_flight,
                start: Instant::now(),
                now: 0.0,
                free: 0.0,
                waits: 0,
                reads: VecDeque::new(),
            }
        }

        fn wait(&mut self, (end, count): (f64, u64)) {
            self.waits += 1;
            self.now = self.now.max(end) + if self.waits.is_multiple_of(10) { self.host.late } else { 0.0 };
            self.in_flight.settle(count, self.start + Duration::from_secs_f64(self.now));
        }

        /// The milliseconds that each submission takes of so many steps, while the device does `speed` floating-point operations per
        /// second.
        fn run(&mut self, speed: f64, steps: usize) -> Vec<f64> {
            let mut taken = Vec::new();
            for _ in 0..steps {
                let mut left = self.host.step;
                let mut tiny = self.host.has_tiny.then_some(1e6);
                while left > 0.0 {
                    let work = tiny.take().unwrap_or(left.min(self.in_flight.pace().work() as f64));
                    left -= work;
                    let seconds = work / speed;
                    taken.push(seconds * 1e3);
                    let submitted = self.start + Duration::from_secs_f64(self.now);
                    // Recording and submitting take time too.
                    self.now += 1e-4;
                    self.free = self.free.max(self.now) + seconds;
                    self.in_flight.add(self.free, work as u64, submitted);
                    while let Some(oldest) = self.in_flight.excess() {
                        self.wait(oldest);
                    }
                    self.now += self.host.busy * seconds;
                }
                self.now += self.host.busy_between;
                self.reads.push_back((self.free, self.in_flight.added()));
                let unread = self.host.reads.unwrap_or(usize::MAX);
                while self.reads.len() > unread {
                    let read = self.reads.pop_front().expect("more than none");
                    self.wait(read);
                }
            }
            taken
        }
    }

    fn hosts() -> impl Iterator<Item = Host> {
        let mut hosts = Vec::new();
        for step in [5e9, 1e11, 6e12] {
            for has_tiny in [false, true] {
                for (busy, busy_between) in [(0.0, 0.0), (0.95, 0.0), (3.0, 0.0), (0.0, 0.005), (0.5, 0.2)] {
                    for late in [0.0, 0.045, 0.3] {
                        for reads in [None, Some(0), Some(1)] {
                            hosts.push(Host { step, has_tiny, busy, busy_between, late, reads });
                        }
                    }
                }
            }
        }
        hosts.into_iter()
    }

    fn longest(taken: &[f64]) -> f64 {
        taken.iter().copied().fold(0.0, f64::max)
    }

    #[test]
    fn on_a_device_that_keeps_its_speed_no_submission_is_long_whatever_the_host_does() {
        for host in hosts() {
            for speed in [0.5e12, 20e12] {
                let longest = longest(&Simulation::new(host).run(speed, 100));
                assert!(longest < 50.01, "{longest} ms: {host:?}, {speed:e}");
            }
        }
    }

    #[test]
    fn on_a_device_that_becomes_slow_no_submission_stays_long_whatever_the_host_does() {
        for host in hosts() {
            let mut simulation = Simulation::new(host);
            simulation.run(20e12, 50);
            let taken = simulation.run(1e12, 50);
            let longest = longest(&taken[taken.len().min(40)..]);
            assert!(longest < 100.0, "{longest} ms: {host:?}");
        }
    }

    #[test]
    fn submissions_are_long_enough_not_to_be_many() {
        let idle =
            Host { step: 6e12, has_tiny: true, busy: 0.0, busy_between: 0.0, late: 0.0, reads: Some(1) };
        for speed in [0.5e12, 20e12, 200e12] {
            let mut simulation = Simulation::new(idle);
            simulation.run(speed, 20);
            let taken = simulation.run(speed, 20);
            assert!(longest(&taken) > 15.0, "{} ms at {speed:e}", longest(&taken));
        }
        // Of a host that is busy between its steps the device has next to nothing to do.
        let mut simulation = Simulation::new(Host { step: 1e12, busy_between: 0.2, ..idle });
        simulation.run(100e12, 50);
        let submissions = simulation.run(100e12, 50).len() / 50;
        assert!(submissions <= 16, "{submissions} a step");
    }
}
