//! `cnclip prepare`: converts data sets to shards.

use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;

use super::progress_bar::progress_bar;
use cnclip::error::{Error, Result};
use cnclip_data::prepare::{self, PrepareOptions, PrepareProgress};
use cnclip_data::readers::DatasetReader;
use cnclip_data::store::Store;

/// Reads images and texts from files or from LMDB, or indexes existing shards.
#[derive(Args, Debug)]
pub(super) struct PrepareArgs {
    /// `<split>_imgs.tsv`: one image per line, image id, tab, the encoded file in base64.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["shards", "lmdb"])]
    images: Option<PathBuf>,
    /// `<split>_texts.jsonl`: {"text_id", "text", "image_ids"} per line.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["shards", "lmdb"])]
    texts: Option<PathBuf>,
    /// `lmdb/<split>` with the databases `imgs` and `pairs`, instead of --images. The pairs lack texts without
    /// an image, which --texts adds.
    #[arg(long, value_name = "FOLDER", conflicts_with = "images")]
    lmdb: Option<PathBuf>,
    /// Output location of the shards: a folder, s3://…, gs://… or az://….
    #[arg(long, value_name = "URI", required_unless_present = "shards")]
    output: Option<String>,
    /// Location of existing WebDataset shards: write their index only.
    #[arg(long, value_name = "URI", conflicts_with_all = ["images", "texts", "lmdb", "output", "shard_size"])]
    shards: Option<String>,
    /// Size at which a shard is closed, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=4096))]
    shard_size: u64,
    /// Maximum share of unusable images, texts or labels, in percent; the command fails above it.
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0)]
    most_skipped: f64,
}

impl PrepareArgs {
    pub(super) fn run(&self) -> Result<()> {
        if let Some(shards) = &self.shards {
            return self.index_shards(&Store::open(shards)?);
        }

        let Some(output) = &self.output else {
            return Err(missing_arguments_error());
        };

        let store = Store::open(output)?;
        let options = self.prepare_options()?;
        let reader = self.open_reader()?;
        let bar = progress_bar("images");
        let made = prepare::prepare_dataset(reader, &store, &options, |progress| {
            update_progress(&bar, progress);
        })?;

        bar.finish_and_clear();
        made.log_summary(&format!("Data set written to {}", store.uri()));
        Ok(())
    }

    /// The reader of the format that the arguments name.
    fn open_reader(&self) -> Result<DatasetReader> {
        match (&self.lmdb, &self.images, &self.texts) {
            (Some(folder), _, texts) => Ok(DatasetReader::open_lmdb(folder, texts.as_deref())?),
            (None, Some(images), Some(texts)) => Ok(DatasetReader::open_files(images, texts)?),
            _ => Err(missing_arguments_error()),
        }
    }

    fn index_shards(&self, store: &Store) -> Result<()> {
        let options = self.prepare_options()?;
        let bar = progress_bar("shards");
        let made = prepare::index_shards(store, &options, |at| update_progress(&bar, at))?;
        bar.finish_and_clear();
        made.log_summary(&format!("Data set written to {}", store.uri()));

        Ok(())
    }

    fn prepare_options(&self) -> Result<PrepareOptions> {
        match self.most_skipped {
            percent if (0.0..=100.0).contains(&percent) => Ok(PrepareOptions {
                shard_bytes: self.shard_size << 20,
                max_skipped_ratio: percent / 100.0,
                ..PrepareOptions::default()
            }),
            other => Err(Error::Usage(format!(
                "--most-skipped must be 0 to 100 percent, found {other}"
            ))),
        }
    }
}

fn missing_arguments_error() -> Error {
    Error::Usage("give --images and --texts, or --lmdb, and --output; or --shards".into())
}

fn update_progress(bar: &ProgressBar, at: PrepareProgress) {
    bar.set_length(at.total);
    bar.set_position(at.done);
    bar.set_message(indicatif::HumanBytes(at.bytes).to_string());
}
