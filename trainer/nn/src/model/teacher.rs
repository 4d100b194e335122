//! The image tower of a larger model, whose features a distilled model learns from. None of it is trained.

use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::{ParamInit, ParamLayout, Params};
use cnclip_compute::tensor::{Memory, TensorViewMut};
use cnclip_crds::model::ImageTower;

use super::towers::{self, ImageEncoder, TowerCapacity};

/// An image tower in evaluation.
#[derive(Debug)]
pub struct Teacher {
    tower: Box<dyn ImageEncoder>,
    /// Its weights, zero until they are loaded: those of the image part of a model's weights file.
    pub params: Params,
    width: usize,
    batch: usize,
}

impl Teacher {
    /// A tower with features of a width, and memory for `batch` images at once.
    pub fn new(memory: &Memory, tower: &ImageTower, width: usize, batch: usize) -> Self {
        let mut layout = ParamLayout::default().with_memory(memory);
        // There is no backward pass, so layers need not keep activations: one cache for all is enough.
        let capacity = TowerCapacity {
            batch,
            recompute: true,
        };

        let tower = towers::declare_image_encoder(&mut layout, tower, width, capacity);
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

    /// Writes the features of images, any number of them.
    ///
    /// # Shapes
    /// `features` `[images, width]`.
    pub fn encode_images(&mut self, pixels: PixelBatch<'_>, features: TensorViewMut<'_>) {
        let image_len = pixels.len() / (features.len() / self.width);
        let mut first = 0;
        let mut rest = features;

        // In parts: the teacher has memory for a micro-batch, while the student's features are those of the whole
        // local batch.
        while !rest.is_empty() {
            let count = self.batch.min(rest.len() / self.width);
            let (features, others) = rest.split_at(count * self.width);
            let pixels = pixels.slice(first * image_len..(first + count) * image_len);
            let training = false;
            self.tower
                .forward(&mut self.params, pixels, training, Dropout::NONE, features);

            first += count;
            rest = others;
        }
    }
}
