//! The image tower of a larger model: pictures in, features out. Nothing of it is ever trained.

use cnclip_crds::model::ImageTower;

use super::image_encoder::ImageEncoder;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::{ParamInit, ParamLayout, Params};
use cnclip_compute::tensor::{Memory, TensorViewMut};

/// An image tower in evaluation.
#[derive(Debug)]
pub struct Teacher {
    tower: ImageEncoder,
    /// Its numbers, zero until they are loaded: those of [`Part::Image`](crate::weights::Part).
    pub params: Params,
    width: usize,
    batch: usize,
}

impl Teacher {
    /// A tower whose features have a width, and room in some memory for so many pictures at once.
    pub fn new(memory: &Memory, tower: &ImageTower, width: usize, batch: usize) -> Self {
        let mut layout = ParamLayout::default().with_memory(memory);
        // Blocks that keep nothing are enough for a tower without a backward pass.
        let tower = ImageEncoder::declare_params(&mut layout, tower, width, (batch, true));
        // Files of an image tower hold it too.
        layout.register_weight("logit_scale", &[], ParamInit::Zeros);

        Self {
            tower,
            params: layout.allocate_params(),
            width,
            batch,
        }
    }

    /// Length of a feature.
    pub fn feature_width(&self) -> usize {
        self.width
    }

    /// Writes the features of pictures, any number of them.
    ///
    /// # Shapes
    /// `features` [pictures, width].
    pub fn encode_images(&mut self, pixels: PixelBatch<'_>, features: TensorViewMut<'_>) {
        let picture = pixels.len() / (features.len() / self.width);
        let mut first = 0;
        let mut rest = features;

        while !rest.is_empty() {
            let count = self.batch.min(rest.len() / self.width);
            let (features, others) = rest.split_at(count * self.width);
            let pixels = pixels.slice(first * picture..(first + count) * picture);
            self.tower
                .forward(&mut self.params, pixels, (false, Dropout::NONE), features);
            (first, rest) = (first + count, others);
        }
    }
}
