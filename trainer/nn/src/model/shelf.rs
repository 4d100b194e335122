//! Where the blocks of a tower keep what their backward pass needs: each in memory of its own, or
//! all in the same, so that each has to compute it again.

/// Memory of one block, or of each.
///
/// # Source
/// Sharing is gradient checkpointing (Chen and others, 2016), block by block as in the reference.
#[derive(Debug)]
pub(super) struct Shelf<S> {
    places: Vec<S>,
    blocks: usize,
}

impl<S> Shelf<S> {
    /// Reserves memory for blocks, of which none needs more than the first.
    pub(super) fn new<B>(blocks: &[B], shared: bool, reserve: impl Fn(&B) -> S) -> Self {
        let own = if shared { 1 } else { blocks.len() };
        Self {
            places: blocks.iter().take(own).map(reserve).collect(),
            blocks: blocks.len(),
        }
    }

    /// Where a block keeps things.
    pub(super) fn place(&mut self, block: usize) -> &mut S {
        let last = self.places.len() - 1;
        &mut self.places[block.min(last)]
    }

    /// Whether a later block wrote over what a block kept.
    pub(super) fn overwritten(&self, block: usize) -> bool {
        self.places.len() < self.blocks && block + 1 < self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_block_finds_what_it_put_on_a_shared_shelf() {
        for shared in [false, true] {
            let mut shelf = Shelf::new(&[7, 5, 3], shared, |_| 0);
            (0..3).for_each(|block| *shelf.place(block) = block);
            for block in (0..3).rev() {
                let found = *shelf.place(block) == block;
                assert_eq!(
                    (found, shelf.overwritten(block)),
                    (block == 2 || !shared, !found)
                );
            }
        }
    }
}
