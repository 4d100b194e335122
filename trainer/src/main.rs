//! Entry point of `cnclip`: parses the command line and returns the exit code.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use cnclip_crds::exit_code::TrainerExit;

use cli::Cli;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => ExitCode::from(cli.run().exit_code()),
        // clap reports --help and --version as errors too, which go to standard output.
        Err(error) => {
            // A closed pipe is the reader's choice, not a failure.
            let _ = error.print();

            let exit = if error.use_stderr() {
                TrainerExit::Usage
            } else {
                TrainerExit::Done
            };

            ExitCode::from(exit.exit_code())
        }
    }
}
