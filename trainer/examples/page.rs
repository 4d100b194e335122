//! Writes pages with every kind of section into a folder, to look at and for the tests in a browser:
//! `cargo run --release --example page -- FOLDER [test_imgs.tsv test_texts.jsonl]`. Pictures and scores
//! are those of the data set, of a model that guesses; the curves are drawn by a formula.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cnclip::data::prepare::{Options, prepare};
use cnclip::data::shard::Dataset;
use cnclip::data::tokenize::{Tokenizer, Vocabulary};
use cnclip::evaluate::{Encoder, Sizes, score};
use cnclip::model::Texts;
use cnclip::ops::pixels::Pixels;
use cnclip::report::history::Point;
use cnclip::report::page::{
    Curves, Examples, PageInput, Public, Shown, Stage, Task, compare, page,
};
use cnclip::store::Store;
use cnclip_crds::benchmark::Benchmark;
use cnclip_crds::model::Architecture;
use cnclip_crds::report::{Recall, Recalls};

const WIDTH: usize = 16;
const SIDE: usize = 8;
/// When the training began, in seconds since 1970.
const START: i64 = 1_795_000_000;

/// Guesses that the nth text describes about the nth picture.
#[derive(Default)]
struct Guess {
    images: usize,
    texts: usize,
    features: Vec<f32>,
}

impl Guess {
    fn keep(&mut self, count: usize, first: usize, noise: f32) -> Cow<'_, [f32]> {
        self.features.clear();
        for item in first..first + count {
            let place = |d: usize| noise_of(item * WIDTH + d);
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
    fn width(&self) -> usize {
        WIDTH
    }
    fn encode_images(&mut self, pixels: Pixels<'_>) -> Cow<'_, [f32]> {
        let (count, first) = (pixels.len() / (3 * SIDE * SIDE), self.images);
        self.images += count;
        self.keep(count, first, 0.0)
    }
    fn encode_texts(&mut self, texts: Texts<'_>) -> Cow<'_, [f32]> {
        let (count, first) = (texts.count(), self.texts);
        self.texts += count;
        self.keep(count, first, 1.3)
    }
}

fn stage(name: &str, start: i64, steps: i64, (from, to): (f64, f64)) -> Stage {
    let recall = |value: f64| Recall { mean_recall: value, ..Recall::default() };
    let point = |step: i64| {
        let progress = step as f64 / steps as f64;
        let loss = to + (from - to) * (-4.0 * progress).exp();
        let noise = f64::from(noise_of((start + step) as usize));
        let warm = (progress * 20.0).min(1.0);
        Point {
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
            recalls: (step % 50 == 0).then(|| Recalls {
                text_to_image: recall(10.0 * (6.0 - loss)),
                image_to_text: recall(9.0 * (6.0 - loss)),
            }),
        }
    };
    Stage { name: name.into(), points: (1..=steps / 5).map(|i| point(i * 5)).collect() }
}

/// A data set as a bucket holds it, from files in the reference's format.
fn dataset(images: &Path, texts: &Path) -> Result<Dataset> {
    let store = Store::memory();
    let options = Options { shard_bytes: 4 << 20, most_skipped: 0.2 };
    prepare(images, texts, &store, &options, |_| ())?;
    Ok(Dataset::new(store)?)
}

/// Scores a retrieval with guesses.
fn retrieval(name: &str, dataset: &Dataset, public: Option<Benchmark>) -> Result<Task> {
    let tokenizer = Tokenizer::new(Vocabulary::from_bytes(b"[UNK]\n[CLS]\n[SEP]\n")?);
    let sizes = Sizes { side: SIDE, context_length: 8, batch: 256 };
    let scored = score(name, dataset, &tokenizer, &mut Guess::default(), (sizes, 0.2))?;
    let shown = Shown::Retrieval(Examples::of(&scored, dataset)?);
    Ok(Task { result: scored.result, shown, public: public.map(Public::Retrieval) })
}

fn stages() -> Vec<Stage> {
    vec![
        stage("align", START, 300, (5.56, 3.4)),
        stage("pretrain", START + 300, 450, (3.3, 2.2)),
        stage("finetune", START + 800, 150, (2.1, 1.9)),
    ]
}

fn evaluation(images: &Path, texts: &Path) -> Result<String> {
    let dataset = dataset(images, texts)?;
    let tasks = vec![
        retrieval("flickr30k-cn", &dataset, Some(Benchmark::Flickr30kCnTest))?,
        retrieval("own", &dataset, None)?,
    ];
    let model = Architecture::VitB16.towers().context("it has towers")?;
    let digests = tasks
        .iter()
        .map(|task| (format!("{}: digest", task.result.name), task.result.digest.clone()));
    let provenance = [("checkpoint".into(), "s3://runs/demo/finetune/checkpoints/150".into())];
    Ok(page(&PageInput {
        title: "demo".into(),
        written_at: START + 2000,
        stages: stages(),
        provenance: provenance.into_iter().chain(digests).collect(),
        tasks,
        configuration: "embedDim: 512\ncontextLength: 52\n".into(),
        ..PageInput::of_weights(&model)
    }))
}

fn training() -> String {
    page(&PageInput {
        title: "training".into(),
        model: "ResNet [3, 4, 6, 3]×64 at 32 px, BERT 4×256, 256 features".into(),
        written_at: START + 2000,
        stages: stages(),
        ..PageInput::default()
    })
}

fn comparison() -> String {
    let run = |name: &str, from| Curves {
        name: name.into(),
        stages: vec![stage("pretrain", START, 450, (from, 2.2))],
    };
    compare("Ablation", &[run("two stages", 3.3), run("from scratch", 5.5)], START)
}

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dataset");
    let golden = [golden.join("train_imgs.tsv"), golden.join("train_texts.jsonl")];
    let (folder, images, texts) = match arguments.as_slice() {
        [folder] => (folder, &golden[0], &golden[1]),
        [folder, images, texts] => (folder, images, texts),
        _ => anyhow::bail!("expected: FOLDER [IMAGES.tsv TEXTS.jsonl]"),
    };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let pages = [
        ("evaluation.html", evaluation(images, texts)?),
        ("training.html", training()),
        ("comparison.html", comparison()),
    ];
    for (name, html) in pages {
        let file = folder.join(name);
        std::fs::write(&file, html).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
