//! The distance from a teacher's features on a device is that of this machine, and so is its gradient.

use cnclip_compute::collective::SingleRank;
use cnclip_compute::device::DType;
use cnclip_compute::tensor::{Memory, Tensor, TensorView};
use cnclip_nn::distillation::CosineLoss;
use cnclip_nn::model::FeaturesAndGradients;

use crate::support::{DEVICE, memory, numbers};

fn evaluate(memory: &Memory, (batch, width, wide): (usize, usize, usize)) -> (f64, Vec<f32>) {
    let place = |len: usize, seed: u64| -> Tensor {
        let mut array = memory.alloc_f32(len);
        array.copy_from(TensorView::Host(&numbers(len, seed, DType::F32)));
        array
    };

    let features = place(batch * width, 1);
    let taught = place(batch * wide, 2);
    let mut gradients = place(batch * width, 3);
    let mut loss = CosineLoss::new(memory, 2.0, batch + 1, width, wide);
    let student = FeaturesAndGradients {
        features: features.view(),
        gradients: gradients.view_mut(),
    };

    let distance = loss.compute_loss(taught.view(), student, &SingleRank);

    (distance, gradients.to_host().into_owned())
}

#[test]
fn distances_and_gradients_are_those_of_this_machine() {
    let widths = [
        (11, 5),
        (11, 11),
        (11, 17),
        (1, 3),
        (3, 1),
        (512, 768),
        (300, 1024),
    ];

    for (width, wide) in widths {
        let (found, gradients) = evaluate(&memory(DType::F32), (7, width, wide));
        DEVICE.synchronize().unwrap();
        let (right, right_gradients) = evaluate(&Memory::Host, (7, width, wide));
        assert!(
            (found - right).abs() < 1e-6,
            "{width}, {wide}: {found} for {right}"
        );

        let largest = right_gradients
            .iter()
            .fold(1f32, |most, value| most.max(value.abs()));

        for (found, right) in gradients.iter().zip(&right_gradients) {
            assert!(
                (found - right).abs() < 1e-6 * largest,
                "{width}, {wide}: {found} for {right}"
            );
        }
    }
}
