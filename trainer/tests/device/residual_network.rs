//! The whole residual network, a step of training on a device and on this machine.

use cnclip_compute::device::DType;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::ParamLayout;
use cnclip_compute::tensor::{Memory, TensorView};
use cnclip_crds::model::ResnetConfig as Sizes;
use cnclip_crds::stage::Precision;
use cnclip_nn::model::towers::resnet::ModifiedResnet;
use cnclip_nn::model::towers::{FlatParams, ImageEncoder};

use crate::support::{DEVICE, FORMATS, memory, numbers, rounded};

const BATCH: usize = 5;
const SIDE: usize = 64;
const FEATURES: usize = 24;

/// Features, gradients of the weights, and the running statistics, after one step.
fn step(memory: &Memory, format: DType) -> [Vec<f32>; 3] {
    let mut layout = ParamLayout::new(Precision::Fp32).with_memory(memory);
    let sizes = Sizes {
        layers: vec![2, 1, 1, 2],
        width: 8,
    };

    let mut tower = ModifiedResnet::declare_params(&mut layout, &sizes, SIDE, FEATURES, BATCH);
    let mut params = layout.allocate_params();
    params.init_values(1);
    // Every branch counts, and both memories multiply with the same weights.
    let noise = numbers(params.values.len(), 2, DType::F32);
    params.values.update_on_host(|values| {
        let each = values.iter_mut().zip(&noise);
        each.for_each(|(value, noise)| *value = rounded(*value + 0.1 * noise, DType::Bf16));
    });

    let bytes: Vec<u8> = (0..BATCH * 3 * SIDE * SIDE)
        .map(|i| (i * i / 7 % 251) as u8)
        .collect();

    let mut features = memory.alloc_activations(BATCH * FEATURES);
    let mut slopes = memory.alloc_activations(BATCH * FEATURES);
    slopes.copy_from(TensorView::Host(&numbers(BATCH * FEATURES, 3, format)));
    tower.forward(
        &mut params,
        PixelBatch::Bytes(&bytes),
        true,
        Dropout::NONE,
        features.view_mut(),
    );

    let flat_params = &mut FlatParams {
        values: params.values.view(),
        gradients: params.gradients.view_mut(),
    };

    tower.backward(flat_params, slopes.view(), &mut ());
    [features, params.gradients, params.buffers].map(|array| array.to_host().into_owned())
}

#[test]
fn a_step_of_the_residual_network_is_that_of_this_machine() {
    // Batch normalisation of so small a batch makes much of a rounding: products of bfloat16 numbers alone,
    // between activations in fp32, move this gradient by 15 %.
    for (format, bounds) in FORMATS.into_iter().zip([[1e-4; 3], [0.05, 0.3, 0.02]]) {
        let right = step(&Memory::Host, format);
        let found = step(&memory(format), format);
        DEVICE.synchronize().unwrap();

        for (what, bound) in bounds.into_iter().enumerate() {
            let length = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt();
            let pairs = found[what].iter().zip(&right[what]);
            let apart: Vec<f32> = pairs.map(|(found, right)| found - right).collect();
            let error = length(&apart) / length(&right[what]);
            assert!(
                error < bound,
                "{format:?}, number {what}: {error} of the whole apart"
            );
        }
    }
}
