//! The command that compares a device's training step with candle's.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use cnclip::error::{Error, Result};
use cnclip::interop::atomic_file;
use cnclip::model_resolver::{self, ResolvedWeights};
use cnclip::verify::{self, VerifyOptions, VerifyPhase, VerifyReport};
use cnclip_compute::cuda;
use cnclip_compute::device::DeviceError;
use cnclip_compute::tensor::Memory;
use cnclip_crds::model::{Architecture, ModelConfig};
use cnclip_crds::stage::Precision;
use cnclip_data::json::parse_json;

use super::progress_bar::progress_bar;

const AFTER_HELP: &str = "\
Each error is the largest difference of a tensor, in units of its largest expected value. The first \
tensor that deviates and the operations that are likely wrong are named in the summary.

Exit codes: 0 all tensors are within tolerance; 75 the GPU computes something else than the CPU (try \
another machine, and report the table if the driver and the hardware are sound); 70 the CPU does, a \
fault of cnclip; 78 the model or the device cannot be used, or there is too little memory.

Examples:
  cnclip verify --preset ViT-B-16
  cnclip verify --preset ViT-L-14 --device cuda --bf16 --batch 8
  cnclip verify --model s3://bucket/run/train --json";

/// Compute one training step on synthetic images and texts with the trainer's own kernels, and again
/// with candle's autograd on the CPU in fp32. Compares the output of every block, features, loss,
/// every gradient, and one step of AdamW: a check of new hardware, drivers and builds.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct VerifyArgs {
    /// Weights to compute with: a checkpoint, the prefix of a stage, a folder of a model, or a file.
    #[arg(long, value_name = "URI", required_unless_present_any = ["preset", "towers"])]
    model: Option<String>,
    /// A published model with random weights, without a download: RN50, ViT-B-16, ViT-L-14 …
    #[arg(long, value_name = "NAME", conflicts_with_all = ["model", "towers"])]
    preset: Option<String>,
    /// Towers with random weights: a JSON file as in `spec.model.custom`.
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    towers: Option<PathBuf>,
    /// Where the trainer's kernels run; otherwise on the first GPU, or on the CPU if there is none.
    #[arg(long)]
    device: Option<DeviceKind>,
    /// Multiply in bfloat16 on the device, with the tolerances of that.
    #[arg(long)]
    bf16: bool,
    /// Pairs of an image and a text.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=4096))]
    batch: u32,
    /// Random weights, images and texts follow from it.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DeviceKind {
    /// In this machine's memory.
    Cpu,
    /// On this machine's first NVIDIA GPU.
    Cuda,
}

impl VerifyArgs {
    pub(super) fn run(&self) -> Result<()> {
        let (config, weights) = self.find_model()?;
        let options = VerifyOptions {
            batch: self.batch as usize,
            seed: self.seed,
            precision: match self.bf16 {
                true => Precision::Bf16,
                false => Precision::Fp32,
            },
        };

        let memory = self.open_memory(options.precision)?;
        let bar = progress_bar("steps");
        bar.set_length(VerifyPhase::COUNT as u64);
        let mut finished = 0;
        let progress = |phase: VerifyPhase| {
            bar.set_position(finished);
            bar.set_message(phase.description());
            // A job has a log and no terminal for a bar.
            if bar.is_hidden() {
                tracing::info!(phase = phase.description(), "Verifying");
            }

            finished += 1;
        };

        let report = verify::verify_model(&config, weights.as_ref(), &memory, options, progress)?;
        bar.finish_and_clear();
        self.print_report(&report)
            .map_err(Error::io_context("write", "standard output"))?;

        // On the CPU the program is at fault; on a GPU, hardware or driver may be.
        match (report.passed, &memory) {
            (true, _) => Ok(()),
            (false, Memory::Host) => Err(Error::Bug(report.summary())),
            (false, Memory::Device(..)) => {
                let found = report.summary();
                Err(DeviceError::failed("verification failed", found).into())
            }
        }
    }

    /// The towers, and weights if a model is named.
    fn find_model(&self) -> Result<(ModelConfig, Option<ResolvedWeights>)> {
        if let Some(uri) = &self.model {
            let weights = model_resolver::resolve_weights(uri)?;
            return Ok((weights.model_config()?, Some(weights)));
        }

        let config = match (&self.towers, &self.preset) {
            (Some(file), _) => read_towers(file)?,
            (None, preset) => published_towers(preset.as_deref().unwrap_or_default())?,
        };

        Ok((config, None))
    }

    fn open_memory(&self, precision: Precision) -> Result<Memory> {
        let kind = self.device.unwrap_or_else(|| {
            // A missing driver is an error only if a GPU was requested.
            let gpus = cuda::probe_cuda().map_or(0, |found| found.cards.len());
            if gpus > 0 {
                DeviceKind::Cuda
            } else {
                DeviceKind::Cpu
            }
        });

        if kind == DeviceKind::Cpu {
            return Ok(Memory::Host);
        }

        let device = cuda::open_device(0).map_err(|fault| {
            Error::Config(format!("{fault}. Give --device cpu to verify the CPU."))
        })?;

        Ok(Memory::Device(device, precision))
    }

    fn print_report(&self, report: &VerifyReport) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            return atomic_file::write_json_line(&mut out, report);
        }

        write!(out, "{}", report.table())?;
        // The summary of a failure is the error that ends the process.
        match report.passed {
            true => writeln!(out, "{}", report.summary()),
            false => Ok(()),
        }
    }
}

fn read_towers(file: &Path) -> Result<ModelConfig> {
    let bytes = std::fs::read(file).map_err(Error::io_context("read", file))?;
    parse_json(&bytes).map_err(|error| {
        let file = file.display();
        Error::Config(format!(
            "{file} does not describe towers: {error}. Expected a JSON object as in spec.model.custom."
        ))
    })
}

fn published_towers(name: &str) -> Result<ModelConfig> {
    let architecture = serde_json::from_value::<Architecture>(name.into()).ok();
    let towers = architecture.and_then(Architecture::published_model);
    towers.ok_or_else(|| {
        let names = Architecture::PUBLISHED.map(|known| serde_json::json!(known).to_string());
        let names = names.join(", ").replace('"', "");
        Error::Usage(format!(
            "there is no published model {name:?}; --preset takes one of {names}"
        ))
    })
}
