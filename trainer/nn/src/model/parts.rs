//! Where the parts of a tower lie in the flat gradient, in the order in which they are declared: a
//! backward pass is done with them from the last to the first.

use std::ops::Range;

use cnclip_compute::params::Layout;

/// The parts of a tower, one behind the other.
#[derive(Debug)]
pub(super) struct Parts(Vec<usize>);

impl Parts {
    /// The first part begins at what is declared next.
    pub(super) fn begin(layout: &Layout) -> Self {
        Self(vec![layout.end()])
    }

    /// A part ends behind what was declared last.
    pub(super) fn end(&mut self, layout: &Layout) {
        self.0.push(layout.end());
    }

    /// Where a part lies.
    pub(super) fn range(&self, part: usize) -> Range<usize> {
        self.0[part]..self.0[part + 1]
    }

    /// Where the last part lies.
    pub(super) fn last(&self) -> Range<usize> {
        self.range(self.0.len() - 2)
    }
}
