//! Writes pages with every kind of section into a folder, to look at and for the tests in a browser:
//! `cargo run --release --example page -- FOLDER [test_imgs.tsv test_texts.jsonl]`. Pictures and scores
//! are those of the data set, of a model that guesses; the curves are drawn by a formula.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use cnclip::evaluate::zero_shot::{self, PreparedZeroShot};
use cnclip::evaluate::{EncodeOptions, Encoder, EncoderInputSizes, score_retrieval};
use cnclip::page::{
    ClassDetails, PageInput, PublicDataset, RetrievalExamples, RunCurves, TaskDetails, TaskSection,
    render_comparison, render_page,
};
use cnclip::progress::history::{HistoryPoint, StageCurves};
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_crds::model::Architecture;
use cnclip_crds::tasks::Benchmark;
use cnclip_crds::tasks::DatasetPreset;
use cnclip_crds::tasks::ZeroShotConfig;
use cnclip_crds::tasks::{RecallAtK, RetrievalRecalls};
use cnclip_data::prepare::{PrepareOptions, prepare_dataset};
use cnclip_data::readers::DatasetReader;
use cnclip_data::shard::Dataset;
use cnclip_data::store::Store;
use cnclip_data::tokenizer::{Tokenizer, Vocabulary};
use cnclip_distributed::Communicator;
use cnclip_nn::model::PackedTexts;

const WIDTH: usize = 16;
const SIDE: usize = 8;
/// When the training began, in seconds since 1970.
const START: i64 = 1_795_000_000;

/// Guesses that the nth text describes about the nth picture; or, where several of each belong
/// together, that they do.
struct Guess {
    images: usize,
    texts: usize,
    /// How many pictures, and how many texts, are of one thing.
    together: (usize, usize),
    features: Vec<f32>,
}

impl Guess {
    fn new(together: (usize, usize)) -> Self {
        Self {
            images: 0,
            texts: 0,
            together,
            features: Vec::new(),
        }
    }

    fn keep(
        &mut self,
        items: std::ops::Range<usize>,
        together: usize,
        noise: f32,
    ) -> Cow<'_, [f32]> {
        self.features.clear();
        for item in items {
            let place = |d: usize| noise_of(item / together * WIDTH + d);
            let blur = |d: usize| noise * noise_of(item * WIDTH + d + 7_777_777);
            let row: Vec<f32> = (0..WIDTH).map(|d| place(d) + blur(d)).collect();
            let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            self.features.extend(row.iter().map(|value| value / norm));
        }

        self.features.as_slice().into()
    }
}

/// A number between -1 and 1 that looks drawn.
fn noise_of(seed: usize) -> f32 {
    let mixed = (seed as u64 ^ 0x9E37_79B9).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mixed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

impl Encoder for Guess {
    fn embedding_dim(&self) -> usize {
        WIDTH
    }
    fn encode_images(&mut self, pixels: PixelBatch<'_>) -> Cow<'_, [f32]> {
        let count = pixels.len() / (3 * SIDE * SIDE);
        let first = self.images;
        self.images += count;
        // One picture of each text is told from another by the text alone.
        let noise = if self.together.0 > 1 { 1.0 } else { 0.0 };

        self.keep(first..first + count, self.together.0, noise)
    }
    fn encode_texts(&mut self, texts: PackedTexts<'_>) -> Cow<'_, [f32]> {
        let count = texts.text_count();
        let first = self.texts;
        self.texts += count;
        self.keep(first..first + count, self.together.1, 1.3)
    }
}

fn stage(name: &str, start: i64, steps: i64, (from, to): (f64, f64)) -> StageCurves {
    let recall = |value: f64| RecallAtK {
        mean_recall: value,
        ..RecallAtK::default()
    };

    let point = |step: i64| {
        let progress = step as f64 / steps as f64;
        let loss = to + (from - to) * (-4.0 * progress).exp();
        let noise = f64::from(noise_of((start + step) as usize));
        let warm = (progress * 20.0).min(1.0);

        HistoryPoint {
            step,
            reported_at: start + step * 4 / 5,
            samples_seen: step * 256,
            loss: Some(loss + 0.06 * noise),
            learning_rate: Some(
                1e-3 * warm * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            ),
            logit_scale: Some(2.66 + 0.8 * progress),
            gradient_norm: Some(1.1 - 0.5 * progress + 0.2 * noise.abs()),
            samples_per_second: Some(313.0 + 9.0 * noise),
            recalls: (step % 50 == 0).then(|| RetrievalRecalls {
                text_to_image: recall(10.0 * (6.0 - loss)),
                image_to_text: recall(9.0 * (6.0 - loss)),
            }),
        }
    };

    StageCurves {
        name: name.into(),
        points: (1..=steps / 5).map(|i| point(i * 5)).collect(),
    }
}

/// The files of a data set in the reference's format.
#[derive(Clone, Copy)]
struct Files<'a> {
    images: &'a Path,
    texts: &'a Path,
}

const SIZES: EncoderInputSizes = EncoderInputSizes {
    image_size: SIDE,
    context_length: 8,
    batch_size: 256,
};
/// The share of a data set that may be unusable.
const SKIPPED: f64 = 0.2;

fn tokenizer() -> Result<Tokenizer> {
    Ok(Tokenizer::new(Vocabulary::from_bytes(
        b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n",
    )?))
}

/// Scores a retrieval with guesses.
fn retrieval(name: &str, files: Files<'_>, public: Option<Benchmark>) -> Result<TaskSection> {
    let store = Store::in_memory();
    let options = PrepareOptions {
        shard_bytes: 4 << 20,
        max_skipped_ratio: SKIPPED,
        ..PrepareOptions::default()
    };

    let reader = DatasetReader::open_files(files.images, files.texts)?;
    prepare_dataset(reader, &store, &options, |_| ())?;
    let dataset = Dataset::new(store)?;
    let mut guess = Guess::new((1, 1));
    let limits = EncodeOptions {
        input_sizes: SIZES,
        max_skipped_ratio: SKIPPED,
    };
    let scored = score_retrieval(
        name,
        &dataset,
        &tokenizer()?,
        &mut guess,
        limits,
        &Communicator::single_rank(),
    )?;

    let mut scored = scored.context("one rank has the numbers")?;
    scored.calibrate_threshold(50.0);
    let examples = RetrievalExamples::from_scored(&scored, &dataset)?;
    Ok(TaskSection {
        result: scored.result,
        shown: Some(TaskDetails::Retrieval(examples)),
        public: public.map(PublicDataset::Retrieval),
    })
}

/// The same, as if nobody had said what belongs together.
fn unlabelled(name: &str, files: Files<'_>) -> Result<TaskSection> {
    let folder = tempfile::tempdir()?;
    let texts = folder.path().join("texts.jsonl");
    let lines: Vec<String> = texts_of(files.texts)?
        .enumerate()
        .map(|(id, text)| {
            serde_json::json!({"text_id": id, "text": text, "image_ids": []}).to_string()
        })
        .collect();

    std::fs::write(&texts, lines.join("\n"))?;
    retrieval(
        name,
        Files {
            texts: &texts,
            ..files
        },
        None,
    )
}

fn texts_of(file: &Path) -> Result<impl Iterator<Item = String>> {
    let lines = std::fs::read_to_string(file)?;
    let texts: Vec<_> = lines
        .lines()
        .map(|line| Ok(serde_json::from_str::<serde_json::Value>(line)?["text"].to_string()))
        .collect::<Result<_>>()?;

    Ok(texts
        .into_iter()
        .map(|text| text.trim_matches('"').to_owned()))
}

/// Scores a classification with guesses: each picture several times as a class, named by a text.
fn zero_shot(
    name: &str,
    files: Files<'_>,
    (classes, each): (usize, usize),
    preset: Option<DatasetPreset>,
) -> Result<TaskSection> {
    let folder = tempfile::tempdir()?;
    let names: Vec<_> = texts_of(files.texts)?
        .filter(|text| !text.trim().is_empty())
        .collect();

    let names = (0..classes).map(|class| match class / names.len() {
        0 => names[class].clone(),
        again => format!("{} {}", names[class % names.len()], again + 1),
    });

    std::fs::write(
        folder.path().join("label_cn.txt"),
        names.collect::<Vec<_>>().join("\n"),
    )?;

    let images = std::fs::read_to_string(files.images)?;
    let mut pictures = images
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .cycle();

    for (class, (_, picture)) in (0..classes).zip(&mut pictures) {
        let inside = folder.path().join(format!("test/{class:03}"));
        std::fs::create_dir_all(&inside)?;
        // Both alphabets of base64 are found in the reference's files.
        let picture = STANDARD.decode(picture.replace('-', "+").replace('_', "/"))?;

        for number in 0..each {
            std::fs::write(inside.join(format!("{number:03}.png")), &picture)?;
        }
    }

    let dataset = format!("file://{}", folder.path().display());
    let config = ZeroShotConfig {
        dataset,
        preset,
        template_set: None,
        templates: None,
        metric: None,
    };

    let ready = PreparedZeroShot::from_config(name, &config)?;
    let mut guess = Guess::new((each, ready.templates.texts.len()));
    let limits = EncodeOptions {
        input_sizes: SIZES,
        max_skipped_ratio: SKIPPED,
    };
    let scored = zero_shot::score_zero_shot(
        &ready,
        &tokenizer()?,
        &mut guess,
        limits,
        &Communicator::single_rank(),
    )?;
    let classes = ClassDetails::from_scored(&scored, &ready.store)?;

    Ok(TaskSection {
        result: scored.result,
        shown: Some(TaskDetails::ZeroShot(classes)),
        public: preset.map(PublicDataset::ZeroShot),
    })
}

fn stages() -> Vec<StageCurves> {
    vec![
        stage("align", START, 300, (5.56, 3.4)),
        stage("pretrain", START + 300, 450, (3.3, 2.2)),
        stage("finetune", START + 800, 150, (2.1, 1.9)),
    ]
}

fn evaluation(files: Files<'_>) -> Result<String> {
    let tasks = vec![
        retrieval("flickr30k-cn", files, Some(Benchmark::Flickr30kCnTest))?,
        retrieval("own", files, None)?,
        unlabelled("muge-test", files)?,
        zero_shot("cifar-10", files, (10, 12), Some(DatasetPreset::Cifar10))?,
        zero_shot("cifar-100", files, (100, 4), Some(DatasetPreset::Cifar100))?,
        zero_shot("own-classes", files, (40, 6), None)?,
    ];

    let model = Architecture::VitB16
        .published_model()
        .context("it has towers")?;
    let digests = tasks.iter().map(|task| {
        (
            format!("{}: digest", task.result.name),
            task.result.digest.clone(),
        )
    });

    let provenance = [(
        "checkpoint".into(),
        "s3://runs/demo/finetune/checkpoints/150".into(),
    )];

    Ok(render_page(&PageInput {
        title: "demo".into(),
        written_at: START + 2000,
        stages: stages(),
        provenance: provenance.into_iter().chain(digests).collect(),
        tasks,
        configuration: "embedDim: 512\ncontextLength: 52\n".into(),
        ..PageInput::from_model(&model)
    }))
}

fn training() -> String {
    render_page(&PageInput {
        title: "training".into(),
        model: "ResNet [3, 4, 6, 3]×64 at 32 px, BERT 4×256, 256 features".into(),
        written_at: START + 2000,
        stages: stages(),
        ..PageInput::default()
    })
}

fn comparison() -> String {
    let run = |name: &str, from| RunCurves {
        name: name.into(),
        stages: vec![stage("pretrain", START, 450, (from, 2.2))],
    };

    render_comparison(
        "Ablation",
        &[run("two stages", 3.3), run("from scratch", 5.5)],
        START,
    )
}

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dataset");
    let golden = [
        golden.join("train_imgs.tsv"),
        golden.join("train_texts.jsonl"),
    ];

    let (folder, images, texts) = match arguments.as_slice() {
        [folder] => (folder, &golden[0], &golden[1]),
        [folder, images, texts] => (folder, images, texts),
        _ => anyhow::bail!("expected: FOLDER [IMAGES.tsv TEXTS.jsonl]"),
    };

    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let pages = [
        ("evaluation.html", evaluation(Files { images, texts })?),
        ("training.html", training()),
        ("comparison.html", comparison()),
    ];

    for (name, html) in pages {
        let file = folder.join(name);
        std::fs::write(&file, html).with_context(|| format!("cannot write {}", file.display()))?;
    }

    Ok(())
}
