//! What a model holds, counted by the allocator: alone in its process, because others would be counted too.
#![cfg(test)]

use cnclip::model::clip::{Capacity, Clip};
use cnclip_crds::model::{ImageTower, ModelConfig, TextTower, Vit};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fn model(layers: i32) -> ModelConfig {
    ModelConfig {
        embed_dim: 32,
        image: ImageTower {
            resolution: 64,
            vit: Some(Vit { layers, width: 64, patch_size: 16, head_width: 16 }),
            resnet: None,
        },
        text: TextTower {
            vocab_size: 50,
            layers,
            width: 64,
            heads: 4,
            intermediate: 256,
            positions: 20,
            hidden_dropout_percent: 10,
            attention_dropout_percent: 10,
        },
    }
}

/// Bytes that a model takes for each pair of its batch.
fn bytes_of_a_pair(declare: impl Fn(Capacity) -> usize) -> usize {
    (declare(Capacity { batch: 40, context: 20 }) - declare(Capacity { batch: 20, context: 20 }))
        / 20
}

#[test]
fn a_layer_that_computes_again_keeps_little_more_than_what_goes_into_it() {
    let each_layer = |declare: fn(&ModelConfig, Capacity) -> _| {
        let of = |layers| {
            bytes_of_a_pair(|capacity| {
                let before = MEMORY.current_usage();
                let model: (Clip, _) = declare(&model(layers), capacity);
                let held = MEMORY.current_usage() - before;
                drop(model);
                held
            })
        };
        (of(12) - of(4)) / 8
    };
    let inputs = (17 + 20) * 64 * size_of::<f32>();
    let (kept, again) = (each_layer(Clip::new), each_layer(Clip::recomputing));
    assert_eq!(again, inputs);
    assert!(kept > 15 * again, "{kept} bytes, and {again}");
}
