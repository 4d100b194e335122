//! The commands that make data sets.

use std::path::PathBuf;

use clap::Args;
use cnclip::data::prepare::{self, Options, Prepared, Progress};
use cnclip::error::{Error, Result};
use cnclip::store::Store;
use indicatif::{ProgressBar, ProgressStyle};

/// What both commands may be told.
#[derive(Args, Debug)]
struct Limits {
    /// Share of images, texts or labels that may be unusable before the command fails, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0)]
    most_skipped: f64,
}

#[derive(Args, Debug)]
pub(super) struct Prepare {
    /// `<split>_imgs.tsv`: image id, tab, the encoded picture in base64.
    #[arg(long, value_name = "FILE")]
    images: PathBuf,
    /// `<split>_texts.jsonl`: {"text_id", "text", "image_ids"} a line.
    #[arg(long, value_name = "FILE")]
    texts: PathBuf,
    /// Where the shards go: a folder, s3://…, gs://… or az://….
    #[arg(long, value_name = "URI")]
    output: String,
    /// A shard is closed when it has grown to this many MiB.
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=4096))]
    shard_size: u64,
    #[command(flatten)]
    limits: Limits,
}

#[derive(Args, Debug)]
pub(super) struct Index {
    /// Where the shards are and the index goes: a folder, s3://…, gs://… or az://….
    uri: String,
    #[command(flatten)]
    limits: Limits,
}

impl Limits {
    fn share(&self) -> Result<f64> {
        match self.most_skipped {
            percent if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
            other => {
                Err(Error::Usage(format!("--most-skipped must be 0 to 100 percent, found {other}")))
            }
        }
    }
}

impl Prepare {
    pub(super) fn run(&self) -> Result<()> {
        let store = Store::open(&self.output)?;
        let options =
            Options { shard_bytes: self.shard_size << 20, most_skipped: self.limits.share()? };
        let bar = bar("images");
        let prepared =
            prepare::prepare(&self.images, &self.texts, &store, &options, |at| show(&bar, at))?;
        tell(&bar, &prepared, &store);
        Ok(())
    }
}

impl Index {
    pub(super) fn run(&self) -> Result<()> {
        let store = Store::open(&self.uri)?;
        let options = Options { most_skipped: self.limits.share()?, ..Options::default() };
        let bar = bar("shards");
        let prepared = prepare::index(&store, &options, |at| show(&bar, at))?;
        tell(&bar, &prepared, &store);
        Ok(())
    }
}

/// Hidden by indicatif where standard error is no terminal.
fn bar(what: &str) -> ProgressBar {
    let template = format!("{{bar:32}} {{pos}}/{{len}} {what} · {{msg}} · {{eta}}");
    let style =
        ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

fn show(bar: &ProgressBar, at: Progress) {
    bar.set_length(at.total);
    bar.set_position(at.done);
    bar.set_message(indicatif::HumanBytes(at.bytes).to_string());
}

fn tell(bar: &ProgressBar, prepared: &Prepared, store: &Store) {
    bar.finish_and_clear();
    let (index, skipped) = (&prepared.index, &prepared.skipped);
    tracing::info!(
        images = index.images,
        pairs = index.pairs,
        shards = index.shards.len(),
        empty_texts = skipped.empty_texts,
        unknown_images = skipped.unknown_images,
        bad_labels = skipped.bad_labels,
        dataset = index.dataset,
        "Data set written to {}",
        store.uri()
    );
    for example in &skipped.examples {
        tracing::warn!("Skipped: {example}");
    }
}
