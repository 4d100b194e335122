//! `cnclip device`: lists NVIDIA GPUs and tests them.

use std::io::Write;

use clap::Args;
use cnclip::error::{Error, Result};
use cnclip::interop::atomic_file;
use cnclip_compute::cuda::{self, CudaInventory};
use cnclip_compute::device;

/// Queries the driver, locates the CUDA libraries, and runs a kernel and a matrix multiplication on each GPU.
#[derive(Args, Debug)]
pub(super) struct DeviceArgs {
    /// Print a JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

impl DeviceArgs {
    pub(super) fn run(&self) -> Result<()> {
        // A missing driver or library is a matter of configuration here, not an internal error.
        let config = |fault: device::DeviceError| Error::Config(fault.to_string());
        let found = cuda::probe_cuda().map_err(config)?;
        self.print_devices(&found)
            .map_err(Error::io_context("write", "standard output"))?;

        // After printing, so that a GPU that fails its test is listed all the same.
        for index in 0..found.cards.len() {
            device::run_self_test(&cuda::open_device(index).map_err(config)?)?;
        }

        match found.cards.is_empty() {
            true => Err(Error::Config("this process sees no NVIDIA card".into())),
            false => Ok(()),
        }
    }

    fn print_devices(&self, found: &CudaInventory) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            return atomic_file::write_json_line(&mut out, &serde_json::json!(found));
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
