use super::*;

const FILES: [&str; 3] = [WEIGHTS_FILE, MOMENTS_FILE, STATE_FILE];

fn fence(store: &Store, attempt: u32) -> Fence {
    Fence::acquire(
        store,
        FenceClaim {
            run: "run".into(),
            attempt,
        },
    )
    .unwrap()
}

fn writer(store: &Store, attempt: u32, keep: usize) -> CheckpointWriter {
    CheckpointWriter::new(
        store.join_prefix("checkpoints"),
        fence(store, attempt),
        keep,
    )
}

fn snapshot(step: u64, score: Option<f64>) -> CheckpointSnapshot {
    let state = serde_json::to_vec(&TrainingState {
        step,
        ..TrainingState::default()
    })
    .unwrap();

    let weights = format!("weights of step {step}");
    let files = [
        (WEIGHTS_FILE, weights.into()),
        (MOMENTS_FILE, Bytes::from("moments")),
        (STATE_FILE, state.into()),
    ];

    CheckpointSnapshot {
        step,
        score,
        files: files.map(|(name, bytes)| (name.to_owned(), bytes)).into(),
    }
}

fn save(writer: &mut CheckpointWriter, step: u64, score: Option<f64>) -> WrittenCheckpoint {
    writer.start_write(snapshot(step, score)).unwrap();
    writer.finish_write().unwrap().unwrap()
}

fn newest(store: &Store) -> Result<Option<Checkpoint>> {
    Checkpoint::find_newest(&store.join_prefix("checkpoints"), &FILES)
}

fn open_verified(folder: &Store) -> Result<()> {
    Checkpoint::open(folder, &[])?.verify_files(&FILES)
}

fn steps(store: &Store) -> Vec<u64> {
    list_checkpoints(&store.join_prefix("checkpoints"))
        .unwrap()
        .iter()
        .map(|kept| kept.step)
        .collect()
}

fn contract(store: &Store) {
    assert!(newest(store).unwrap().is_none());
    let mut writer = writer(store, 1, 3);
    let written = save(&mut writer, 7, Some(0.5));
    let read = newest(store).unwrap().unwrap();
    assert_eq!(
        (read.step, read.score, &read.digest),
        (7, Some(0.5), &written.digest)
    );

    assert_eq!(read.uri, written.uri);
    assert_eq!(read.read_file(WEIGHTS_FILE).unwrap(), "weights of step 7");
    assert_eq!(read.read_state().unwrap().step, 7);
    save(&mut writer, 8, None);
    assert_eq!(newest(store).unwrap().unwrap().step, 8);
}

#[test]
fn checkpoints_in_memory_and_in_a_folder_keep_the_contract() {
    contract(&Store::in_memory());
    let folder = tempfile::tempdir().unwrap();
    contract(&Store::open(folder.path().to_str().unwrap()).unwrap());
}

#[test]
fn one_flipped_bit_anywhere_leads_to_the_checkpoint_before_and_is_told() {
    for name in [WEIGHTS_FILE, MOMENTS_FILE, STATE_FILE, MANIFEST_FILE] {
        let store = Store::in_memory();
        let mut writer = writer(&store, 1, 3);
        save(&mut writer, 1, None);
        let last = save(&mut writer, 2, None);
        let folder = store
            .join_prefix("checkpoints")
            .join_prefix(last.uri.rsplit('/').next().unwrap());

        let mut bytes = folder.get(name).unwrap().to_vec();
        bytes[4] ^= 1;
        folder.put(name, bytes.into()).unwrap();

        assert_eq!(newest(&store).unwrap().unwrap().step, 1, "{name}");
        let error = open_verified(&folder).unwrap_err();
        assert_eq!(error.exit_code().exit_code(), 65);
        assert!(
            error.to_string().contains(&folder.object_uri(name)),
            "{error}"
        );
    }
}

#[test]
fn a_checkpoint_that_lacks_a_file_or_its_end_is_passed_over() {
    let store = Store::in_memory();
    let mut writer = writer(&store, 1, 3);
    save(&mut writer, 1, None);
    save(&mut writer, 2, None);
    save(&mut writer, 3, None);
    let checkpoints = store.join_prefix("checkpoints");

    checkpoints
        .delete(&format!("00000003-1/{MOMENTS_FILE}"))
        .unwrap();

    checkpoints
        .put(&format!("00000002-1/{WEIGHTS_FILE}"), "weights".into())
        .unwrap();

    assert_eq!(newest(&store).unwrap().unwrap().step, 1);
}

#[test]
fn a_run_does_not_begin_again_in_silence_when_all_its_checkpoints_are_damaged() {
    let store = Store::in_memory();
    save(&mut writer(&store, 1, 3), 1, None);
    store
        .put(&format!("checkpoints/00000001-1/{STATE_FILE}"), "{".into())
        .unwrap();

    let error = newest(&store).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("state.json has 1 bytes instead of"),
        "{error}"
    );

    assert_eq!(error.exit_code().exit_code(), 65);
}

#[test]
fn a_writer_killed_between_any_two_writes_leaves_the_checkpoint_before() {
    let whole = Store::in_memory();
    let mut first = writer(&whole, 1, 3);
    save(&mut first, 1, None);
    save(&mut first, 2, None);
    let folder = "checkpoints/00000002-1";

    for written in 0..FILES.len() {
        let store = Store::in_memory();
        save(&mut writer(&store, 1, 3), 1, None);
        for name in &FILES[..written] {
            let name = format!("{folder}/{name}");
            store.put(&name, whole.get(&name).unwrap()).unwrap();
        }

        assert_eq!(newest(&store).unwrap().unwrap().step, 1);
        // The next attempt writes that step and clears away what was left of it.
        save(&mut writer(&store, 2, 3), 2, None);
        assert_eq!(newest(&store).unwrap().unwrap().step, 2);
        assert_eq!(store.join_prefix(folder).list_objects().unwrap(), []);
    }
}

#[test]
fn the_newest_and_the_best_are_kept() {
    let store = Store::in_memory();
    let mut writer = writer(&store, 1, 2);
    let scores = [
        Some(0.1),
        Some(0.9),
        None,
        Some(0.3),
        Some(0.9),
        None,
        None,
        None,
    ];

    for (step, score) in (1..).zip(scores) {
        save(&mut writer, step, score);
    }

    assert_eq!(steps(&store), [8, 7, 5]);
    let names: Vec<_> = store.join_prefix("checkpoints").list_objects().unwrap();
    assert_eq!(names.len(), 3 * (FILES.len() + 1), "{names:?}");
}

#[test]
fn an_attempt_that_was_replaced_publishes_nothing() {
    let store = Store::in_memory();
    let mut old = writer(&store, 1, 3);
    save(&mut old, 1, None);
    let mut new = writer(&store, 2, 3);
    old.start_write(snapshot(2, None)).unwrap();
    let error = old.finish_write().unwrap_err();

    assert!(matches!(error, Error::Fenced(_)), "{error}");
    assert_eq!(steps(&store), [1]);
    save(&mut new, 2, None);
    assert_eq!(steps(&store), [2, 1]);
}

#[test]
fn a_checkpoint_is_written_while_the_run_goes_on_and_told_once() {
    let store = Store::in_memory();
    let mut writer = writer(&store, 1, 3);
    assert!(writer.is_idle() && writer.poll_finished().unwrap().is_none());
    assert!(writer.start_write(snapshot(1, None)).unwrap().is_none());
    let first = writer.start_write(snapshot(2, None)).unwrap().unwrap();

    assert_eq!(first.step, 1);
    assert_eq!(writer.finish_write().unwrap().unwrap().step, 2);
    assert!(writer.finish_write().unwrap().is_none());
}

#[test]
fn a_folder_that_is_no_checkpoint_says_so() {
    let error = open_verified(&Store::in_memory().join_prefix("x")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("memory:/x is no whole checkpoint"),
        "{error}"
    );

    assert_eq!(error.exit_code().exit_code(), 78);
}

#[test]
fn a_manifest_of_another_version_is_not_removed_with_old_checkpoints() {
    let store = Store::in_memory();
    let mut writer = writer(&store, 1, 1);
    let newer = save(&mut writer, 1, None);
    let place = "checkpoints/00000001-1/manifest.json";
    let manifest = String::from_utf8_lossy(&store.get(place).unwrap()).replace("/1\"", "/9\"");
    store.put(place, manifest.into_bytes().into()).unwrap();

    save(&mut writer, 2, None);
    save(&mut writer, 3, None);
    assert_eq!(steps(&store), [3], "those that can be read are removed");
    assert!(store.get(place).is_ok(), "{}", newer.uri);
    assert!(
        store
            .get("checkpoints/00000001-1/weights.safetensors")
            .is_ok()
    );
}

#[test]
fn a_state_without_a_seeding_is_of_the_first_release_and_keeps_its_seed() {
    let old = r#"{"step": 3, "seed": 7, "dataset": "d", "samples_seen": 15, "samples_skipped": 0}"#;
    let state: TrainingState = serde_json::from_str(old).unwrap();
    assert_eq!(state.seeding, Seeding::Run);
    assert_eq!(state.seeding.stage_seed(7, "align"), 7);
    assert!(!state.validation_owed);

    let seeds = [(7, "align"), (7, "tune"), (8, "align")]
        .map(|(seed, stage)| Seeding::Stage.stage_seed(seed, stage));
    assert!(seeds[0] != seeds[1] && seeds[0] != seeds[2] && seeds[1] != seeds[2]);
    assert_eq!(seeds[0], 7_394_477_144_609_338_392, "never changes");
}
