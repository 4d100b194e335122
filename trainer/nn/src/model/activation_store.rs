//! Where the blocks of a tower keep what their backward pass needs: each in memory of its own, or
//! all in the same, so that each has to compute it again.

/// Memory of one block, or of each.
///
/// # Source
/// Sharing is gradient checkpointing (Chen and others, 2016), block by block as in the reference.
#[derive(Debug)]
pub(super) struct ActivationStore<S> {
    caches: Vec<S>,
    block_count: usize,
}

impl<S> ActivationStore<S> {
    /// Reserves memory for blocks, of which none needs more than the first.
    pub(super) fn new<B>(blocks: &[B], shared: bool, reserve: impl Fn(&B) -> S) -> Self {
        let own = if shared { 1 } else { blocks.len() };
        Self {
            caches: blocks.iter().take(own).map(reserve).collect(),
            block_count: blocks.len(),
        }
    }

    /// Where a block keeps things.
    pub(super) fn cache_mut(&mut self, block: usize) -> &mut S {
        let last = self.caches.len() - 1;
        &mut self.caches[block.min(last)]
    }

    /// Whether a later block wrote over what a block kept.
    pub(super) fn is_overwritten(&self, block: usize) -> bool {
        self.caches.len() < self.block_count && block + 1 < self.block_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_block_finds_what_it_put_on_a_shared_shelf() {
        for shared in [false, true] {
            let mut shelf = ActivationStore::new(&[7, 5, 3], shared, |_| 0);
            (0..3).for_each(|block| *shelf.cache_mut(block) = block);
            for block in (0..3).rev() {
                let found = *shelf.cache_mut(block) == block;
                assert_eq!(
                    (found, shelf.is_overwritten(block)),
                    (block == 2 || !shared, !found)
                );
            }
        }
    }
}
