use cnclip_compute::collective::SingleRank;
use cnclip_compute::tensor::TensorViewMut;

use super::*;

#[test]
fn the_distance_is_that_of_the_mean_cosine_and_its_gradient_is_weighted() {
    // The teacher's feature, the opposite, and one at a right angle: cosines 1, −1 and 0.
    let teacher_features = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0];
    let features = [2.0, 0.0, -1.0, 0.0, 0.0, 4.0];
    let mut gradients = [0.5; 6];
    let student = FeaturesAndGradients {
        features: TensorView::Host(&features),
        gradients: TensorViewMut::Host(&mut gradients),
    };

    let mut loss = CosineLoss::new(&Memory::Host, 0.6, 3, 2, 2);
    let teacher_features = TensorView::Host(&teacher_features);
    let distance = loss.compute_loss(teacher_features, student, &SingleRank);
    assert!((distance - 1.0).abs() < 1e-7, "{distance}");

    // Only the last cosine changes with its feature: by 1/|x| along the teacher's, times the weight over the batch.
    let expected = [0.5, 0.5, 0.5, 0.5, 0.5 - 0.6 / 3.0 / 4.0, 0.5];
    for (found, expected) in gradients.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-7, "{gradients:?}");
    }
}
