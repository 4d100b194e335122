//! Cosines of features of two widths: against autograd, and the device against the CPU.

use candle_core::{D, Result, Tensor};
use cnclip_compute::device::DType;
use cnclip_compute::ops::distillation::CosineSimilarity;
use cnclip_compute::tensor::Memory;

use crate::autograd::{assert_close, autograd, normal_values, tensor, var};
use crate::device_under_test::device_memory;
use crate::host_and_device::{HostAndDevice, SIDES, Side};

const ROWS: usize = 7;
const WIDTH: usize = 11;
const SCALE: f32 = 0.3;

/// Linear interpolation with half-pixel centres as a matrix: [`WIDTH`, output width].
fn interpolation_matrix(output_width: usize) -> Tensor {
    let mut matrix = vec![0.0; WIDTH * output_width];
    for output in 0..output_width {
        let center = (output as f32 + 0.5) * WIDTH as f32 / output_width as f32 - 0.5;
        let center = center.clamp(0.0, (WIDTH - 1) as f32);
        let left = center as usize;
        let right = (left + 1).min(WIDTH - 1);
        matrix[left * output_width + output] += 1.0 - center.fract();
        matrix[right * output_width + output] += center.fract();
    }

    tensor(&matrix, &[WIDTH, output_width])
}

fn cosine_similarity(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let length = |x: &Tensor| x.sqr()?.sum(D::Minus1)?.sqrt();
    (x * y)?.sum(D::Minus1)? / (length(x)? * length(y)?)?
}

#[test]
fn cosines_and_their_gradients_are_candles() {
    for teacher_width in [5, 11, 17] {
        let features = normal_values(ROWS * WIDTH, 1);
        let teacher_features = normal_values(ROWS * teacher_width, 2);
        let before = normal_values(ROWS * WIDTH, 3);
        let mut gradients = before.clone();
        let mut cosines = vec![9.0; ROWS];

        CosineSimilarity::new_in(&Memory::Host, ROWS, WIDTH, teacher_width).cosines_with_gradients(
            (&teacher_features).into(),
            (&features).into(),
            (&mut gradients).into(),
            (&mut cosines).into(),
            SCALE,
        );

        let student = var(&features, &[ROWS, WIDTH]);
        let teacher = tensor(&teacher_features, &[ROWS, teacher_width]);
        let matrix = interpolation_matrix(teacher_width);
        let formula = || cosine_similarity(&student.matmul(&matrix)?, &teacher);
        let (expected, d) = autograd(&[&student], &[-SCALE; ROWS], formula);

        let added: Vec<f32> = gradients.iter().zip(&before).map(|(a, b)| a - b).collect();
        assert_close("cosines", &cosines, &expected);
        assert_close("gradients", &added, &d[0]);
    }
}

#[test]
fn cosines_on_a_device_are_the_cpus() {
    for teacher_width in [5, 11, 17, 331] {
        let teacher_features = HostAndDevice::f32s(ROWS * teacher_width, 1, DType::F32);
        let features = HostAndDevice::f32s(ROWS * WIDTH, 2, DType::F32);
        let mut gradients = HostAndDevice::f32s(ROWS * WIDTH, 3, DType::F32);
        let mut cosines = HostAndDevice::f32s(ROWS, 4, DType::F32);

        for side in SIDES {
            let memory = match side {
                Side::Host => Memory::Host,
                Side::Device => device_memory(DType::F32),
            };

            CosineSimilarity::new_in(&memory, ROWS, WIDTH, teacher_width).cosines_with_gradients(
                teacher_features.view(side),
                features.view(side),
                gradients.view_mut(side),
                cosines.view_mut(side),
                SCALE,
            );
        }

        cosines.assert_agree("cosines", 0.0);
        gradients.assert_agree("gradients", 0.0);
    }
}
