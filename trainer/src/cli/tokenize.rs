//! The command that turns texts into ids.

use std::path::PathBuf;

use clap::Args;
use cnclip::error::Result;
use cnclip::interop::tokenize::{self, TokenizeOptions};

/// The ids are those of the reference's `tokenize`, `[CLS]` and `[SEP]` included, without padding.
/// Every line is answered before the next one is read.
#[derive(Args, Debug)]
pub(super) struct TokenizeArgs {
    /// Most ids of a text; a longer text is cut, and still ends in `[SEP]`. The published models
    /// were trained with 52.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=8192))]
    context_length: u32,
    /// First make the text lower case and its curly double quotes straight, as the reference's data
    /// sets do and its `tokenize` does not.
    #[arg(long)]
    dataset_rules: bool,
    /// A vocab.txt, one token a line; otherwise that of the published models, at $CNCLIP_VOCAB.
    #[arg(long, value_name = "FILE")]
    vocab: Option<PathBuf>,
}

impl TokenizeArgs {
    pub(super) fn run(&self) -> Result<()> {
        let tokenizer = tokenize::load_tokenizer(self.vocab.as_deref())?;
        let rules = TokenizeOptions {
            context_length: self.context_length as usize,
            dataset_rules: self.dataset_rules,
        };

        let input = std::io::stdin().lock();
        let mut output = std::io::stdout().lock();
        tokenize::tokenize_lines(&tokenizer, rules, input, &mut output)
    }
}
