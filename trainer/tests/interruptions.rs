//! A run that is stopped after any of its steps ends with the bits of one that was not, whatever its options.
#![cfg(test)]

use std::path::Path;

use cnclip::error::Error;
use cnclip_crds::trainer_config::TrainConfig;

#[path = "support/options.rs"]
mod options;
#[path = "support/runs.rs"]
mod runs;
#[path = "support/small.rs"]
#[allow(dead_code, reason = "shared with the tests of resuming")]
mod small;
use runs::{train_to_end, train_until};

type RunConfig = fn(&Path, &str, i32) -> TrainConfig;

fn stop_after_every_step(run_config: RunConfig, ranks: i32) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    train_to_end(&small::train_config(folder, options::TEACHER));

    let expected = train_to_end(&run_config(folder, "straight", ranks));
    let files = options::tensor_files(folder, "straight");
    let validations = small::validations(folder, "straight");

    for stop in 1..=small::STEPS {
        let name = format!("stopped-{stop}");
        let config = run_config(folder, &name, ranks);
        let (stopped, _) = train_until(&config, stop);
        assert!(
            matches!(stopped, Err(Error::Interrupted { step }) if step == stop),
            "{stopped:?}"
        );

        let report = train_to_end(&config);
        assert_eq!(report.loss, expected.loss, "after a stop at {stop}");
        assert_eq!(
            small::validations(folder, &name),
            validations,
            "after a stop at {stop}"
        );

        for ((file, expected), (_, found)) in files.iter().zip(options::tensor_files(folder, &name))
        {
            assert!(*expected == found, "{file} after a stop at {stop}");
        }
    }
}

#[test]
fn ema_batch_norm_dropout_accumulation_and_duplicates() {
    stop_after_every_step(options::resnet, 1);
    stop_after_every_step(options::resnet, 3);
}

#[test]
fn synchronized_batch_norm_in_bfloat16() {
    stop_after_every_step(options::synchronized_resnet, 2);
}

#[test]
fn masked_patches_distillation_and_gradient_checkpointing() {
    stop_after_every_step(options::masked_vit, 2);
}

#[test]
fn a_frozen_tower_and_a_chosen_micro_batch() {
    stop_after_every_step(options::frozen_vit, 1);
}
