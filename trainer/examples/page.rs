//! Writes a report page to look at, with pictures of a data set and invented numbers:
//! `cargo run --release --example page -- test_imgs.tsv test_texts.jsonl page.html`.

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Context, Result};
use cnclip::data::prepare::{Options, prepare};
use cnclip::data::shard::Dataset;
use cnclip::data::tokenize::{Tokenizer, Vocabulary};
use cnclip::evaluate::{Encoder, Sizes, score};
use cnclip::model::Texts;
use cnclip::ops::pixels::Pixels;
use cnclip::report::history::Point;
use cnclip::report::page::{Examples, PageInput, Shown, Stage, Task, page};
use cnclip::store::Store;
use cnclip_crds::report::{Recall, Recalls};

const WIDTH: usize = 16;
const SIDE: usize = 8;

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

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [images, texts, output] = arguments.as_slice() else {
        anyhow::bail!("expected: test_imgs.tsv test_texts.jsonl page.html");
    };
    let (images, texts) = (Path::new(images), Path::new(texts));
    let store = Store::memory();
    let options = Options { shard_bytes: 4 << 20, most_skipped: 0.01 };
    prepare(images, texts, &store, &options, |_| ())?;
    let dataset = Dataset::new(store)?;
    let tokenizer = Tokenizer::new(Vocabulary::from_bytes(b"[UNK]\n[CLS]\n[SEP]\n")?);
    let sizes = Sizes { side: SIDE, context_length: 8, batch: 256 };
    let scored = score("emoji", &dataset, &tokenizer, &mut Guess::default(), (sizes, 0.01))?;
    let examples = Examples::of(&scored, &dataset)?;
    let start = 1_795_000_000;
    let html = page(&PageInput {
        title: "emoji-demo".into(),
        model: "ModifiedResNet 32 px + BERT 4 × 256".into(),
        written_at: start + 2000,
        stages: vec![
            stage("align", start, 300, (5.56, 3.4)),
            stage("pretrain", start + 300, 450, (3.3, 2.2)),
            stage("finetune", start + 800, 150, (2.1, 1.9)),
        ],
        tasks: vec![Task { result: scored.result, shown: Shown::Retrieval(examples) }],
        provenance: [
            ("Checkpoint", "s3://runs/emoji-demo/finetune/checkpoints/150"),
            (
                "Checkpoint digest",
                "4f1c8a0de1b29c1b5a7f3e2d90c4b6a8f1e2d3c4b5a69788796a5b4c3d2e1f00",
            ),
            ("Data set", "s3://data/emoji/test/"),
            ("Data set digest", "9b2e7c51aa04d3f6e8b1907c2d5f4a3b6c8e0f1d2a3b4c5d6e7f8091a2b3c4d5"),
            ("Version", env!("CARGO_PKG_VERSION")),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .to_vec(),
        configuration: "{\n  \"embedDim\": 256,\n  \"contextLength\": 32\n}".into(),
    });
    std::fs::write(output, html).with_context(|| format!("cannot write {output}"))
}
