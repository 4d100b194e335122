//! The published models: as large as they are published, and trained in every variable.
#![cfg(test)]

use cnclip_compute::collective::SingleRank;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::{Params, Segment};
use cnclip_compute::random::{derive_key, normal_f32};
use cnclip_crds::model::{Architecture, ModelConfig};
use cnclip_nn::loss::ContrastiveLoss;
use cnclip_nn::model::PackedTexts;
use cnclip_nn::model::clip::{BatchCapacity, Clip, ClipBatch};
use cnclip_nn::optimizer::{AdamW, AdamWSettings};

#[test]
fn presets_have_the_published_numbers_of_parameters() {
    use Architecture::*;
    let table = [
        (Rn50, 76_989_537, 38_316_896),
        (VitB32, 189_919_489, 87_849_216),
        (VitB16, 188_262_913, 86_192_640),
        (VitL14, 406_233_089, 303_966_208),
        (VitL14At336, 406_560_769, 304_293_888),
        (VitH14, 957_598_209, 632_076_800),
    ];

    for (architecture, all, image) in table {
        let towers = architecture.published_model().unwrap();
        let (_, params) = Clip::new(
            &towers,
            BatchCapacity {
                batch: 1,
                context: 3,
            },
        );

        let visual = params
            .segments()
            .iter()
            .filter(|s| s.name.starts_with("visual."));

        let visual: usize = visual.map(|segment| segment.range.len()).sum();
        assert_eq!(
            (params.values.len(), visual),
            (all, image),
            "{architecture:?}"
        );
    }
}

/// A preset with few layers and narrow towers: what sets it apart stays.
fn shrunk(architecture: Architecture) -> ModelConfig {
    let mut towers = architecture.published_model().unwrap();
    if let Some(vit) = &mut towers.image.vit {
        (vit.layers, vit.width) = (2, 2 * vit.head_width);
        towers.image.resolution = 3 * vit.patch_size;
    }

    if let Some(resnet) = &mut towers.image.resnet {
        (resnet.layers, resnet.width) = (vec![2, 1, 1, 1], 6);
        towers.image.resolution = 64;
    }

    let text = &mut towers.text;
    let head = text.width / text.heads;
    (text.layers, text.heads, text.width, text.intermediate) = (2, 2, 2 * head, 67);
    (text.vocab_size, text.positions, towers.embed_dim) = (113, 16, 31);

    towers
}

/// The model away from its initial zeros, behind which no gradient passes.
fn model(architecture: Architecture) -> (Clip, Params) {
    let (clip, mut params) = Clip::new(
        &shrunk(architecture),
        BatchCapacity {
            batch: 5,
            context: 7,
        },
    );

    params.init_values(3);
    params.values.update_on_host(|values| {
        for (i, value) in values.iter_mut().enumerate() {
            *value += 0.05 * normal_f32(derive_key(4, i as u64));
        }
    });

    (clip, params)
}

/// Forward, loss and backward of five made-up pairs.
fn differentiate(clip: &mut Clip, params: &mut Params, side: usize) {
    let pixels: Vec<f32> = (0..5 * 3 * side * side)
        .map(|i| normal_f32(derive_key(5, i as u64)))
        .collect();

    let ids: Vec<u32> = (0..5 * 7).map(|i| 1 + i * 17 % 112).collect();
    let offsets = [0, 7, 10, 15, 20, 23];
    let texts = PackedTexts {
        ids: &ids[..23],
        offsets: &offsets,
    };

    let batch = ClipBatch {
        pixels: PixelBatch::Normalized(&pixels),
        texts,
    };

    let mut loss = ContrastiveLoss::new(5, clip.feature_width());
    let scale = clip.logit_scale(params);
    let score = loss.compute_loss(
        clip.forward(params, batch, Dropout::NONE),
        scale,
        &SingleRank,
    );
    params.clear_gradients();
    clip.add_logit_scale_gradient(params, score.logit_scale_gradient as f32);
    clip.backward(
        params,
        batch,
        Dropout::NONE,
        loss.feature_gradients(0..5),
        &mut (),
    );
}

/// The shrunk preset after one step, and what it was before.
fn step(architecture: Architecture, freeze: bool) -> (Params, Vec<f32>) {
    let (mut clip, mut params) = model(architecture);
    clip.freeze_image(&mut params, freeze);
    let side = shrunk(architecture).image.resolution as usize;
    differentiate(&mut clip, &mut params, side);
    let settings = AdamWSettings {
        beta_1: 0.9,
        beta_2: 0.98,
        epsilon: 1e-6,
        weight_decay: 0.1,
        max_norm: None,
    };

    let mut adamw = AdamW::new(&params, settings);
    let before = params.values.to_host().into_owned();
    adamw.step(&mut params, 0, 1e-3).unwrap();
    (params, before)
}

fn trained(params: &Params, before: &[f32], segment: &Segment) -> (bool, bool) {
    let range = segment.range.clone();
    let gradient = params
        .gradients
        .slice(range.clone())
        .to_host()
        .iter()
        .any(|&gradient| gradient != 0.0);

    (
        gradient,
        *params.values.slice(range.clone()).to_host() != before[range],
    )
}

#[test]
fn every_variable_of_every_preset_gets_a_gradient_and_is_moved() {
    for architecture in Architecture::PUBLISHED {
        let (params, before) = step(architecture, false);
        for segment in params.segments() {
            let name = &segment.name;
            assert_eq!(
                trained(&params, &before, segment),
                (true, true),
                "{architecture:?} {name}"
            );
        }
    }
}

#[test]
fn a_frozen_image_tower_of_any_preset_gets_no_gradient_and_is_not_moved() {
    for architecture in Architecture::PUBLISHED {
        let (params, before) = step(architecture, true);
        for segment in params.segments() {
            let name = &segment.name;
            let thawed = !segment.name.starts_with("visual.");
            let right = (thawed, thawed);
            assert_eq!(
                trained(&params, &before, segment),
                right,
                "{architecture:?} {name}"
            );
        }
    }
}
