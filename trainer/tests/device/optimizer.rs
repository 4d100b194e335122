//! What changes weights on a device changes them as this machine does, and rounds them anew.

use cnclip_compute::device::DType;
use cnclip_compute::params::{ParamInit, ParamLayout, Params};
use cnclip_compute::tensor::{Memory, TensorView};
use cnclip_nn::ema::WeightEma;
use cnclip_nn::optimizer::{AdamW, AdamWSettings, NonFiniteGradient};

use crate::support::{DEVICE, FORMATS, memory, numbers, rounded};

const SETTINGS: AdamWSettings = AdamWSettings {
    beta_1: 0.9,
    beta_2: 0.98,
    epsilon: 1e-6,
    weight_decay: 0.1,
    max_norm: Some(0.5),
};

/// Segments of a chunk, of several, and of a part; some decay, one is frozen.
const SEGMENTS: [(&str, usize); 5] = [
    ("visual.proj", 40_009),
    ("text_projection", 16_384),
    ("bert.pooler.bias", 1),
    ("bert.word", 300),
    ("logit_scale", 1),
];

fn params(memory: &Memory, frozen: bool) -> Params {
    let mut layout = ParamLayout::default().with_memory(memory);
    for (name, len) in SEGMENTS {
        layout.register_weight(name, &[len], ParamInit::Zeros);
    }

    let mut params = layout.allocate_params();
    params.freeze_matching(|name| frozen && name == "text_projection");
    let len = params.values.len();
    params
        .values
        .copy_from(TensorView::Host(&numbers(len, 1, DType::F32)));

    params
}

fn give_gradients(params: &mut Params, seed: u64) {
    let len = params.values.len();
    params
        .gradients
        .copy_from(TensorView::Host(&numbers(len, seed, DType::F32)));
}

/// Weights, both moments and the average after three steps, and the lengths of the gradients.
fn train(memory: &Memory, frozen: bool) -> (Params, [Vec<f32>; 4], Vec<f64>) {
    let mut params = params(memory, frozen);
    let mut adamw = AdamW::new(&params, SETTINGS);
    let mut average = WeightEma::new(&params, 0.75);
    let mut step = |step: u64| {
        give_gradients(&mut params, 2 + step);
        let length = adamw.step(&mut params, step, 0.01).unwrap();
        average.update_average(&params, step);
        length
    };

    let lengths = (0..3).map(&mut step).collect();
    let found = [
        &params.values,
        &adamw.exp_avg,
        &adamw.exp_avg_sq,
        &average.values,
    ];
    let found = found.map(|array| array.to_host().into_owned());
    (params, found, lengths)
}

fn assert_rounded(params: &Params, values: &[f32]) {
    let beside = params
        .values
        .view()
        .expect_device()
        .bf16_copy()
        .unwrap()
        .to_host();
    assert!(
        beside
            .iter()
            .zip(values)
            .all(|(a, b)| *a == rounded(*b, DType::Bf16))
    );
}

#[test]
fn weights_moments_and_averages_are_those_of_this_machine() {
    for frozen in [false, true] {
        let (_, right, right_lengths) = train(&Memory::Host, frozen);
        for format in FORMATS {
            let (params, found, lengths) = train(&memory(format), frozen);
            DEVICE.synchronize().unwrap();
            for (found, right) in lengths.iter().zip(&right_lengths) {
                assert!(
                    (found / right - 1.0).abs() < 1e-6,
                    "{lengths:?} for {right_lengths:?}"
                );
            }

            for (which, (found, right)) in found.iter().zip(&right).enumerate() {
                for (at, (found, right)) in found.iter().zip(right).enumerate() {
                    assert!(
                        (found - right).abs() < 1e-6,
                        "{which}, {at}: {found} for {right}"
                    );
                }
            }

            if format == DType::Bf16 {
                assert_rounded(&params, &found[0]);
            }
        }
    }
}

#[test]
fn a_gradient_that_is_not_a_number_is_named_and_nothing_moves() {
    let mut params = params(&memory(DType::F32), true);
    let mut adamw = AdamW::new(&params, SETTINGS);
    give_gradients(&mut params, 2);
    // That of a frozen tensor is not looked at; the second of two chunks of another is.
    params
        .gradients
        .update_on_host(|gradients| gradients[40_010] = f32::NAN);

    assert!(adamw.step(&mut params, 0, 0.01).is_ok());
    let before = params.values.to_host().into_owned();
    params
        .gradients
        .update_on_host(|gradients| gradients[40_000] = f32::INFINITY);

    assert_eq!(
        adamw.step(&mut params, 1, 0.01),
        Err(NonFiniteGradient("visual.proj".into()))
    );

    assert_eq!(*params.values.to_host(), before);
    // What is thawed is looked at again.
    params.freeze_matching(|_| false);
    params
        .gradients
        .update_on_host(|gradients| gradients[40_000] = 0.0);
    assert_eq!(
        adamw.step(&mut params, 1, 0.01),
        Err(NonFiniteGradient("text_projection".into()))
    );
}

#[test]
fn the_average_and_the_weights_change_places_and_both_are_rounded_where_products_read_them() {
    let mut params = params(&memory(DType::Bf16), false);
    let trained = params.values.to_host().into_owned();
    let mut average = WeightEma::new(&params, 0.5);
    let other = numbers(trained.len(), 9, DType::F32);
    average.values.copy_from(TensorView::Host(&other));

    for (values, averages) in [(&other, &trained), (&trained, &other)] {
        average.swap_with_params(&mut params);
        assert_eq!(
            (&*params.values.to_host(), &*average.values.to_host()),
            (&values[..], &averages[..])
        );

        assert_rounded(&params, values);
    }

    DEVICE.synchronize().unwrap();
}
