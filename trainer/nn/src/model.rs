//! The model: image and text tower over one set of flat parameters.
//!
//! Each layer is a struct of where its weights lie and of the activations that its forward pass keeps for
//! its backward pass. Memory is reserved when a layer is declared; a training step allocates none, so what
//! fits once fits for the whole run.

pub mod clip;
mod feature_buffers;
pub mod teacher;
pub mod towers;

use std::ops::Range;

use cnclip_compute::ops::sequences::Sequences;
use cnclip_compute::tensor::{TensorView, TensorViewMut};

/// Texts as token ids, adjacent in one array, and best without padding: a token of id 0 has a position in
/// its text, but no token attends to it.
///
/// Packed, a text costs what its own length costs. Most captions are far shorter than the context length,
/// which padded batches compute in full.
#[derive(Clone, Copy, Debug)]
pub struct PackedTexts<'a> {
    /// All ids.
    pub ids: &'a [u32],
    /// Text `i` is `ids[offsets[i]..offsets[i + 1]]`: starts with 0, ends with the number of ids.
    pub offsets: &'a [usize],
}

impl<'a> PackedTexts<'a> {
    /// How many texts there are.
    ///
    /// ```
    /// use cnclip_nn::model::PackedTexts;
    ///
    /// let texts = PackedTexts {
    ///     ids: &[101, 7, 102, 101, 8, 9, 102],
    ///     offsets: &[0, 3, 7],
    /// };
    ///
    /// assert_eq!(texts.text_count(), 2);
    /// ```
    pub fn text_count(&self) -> usize {
        self.token_sequences().sequence_count()
    }

    /// Some of the texts; `offsets` is memory for where they begin.
    fn slice_texts<'b>(self, texts: Range<usize>, offsets: &'b mut Vec<usize>) -> PackedTexts<'b>
    where
        'a: 'b,
    {
        // Ids are borrowed; offsets are written anew, because they have to start with 0.
        let bounds = &self.offsets[texts.start..=texts.end];
        let first = bounds[0];
        let last = bounds[texts.len()];
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

/// Rows for the images and the texts of the same samples: features, or their gradients.
///
/// # Shapes
/// Both `[samples, features]`.
#[derive(Clone, Copy, Debug)]
pub struct ImageTextFeatures<'a> {
    /// Of the images.
    pub images: TensorView<'a>,
    /// Of the texts.
    pub texts: TensorView<'a>,
}

/// The unit features of one side, and their gradients, which a loss adds to.
///
/// # Shapes
/// Both `[samples, features]`.
#[derive(Debug)]
pub struct FeaturesAndGradients<'a> {
    /// The features.
    pub features: TensorView<'a>,
    /// The gradients so far.
    pub gradients: TensorViewMut<'a>,
}
