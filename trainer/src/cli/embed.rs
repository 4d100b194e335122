//! `cnclip embed`: computes embeddings.

use std::path::PathBuf;

use clap::Args;
use cnclip::error::{Error, Result};
use cnclip::interop::embed::{Embedder, read_dataset_texts, read_text_file};
use cnclip::interop::resolved_model::ResolvedModel;
use cnclip_data::shard::Dataset;
use cnclip_nn::model::clip::BatchCapacity;
use indicatif::ProgressBar;

use super::progress_bar::progress_bar;

/// Reads images and texts from the reference's files or from a prepared data set, and processes them as the
/// reference's extract_features does. Embeddings are L2-normalized.
#[derive(Args, Debug)]
pub(super) struct EmbedArgs {
    /// A checkpoint, the prefix of a stage, a model folder, or a weights file.
    #[arg(long, value_name = "URI")]
    model: String,
    /// Images: one per line, image id, tab, the encoded file in base64.
    #[arg(long, value_name = "FILE", requires = "image_features")]
    images: Option<PathBuf>,
    /// Texts: {"text_id": 1, "text": "…"} per line.
    #[arg(long, value_name = "FILE", requires = "text_features")]
    texts: Option<PathBuf>,
    /// Data set written by `cnclip prepare`, instead of --images and --texts.
    #[arg(long, value_name = "URI", conflicts_with_all = ["images", "texts"])]
    dataset: Option<String>,
    /// Output file of the image embeddings: {"image_id": 1, "feature": […]} per line. NAME.npy is written as an
    /// array, with the ids in NAME.ids.jsonl; NAME.parquet as a table of id and feature.
    #[arg(long, value_name = "FILE", required_unless_present = "text_features")]
    image_features: Option<PathBuf>,
    /// Output file of the text embeddings: {"text_id": 1, "feature": […]} per line; other formats as for images.
    #[arg(long, value_name = "FILE")]
    text_features: Option<PathBuf>,
    /// Batch size of images and of texts.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch_size: u32,
    /// Maximum tokens of a text; that of the model's training by default, or 52.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=8192))]
    context_length: Option<u32>,
    /// Vocabulary file (vocab.txt); the model's own by default, or that of the published models at $CNCLIP_VOCAB.
    #[arg(long, value_name = "FILE")]
    vocab: Option<PathBuf>,
}

impl EmbedArgs {
    pub(super) fn run(&self) -> Result<()> {
        // Before the model: a wrong location fails before gigabytes of weights are read.
        let dataset = self.dataset.as_deref().map(Dataset::open).transpose()?;
        let mut embedder = self.build_embedder()?;
        if let Some(to) = &self.image_features {
            let bar = progress_bar("images");
            match (&self.images, &dataset) {
                (Some(images), _) => {
                    embedder.embed_image_file(images, to, progress_callback(&bar))?
                }
                (None, Some(dataset)) => {
                    embedder.embed_dataset_images(dataset, to, progress_callback(&bar))?
                }
                (None, None) => return Err(missing_input_error("--image-features", "--images")),
            }

            bar.finish_and_clear();
        }

        if let Some(to) = &self.text_features {
            let texts = match (&self.texts, &dataset) {
                (Some(texts), _) => read_text_file(texts)?,
                (None, Some(dataset)) => read_dataset_texts(dataset)?,
                (None, None) => return Err(missing_input_error("--text-features", "--texts")),
            };

            let bar = progress_bar("texts");
            embedder.embed_texts(&texts, to, progress_callback(&bar))?;
            bar.finish_and_clear();
        }

        Ok(())
    }

    fn build_embedder(&self) -> Result<Embedder> {
        let model = ResolvedModel::open(&self.model)?;
        let context = self
            .context_length
            .map_or(model.context_length, |n| n as usize);

        let capacity = BatchCapacity {
            batch: self.batch_size as usize,
            context,
        };

        let tokenizer = model.build_tokenizer(self.vocab.as_deref())?;
        Embedder::new(&model, tokenizer, capacity)
    }
}

fn progress_callback(bar: &ProgressBar) -> impl FnMut(usize, usize) {
    |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        bar.set_message(format!("{:.1}/s", bar.per_sec()));
    }
}

fn missing_input_error(output: &str, input: &str) -> Error {
    Error::Usage(format!(
        "{output} needs an input: give {input} or --dataset too"
    ))
}
