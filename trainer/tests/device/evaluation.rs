//! A checkpoint is worth the same on a device as on this machine, on one rank and on two.

use std::path::Path;

use cnclip::evaluation_job::run_evaluation_with_memory;
use cnclip::progress::{ReportOutputs, Reporter};
use cnclip_compute::device::DType;
use cnclip_compute::tensor::Memory;
use cnclip_crds::tasks::{Metric, TaskResult};

use crate::scores::{evaluation_config, read_scores};
use crate::support;
use crate::train::{config, run};

/// What is measured by so many ranks, with the files of what was found.
fn measured(
    folder: &Path,
    (name, devices): (&str, i32),
    memory: &Memory,
) -> (Vec<TaskResult>, Vec<(String, String)>) {
    let mut config = evaluation_config(folder, ("model", name), 1);
    config.world.devices = devices;
    let reporter = Reporter::start(config.run.clone(), ReportOutputs::default()).unwrap();
    run_evaluation_with_memory(&config, &reporter, || false, &|_| Ok(memory.clone())).unwrap();

    read_scores(folder, name)
}

#[test]
fn a_checkpoint_is_worth_what_it_is_on_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(&config(folder, "model", false), &Memory::Host);
    let right = measured(folder, ("host", 1), &Memory::Host);
    let recalls = right.0[0].find_score(Metric::TextToImageR10).unwrap();

    assert!(recalls > 0.0, "{right:?}");
    for name in [("one", 1), ("two", 2)] {
        let found = measured(folder, name, &support::memory(DType::F32));
        assert_eq!(found, right, "{name:?}");
    }
}
