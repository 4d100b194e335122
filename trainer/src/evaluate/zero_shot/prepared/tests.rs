use cnclip_crds::tasks::DatasetPreset;

use super::*;

/// A data set of two classes with one picture each.
fn small() -> Store {
    let store = Store::in_memory();
    store.put(NAMES_FILE, "猫\n狗\n".into()).unwrap();
    for file in ["test/0/a.jpg", "test/1/b.jpg"] {
        store.put(file, "no picture is looked at".into()).unwrap();
    }

    store
}

fn config(more: serde_json::Value) -> ZeroShotConfig {
    let mut config = serde_json::json!({"dataset": "memory:"});
    config
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());

    serde_json::from_value(config).unwrap()
}

fn plain() -> ZeroShotConfig {
    config(serde_json::json!({}))
}

fn check(store: &Store, config: &ZeroShotConfig) -> Result<PreparedZeroShot> {
    PreparedZeroShot::from_store("pets", config, store.clone())
}

fn fault(store: &Store, config: &ZeroShotConfig) -> String {
    let error = check(store, config).unwrap_err();
    assert!([65, 78].contains(&error.exit_code().exit_code()), "{error}");
    error.to_string()
}

#[test]
fn what_is_whole_is_ready() {
    let ready = check(&small(), &plain()).unwrap();
    assert_eq!(ready.classes, ["猫", "狗"]);
    let files: Vec<_> = ready
        .files
        .iter()
        .map(|file| (file.path(), file.class))
        .collect();

    assert_eq!(
        files,
        [
            ("test/0/a.jpg".to_owned(), 0),
            ("test/1/b.jpg".to_owned(), 1)
        ]
    );

    assert_eq!(
        (ready.primary_metric, ready.dataset_name.as_str()),
        (Metric::Accuracy, "pets")
    );

    assert_eq!(ready.templates.from, "cnclip: General");
}

#[test]
fn a_preset_brings_its_customs_and_the_user_may_choose_others() {
    let ready = |more| check(&small(), &config(more)).unwrap();
    let memes = ready(serde_json::json!({"preset": "hateful-memes"}));
    assert_eq!(
        (memes.primary_metric, memes.dataset_name.as_str()),
        (Metric::RocAuc, "hateful-memes")
    );

    let other = ready(serde_json::json!({"preset": "hateful-memes", "metric": "top5"}));
    assert_eq!(other.primary_metric, Metric::Top5);
    let set = ready(serde_json::json!({"preset": "hateful-memes", "templateSet": "Meme"}));
    assert_eq!(
        (set.templates.from.as_str(), set.templates.texts.len()),
        ("cnclip: Meme", 2)
    );

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("templates.txt");
    std::fs::write(&file, "{}的画\n{}的雕像\n").unwrap();
    let own = ready(serde_json::json!({"templates": file.to_str().unwrap()}));
    assert_eq!(own.templates.texts, ["{}的画", "{}的雕像"]);
    let both = serde_json::json!({"templates": file.to_str().unwrap(), "templateSet": "Pet"});
    let told = fault(&small(), &config(both));

    assert!(
        told.contains("templates and templateSet are both given"),
        "{told}"
    );

    std::fs::write(&file, "的画\n").unwrap();
    let told = fault(
        &small(),
        &config(serde_json::json!({"templates": file.to_str().unwrap()})),
    );

    assert!(told.contains("has no {} in line 1"), "{told}");
    std::fs::remove_file(&file).unwrap();
    let told = fault(
        &small(),
        &config(serde_json::json!({"templates": file.to_str().unwrap()})),
    );

    assert!(told.contains("templates.txt: it does not exist"), "{told}");
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let store = Store::in_memory();
    let told = fault(&store, &plain());
    assert!(told.starts_with("Task pets: memory: cannot be scored. There is no label_cn.txt:"));
    assert!(
        told.contains("There is no image in test/<class>/."),
        "{told}"
    );

    let store = small();
    store.put(NAMES_FILE, "猫\n\n猫\n".into()).unwrap();
    store.put(ORDER_FILE, "[0]".into()).unwrap();
    store.put(LABELS_FILE, "{}".into()).unwrap();
    store.put("test/1/c.tiff", "".into()).unwrap();
    let told = fault(
        &store,
        &config(serde_json::json!({"preset": "mnist", "metric": "rocAuc"})),
    );

    for expected in [
        "no name in line 2",
        "猫 in lines 1 and 3",
        "images: 1/c.tiff",
        "lacks the folders of classes: 2 (猫)",
        "index.json has 1 numbers; it must have each of 0 to 2 once",
        "test_labels.jsonl cannot be used in line 1",
        "label_cn.txt has 3 names, and mnist 10 classes",
        "rocAuc needs two classes, and there are 3",
    ] {
        assert!(told.contains(expected), "{expected}: {told}");
    }

    let told = fault(
        &small(),
        &config(serde_json::json!({"metric": "imageToText.r1"})),
    );

    assert!(told.contains("The metric is one of retrieval"), "{told}");
}

#[test]
fn imagenet_may_name_two_classes_alike() {
    let preset = DatasetPreset::Imagenet1k;
    let store = Store::in_memory();
    let mut names = Vec::new();

    for class in 0..preset.defaults().classes {
        names.push(if class == 837 {
            "名836".to_owned()
        } else {
            format!("名{class}")
        });

        store
            .put(&format!("test/n{class:08}/a.jpg"), "".into())
            .unwrap();
    }

    store.put(NAMES_FILE, names.join("\n").into()).unwrap();
    assert_eq!(
        check(
            &store,
            &config(serde_json::json!({"preset": "imagenet-1k"}))
        )
        .unwrap()
        .classes
        .len(),
        1000
    );

    assert!(fault(&store, &plain()).contains("名836 in lines 837 and 838"));
}

#[test]
fn the_digest_is_that_of_names_and_files() {
    let digest = |store: &Store| check(store, &plain()).unwrap().digest;
    let store = small();
    let first = digest(&small());
    store.put(NAMES_FILE, "猫\n犬\n".into()).unwrap();
    let renamed = digest(&store);

    store.put("test/1/c.jpg", "".into()).unwrap();
    let more = digest(&store);
    store.put("test/1/c.jpg", "larger".into()).unwrap();
    let all = [first, renamed, more, digest(&store)];
    assert!(
        all.iter()
            .enumerate()
            .all(|(place, one)| !all[..place].contains(one)),
        "{all:?}"
    );
}

/// As many as in the reference's set for the same purpose.
const SIZES: [usize; TemplateSet::ALL.len()] =
    [183, 32, 21, 100, 24, 4, 2, 3, 7, 6, 3, 6, 11, 16, 5, 1];

#[test]
fn every_set_of_templates_has_the_size_of_the_references_and_says_nothing_twice() {
    let told = include_str!("../../../../../docs/zero-shot.md");
    for (set, size) in TemplateSet::ALL.into_iter().zip(SIZES) {
        let mut mistakes = DatasetErrors::default();
        let mut found = parse_templates(
            "own",
            super::super::builtin_templates(set).as_bytes(),
            &mut mistakes,
        );

        assert_eq!(mistakes, DatasetErrors::default());
        assert_eq!(found.len(), size, "{set:?}");
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), size, "{set:?} says something twice");
        let is_of = |line: &&str| line.starts_with(&format!("| `{set:?}` | "));
        let row = told
            .lines()
            .find(is_of)
            .unwrap_or_else(|| panic!("{set:?} is not told of"));

        assert!(row.contains(&format!(" | {size} | ")), "{row}");
    }
}

#[test]
fn a_web_server_that_lists_nothing_is_told_of() {
    let store = Store::open("https://host/data").unwrap();
    let told = listing_error(
        &store,
        Error::Data("cannot list https://host/data/test".into()),
    );

    assert_eq!(told.exit_code().exit_code(), 78);
    assert!(
        told.to_string()
            .contains("only with WebDAV (PROPFIND): copy the data set"),
        "{told}"
    );
}
