use std::collections::HashSet;
use std::path::Path;

use super::*;
use crate::prepare;
use crate::prepare::tests::prepare_files;
use crate::shard::IndexedFile;
use crate::store::Store;
use crate::tokenizer::Vocabulary;

const SIDE: usize = 8;

/// The golden data set, 16 pairs in five shards.
fn golden() -> Store {
    let store = Store::in_memory();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/dataset");
    let options = prepare::PrepareOptions {
        shard_bytes: 14 << 10,
        max_skipped_ratio: 0.1,
        ..prepare::PrepareOptions::default()
    };

    let images = folder.join("train_imgs.tsv");
    let texts = folder.join("train_texts.jsonl");
    prepare_files(&images, &texts, &store, &options, |_| ()).unwrap();
    store
}

fn tokenizer() -> Arc<Tokenizer> {
    let vocabulary = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n\xe9\x95\xbf\nab\n";
    Arc::new(Tokenizer::new(Vocabulary::from_bytes(vocabulary).unwrap()))
}

fn load(store: &Store, options: LoaderOptions) -> DataLoader {
    DataLoader::start_workers(Dataset::new(store.clone()).unwrap(), tokenizer(), options).unwrap()
}

fn batches(mut loader: DataLoader) -> Vec<SampleBatch> {
    std::iter::from_fn(|| loader.next_batch().unwrap()).collect()
}

fn options(steps: Range<u64>) -> LoaderOptions {
    LoaderOptions {
        max_skipped_ratio: 0.5,
        ..LoaderOptions::new(3, 5, steps, SIDE)
    }
}

#[test]
fn batches_are_the_same_whatever_the_threads_and_wherever_a_run_resumes() {
    let store = golden();
    for augmentation in [Augmentation::None, Augmentation::AutoAugment] {
        let of = |threads, steps| {
            batches(load(
                &store,
                LoaderOptions {
                    threads,
                    augmentation,
                    ..options(steps)
                },
            ))
        };

        let whole = of(1, 0..10);
        assert_eq!(
            whole.iter().map(|batch| batch.step).collect::<Vec<_>>(),
            Vec::from_iter(0..10)
        );

        assert_eq!(of(3, 0..10), whole);
        assert_eq!(of(2, 7..10), whole[7..]);
    }
}

#[test]
fn fingerprints_are_of_images_and_of_tokens() {
    let options = LoaderOptions {
        duplicates: DuplicatePolicy::Positives,
        ..options(0..3)
    };

    let mut batches = batches(load(&golden(), options));
    let batch = batches.iter_mut().reduce(|all, next| {
        all.token_ids.extend(&next.token_ids);
        let end = all.offsets[all.offsets.len() - 1];
        all.offsets
            .extend(next.offsets[1..].iter().map(|offset| end + offset));
        all.sample_ids.extend(next.sample_ids.iter().cloned());
        all.fingerprints.extend(&next.fingerprints);

        all
    });

    let batch = batch.unwrap();
    let text = |i: usize| &batch.token_ids[batch.offsets[i]..batch.offsets[i + 1]];
    let mut images = 0;
    let mut texts = 0;

    for (a, first) in batch.fingerprints.iter().enumerate() {
        for (b, second) in batch.fingerprints.iter().enumerate().skip(a + 1) {
            let same = (
                batch.sample_ids[a].0 == batch.sample_ids[b].0,
                text(a) == text(b),
            );

            assert_eq!(
                (first.image == second.image, first.text == second.text),
                same,
                "{a} {b}"
            );

            images += usize::from(same.0);
            texts += usize::from(same.1);
        }
    }

    assert!(images > 0 && texts > 0, "{images} {texts}");
}

#[test]
fn caching_images_changes_no_batch() {
    let store = golden();
    for augmentation in [Augmentation::None, Augmentation::CropFlip] {
        let of = |image_bytes| {
            batches(load(
                &store,
                LoaderOptions {
                    image_cache_bytes: image_bytes,
                    augmentation,
                    ..options(0..12)
                },
            ))
        };

        assert_eq!(of(0), of(1 << 20));
        assert_eq!(of(0), of(20_000), "there is room for some");
    }
}

#[test]
fn the_shares_of_two_ranks_are_the_batch_of_one() {
    let store = golden();
    let whole = batches(load(&store, options(0..6)));
    let share = |share| {
        batches(load(
            &store,
            LoaderOptions {
                rank_range: share,
                ..options(0..6)
            },
        ))
    };

    for ((first, second), whole) in share(0..2).iter().zip(share(2..5)).zip(whole) {
        assert_eq!(
            [first.pixels.as_slice(), &second.pixels].concat(),
            whole.pixels
        );

        assert_eq!(
            [first.sample_ids.as_slice(), &second.sample_ids].concat(),
            whole.sample_ids
        );

        assert_eq!(
            [first.token_ids.as_slice(), &second.token_ids].concat(),
            whole.token_ids
        );
    }
}

#[test]
fn an_epoch_shows_each_pair_once_with_its_image_and_its_text() {
    let store = golden();
    let epoch = batches(load(
        &store,
        LoaderOptions {
            rank_range: 0..4,
            global_batch: 4,
            ..options(0..4)
        },
    ));

    let pairs: HashSet<_> = epoch
        .iter()
        .flat_map(|batch| batch.sample_ids.clone())
        .collect();
    assert_eq!(pairs.len(), 16);
    for batch in epoch {
        assert_eq!(
            (batch.pixels.len(), batch.offsets.len()),
            (4 * 3 * SIDE * SIDE, 5)
        );

        for (pair, ends) in batch.sample_ids.iter().zip(batch.offsets.windows(2)) {
            let ids = &batch.token_ids[ends[0]..ends[1]];
            assert_eq!((ids[0], ids[ids.len() - 1]), (2, 3));
            // Text 7 is 长 seventy times, cut to the context.
            assert_eq!(ids.len() == 52, pair.1 == 7.into(), "{pair:?} {ids:?}");
        }
    }
}

/// A data set of one-pixel images: one sample a label, its image good or not.
fn made_of(samples: &[(bool, &str)]) -> Store {
    let gif = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff,\x00\x00\x00\x00\x01\
                \x00\x01\x00\x00\x02\x02D\x01\x00;";
    let mut tar = tar::Builder::new(Vec::new());

    for (number, (good, text)) in samples.iter().enumerate() {
        let image: &[u8] = if *good { gif } else { b"GIF8 torn" };
        for (extension, bytes) in [("gif", image), ("txt", text.as_bytes())] {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, format!("{number}.{extension}"), bytes)
                .unwrap();
        }
    }

    let store = Store::in_memory();
    store
        .put("0.tar", tar.into_inner().unwrap().into())
        .unwrap();

    let options = prepare::PrepareOptions {
        max_skipped_ratio: 1.0,
        ..prepare::PrepareOptions::default()
    };

    prepare::index_shards(&store, &options, |_| ()).unwrap();
    store
}

#[test]
fn a_bad_sample_is_counted_once_named_and_replaced_whatever_the_threads() {
    let mut samples = [(true, "ab"); 20];
    samples[4].0 = false;
    samples[9].1 = " ";
    let store = made_of(&samples);
    let of = |threads| {
        let mut loader = load(
            &store,
            LoaderOptions {
                threads,
                ..options(0..12)
            },
        );

        let batches: Vec<_> = std::iter::from_fn(|| loader.next_batch().unwrap()).collect();
        (batches, loader.skip_counts())
    };

    let (batches, skipped) = of(1);
    assert_eq!(of(3).0, batches);
    let used: HashSet<_> = batches
        .iter()
        .flat_map(|batch| batch.sample_ids.clone())
        .collect();

    assert_eq!(used.len(), 18);
    assert!(batches.iter().all(|batch| batch.sample_ids.len() == 5));
    assert_eq!(
        (
            skipped.undecodable_images,
            skipped.empty_texts,
            skipped.missing_pairs
        ),
        (1, 1, 0)
    );

    let message = skipped.examples.join(" ");
    assert!(
        message.contains("4 of memory:/0.tar: a GIF of 9 bytes"),
        "{message}"
    );

    assert!(
        message.contains("9 of memory:/0.tar: text 9 is empty."),
        "{message}"
    );
}

#[test]
fn too_many_bad_samples_end_the_run_and_are_named() {
    let mut samples = [(true, "ab"); 20];
    samples[4].0 = false;
    let mut loader = load(
        &made_of(&samples),
        LoaderOptions {
            max_skipped_ratio: 0.01,
            ..options(0..12)
        },
    );

    let error = (0..12).find_map(|_| loader.next_batch().err()).unwrap();
    assert_eq!(error.exit().exit_code(), 65);
    assert!(
        error.to_string().contains("1 of 20 pairs cannot be used"),
        "{error}"
    );

    assert!(error.to_string().contains("4 of memory:/0.tar"), "{error}");
}

#[test]
fn a_data_set_of_nothing_but_bad_samples_ends_the_run() {
    let store = made_of(&[(false, "ab"); 20]);
    let mut loader = load(
        &store,
        LoaderOptions {
            max_skipped_ratio: 1.0,
            ..options(0..12)
        },
    );

    let error = loader.next_batch().unwrap_err();
    assert!(
        error.to_string().contains("pairs in a row cannot be used"),
        "{error}"
    );
}

#[test]
fn the_pairs_of_a_torn_shard_are_counted_as_missing_and_the_shard_is_named() {
    let store = golden();
    let IndexedFile { name, .. } = Dataset::new(store.clone()).unwrap().index().shards[1].clone();
    let bytes = store.get(&name).unwrap();
    store.put(&name, bytes.slice(..bytes.len() - 2000)).unwrap();
    let mut loader = load(&store, options(0..3));
    let pairs: usize = std::iter::from_fn(|| loader.next_batch().unwrap())
        .map(|batch| batch.sample_ids.len())
        .sum();

    assert_eq!(pairs, 15);
    assert!(loader.skip_counts().missing_pairs > 0);
    let message = loader.skip_counts().examples.join(" ");
    assert!(
        message.contains("Shard memory:/00001.tar was changed"),
        "{message}"
    );
}

#[test]
fn a_share_outside_the_batch_is_a_fault_of_ours() {
    let dataset = Dataset::new(golden()).unwrap();
    let options = LoaderOptions {
        rank_range: 3..6,
        ..options(0..1)
    };

    assert_eq!(
        DataLoader::start_workers(dataset, tokenizer(), options)
            .unwrap_err()
            .exit()
            .exit_code(),
        70
    );
}
