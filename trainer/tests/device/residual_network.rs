//! The whole residual network, a step of training on a device and on this machine.

use cnclip_compute::device::Format;
use cnclip_compute::ops::patchify::Pixels;
use cnclip_compute::params::Layout;
use cnclip_compute::tensor::{Memory, View};
use cnclip_crds::model::Resnet as Sizes;
use cnclip_crds::stage::Precision;
use cnclip_nn::model::resnet::Resnet;

use crate::support::{DEVICE, FORMATS, memory, numbers, rounded};

const BATCH: usize = 5;
const SIDE: usize = 64;
const FEATURES: usize = 24;

/// Features, gradients of the weights, and the running statistics, after one step.
fn step(memory: &Memory, format: Format) -> [Vec<f32>; 3] {
    let mut layout = Layout::new(Precision::Fp32).within(memory);
    let sizes = Sizes {
        layers: vec![2, 1, 1, 2],
        width: 8,
    };

    let mut tower = Resnet::declare(&mut layout, &sizes, (SIDE, FEATURES), BATCH);
    let mut params = layout.build();
    params.initialize(1);
    // Every branch counts, and both memories multiply with the same weights.
    let noise = numbers(params.values.len(), 2, Format::F32);
    params.values.edit(|values| {
        let each = values.iter_mut().zip(&noise);
        each.for_each(|(value, noise)| *value = rounded(*value + 0.1 * noise, Format::Bf16));
    });

    let bytes: Vec<u8> = (0..BATCH * 3 * SIDE * SIDE)
        .map(|i| (i * i / 7 % 251) as u8)
        .collect();

    let mut features = memory.array(BATCH * FEATURES);
    let mut slopes = memory.array(BATCH * FEATURES);
    slopes.copy_from(View::Host(&numbers(BATCH * FEATURES, 3, format)));
    let given = (params.values.view(), params.state.view_mut());
    tower.forward(given, Pixels::Bytes(&bytes), true, features.view_mut());
    let weights = (params.values.view(), &mut params.gradients.view_mut());

    tower.backward(weights, slopes.view(), &mut ());
    [features, params.gradients, params.state].map(|array| array.read().into_owned())
}

#[test]
fn a_step_of_the_residual_network_is_that_of_this_machine() {
    // Batch normalisation of so small a batch makes much of a rounding: products of bfloat16 numbers alone,
    // between activations in fp32, move this gradient by 15 %.
    for (format, bounds) in FORMATS.into_iter().zip([[1e-4; 3], [0.05, 0.3, 0.02]]) {
        let right = step(&Memory::Host, format);
        let found = step(&memory(format), format);
        DEVICE.check().unwrap();

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
