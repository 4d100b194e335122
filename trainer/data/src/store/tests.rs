use super::*;

fn contract(store: &Store) {
    let small = Bytes::from_static(b"small");
    let large = Bytes::from(vec![7u8; PART_BYTES as usize * 2 + 3]);
    store.put("a/small", small.clone()).unwrap();
    store.put("b", large.clone()).unwrap();
    assert_eq!(store.get("a/small").unwrap(), small);
    assert!(
        store.join_prefix("a").get("small").unwrap() == small,
        "join and a name with / agree"
    );

    assert!(
        store.get("b").unwrap() == large,
        "an object of several parts comes back whole"
    );

    assert_eq!(store.get_if_exists("absent").unwrap(), None);
    assert_eq!(store.get_range("a/small", 1..4).unwrap(), "mal");
    assert_eq!(store.get_range("a/small", 2..2).unwrap(), "");
    let cut = store.get_range("a/small", 1..9).unwrap_err().to_string();
    assert!(cut.contains("a/small ends before byte 9"), "{cut}");
    assert_eq!(store.object_size("b").unwrap(), Some(large.len() as u64));
    assert_eq!(store.object_size("absent").unwrap(), None);

    let names: Vec<_> = store
        .list_objects()
        .unwrap()
        .into_iter()
        .map(|e| (e.name, e.bytes))
        .collect();

    assert_eq!(
        names,
        [("a/small".into(), 5), ("b".into(), large.len() as u64)]
    );

    let odd = ["目/猫 #1 100%.png", "目/[a]~b.png", "目/absent"].map(String::from);
    odd[..2]
        .iter()
        .for_each(|name| store.put(name, small.clone()).unwrap());

    let mut names: Vec<_> = store
        .join_prefix("目")
        .list_objects()
        .unwrap()
        .into_iter()
        .map(|e| format!("目/{}", e.name))
        .collect();

    names.sort();
    assert_eq!(
        names,
        [odd[1].clone(), odd[0].clone()],
        "names are listed as they were given"
    );

    let found = store.get_many(&odd);
    assert!(
        found[..2]
            .iter()
            .all(|bytes| bytes.as_ref().unwrap() == &small)
    );

    let error = found[2].as_ref().unwrap_err().to_string();
    assert!(error.contains("目/absent"), "{error}");

    assert!(store.put_if_absent("claim", small.clone()).unwrap());
    assert!(!store.put_if_absent("claim", large).unwrap());
    assert_eq!(
        store.get("claim").unwrap(),
        small,
        "the second create changed nothing"
    );

    store.delete("claim").unwrap();
    store.delete("claim").unwrap();
    let error = store.get("claim").unwrap_err().to_string();
    assert!(error.contains(&store.object_uri("claim")), "{error}");
}

#[test]
fn memory_keeps_the_contract() {
    contract(&Store::in_memory());
}

#[test]
fn a_folder_keeps_the_contract_by_path_and_by_uri() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("目录 with space");
    contract(&Store::open(path.to_str().unwrap()).unwrap());
    let uri = url::Url::from_file_path(&path).unwrap();
    let by_uri = Store::open(uri.as_str()).unwrap();

    assert_eq!(by_uri.get("a/small").unwrap(), "small");
}

#[test]
fn an_object_that_is_larger_than_all_memory_is_an_error_and_no_abort() {
    let folder = tempfile::tempdir().unwrap();
    // It takes no space on the disk.
    let sparse = std::fs::File::create(folder.path().join("00000.tar")).unwrap();
    sparse.set_len(1 << 43).unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();

    for found in [
        store.get("00000.tar"),
        store.get_range("00000.tar", 1..1 << 43),
    ] {
        let error = found.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("larger than the memory"), "{text}");
        assert!(text.contains(&format!("{}", 1u64 << 43)[..4]), "{text}");
        assert_eq!(error.exit().exit_code(), 78, "{text}");
    }
}

#[test]
fn a_thread_of_an_async_runtime_may_wait_too() {
    let store = Store::in_memory();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();

    runtime.block_on(async { store.put("x", Bytes::new()).unwrap() });
    assert_eq!(store.list_objects().unwrap().len(), 1);
}

#[test]
fn what_a_killed_upload_left_behind_is_removed_with_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let on_disk = Store::open(folder.path().to_str().unwrap()).unwrap();
    for store in [Store::in_memory(), on_disk] {
        store.put("old/a/b", "x".into()).unwrap();
        store.put("kept", "x".into()).unwrap();
        let staged = folder.path().join("old/weights#1");
        if staged.parent().is_some_and(std::path::Path::exists) {
            std::fs::write(&staged, "half").unwrap();
        }

        store.delete_folder("old").unwrap();
        store.delete_folder("absent").unwrap();
        for nothing in ["", "/"] {
            assert!(store.delete_folder(nothing).is_err(), "{nothing:?}");
        }

        let names: Vec<_> = store.list_objects().unwrap();
        assert_eq!(names.len(), 1);
        assert!(!staged.exists());
    }
}
