//! Whole models on a device against the same models on the host.

use cnclip_compute::device::DType;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::Params;
use cnclip_compute::tensor::{Memory, TensorView};
use cnclip_crds::model::{ImageTower, ModelConfig, TextTower, VitConfig};
use cnclip_crds::stage::Precision;
use cnclip_nn::model::clip::{BatchCapacity, Clip, ClipBatch, ComputeOptions};
use cnclip_nn::model::{ImageTextFeatures, PackedTexts};

use crate::support::{DEVICE, memory, numbers};

const SAMPLES: usize = 5;
const SIDE: usize = 12;
const WIDTH: usize = 10;
const OFFSETS: [usize; SAMPLES + 1] = [0, 3, 10, 12, 23, 28];

/// Towers whose heads have these widths.
fn model(image_head_width: i32, text_head_width: i32) -> ModelConfig {
    ModelConfig {
        embed_dim: WIDTH as i32,
        image: ImageTower {
            resolution: SIDE as i32,
            vit: Some(VitConfig {
                layers: 3,
                width: 3 * image_head_width,
                patch_size: 4,
                head_width: image_head_width,
            }),
            resnet: None,
        },
        text: TextTower {
            vocab_size: 40,
            layers: 3,
            width: 2 * text_head_width,
            heads: 2,
            intermediate: 22,
            positions: 13,
            hidden_dropout_percent: 20,
            attention_dropout_percent: 30,
        },
    }
}

/// The results of one step.
struct StepResult {
    images: Vec<f32>,
    texts: Vec<f32>,
    params: Params,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    image_head_width: i32,
    text_head_width: i32,
    recompute: bool,
    masked: u32,
    padded: bool,
    normalized: bool,
    training: bool,
}

impl Case {
    /// Training with nothing special about it.
    const PLAIN: Self = Self {
        image_head_width: 8,
        text_head_width: 7,
        recompute: false,
        masked: 0,
        padded: false,
        normalized: false,
        training: true,
    };

    fn step(self, memory: &Memory, precision: Precision) -> StepResult {
        let capacity = BatchCapacity {
            batch: SAMPLES + 1,
            context: 11,
        };

        let compute = ComputeOptions {
            recompute: self.recompute,
            precision,
        };

        let model = model(self.image_head_width, self.text_head_width);
        let (mut clip, mut params) = Clip::new_in(memory, &model, capacity, compute);
        params.init_values(1);
        clip.mask_patches(self.masked);
        let first = u32::from(!self.padded);
        let ids: Vec<u32> = (0..28).map(|i| (first + i * 7 % 5) % 40).collect();
        let bytes: Vec<u8> = (0..SAMPLES * 3 * SIDE * SIDE)
            .map(|i| ((i * 2_654_435) >> 9) as u8)
            .collect();

        let normalized = numbers(bytes.len(), 5, DType::F32);
        let pixels = match self.normalized {
            true => PixelBatch::Normalized(&normalized),
            false => PixelBatch::Bytes(&bytes),
        };

        let batch = ClipBatch {
            pixels,
            texts: PackedTexts {
                ids: &ids,
                offsets: &OFFSETS,
            },
        };

        let dropout = if self.training {
            Dropout::new(1, 2, 3)
        } else {
            Dropout::NONE
        };

        let features = clip.forward(&mut params, batch, dropout);
        let images = features.images.to_host().into_owned();
        let texts = features.texts.to_host().into_owned();
        let gradient = |seed| {
            let mut array = memory.alloc_f32(SAMPLES * WIDTH);
            array.copy_from(TensorView::Host(&numbers(
                SAMPLES * WIDTH,
                seed,
                DType::F32,
            )));
            array
        };

        let dimages = gradient(3);
        let dtexts = gradient(4);
        // Twice, to show that gradients are added.
        for _ in 0..2 {
            clip.recompute_forward(&mut params, batch, dropout);
            let gradients = ImageTextFeatures {
                images: dimages.view(),
                texts: dtexts.view(),
            };

            clip.backward(&mut params, batch, dropout, gradients, &mut ());
        }

        memory.synchronize().unwrap();
        StepResult {
            images,
            texts,
            params,
        }
    }
}

fn largest(values: &[f32]) -> f32 {
    values
        .iter()
        .fold(0.0, |largest, value| largest.max(value.abs()))
}

fn assert_near(what: &str, found: &[f32], right: &[f32], bound: f32) {
    assert_eq!(found.len(), right.len(), "{what}");
    for (i, (found, right)) in found.iter().zip(right).enumerate() {
        assert!(
            (found - right).abs() <= bound,
            "{what}: value {i} is {found}, not {right}"
        );
    }
}

#[test]
fn a_step_in_fp32_is_that_of_the_host() {
    let plain = Case::PLAIN;
    for case in [
        Case {
            training: false,
            ..plain
        },
        plain,
        Case {
            recompute: true,
            ..plain
        },
        Case {
            masked: 50,
            ..plain
        },
        Case {
            padded: true,
            ..plain
        },
        Case {
            normalized: true,
            ..plain
        },
    ] {
        let found = case.step(&memory(DType::F32), Precision::Fp32);
        let right = case.step(&Memory::Host, Precision::Fp32);
        assert_near(
            &format!("{case:?}, images"),
            &found.images,
            &right.images,
            1e-5,
        );
        assert_near(
            &format!("{case:?}, texts"),
            &found.texts,
            &right.texts,
            1e-5,
        );
        let gradients = found.params.gradients.to_host();
        let rights = right.params.gradients.to_host();
        let largest_gradient = largest(&rights);
        for segment in right.params.segments() {
            let found = &gradients[segment.range.clone()];
            let right = &rights[segment.range.clone()];
            let what = format!("{case:?}, {}", segment.name);
            assert_near(
                &what,
                found,
                right,
                1e-4 * largest(right) + 1e-6 * largest_gradient,
            );
        }
    }
}

/// The cosine between two vectors.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };

    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn a_step_in_bfloat16_stays_near_that_in_fp32() {
    let odd = Case {
        masked: 50,
        padded: true,
        recompute: true,
        ..Case::PLAIN
    };

    // Heads of widths for which there is flash attention.
    let flash = Case {
        image_head_width: 64,
        text_head_width: 80,
        ..Case::PLAIN
    };

    for case in [
        Case::PLAIN,
        odd,
        flash,
        Case {
            image_head_width: 80,
            text_head_width: 64,
            ..odd
        },
    ] {
        let found = case.step(&memory(DType::Bf16), Precision::Bf16);
        let right = case.step(&Memory::Host, Precision::Fp32);
        assert!(cosine(&found.images, &right.images) > 0.9995, "{case:?}");
        assert!(cosine(&found.texts, &right.texts) > 0.9995, "{case:?}");
        let gradients = found.params.gradients.to_host();
        let rights = right.params.gradients.to_host();
        let similarity = cosine(&gradients, &rights);
        assert!(similarity > 0.999, "{case:?}: {similarity}");
    }

    DEVICE.synchronize().unwrap();
}
