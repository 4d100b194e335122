//! `cnclip bench`: benchmarks training steps on synthetic data, for developers.

use std::path::PathBuf;

use clap::Args;
use cnclip::bench::{self, BenchConfig};
use cnclip::error::{Error, Result};
use cnclip::interop::atomic_file;
use cnclip_compute::cuda;
use cnclip_compute::tensor::Memory;
use cnclip_crds::model::{Architecture, ModelConfig};
use cnclip_crds::stage::Precision;
use cnclip_data::json::parse_json;
use serde_json::json;

/// Prints a line of JSON for each stage of pretraining: with the image tower frozen, and with both trained.
#[derive(Args, Debug)]
pub(super) struct BenchArgs {
    /// A published model, such as ViT-L-14.
    #[arg(long, required_unless_present = "model")]
    preset: Option<String>,
    /// File with the towers, as in `spec.model.custom`.
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    model: Option<PathBuf>,
    /// Global batch size.
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Micro-batch size; the global batch size by default.
    #[arg(long)]
    micro_batch: Option<usize>,
    /// Use gradient checkpointing.
    #[arg(long)]
    recompute: bool,
    /// Use bfloat16 matrix multiplications.
    #[arg(long)]
    bf16: bool,
    /// Run on the first NVIDIA GPU.
    #[arg(long)]
    card: bool,
    /// Context length that memory is allocated for, in tokens.
    #[arg(long, default_value_t = 52)]
    context: usize,
    /// Tokens of the shortest and of the longest text.
    #[arg(long, num_args = 2, default_values_t = [8, 36])]
    tokens: Vec<usize>,
    /// Number of measured steps.
    #[arg(long, default_value_t = 8)]
    steps: u64,
    /// Run stage 1 or 2 only.
    #[arg(long)]
    stage: Option<u32>,
}

impl BenchArgs {
    pub(super) fn run(&self) -> Result<()> {
        let plan = self.bench_plan()?;
        let memory = self.open_memory(plan.precision)?;
        let free = || {
            memory
                .device()
                .map_or(Ok(0), |device| Ok(device.memory_info()?.0))
        };

        let before: u64 = free().map_err(Error::Device)?;

        let mut bench = bench::TrainingBench::new(&plan, &memory);
        memory.synchronize()?;
        let reserved = before - free().map_err(Error::Device)?;

        for stage in 1..=2 {
            if self.stage.is_some_and(|only| only != stage) {
                continue;
            }

            bench.freeze_image(stage == 1);
            let times = bench.time_steps(self.steps)?;
            let mut line = json!(times);
            let facts = json!({
                "preset": self.preset,
                "stage": stage,
                "batch": plan.batch,
                "microBatch": plan.micro_batch,
                "recompute": plan.recompute,
                "precision": plan.precision,
                "deviceBytes": reserved,
                "parameters": bench.param_count(),
                "flopsPerPair": bench::count_flops(&plan).per_training_step(stage == 1),
            });

            if let (Some(line), Some(facts)) = (line.as_object_mut(), facts.as_object()) {
                line.extend(facts.clone());
            }

            atomic_file::write_json_line(&mut std::io::stdout().lock(), &line)
                .map_err(Error::io_context("write", "standard output"))?;
        }

        Ok(())
    }

    fn bench_plan(&self) -> Result<BenchConfig> {
        let precision = if self.bf16 {
            Precision::Bf16
        } else {
            Precision::Fp32
        };

        Ok(BenchConfig {
            model: self.model_config()?,
            batch: self.batch,
            micro_batch: self.micro_batch.unwrap_or(self.batch),
            context: self.context,
            tokens: (self.tokens[0], self.tokens[1]),
            precision,
            recompute: self.recompute,
            masked_percent: 0,
        })
    }

    fn model_config(&self) -> Result<ModelConfig> {
        if let Some(file) = &self.model {
            let bytes = std::fs::read(file).map_err(Error::io_context("read", file))?;
            return parse_json(&bytes)
                .map_err(|error| Error::Config(format!("{}: {error}", file.display())));
        }

        let preset = json!(self.preset);
        let towers = serde_json::from_value(preset.clone())
            .ok()
            .and_then(Architecture::published_model);

        towers.ok_or_else(|| Error::Usage(format!("there is no published model {preset}")))
    }

    fn open_memory(&self, precision: Precision) -> Result<Memory> {
        if !self.card {
            return Ok(Memory::Host);
        }

        let device = cuda::open_device(0).map_err(|fault| Error::Config(fault.to_string()))?;
        Ok(Memory::Device(device, precision))
    }
}
