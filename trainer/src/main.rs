//! The command line: words in, an exit code out. Decides nothing about data or training.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use cnclip_crds::exit_code::TrainerExit;

use cli::Cli;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => ExitCode::from(cli.run().exit_code()),
        Err(question) => {
            let asked = !question.use_stderr();
            // A closed pipe is the reader's choice.
            let _ = question.print();
            ExitCode::from(
                if asked {
                    TrainerExit::Done
                } else {
                    TrainerExit::Usage
                }
                .exit_code(),
            )
        }
    }
}
