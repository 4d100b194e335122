use std::borrow::Cow;
use std::path::Path;

use super::corpus::ImageLocation;
use super::*;
use cnclip_data::prepare::{self, prepare_dataset};
use cnclip_data::readers::DatasetReader;
use cnclip_data::store::Store;
use cnclip_data::tokenizer::Vocabulary;

const SIZES: EncoderInputSizes = EncoderInputSizes {
    image_size: 4,
    context_length: 8,
    batch_size: 5,
};

/// Features that are directions in a plane, and the most that were asked for at once.
#[derive(Default)]
pub(crate) struct Directions {
    features: Vec<f32>,
    pub(crate) largest_batch: usize,
}

impl Directions {
    pub(crate) fn keep(&mut self, angles: impl Iterator<Item = f32>) -> Cow<'_, [f32]> {
        self.features = angles
            .flat_map(|angle| [angle.cos(), angle.sin()])
            .collect();

        self.largest_batch = self.largest_batch.max(self.features.len() / 2);
        self.features.as_slice().into()
    }
}

/// Knows a picture by its mean level and a text by its length: enough to see who is encoded when.
#[derive(Default)]
struct Plain(Directions);

impl Encoder for Plain {
    fn embedding_dim(&self) -> usize {
        2
    }
    fn encode_images(&mut self, pixels: PixelBatch<'_>) -> Cow<'_, [f32]> {
        let PixelBatch::Bytes(planes) = pixels else {
            panic!("pictures come as bytes")
        };

        let mean = |planes: &[u8]| {
            planes
                .iter()
                .map(|&level| f32::from(level) / 48.0)
                .sum::<f32>()
        };

        self.0.keep(
            planes
                .chunks(3 * SIZES.image_size * SIZES.image_size)
                .map(|planes| mean(planes) / 256.0),
        )
    }
    fn encode_texts(&mut self, texts: PackedTexts<'_>) -> Cow<'_, [f32]> {
        self.0.keep(
            texts
                .offsets
                .windows(2)
                .map(|pair| (pair[1] - pair[0]) as f32 / 8.0),
        )
    }
}

fn tokenizer() -> Tokenizer {
    let vocabulary = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n";
    Tokenizer::new(Vocabulary::from_bytes(vocabulary).unwrap())
}

/// The golden data set in several shards.
pub(crate) fn golden(store: &Store) -> Dataset {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dataset");
    let options = prepare::PrepareOptions {
        shard_bytes: 14 << 10,
        max_skipped_ratio: 0.1,
        ..prepare::PrepareOptions::default()
    };

    let images = folder.join("train_imgs.tsv");
    let texts = folder.join("train_texts.jsonl");
    let reader = DatasetReader::open_files(&images, &texts).unwrap();
    prepare_dataset(reader, store, &options, |_| ()).unwrap();
    Dataset::new(store.clone()).unwrap()
}

/// The golden pictures, and texts of which nobody says what they describe.
pub(crate) fn unlabeled(store: &Store) -> Dataset {
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts.jsonl");
    let line = |id: u64| format!("{{\"text_id\": {id}, \"text\": \"{id}\", \"image_ids\": []}}\n");
    std::fs::write(&texts, [70, 1000, 8].map(line).concat()).unwrap();
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dataset/train_imgs.tsv");

    let reader = DatasetReader::open_files(&images, &texts).unwrap();
    prepare_dataset(reader, store, &prepare::PrepareOptions::default(), |_| ()).unwrap();
    Dataset::new(store.clone()).unwrap()
}

/// A data set as a simple model scores it.
pub(crate) fn scored(dataset: &Dataset) -> ScoredRetrieval {
    let mut plain = Plain::default();
    let alone = Communicator::single_rank();
    score_retrieval(
        "golden",
        dataset,
        &tokenizer(),
        &mut plain,
        EncodeOptions {
            input_sizes: SIZES,
            max_skipped_ratio: 0.0,
        },
        &alone,
    )
    .unwrap()
    .unwrap()
}

fn encode(dataset: &Dataset, most_skipped: f64) -> Result<RetrievalCorpus> {
    RetrievalCorpus::encode_dataset(
        dataset,
        &tokenizer(),
        &mut Plain::default(),
        EncodeOptions {
            input_sizes: SIZES,
            max_skipped_ratio: most_skipped,
        },
        &Communicator::single_rank(),
    )
}

#[test]
fn every_picture_and_every_text_is_encoded_once_with_what_belongs_together() {
    let dataset = golden(&Store::in_memory());
    let mut encoder = Plain::default();
    let gallery = RetrievalCorpus::encode_dataset(
        &dataset,
        &tokenizer(),
        &mut encoder,
        EncodeOptions {
            input_sizes: SIZES,
            max_skipped_ratio: 0.0,
        },
        &Communicator::single_rank(),
    )
    .unwrap();

    let pairs: usize = gallery.relevant.iter().map(Vec::len).sum();
    assert_eq!(gallery.images.len() as u64, dataset.index().images);
    assert_eq!(pairs as u64, dataset.index().pairs);
    assert!(
        gallery.relevant.iter().any(|images| images.len() > 1),
        "a text of two pictures"
    );

    assert!(
        gallery.relevant.iter().any(Vec::is_empty),
        "a text of no picture"
    );

    assert_eq!(
        (
            gallery.retrieval_pool().images.count(),
            gallery.retrieval_pool().texts.count()
        ),
        (gallery.images.len(), gallery.texts.len())
    );

    assert!(
        encoder.0.largest_batch <= SIZES.batch_size,
        "{}",
        encoder.0.largest_batch
    );

    for (text, images) in gallery.relevant.iter().enumerate() {
        for &image in images {
            let ImageLocation { shard, sample, .. } = gallery.images[image];
            let sample = &dataset.read_shard(shard).unwrap().samples[sample];
            assert!(sample.texts.contains(&gallery.texts[text]));
        }
    }
}

#[test]
fn pictures_are_found_again() {
    let dataset = golden(&Store::in_memory());
    let gallery = encode(&dataset, 0.0).unwrap();
    let last = gallery.images.len() - 1;
    let found = gallery.read_images(&dataset, &[last, 0, last]).unwrap();
    assert_eq!(found.len(), 2);

    for (image, bytes) in found {
        let ImageLocation { shard, sample, .. } = gallery.images[image];
        assert_eq!(
            bytes,
            dataset.read_shard(shard).unwrap().samples[sample].image
        );
    }
}

#[test]
fn a_torn_shard_costs_its_own_pictures_and_too_many_end_the_evaluation() {
    let store = Store::in_memory();
    let dataset = golden(&store);
    let whole = encode(&dataset, 0.0).unwrap();
    let part = &dataset.index().shards[1];
    let bytes = store.get(&part.name).unwrap();

    store
        .put(&part.name, bytes.slice(..bytes.len() / 2))
        .unwrap();

    let torn = encode(&dataset, 1.0).unwrap();
    assert!(torn.unusable.count > 0);
    assert_eq!(
        torn.images.len() as u64 + torn.unusable.count,
        whole.images.len() as u64
    );

    let error = encode(&dataset, 0.01).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("{} of ", torn.unusable.count)),
        "{error}"
    );

    assert!(error.to_string().contains(&part.name), "{error}");
    assert_eq!(error.exit_code().exit_code(), 65);
}

#[test]
fn a_task_is_scored_as_its_validation_would_be() {
    let dataset = golden(&Store::in_memory());
    let scored = scored(&dataset);
    let TaskResult {
        name,
        dataset: of,
        images,
        measured,
        ..
    } = &scored.result;

    let TaskScores::Retrieval(RetrievalScores {
        texts,
        recalls: Some(found),
        ..
    }) = measured
    else {
        panic!("{measured:?}")
    };

    assert_eq!((name.as_str(), of.as_str()), ("golden", dataset.uri()));
    assert_eq!((*images, *texts), (12, scored.corpus.texts.len() as i64));
    assert_eq!(
        *found,
        evaluate_recalls(
            &dataset,
            &tokenizer(),
            &mut Plain::default(),
            EncodeOptions {
                input_sizes: SIZES,
                max_skipped_ratio: 0.0,
            },
            &Communicator::single_rank()
        )
        .unwrap()
        .unwrap()
    );

    assert!(
        found.text_to_image.r10 > 0.0,
        "ten of twelve pictures are among the first ten"
    );
}

#[test]
fn a_data_set_without_labels_is_searched_all_the_same() {
    let dataset = unlabeled(&Store::in_memory());
    let scored = scored(&dataset);
    let TaskScores::Retrieval(scores) = &scored.result.measured else {
        panic!("a retrieval")
    };

    assert_eq!((scores.texts, scores.recalls), (3, None));

    let limits = EncodeOptions {
        input_sizes: SIZES,
        max_skipped_ratio: 0.0,
    };
    let error = evaluate_recalls(
        &dataset,
        &tokenizer(),
        &mut Plain::default(),
        limits,
        &Communicator::single_rank(),
    )
    .unwrap_err();

    assert!(error.to_string().contains("has no labels"), "{error}");
}
