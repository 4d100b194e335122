//! What a checkpoint's folder holds besides tensors.

use cnclip::checkpoint::{Checkpoint, TrainingState, list_checkpoints};
use cnclip::progress::history::TrainingHistory;
use cnclip_crds::artifacts::MANIFEST_FILE;
use cnclip_crds::report::ProgressReport;
use cnclip_data::store::Store;

pub(super) fn manifest(data: &[u8]) {
    let store = Store::in_memory();
    let folder = store.join_prefix("00000007-1");
    super::put(&folder, MANIFEST_FILE, data);
    super::put(&folder, "state.json", b"{}");

    let opened = Checkpoint::open_verified(&folder, &[]);
    let listed = list_checkpoints(&store).expect("the store answers");
    assert!(listed.len() <= 1);
    if let Ok(checkpoint) = opened {
        let _ = checkpoint.read_state();
        let _ = Checkpoint::find_newest(&store, &["state.json"]);
    }
}

pub(super) fn state(data: &[u8]) {
    let Ok(state) = serde_json::from_slice::<TrainingState>(data) else {
        return;
    };

    let text = serde_json::to_vec(&state).expect("a state can be written");
    let read: TrainingState = serde_json::from_slice(&text).expect("what is written can be read");
    assert_eq!(read, state);
}

pub(super) fn history(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut history = TrainingHistory::from_jsonl(&text);
    let again = TrainingHistory::from_jsonl(&history.to_jsonl());
    assert_eq!(again.points().len(), history.points().len());

    let _ = history.best_validation();
    history.push(&ProgressReport::default());
    assert!(history.points().is_sorted_by_key(|point| point.step));
}
