//! The command that tells what cards there are, and whether they compute.

use std::io::Write;

use clap::Args;
use cnclip::error::{Error, Result};
use cnclip::exchange::output;
use cnclip_compute::cuda::{self, Found};
use cnclip_compute::device;

/// Asks the driver, looks for the libraries, and has each card run a kernel and a product.
#[derive(Args, Debug)]
pub(super) struct Device {
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

impl Device {
    pub(super) fn run(&self) -> Result<()> {
        // Whoever asks wants to know what to change.
        let config = |fault: device::Fault| Error::Config(fault.to_string());
        let found = cuda::find().map_err(config)?;
        self.tell(&found)
            .map_err(Error::file("write", "standard output"))?;

        for index in 0..found.cards.len() {
            device::prove(&cuda::open(index).map_err(config)?)?;
        }

        match found.cards.is_empty() {
            true => Err(Error::Config("this process sees no NVIDIA card".into())),
            false => Ok(()),
        }
    }

    fn tell(&self, found: &Found) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            return output::line(&mut out, &serde_json::json!(found));
        }

        writeln!(out, "driver: CUDA {}", found.driver)?;
        for library in &found.libraries {
            let word = if library.found { "found" } else { "not found" };
            writeln!(out, "{}: {word} ({})", library.name, library.does)?;
        }

        for (index, card) in found.cards.iter().enumerate() {
            let gibibytes = card.memory as f64 / (1_u64 << 30) as f64;
            let name = &card.name;
            let capability = &card.capability;
            writeln!(
                out,
                "card {index}: {name}, {gibibytes:.1} GiB, capability {capability}"
            )?;
        }

        Ok(())
    }
}
