//! `cnclip tokenize`: tokenizes texts.

use std::path::PathBuf;

use clap::Args;
use cnclip::error::Result;
use cnclip::interop::tokenize::{self, TokenizeOptions};

/// Gives the ids of the reference's `tokenize`, including `[CLS]` and `[SEP]`, without padding. Each line is
/// answered before the next one is read.
#[derive(Args, Debug)]
pub(super) struct TokenizeArgs {
    /// Maximum number of ids of a text; a longer text is truncated and still ends in `[SEP]`. The published
    /// models were trained with 52.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=8192))]
    context_length: u32,
    /// Lower-case texts and straighten curly double quotes first, as the reference's data sets do and its
    /// `tokenize` does not.
    #[arg(long)]
    dataset_rules: bool,
    /// Vocabulary file (vocab.txt), one token per line; that of the published models at $CNCLIP_VOCAB by default.
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
