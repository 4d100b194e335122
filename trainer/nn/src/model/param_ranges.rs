//! Where the parts of a tower lie in the flat gradient, in the order in which they are declared: a
//! backward pass is done with them from the last to the first.

use std::ops::Range;

use cnclip_compute::params::ParamLayout;

/// The parts of a tower, one behind the other.
#[derive(Debug)]
pub(super) struct ParamRanges(Vec<usize>);

impl ParamRanges {
    /// The first part begins at what is declared next.
    pub(super) fn starting_at_end(layout: &ParamLayout) -> Self {
        Self(vec![layout.next_offset()])
    }

    /// A part ends behind what was declared last.
    pub(super) fn close_range(&mut self, layout: &ParamLayout) {
        self.0.push(layout.next_offset());
    }

    /// Where a part lies.
    pub(super) fn part_range(&self, part: usize) -> Range<usize> {
        self.0[part]..self.0[part + 1]
    }

    /// Where the last part lies.
    pub(super) fn last_range(&self) -> Range<usize> {
        self.part_range(self.0.len() - 2)
    }
}
