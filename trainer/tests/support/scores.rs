//! Evaluations of small runs.

use std::path::Path;

use cnclip::evaluate::EvaluationResults;
use cnclip_crds::tasks::TaskResult;
use cnclip_crds::trainer_config::EvaluateConfig;
use serde_json::json;

use crate::small;

/// An evaluation of what a run ended with, on so many tasks of the golden data set.
pub(crate) fn evaluation_config(
    folder: &Path,
    (run, name): (&str, &str),
    tasks: usize,
) -> EvaluateConfig {
    let dataset = small::write_dataset(&folder.join("data"), 0);
    let task =
        |number| json!({"name": format!("task-{number}"), "retrieval": {"dataset": dataset}});
    let tasks: Vec<_> = (0..tasks).map(task).collect();

    serde_json::from_value(json!({
        "run": {"name": name, "stage": "evaluate"}, "checkpoint": small::stage_uri(folder, run), "tasks": tasks,
        "artifacts": folder.join(name), "batchSize": 3, "maxSkippedPercent": 20,
    }))
    .unwrap()
}

/// What an evaluation wrote: its results without how long they took, and the files of its first task.
pub(crate) fn read_scores(folder: &Path, name: &str) -> (Vec<TaskResult>, Vec<(String, String)>) {
    let folder = folder.join(name);
    let results = std::fs::read(folder.join("results.json")).unwrap();
    let mut results: EvaluationResults = serde_json::from_slice(&results).unwrap();
    results.tasks.iter_mut().for_each(|task| task.seconds = 0.0);
    let files = std::fs::read_dir(folder.join("tasks/task-0"))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read_to_string(entry.path()).unwrap())
        });

    let mut files: Vec<_> = files.collect();
    files.sort();
    (results.tasks, files)
}
