//! The cosines of a teacher's features and the student's, which are interpolated to the teacher's width where that
//! is another, and their gradients.

mod cpu;
mod gpu;
mod interpolation;
mod interpolation_buffers;

use crate::tensor::{Memory, TensorView, TensorViewMut, panic_mixed_memories};
use cpu::HostRows;
use gpu::DeviceRows;
use interpolation::LinearInterpolation;
use interpolation_buffers::InterpolationBuffers;

/// PyTorch's lower bound of vector lengths in `cosine_similarity`: a feature of zeros divides by it.
const COSINE_EPSILON: f32 = 1e-8;

/// Cosines between features of two widths.
///
/// # Source
/// `F.interpolate(mode="bilinear", align_corners=False)` along the features, then `F.cosine_similarity`.
#[derive(Debug)]
pub struct CosineSimilarity {
    interpolation: LinearInterpolation,
    /// The student's features as wide as the teacher's, in host memory.
    interpolated: Vec<f32>,
    /// The interpolation's taps, on a device.
    device_buffers: Option<InterpolationBuffers>,
}

impl CosineSimilarity {
    /// Memory for a batch of the student's features, and of the teacher's.
    pub fn new_in(memory: &Memory, batch: usize, width: usize, teacher_width: usize) -> Self {
        let interpolation = LinearInterpolation::new(width, teacher_width);
        let device_buffers = InterpolationBuffers::new(memory, &interpolation);
        // A device interpolates as it reads.
        let interpolated = if device_buffers.is_none() {
            vec![0.0; batch * teacher_width]
        } else {
            Vec::new()
        };

        Self {
            interpolation,
            interpolated,
            device_buffers,
        }
    }

    /// Width of the student's features.
    pub fn width(&self) -> usize {
        self.interpolation.width
    }

    /// Computes the cosine of each pair of rows, and adds the gradient of `−scale · cosine` to that of the
    /// student's features.
    ///
    /// # Shapes
    /// `teacher_features` `[rows, teacher's width]`, `features` and `gradients` `[rows, width]`, `cosines` `[rows]`
    pub fn cosines_with_gradients(
        &mut self,
        teacher_features: TensorView<'_>,
        features: TensorView<'_>,
        gradients: TensorViewMut<'_>,
        cosines: TensorViewMut<'_>,
        scale: f32,
    ) {
        match (cosines, gradients, &self.device_buffers) {
            (TensorViewMut::Host(cosines), TensorViewMut::Host(gradients), None) => {
                let rows = HostRows {
                    teacher_features: teacher_features.expect_host(),
                    features: features.expect_host(),
                    gradients,
                    interpolated: &mut self.interpolated,
                    cosines,
                };

                cpu::cosines_with_gradients(&self.interpolation, rows, scale);
            }
            (TensorViewMut::Device(cosines), TensorViewMut::Device(gradients), Some(buffers)) => {
                let rows = DeviceRows {
                    teacher_features: teacher_features.expect_device(),
                    features: features.expect_device(),
                    gradients,
                    cosines,
                };

                gpu::cosines_with_gradients(buffers.as_device_views(), rows, scale, COSINE_EPSILON);
            }
            _ => panic_mixed_memories(),
        }
    }
}
