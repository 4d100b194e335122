//! The towers, forward and backward written out block by block over flat parameters.
//!
//! Each block is a struct of its weights' places and of what its forward pass keeps for its backward
//! pass; memory is reserved when the block is declared, and none is asked for in a step.

mod activation_store;
pub mod bert;
pub mod clip;
mod feed_forward;
mod image_encoder;
mod param_ranges;
pub mod resnet;
mod scratch;
mod sequence_buffers;
pub mod teacher;
pub mod vit;

use std::ops::Range;

use cnclip_compute::ops::sequences::Sequences;

/// Captions as token ids, one behind the other, and best without padding: a token of id 0 has a
/// place in its caption, but no token attends to it.
#[derive(Clone, Copy, Debug)]
pub struct PackedTexts<'a> {
    /// All ids.
    pub ids: &'a [u32],
    /// Caption `i` is `ids[offsets[i]..offsets[i + 1]]`: starts with 0, ends with the number of ids.
    pub offsets: &'a [usize],
}

impl<'a> PackedTexts<'a> {
    /// How many captions there are.
    pub fn text_count(&self) -> usize {
        self.token_sequences().sequence_count()
    }

    /// Some of the captions; `offsets` is memory for where they begin.
    fn slice_texts<'b>(self, captions: Range<usize>, offsets: &'b mut Vec<usize>) -> PackedTexts<'b>
    where
        'a: 'b,
    {
        let bounds = &self.offsets[captions.start..=captions.end];
        let first = bounds[0];
        let last = bounds[captions.len()];
        offsets.clear();
        offsets.extend(bounds.iter().map(|bound| bound - first));

        PackedTexts {
            ids: &self.ids[first..last],
            offsets,
        }
    }

    fn token_sequences(&self) -> Sequences<'a> {
        Sequences::new(self.offsets).with_padding(self.ids)
    }
}
