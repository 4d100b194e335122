//! What is planned of a device's memory, against what its allocator gave.

use cnclip_compute::tensor::Memory;
use cnclip_crds::model::Architecture;
use cnclip_crds::stage::Precision;
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_emulator::Emulator;
use cnclip_nn::memory::{BatchPlan, MemoryInputs};

use crate::planned::{allocate_training_state, assert_near_plan, shrink_preset, train_config};

/// Bytes that a device gave to a model, its training and so many pairs.
fn reserved(config: &TrainConfig, way: BatchPlan) -> u64 {
    let device = Emulator::new_device(1 << 34);
    let _made = allocate_training_state(
        &Memory::Device(device.clone(), config.world.precision),
        config,
        way,
    );

    device.synchronize().unwrap();
    let (free, all) = device.memory_info().unwrap();
    all - free
}

#[test]
fn what_is_planned_for_a_device_is_what_is_reserved() {
    use Architecture::{Rn50, VitB16, VitH14, VitL14};
    use Precision::{Bf16, Fp32};
    for architecture in [Rn50, VitB16, VitL14, VitH14] {
        let mut config = train_config(&shrink_preset(architecture));
        for (precision, recompute) in [(Fp32, true), (Bf16, true), (Fp32, false), (Bf16, false)] {
            config.world.precision = precision;
            let load = MemoryInputs {
                config: &config,
                local_batch_size: 24,
                shard_bytes: 0,
                teacher: None,
                shuffle_window: 1 << 30,
                threads: 1,
                device: Some(precision),
            };

            let [few, many] = [4, 12].map(|micro_batch| {
                let way = BatchPlan {
                    micro_batch,
                    recompute,
                };

                let needs = load.estimate_memory(way);
                (needs.total_bytes() - needs.program, reserved(&config, way))
            });

            let what = format!("{architecture:?} in {precision:?}, again: {recompute}");
            assert_near_plan(many.0, many.1, &what);
            assert_near_plan(many.0 - few.0, many.1 - few.1, &format!("pairs of {what}"));
        }
    }
}
