//! What is planned of a device's memory, against what its allocator gave.

use cnclip_compute::tensor::Memory;
use cnclip_crds::model::Architecture;
use cnclip_crds::run_config::TrainConfig;
use cnclip_crds::stage::Precision;
use cnclip_emulator::Emulator;
use cnclip_nn::memory::{Load, Way};

use crate::planned::{near, reserve, shrunk, stage};

/// Bytes that a device gave to a model, its training and so many pairs.
fn reserved(config: &TrainConfig, way: Way) -> u64 {
    let device = Emulator::device(1 << 34);
    let _made = reserve(
        &Memory::Device(device.clone(), config.world.precision),
        config,
        way,
    );

    device.check().unwrap();
    let (free, all) = device.memory().unwrap();
    all - free
}

#[test]
fn what_is_planned_for_a_device_is_what_is_reserved() {
    use Architecture::{Rn50, VitB16, VitH14, VitL14};
    use Precision::{Bf16, Fp32};
    for architecture in [Rn50, VitB16, VitL14, VitH14] {
        let mut config = stage(&shrunk(architecture));
        for (precision, recompute) in [(Fp32, true), (Bf16, true), (Fp32, false), (Bf16, false)] {
            config.world.precision = precision;
            let load = Load {
                config: &config,
                own: 24,
                shards: 0,
                teacher: None,
                shuffle_window: 1 << 30,
                threads: 1,
                device: Some(precision),
            };

            let [few, many] = [4, 12].map(|micro_batch| {
                let way = Way {
                    micro_batch,
                    recompute,
                };

                let needs = load.needs(way);
                (needs.total() - needs.program, reserved(&config, way))
            });

            let what = format!("{architecture:?} in {precision:?}, again: {recompute}");
            near(many.0, many.1, &what);
            near(many.0 - few.0, many.1 - few.1, &format!("pairs of {what}"));
        }
    }
}
