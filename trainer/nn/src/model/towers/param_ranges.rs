//! Where the parts of a tower lie in the flat gradient, in the order in which they are declared.
//!
//! A backward pass completes them from the last to the first, so each can be all-reduced while the ones
//! before it are still computed.

use std::ops::Range;

use cnclip_compute::params::ParamLayout;

/// The parts of a tower, adjacent in the flat arrays.
#[derive(Debug)]
pub(super) struct ParamRanges {
    /// Where each part begins, and where the last one ends.
    bounds: Vec<usize>,
}

impl ParamRanges {
    /// The first part begins at what is declared next.
    pub(super) fn starting_at_end(layout: &ParamLayout) -> Self {
        Self {
            bounds: vec![layout.next_offset()],
        }
    }

    /// A part ends behind what was declared last.
    pub(super) fn close_range(&mut self, layout: &ParamLayout) {
        self.bounds.push(layout.next_offset());
    }

    /// Where a part lies.
    pub(super) fn part_range(&self, part: usize) -> Range<usize> {
        self.bounds[part]..self.bounds[part + 1]
    }

    /// Where the last part lies.
    pub(super) fn last_range(&self) -> Range<usize> {
        self.part_range(self.bounds.len() - 2)
    }
}
