//! The scores of a checkpoint are the same on a device as on the host, on one rank and on two.

use std::path::Path;

use cnclip::evaluation_job::run_evaluation_with_memory;
use cnclip::progress::{ReportOutputs, Reporter};
use cnclip_compute::device::DType;
use cnclip_compute::tensor::Memory;
use cnclip_crds::tasks::{Metric, TaskResult};

use crate::scores::{evaluation_config, read_scores};
use crate::support;
use crate::train::{config, run};

/// The results of an evaluation on as many ranks as there are devices, with the files of its details.
fn evaluate(
    folder: &Path,
    name: &str,
    devices: i32,
    memory: &Memory,
) -> (Vec<TaskResult>, Vec<(String, String)>) {
    let mut config = evaluation_config(folder, ("model", name), 1);
    config.world.devices = devices;
    let reporter = Reporter::start(config.run.clone(), ReportOutputs::default()).unwrap();
    run_evaluation_with_memory(&config, &reporter, &|_| Ok(memory.clone())).unwrap();

    read_scores(folder, name)
}

#[test]
fn a_checkpoint_has_the_scores_that_it_has_on_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(&config(folder, "model", false), &Memory::Host);
    let right = evaluate(folder, "host", 1, &Memory::Host);
    let recalls = right.0[0].find_score(Metric::TextToImageR10).unwrap();

    assert!(recalls > 0.0, "{right:?}");
    for (name, devices) in [("one", 1), ("two", 2)] {
        let found = evaluate(folder, name, devices, &support::memory(DType::F32));
        assert_eq!(found, right, "{name}");
    }
}
