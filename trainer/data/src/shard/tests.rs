use std::path::Path;

use super::*;
use crate::prepare::PrepareOptions;
use crate::prepare::tests::prepare_files;

/// The golden data set in shards of about 14 KiB.
fn golden(store: &Store) -> Dataset {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/dataset");
    let options = PrepareOptions {
        shard_bytes: 14 << 10,
        max_skipped_ratio: 0.1,
        ..PrepareOptions::default()
    };

    let images = folder.join("train_imgs.tsv");
    let texts = folder.join("train_texts.jsonl");
    prepare_files(&images, &texts, store, &options, |_| ()).unwrap();
    Dataset::new(store.clone()).unwrap()
}

fn contract(store: &Store) {
    let dataset = golden(store);
    assert!(dataset.index().shards.len() > 3);
    for (number, part) in dataset.index().shards.iter().enumerate() {
        let shard = dataset.read_shard(number).unwrap();
        assert_eq!(shard.damage, None);
        let counts = (shard.samples.len() as u64, shard.pairs.len() as u64);
        assert_eq!(counts, (part.images, part.pairs));
    }

    let loose = dataset.read_loose_texts().unwrap();
    assert_eq!(
        loose,
        [SampleText {
            text_id: 501.into(),
            text: "没有图片的文本".into()
        }]
    );
}

#[test]
fn shards_in_memory_and_in_a_folder_keep_the_contract() {
    contract(&Store::in_memory());
    let folder = tempfile::tempdir().unwrap();
    contract(&Store::open(folder.path().to_str().unwrap()).unwrap());
}

/// The data set with its first shard replaced by what `change` makes of it.
fn damaged(change: impl Fn(&[u8]) -> Vec<u8>) -> Shard {
    let store = Store::in_memory();
    let dataset = golden(&store);
    let name = &dataset.index().shards[1].name;
    let bytes = store.get(name).unwrap();
    store.put(name, change(&bytes).into()).unwrap();

    dataset.read_shard(1).unwrap()
}

#[test]
fn a_shard_with_another_digest_is_not_trusted_whatever_its_length() {
    let flipped = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[1000] ^= 1;
        bytes
    };

    let cut = |bytes: &[u8]| bytes[..bytes.len() - 2000].to_vec();
    // A whole tar of fewer samples, as another `prepare` would leave it.
    let smaller = |bytes: &[u8]| {
        let first = tar::read_tar(&Bytes::copy_from_slice(bytes))
            .samples
            .remove(0);
        let mut tar = ::tar::Builder::new(Vec::new());
        let mut header = ::tar::Header::new_ustar();
        header.set_size(first.image.len() as u64);
        tar.append_data(&mut header, "0.png", &first.image[..])
            .unwrap();

        tar.into_inner().unwrap()
    };

    let table = [
        (damaged(flipped), "another SHA-256"),
        (damaged(cut), "2000 bytes less"),
        (damaged(smaller), "less"),
    ];

    for (shard, difference) in table {
        assert!(shard.samples.is_empty() && shard.pairs.is_empty());

        let damage = shard.damage.unwrap();
        assert!(
            damage.starts_with("Shard memory:/00001.tar was changed"),
            "{damage}"
        );
        assert!(damage.contains(difference), "{damage}");
    }
}

#[test]
fn a_shard_that_is_missing_or_grew_is_reported() {
    let store = Store::in_memory();
    let dataset = golden(&store);
    store.delete(&dataset.index().shards[1].name).unwrap();
    assert!(
        dataset
            .read_shard(1)
            .unwrap()
            .damage
            .unwrap()
            .contains("is missing")
    );

    let grown = damaged(|bytes| [bytes, &[0; 512]].concat());
    assert!(grown.samples.is_empty());
    assert!(grown.damage.unwrap().contains("it has 512 bytes more"));
}

#[test]
fn images_and_texts_without_numbers_are_numbered_across_shards() {
    let store = Store::in_memory();
    for (shard, keys) in [("0.tar", ["a", "b"]), ("1.tar", ["c", "d"])] {
        let mut tar = ::tar::Builder::new(Vec::new());
        for key in keys {
            for (extension, bytes) in [("png", "image"), ("txt", key)] {
                let mut header = ::tar::Header::new_ustar();
                header.set_size(bytes.len() as u64);
                let name = format!("{key}.{extension}");
                tar.append_data(&mut header, name, bytes.as_bytes())
                    .unwrap();
            }
        }

        store.put(shard, tar.into_inner().unwrap().into()).unwrap();
    }

    crate::prepare::index_shards(&store, &PrepareOptions::default(), |_| ()).unwrap();
    let shard = Dataset::new(store).unwrap().read_shard(1).unwrap();
    let of = |s: &Sample| {
        (
            s.image_id.clone(),
            s.texts[0].text_id.clone(),
            s.key.clone(),
        )
    };

    let found: Vec<_> = shard.samples.iter().map(of).collect();
    let expected = [(2, 2, "c"), (3, 3, "d")];
    assert_eq!(
        found,
        expected.map(|(image, text, key)| (ItemId::from(image), text.into(), key.into()))
    );
}

#[test]
fn a_shard_no_index_lists_is_a_fault_of_ours() {
    let dataset = golden(&Store::in_memory());
    assert_eq!(dataset.read_shard(99).unwrap_err().exit().exit_code(), 70);
}

#[test]
fn shards_that_were_made_for_a_data_set_alone_go_with_its_last_clone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    ShardIndex::new(vec![], None)
        .write_to(&Store::open(&path.display().to_string()).unwrap())
        .unwrap();

    let dataset = Dataset::open(&path.display().to_string())
        .unwrap()
        .with_temp_dir(folder);

    let clone = dataset.clone();
    drop(dataset);
    assert!(path.exists());
    drop(clone);
    assert!(!path.exists());
}
