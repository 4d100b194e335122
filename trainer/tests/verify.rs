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

/// A kernel, the first tensor that its fault reaches, and the operation that is named.
type Fault = (&'static str, (Quantity, &'static str), &'static str);

#[test]
fn a_broken_kernel_is_named() {
    let faults: [Fault; 3] = [
        (
            "cut_patches_bytes_f32",
            (Quantity::Activation, "visual.ln_pre"),
            "patchify",
        ),
        (
            "layer_norm_forward_f32",
            (Quantity::Activation, "visual.ln_pre"),
            "layer_norm forward",
        ),
        (
            "quick_gelu_forward_f32",
            (Quantity::Activation, "visual.transformer.resblocks.0"),
            "quick_gelu forward",
        ),
    ];

    let config = tiny_vit();
    for (kernel, (quantity, tensor), operation) in faults {
        let report = emulated(&config, Some(kernel));
        let told = format!("{kernel}: {}\n{}", report.summary(), report.table());
        assert!(!report.passed, "{told}");
        // Only tensors out of tolerance are above those within.
        let failures = report.failure_count();
        assert!(report.rows[..failures].iter().all(|row| !row.passes()));
        assert!(
            report.rows[..failures]
                .iter()
                .any(|row| row.tensor == tensor && row.quantity == quantity),
            "{told}"
        );

        let found = report.first_deviation.unwrap();
        assert_eq!(
            (found.quantity, &*found.tensor),
            (quantity, tensor),
            "{told}"
        );
        assert!(
            found.operations.iter().any(|name| name == operation),
            "{told}"
        );
        assert!(found.operations.len() <= 2, "{told}");
    }
}
