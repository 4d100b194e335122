//! What a checkpoint's folder holds besides tensors.

use cnclip::checkpoint::{Checkpoint, TrainingState, list_checkpoints};
use cnclip::model_resolver::resolve_unverified;
use cnclip::progress::history::TrainingHistory;
use cnclip_crds::artifacts::MANIFEST_FILE;
use cnclip_crds::report::ProgressReport;
use cnclip_data::store::Store;

pub(super) fn manifest(data: &[u8]) -> bool {
    let store = Store::in_memory();
    let folder = store.join_prefix("00000007-1");
    super::put(&folder, MANIFEST_FILE, data);
    super::put(&folder, "state.json", b"{}");

    let opened = Checkpoint::open(&folder, &[]);
    let listed = list_checkpoints(&store).expect("the store answers");
    assert!(listed.len() <= 1);
    let Ok(checkpoint) = opened else {
        return false;
    };

    let _ = checkpoint.read_state();
    Checkpoint::find_newest(&store, &["state.json"]).is_ok()
}

pub(super) fn state(data: &[u8]) -> bool {
    let Ok(state) = serde_json::from_slice::<TrainingState>(data) else {
        return false;
    };

    let text = serde_json::to_vec(&state).expect("a state can be written");
    let read: TrainingState = serde_json::from_slice(&text).expect("what is written can be read");
    assert_eq!(read, state);
    true
}

pub(super) fn history(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let mut history = TrainingHistory::from_jsonl(&text);
    let again = TrainingHistory::from_jsonl(&history.to_jsonl());
    assert_eq!(again.points().len(), history.points().len());
    let is_any_read = !again.points().is_empty();

    let _ = history.best_validation();
    history.push(&ProgressReport::default());
    assert!(history.points().is_sorted_by_key(|point| point.step));
    is_any_read
}

/// `final.json`, which names the checkpoint that a stage ended with.
pub(super) fn final_checkpoint(data: &[u8]) -> bool {
    super::with_file("final.json", data, |path| {
        let stage = path.parent().and_then(|folder| folder.to_str());
        let stage = stage.expect("a temporary folder has a name in UTF-8");
        let error = resolve_unverified(stage).expect_err("there is no checkpoint");
        !error.to_string().contains("does not name a checkpoint")
    })
}
