//! A pool of buffers for values whose lifetimes are known.

/// Buffers by number. A free one is reused by the value it fits best; the largest free one grows if none is large enough.
#[derive(Default)]
pub(super) struct SlotPool {
    sizes: Vec<u64>,
    free: Vec<usize>,
}

impl SlotPool {
    /// A buffer of at least `bytes`; with `own`, one that no other value ever had or will have.
    pub(super) fn take(&mut self, bytes: u64, own: bool) -> usize {
        if own {
            return self.add(bytes);
        }
        let fitting = self.free.iter().copied().filter(|slot| self.sizes[*slot] >= bytes);
        let best = fitting.min_by_key(|slot| (self.sizes[*slot], *slot));
        let chosen = best.or_else(|| self.free.iter().copied().max_by_key(|slot| (self.sizes[*slot], *slot)));
        let Some(slot) = chosen else { return self.add(bytes) };
        self.free.retain(|s| *s != slot);
        self.sizes[slot] = self.sizes[slot].max(bytes);
        slot
    }

    /// Ends the life of the value in `slot`.
    pub(super) fn give_back(&mut self, slot: usize) {
        debug_assert!(!self.free.contains(&slot), "slot {slot} is given back twice");
        self.free.push(slot);
    }

    /// Bytes of each buffer.
    pub(super) fn into_sizes(self) -> Vec<u64> {
        self.sizes
    }

    fn add(&mut self, bytes: u64) -> usize {
        self.sizes.push(bytes);
        self.sizes.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_slot_is_reused_by_the_best_fit_and_grows_only_if_none_fits() {
        let mut pool = SlotPool::default();
        let (small, large) = (pool.take(10, false), pool.take(100, false));
        pool.give_back(small);
        pool.give_back(large);
        assert_eq!(pool.take(8, false), small);
        assert_eq!(pool.take(200, false), large);
        assert_eq!(pool.into_sizes(), [10, 200]);
    }

    #[test]
    fn an_own_slot_is_never_a_reused_one() {
        let mut pool = SlotPool::default();
        let first = pool.take(10, false);
        pool.give_back(first);
        assert_ne!(pool.take(10, true), first);
    }
}
