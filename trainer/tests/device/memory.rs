//! The estimate of a device's memory, against what its allocator gave.

use cnclip_compute::tensor::Memory;
use cnclip_crds::model::Architecture;
use cnclip_crds::stage::Precision;
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_emulator::Emulator;
use cnclip_nn::memory::{BatchPlan, HostInputs, MemoryInputs};

use crate::planned::{allocate_training_state, assert_near_plan, shrink_preset, train_config};

/// Bytes of a device that a model and its training reserve.
fn reserved_bytes(config: &TrainConfig, plan: BatchPlan) -> u64 {
    let device = Emulator::new_device(1 << 34);
    let _state = allocate_training_state(
        &Memory::Device(device.clone(), config.world.precision),
        config,
        plan,
    );

    device.synchronize().unwrap();
    let (free, total) = device.memory_info().unwrap();
    total - free
}

#[test]
fn the_estimate_for_a_device_is_what_is_reserved() {
    use Architecture::{Rn50, VitB16, VitH14, VitL14};
    use Precision::{Bf16, Fp32};
    for architecture in [Rn50, VitB16, VitL14, VitH14] {
        let mut config = train_config(&shrink_preset(architecture));
        for (precision, recompute) in [(Fp32, true), (Bf16, true), (Fp32, false), (Bf16, false)] {
            config.world.precision = precision;
            let inputs = MemoryInputs {
                config: &config,
                local_batch_size: 24,
                shard_bytes: 0,
                teacher: None,
                shuffle_window: 1 << 30,
                threads: 1,
                device: Some(precision),
                host: HostInputs::default(),
            };

            let [few, many] = [4, 12].map(|micro_batch| {
                let plan = BatchPlan {
                    micro_batch,
                    recompute,
                };

                let estimate = inputs.estimate_memory(plan);
                let planned = estimate.total_bytes() - estimate.program;
                (planned, reserved_bytes(&config, plan))
            });

            let what = format!("{architecture:?} in {precision:?}, recompute: {recompute}");
            assert_near_plan(many.0, many.1, &what);
            assert_near_plan(
                many.0 - few.0,
                many.1 - few.1,
                &format!("samples of {what}"),
            );
        }
    }
}
