use candle_core::{D, Device, Result, Tensor, Var};
use cnclip_compute::collective::SingleRank;
use cnclip_compute::random::{derive_key, normal_f32};

use super::*;

fn numbers(length: usize, seed: u64) -> Vec<f32> {
    (0..length as u64)
        .map(|i| normal_f32(derive_key(seed, i)))
        .collect()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn vectors_are_interpolated_as_pytorch_does() {
    // F.interpolate([1, 4, 9, -2, 5], mode="bilinear", align_corners=False)
    let rows: [&[f32]; 4] = [
        &[1.0, 2.714286, 5.428572, 9.0, 1.142856, 1.0, 5.0],
        &[2.0, 9.0, 2.666666],
        &[1.0, 4.0, 9.0, -2.0, 5.0],
        &[
            1.0, 1.545455, 2.909091, 4.454545, 6.727273, 9.0, 4.0, -1.0, 0.545455, 3.727274, 5.0,
        ],
    ];

    for right in rows {
        let mut found = vec![9.0; right.len()];
        LinearInterpolation::new(5, right.len()).forward(&[1.0, 4.0, 9.0, -2.0, 5.0], &mut found);
        for (found, right) in found.iter().zip(right) {
            assert!((found - right).abs() < 1e-5, "{found} for {right}");
        }
    }
}

/// The same in plain differentiable operations; interpolation is a product with a matrix.
fn reference_loss(
    student: &Var,
    teacher: &Tensor,
    interpolation: &Tensor,
    weight: f64,
) -> Result<Tensor> {
    let student = student.matmul(interpolation)?;
    let length = |x: &Tensor| x.sqr()?.sum(D::Minus1)?.sqrt();
    let cosine = ((&student * teacher)?.sum(D::Minus1)? / (length(&student)? * length(teacher)?)?)?;
    ((1.0 - cosine.mean_all()?)? * weight)?.reshape(())
}

#[test]
fn the_distance_and_its_gradient_are_candles() {
    let batch = 7;
    let width = 11;
    let weight = 0.3;

    for teacher_width in [5, 11, 17] {
        let features = numbers(batch * width, 1);
        let teacher_features = numbers(batch * teacher_width, 2);
        let before = numbers(batch * width, 3);
        let mut gradients = before.clone();
        let mut loss = CosineLoss::new(&Memory::Host, weight, batch, width, teacher_width);
        let distance = loss.compute_loss(
            TensorView::Host(&teacher_features),
            FeaturesAndGradients {
                features: TensorView::Host(&features),
                gradients: TensorViewMut::Host(&mut gradients),
            },
            &SingleRank,
        );

        let interpolation: Vec<f32> = (0..width)
            .flat_map(|input| {
                let unit: Vec<f32> = (0..width)
                    .map(|i| f32::from(u8::from(i == input)))
                    .collect();

                let mut row = vec![0.0; teacher_width];
                LinearInterpolation::new(width, teacher_width).forward(&unit, &mut row);
                row
            })
            .collect();

        let tensor =
            |values: &[f32], shape| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
        let student = Var::from_slice(&features, (batch, width), &Device::Cpu).unwrap();
        let teacher_features = tensor(&teacher_features, (batch, teacher_width));
        let interpolation = tensor(&interpolation, (width, teacher_width));
        let right = reference_loss(&student, &teacher_features, &interpolation, weight).unwrap();
        let gradient = flat(right.backward().unwrap().get(&student).unwrap());
        let right = f64::from(right.to_scalar::<f32>().unwrap());

        assert!(
            (weight * distance - right).abs() < 1e-6,
            "{teacher_width}: {distance} for {right}"
        );

        for ((found, before), right) in gradients.iter().zip(before).zip(gradient) {
            assert!(
                (found - before - right).abs() < 1e-6,
                "{teacher_width}: {found} for {right}"
            );
        }
    }
}
