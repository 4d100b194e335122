use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use cnclip_crds::tasks::Metric;

use super::*;
use crate::evaluate::EncoderInputSizes;
use crate::evaluate::tests::Directions;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_data::store::Store;
use cnclip_data::tokenizer::Vocabulary;
use cnclip_distributed::LocalRanks;
use cnclip_nn::model::PackedTexts;

const SIZES: EncoderInputSizes = EncoderInputSizes {
    image_size: 4,
    context_length: 8,
    batch_size: 3,
};

/// Sees how red a picture is, and takes the second token of a text as a direction.
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

        let area = SIZES.image_size * SIZES.image_size;
        self.0.keep(
            planes
                .chunks(3 * area)
                .map(|planes| f32::from(planes[0]) / 200.0),
        )
    }
    fn encode_texts(&mut self, texts: PackedTexts<'_>) -> Cow<'_, [f32]> {
        let first = texts.offsets.windows(2).map(|pair| texts.ids[pair[0] + 1]);
        self.0.keep(
            first
                .map(|id| (id as f32 - 4.0) / 2.0)
                .collect::<Vec<_>>()
                .into_iter(),
        )
    }
}

fn tokenizer() -> Tokenizer {
    let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n黑\n灰\n红\n";
    Tokenizer::new(Vocabulary::from_bytes(vocabulary.as_bytes()).unwrap())
}

fn picture(red: u8) -> Bytes {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 4, 4);
    encoder.set_color(png::ColorType::Rgb);
    let pixels: Vec<u8> = [red, 0, 0].repeat(16);
    encoder
        .write_header()
        .unwrap()
        .write_image_data(&pixels)
        .unwrap();

    bytes.into()
}

/// Pictures of three levels of red; one of the last class looks like the second.
fn colours() -> Store {
    let store = Store::in_memory();
    store.put("label_cn.txt", "黑\n灰\n红\n".into()).unwrap();
    for (class, levels) in [[0u8, 5, 10, 15], [100, 105, 95, 90], [200, 205, 210, 110]]
        .iter()
        .enumerate()
    {
        for (number, &level) in levels.iter().enumerate() {
            store
                .put(&format!("test/{class}/{number}.png"), picture(level))
                .unwrap();
        }
    }

    store
}

fn ready(store: &Store) -> PreparedZeroShot {
    let config = serde_json::from_value(serde_json::json!({"dataset": ""})).unwrap();
    let ready = PreparedZeroShot::from_store("colours", &config, store.clone()).unwrap();
    let texts = vec!["{}".to_owned(), "{}红".to_owned()];
    PreparedZeroShot {
        templates: PromptTemplates {
            texts,
            ..ready.templates
        },
        ..ready
    }
}

fn scored(ready: &PreparedZeroShot, most_skipped: f64) -> Result<ScoredZeroShot> {
    let mut encoder = Plain::default();
    let scored = score_zero_shot(
        ready,
        &tokenizer(),
        &mut encoder,
        EncodeOptions {
            input_sizes: SIZES,
            max_skipped_ratio: most_skipped,
        },
        &Communicator::single_rank(),
    );

    assert!(
        encoder.0.largest_batch <= SIZES.batch_size,
        "{}",
        encoder.0.largest_batch
    );

    scored
}

fn numbers(scored: &ScoredZeroShot) -> ZeroShotScores {
    match &scored.result.measured {
        TaskScores::ZeroShot(scores) => scores.clone(),
        _ => panic!("it is a classification"),
    }
}

#[test]
fn a_picture_is_taken_for_the_class_whose_name_is_nearest() {
    let scored = scored(&ready(&colours()), 0.0).unwrap();
    assert_eq!(scored.confusion, [[4, 0, 0], [0, 4, 0], [0, 1, 3]]);
    assert_eq!(scored.classes, ["黑", "灰", "红"]);
    let numbers = numbers(&scored);
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} for {b}");

    near(numbers.accuracy, 100.0 * 11.0 / 12.0);
    near(numbers.mean_per_class, 100.0 * (1.0 + 1.0 + 0.75) / 3.0);
    near(numbers.top5, 100.0);
    assert_eq!(
        (numbers.headline, numbers.roc_auc),
        (Metric::Accuracy, None)
    );

    assert!(numbers.mean_average_precision > 90.0 && numbers.mean_average_precision < 100.0);
    assert_eq!((scored.result.images, scored.images.len()), (12, 12));
    let last = &scored.images[11];
    assert_eq!((last.file.as_str(), last.class), ("test/2/3.png", 2));

    for picture in &scored.images {
        assert!((picture.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}

#[test]
fn of_two_classes_there_is_an_area_under_the_curve() {
    let store = Store::in_memory();
    store.put("label_cn.txt", "黑\n红\n".into()).unwrap();
    for (file, level) in [("0/a", 98), ("0/b", 102), ("1/c", 100), ("1/d", 104)] {
        store
            .put(&format!("test/{file}.png"), picture(level))
            .unwrap();
    }

    let area = numbers(&scored(&ready(&store), 0.0).unwrap())
        .roc_auc
        .unwrap();

    assert!((area - 75.0).abs() < 1e-9, "{area}");
}

#[test]
fn a_picture_of_several_classes_counts_for_all_of_them() {
    let store = colours();
    let alone = numbers(&scored(&ready(&store), 0.0).unwrap());
    let line = "{\"file\": \"test/2/3.png\", \"classes\": [1, 2]}\n";
    store.put("test_labels.jsonl", line.into()).unwrap();
    let several = numbers(&scored(&ready(&store), 0.0).unwrap());

    assert!(several.mean_average_precision > alone.mean_average_precision);
    assert_eq!(several.accuracy, alone.accuracy);
}

#[test]
fn a_picture_that_cannot_be_used_is_left_out_and_too_many_end_the_evaluation() {
    let store = colours();
    store.put("test/1/2.png", "no picture".into()).unwrap();
    let ready = ready(&store);
    store.delete("test/2/3.png").unwrap();
    let few = scored(&ready, 0.2).unwrap();

    assert_eq!(few.confusion, [[4, 0, 0], [0, 3, 0], [0, 0, 3]]);
    let error = scored(&ready, 0.1).unwrap_err();
    assert_eq!(error.exit_code().exit_code(), 65);
    let told = error.to_string();

    for expected in [
        "2 of 12 images of memory:",
        "test/1/2.png: an image begins with",
        "raise maxSkippedPercent",
    ] {
        assert!(told.contains(expected), "{told}");
    }

    for file in &ready.files {
        store.delete(&file.path()).unwrap();
    }

    let told = scored(&ready, 1.0).unwrap_err().to_string();
    assert!(
        told.starts_with("none of the 12 images of memory: can be used."),
        "{told}"
    );

    assert!(told.contains("it does not exist"), "{told}");
}

#[test]
fn a_model_that_says_no_numbers_is_refused() {
    struct Broken(Vec<f32>);
    impl Encoder for Broken {
        fn embedding_dim(&self) -> usize {
            1
        }
        fn encode_images(&mut self, pixels: PixelBatch<'_>) -> Cow<'_, [f32]> {
            let PixelBatch::Bytes(planes) = pixels else {
                panic!("pictures come as bytes")
            };

            self.0 = vec![f32::NAN; planes.len() / 48];
            self.0.as_slice().into()
        }
        fn encode_texts(&mut self, texts: PackedTexts<'_>) -> Cow<'_, [f32]> {
            self.0 = vec![1.0; texts.text_count()];
            self.0.as_slice().into()
        }
    }

    let ready = ready(&colours());
    let mut encoder = Broken(Vec::new());
    let found = score_zero_shot(
        &ready,
        &tokenizer(),
        &mut encoder,
        EncodeOptions {
            input_sizes: SIZES,
            max_skipped_ratio: 0.0,
        },
        &Communicator::single_rank(),
    );

    let told = found.unwrap_err().to_string();
    assert!(
        told.contains("task colours: the features of some images are not finite"),
        "{told}"
    );
}

#[test]
fn any_number_of_ranks_gets_the_same() {
    let ready = ready(&colours());
    let alone = scored(&ready, 0.0).unwrap();
    for ranks in [2, 5, 20] {
        let job = |world: Arc<Communicator>| {
            let found = score_zero_shot(
                &ready,
                &tokenizer(),
                &mut Plain::default(),
                EncodeOptions {
                    input_sizes: SIZES,
                    max_skipped_ratio: 0.0,
                },
                &world,
            )?;

            assert_eq!(found.images, alone.images, "{ranks} ranks");
            assert_eq!(numbers(&found), numbers(&alone), "{ranks} ranks");
            Ok(())
        };

        LocalRanks::single_process(ranks)
            .run_ranks::<Error>(job, job)
            .unwrap();
    }
}

#[test]
fn a_submission_has_a_row_for_every_picture_in_the_order_of_the_data_set() {
    let model = SubmissionModel {
        name: "CN-CLIP-ViT-B-16".into(),
        parameters: 7,
        visual_parameters: 3,
    };

    let store = colours();
    store
        .put(
            "index.json",
            "[11, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]".into(),
        )
        .unwrap();

    let with_order = ready(&store);
    let to = Store::in_memory();
    let found = scored(&with_order, 0.0).unwrap();
    found.write_files(&with_order, &model, &to).unwrap();
    let read = |name: &str| {
        serde_json::from_slice::<serde_json::Value>(
            &to.get(&format!("tasks/colours/{name}")).unwrap(),
        )
        .unwrap()
    };

    let submission = read(SUBMISSION_FILE);
    for (key, value) in [
        ("model_name", serde_json::json!("CN-CLIP-ViT-B-16")),
        ("dataset_name", serde_json::json!("colours")),
        ("num_trainable_params", 0.into()),
        ("num_params", 7.into()),
        ("num_visual_params", 3.into()),
        ("num_backbone_params", 7.into()),
        ("n_shot", 0.into()),
        ("rnd_seeds", serde_json::json!([123])),
    ] {
        assert_eq!(submission[key], value, "{key}");
    }

    let rows = submission["predictions"][0].as_array().unwrap();
    assert_eq!(rows.len(), 12);
    for (row, picture) in rows.iter().zip([11, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) {
        for (found, exact) in row
            .as_array()
            .unwrap()
            .iter()
            .zip(&found.images[picture].probabilities)
        {
            let found = found.as_f64().unwrap();
            assert!(
                (found - f64::from(*exact)).abs() <= 5.1e-7,
                "{found} for {exact}"
            );

            assert!(
                (found * 1e6).fract().abs().min(1.0 - (found * 1e6).fract()) < 1e-6,
                "{found}"
            );
        }
    }

    let classes = read(CLASSES_FILE);
    assert_eq!(
        classes["classes"][2],
        serde_json::json!({"name": "红", "pictures": 4, "accuracy": 75.0})
    );

    assert_eq!(classes["confusion"][2], serde_json::json!([0, 1, 3]));

    store.put("test/1/2.png", "no picture".into()).unwrap();
    let less = ready(&store);
    let to = Store::in_memory();
    scored(&less, 0.2)
        .unwrap()
        .write_files(&less, &model, &to)
        .unwrap();

    assert_eq!(
        to.get_if_exists("tasks/colours/submission.json").unwrap(),
        None,
        "a row would be missing"
    );

    assert!(
        to.get_if_exists("tasks/colours/classes.json")
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_model_is_called_as_it_was_published() {
    use cnclip_crds::model::Architecture;
    let tensors = [
        ("visual.conv1.weight", 6),
        ("bert.x", 4),
        ("logit_scale", 1),
    ];

    let mut config = Architecture::VitH14.published_model().unwrap();
    let of = |config: &_| SubmissionModel::from_tensors(config, tensors.iter().copied());
    let known = of(&config);
    assert_eq!(
        (
            known.name.as_str(),
            known.parameters,
            known.visual_parameters
        ),
        ("CN-CLIP-ViT-H-14", 11, 6)
    );

    config.embed_dim = 7;
    assert_eq!(of(&config).name, "CN-CLIP-ViT 32×1280 /14 at 224 px");
}
