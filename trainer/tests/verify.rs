//! The trainer's own passes against candle's autograd over the whole model, on this machine and on an
//! emulated GPU; and that a kernel that is wrong is named.
#![cfg(test)]

#[path = "support/planned.rs"]
#[allow(dead_code, reason = "shared with the tests of memory")]
mod planned;
#[path = "support/small.rs"]
#[allow(dead_code, reason = "shared with the tests of stops")]
mod small;

use cnclip::verify::{Quantity, VerifyOptions, VerifyReport, verify_model};
use cnclip_compute::tensor::Memory;
use cnclip_crds::model::{
    Architecture, ImageTower, ModelConfig, ResnetConfig, TextTower, VitConfig,
};
use cnclip_crds::stage::Precision;
use cnclip_emulator::Emulator;
use planned::shrink_preset;

/// More than any of these models needs.
const DEVICE_BYTES: u64 = 1 << 32;

/// So small that an emulated GPU computes it in seconds.
fn tiny_model(image: ImageTower) -> ModelConfig {
    ModelConfig {
        embed_dim: 10,
        image,
        text: TextTower {
            vocab_size: 40,
            layers: 3,
            width: 14,
            heads: 2,
            intermediate: 22,
            positions: 13,
            hidden_dropout_percent: 20,
            attention_dropout_percent: 30,
        },
    }
}

fn tiny_vit() -> ModelConfig {
    tiny_model(ImageTower {
        resolution: 12,
        vit: Some(VitConfig {
            layers: 3,
            width: 24,
            patch_size: 4,
            head_width: 8,
        }),
        resnet: None,
    })
}

fn tiny_resnet() -> ModelConfig {
    tiny_model(ImageTower {
        resolution: 32,
        vit: None,
        resnet: Some(ResnetConfig {
            layers: vec![1, 2, 1, 1],
            width: 4,
        }),
    })
}

fn verify(config: &ModelConfig, memory: &Memory, precision: Precision) -> VerifyReport {
    let options = VerifyOptions {
        batch: 5,
        seed: 3,
        precision,
    };

    verify_model(config, None, memory, options, |_| ()).unwrap()
}

fn emulated(config: &ModelConfig, broken_kernel: Option<&str>) -> VerifyReport {
    let device = match broken_kernel {
        Some(kernel) => Emulator::with_broken_kernel(DEVICE_BYTES, kernel),
        None => Emulator::new_device(DEVICE_BYTES),
    };

    verify(
        config,
        &Memory::Device(device, Precision::Fp32),
        Precision::Fp32,
    )
}

#[test]
fn features_loss_and_gradients_of_every_kind_of_model_are_candles() {
    for architecture in Architecture::PUBLISHED {
        let report = verify(&shrink_preset(architecture), &Memory::Host, Precision::Fp32);
        assert!(report.passed, "{}\n{}", report.summary(), report.table());
        for quantity in [Quantity::Activation, Quantity::Feature, Quantity::Gradient] {
            let count = |row: &&cnclip::verify::VerifyRow| row.quantity == quantity;
            assert!(report.rows.iter().filter(count).count() > 1, "{quantity:?}");
        }
    }
}

#[test]
fn a_device_that_computes_right_passes() {
    for config in [tiny_vit(), tiny_resnet()] {
        let report = emulated(&config, None);
        assert!(report.passed, "{}\n{}", report.summary(), report.table());
        assert_eq!(report.first_deviation, None);
    }
}

#[test]
fn a_device_that_rounds_to_bfloat16_passes_with_the_tolerances_of_that() {
    let device = Emulator::new_device(DEVICE_BYTES);
    let memory = Memory::Device(device, Precision::Bf16);
    let report = verify(&tiny_vit(), &memory, Precision::Bf16);
    assert!(report.passed, "{}\n{}", report.summary(), report.table());
    // Rounding is seen: the same numbers do not pass as fp32.
    let exact = Quantity::Gradient.tolerance(Precision::Fp32);
    assert!(report.rows.iter().any(|row| row.relative_error > exact));
}

/// A kernel whose output is 2 % too large, and what verification says of it.
struct Fault {
    kernel: &'static str,
    /// The first tensor that is wrong.
    tensor: &'static str,
    /// Named as likely wrong.
    operation: &'static str,
}

const fn fault(kernel: &'static str, tensor: &'static str, operation: &'static str) -> Fault {
    Fault {
        kernel,
        tensor,
        operation,
    }
}

/// Forward and backward passes of transformers, the loss and the optimizer.
const VIT_FAULTS: [Fault; 23] = [
    fault("cut_patches_bytes_f32", "visual.ln_pre", "patchify"),
    fault(
        "positions_forward_f32",
        "visual.ln_pre",
        "position_embedding forward",
    ),
    fault(
        "layer_norm_forward_f32",
        "visual.ln_pre",
        "layer_norm forward",
    ),
    fault(
        "quick_gelu_forward_f32",
        "visual.transformer.resblocks.0",
        "quick_gelu forward",
    ),
    fault(
        "softmax_forward_f32",
        "visual.transformer.resblocks.0",
        "attention forward",
    ),
    fault(
        "take_f32",
        "visual.transformer.resblocks.2",
        "sequences forward",
    ),
    fault("gelu_forward_f32", "bert.encoder.layer.0", "gelu forward"),
    fault(
        "ragged_product_f32",
        "bert.encoder.layer.0",
        "attention forward of texts",
    ),
    fault(
        "normalize_forward",
        "image_features",
        "l2_normalize forward",
    ),
    fault("loss_rows", "loss", "contrastive_loss forward"),
    fault(
        "loss_differentiate",
        "logit_scale",
        "contrastive_loss backward",
    ),
    fault(
        "normalize_backward_f32",
        "text_projection",
        "l2_normalize backward",
    ),
    fault(
        "layer_norm_weights_f32",
        "bert.encoder.layer.2.output.LayerNorm.weight",
        "layer_norm weights",
    ),
    fault(
        "layer_norm_backward_f32",
        "bert.encoder.layer.2.output.dense.weight",
        "layer_norm backward",
    ),
    fault(
        "dropout_add_f32",
        "bert.encoder.layer.2.output.dense.weight",
        "dropout forward",
    ),
    fault(
        "column_sums_f32",
        "bert.encoder.layer.2.output.dense.bias",
        "linear column_sums",
    ),
    fault(
        "gelu_backward_f32",
        "bert.encoder.layer.2.intermediate.dense.weight",
        "gelu backward",
    ),
    fault(
        "softmax_backward_f32",
        "bert.encoder.layer.2.attention.self.query.weight",
        "attention backward",
    ),
    fault(
        "spread_f32",
        "bert.encoder.layer.1.output.LayerNorm.weight",
        "sequences backward",
    ),
    fault(
        "embedding_forward_f32",
        "bert.embeddings.token_type_embeddings.weight",
        "embedding forward",
    ),
    fault(
        "embedding_words_f32",
        "bert.embeddings.word_embeddings.weight",
        "embedding backward_words",
    ),
    fault(
        "positions_backward_f32",
        "visual.positional_embedding",
        "position_embedding backward",
    ),
    fault("optimizer_step", "visual.class_embedding", "adamw"),
];

/// What only the residual network uses.
const RESNET_FAULTS: [Fault; 13] = [
    fault(
        "interleave_bytes_f32",
        "visual.bn1.running_mean",
        "patchify",
    ),
    fault(
        "conv2d_unfold_f32",
        "visual.bn1.running_mean",
        "conv2d forward",
    ),
    fault("batch_norm_apply_f32", "visual.bn3", "batch_norm forward"),
    fault("pool_forward_f32", "visual.bn3", "average_pool forward"),
    fault(
        "mean_token_forward_f32",
        "image_features",
        "mean_pool_token forward",
    ),
    fault(
        "query_forward_f32",
        "image_features",
        "attention_pool forward",
    ),
    fault(
        "mean_token_backward_f32",
        "visual.attnpool.positional_embedding",
        "mean_pool_token backward",
    ),
    fault(
        "query_backward_f32",
        "visual.attnpool.q_proj.bias",
        "attention_pool backward",
    ),
    fault(
        "branch_rectify_f32",
        "visual.layer4.0.bn3.weight",
        "residual backward",
    ),
    fault(
        "batch_norm_backward_f32",
        "visual.layer4.0.conv3.weight",
        "batch_norm backward",
    ),
    fault(
        "pool_backward_f32",
        "visual.layer4.0.bn2.weight",
        "average_pool backward",
    ),
    fault(
        "conv2d_turn_f32",
        "visual.layer4.0.bn1.weight",
        "conv2d inputs",
    ),
    fault(
        "branch_add_f32",
        "visual.layer2.0.bn3.weight",
        "residual add",
    ),
];

#[test]
fn a_broken_kernel_is_named() {
    for (config, faults) in [
        (tiny_vit(), VIT_FAULTS.as_slice()),
        (tiny_resnet(), RESNET_FAULTS.as_slice()),
    ] {
        for fault in faults {
            assert_is_named(fault, &emulated(&config, Some(fault.kernel)));
        }
    }
}

fn assert_is_named(fault: &Fault, report: &VerifyReport) {
    let kernel = fault.kernel;
    let printed = format!("{kernel}: {}\n{}", report.summary(), report.table());
    assert!(!report.passed, "{printed}");

    // Only tensors out of tolerance are above those within.
    let failures = report.failure_count();
    assert!(
        report.rows[..failures].iter().all(|row| !row.passes()),
        "{printed}"
    );

    let found = report.first_deviation.as_ref().unwrap();
    assert_eq!(found.tensor, fault.tensor, "{printed}");
    let named = &found.operations;
    assert!(
        named.iter().any(|name| name == fault.operation),
        "{printed}"
    );
    assert!(named.len() <= 4, "{printed}");
}
