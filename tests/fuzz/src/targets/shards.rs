//! WebDataset shards, their index and the labels in them.

use bytes::Bytes;
use cnclip_data::shard::{Dataset, INDEX_FILE, SampleLabel, ShardIndex, read_tar};
use cnclip_data::store::Store;

pub(super) fn tar(data: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(data);
    let contents = read_tar(&bytes);

    // Contents are slices of the tar, one behind the other.
    let image_bytes: usize = contents.samples.iter().map(|found| found.image.len()).sum();
    assert!(image_bytes <= data.len());

    let again = read_tar(&bytes);
    let keys = |samples: &[cnclip_data::shard::TarSample]| -> Vec<_> {
        samples.iter().map(|sample| sample.key.clone()).collect()
    };

    assert_eq!(keys(&contents.samples), keys(&again.samples));
    assert_eq!(contents.damage, again.damage);
    assert_eq!(contents.unused_files, again.unused_files);

    assert_written_tar_is_read(data);
    !contents.samples.is_empty()
}

/// What a tar holds is what was put into it.
fn assert_written_tar_is_read(image: &[u8]) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(image.len() as u64);
    builder
        .append_data(&mut header, "a.jpg", image)
        .expect("a tar in memory takes what is put into it");

    let whole = builder
        .into_inner()
        .expect("a tar in memory takes what is put into it");

    let contents = read_tar(&whole.into());
    assert_eq!(contents.damage, None);
    assert_eq!(contents.samples.len(), 1);
    assert_eq!(contents.samples[0].image, image);
}

pub(super) fn shard_index(data: &[u8]) -> bool {
    let store = Store::in_memory();
    super::put(&store, INDEX_FILE, data);
    let is_read = Dataset::new(store.clone()).is_ok();

    // No mutation hits the right sums and digest: they are made here.
    let Ok(index) = serde_json::from_slice::<ShardIndex>(data) else {
        assert!(!is_read);
        return false;
    };

    let remade = ShardIndex::new(index.shards, index.loose_texts);
    let written = remade.write_to(&store);
    written.expect("a store in memory takes every object");
    let Ok(dataset) = Dataset::new(store) else {
        return false;
    };

    let index = dataset.index();
    assert_eq!(*index, remade);
    for number in 0..index.shards.len().min(4) {
        if let Ok(shard) = dataset.read_shard(number) {
            assert!(shard.samples.is_empty() && shard.damage.is_some());
        }
    }

    let _ = dataset.read_loose_texts();
    true
}

pub(super) fn label(data: &[u8]) -> bool {
    let label = SampleLabel::parse_label(Some(data), None);
    assert_eq!(label, SampleLabel::parse_label(Some(data), None));
    // A caption next to the same JSON only adds what that lacks.
    let with_caption = SampleLabel::parse_label(Some(data), Some(b"caption"));
    let with_caption = with_caption.expect("the caption can be read");
    assert!(!with_caption.texts.is_empty());

    if let Ok(caption) = SampleLabel::parse_label(None, Some(data)) {
        assert_eq!(caption.texts.len(), 1);
        assert!(caption.texts[0].text.len() <= data.len());
    }

    label.is_ok_and(|label| !label.texts.is_empty())
}
