//! What a verification found, for people and for programs.

use cnclip_compute::tensor::Memory;
use cnclip_crds::stage::Precision;
use serde::Serialize;

use super::VerifyOptions;
use super::diagnosis::{self, Deviation};
use crate::text_table::format_table;

/// What was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Quantity {
    /// The output of a block.
    Activation,
    /// Unit features.
    Feature,
    /// The contrastive loss.
    Loss,
    /// The gradient of a parameter.
    Gradient,
    /// A running mean or variance of batch normalization.
    RunningStatistic,
    /// What one step of AdamW adds to a parameter.
    Update,
}

impl Quantity {
    /// As in a table.
    pub fn label(self) -> &'static str {
        match self {
            Self::Activation => "activation",
            Self::Feature => "feature",
            Self::Loss => "loss",
            Self::Gradient => "gradient",
            Self::RunningStatistic => "running statistic",
            Self::Update => "AdamW update",
        }
    }

    /// The largest relative error of two correct implementations.
    ///
    /// In fp32 the bounds are what rounding in another order adds up to in the deepest published model; in
    /// bf16, which keeps 8 bits, what it adds up to against an oracle in fp32. The optimizer and the running
    /// statistics are computed in fp32 either way.
    pub fn tolerance(self, precision: Precision) -> f64 {
        let (fp32, bf16) = match self {
            Self::Activation => (1e-4, 0.05),
            Self::Feature => (1e-4, 0.05),
            Self::Loss => (1e-5, 0.02),
            Self::Gradient => (1e-3, 0.25),
            Self::RunningStatistic => (1e-4, 0.05),
            Self::Update => (1e-3, 1e-3),
        };

        match precision {
            Precision::Fp32 => fp32,
            Precision::Bf16 => bf16,
        }
    }
}

/// One tensor, computed twice.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyRow {
    /// The parameter's name, or that of a block's output.
    pub tensor: String,
    /// What of it was compared.
    pub quantity: Quantity,
    /// The largest difference in units of the largest expected value; in JSON null if a value was not finite.
    pub relative_error: f64,
    /// The largest allowed.
    pub tolerance: f64,
    /// Its tolerance in units of that of its quantity.
    #[serde(skip)]
    tolerance_factor: f64,
}

impl VerifyRow {
    /// Without a tolerance yet.
    pub(super) fn new(tensor: &str, quantity: Quantity, relative_error: f64) -> Self {
        Self {
            tensor: tensor.to_owned(),
            quantity,
            relative_error,
            tolerance: 0.0,
            tolerance_factor: 1.0,
        }
    }

    /// The same, where two correct implementations differ by more.
    pub(super) fn with_tolerance_factor(self, factor: f64) -> Self {
        Self {
            tolerance_factor: factor,
            ..self
        }
    }

    /// Whether the error is within tolerance.
    pub fn passes(&self) -> bool {
        self.relative_error <= self.tolerance
    }

    fn tolerance_share(&self) -> f64 {
        self.relative_error / self.tolerance
    }
}

/// The outcome of a verification.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// Whether every error is within its tolerance.
    pub passed: bool,
    /// The device that was compared with the CPU.
    pub device: String,
    /// The towers, in a few words.
    pub model: String,
    /// The number format of products.
    pub precision: Precision,
    /// Pairs of an image and a text.
    pub batch: usize,
    /// What everything random followed from.
    pub seed: u64,
    /// Where the computation first went wrong, if it did.
    pub first_deviation: Option<Deviation>,
    /// Every tensor, the largest share of its tolerance first.
    pub rows: Vec<VerifyRow>,
}

impl VerifyReport {
    /// Takes rows in the order of the computation.
    pub(super) fn new(
        memory: &Memory,
        model: String,
        options: VerifyOptions,
        mut rows: Vec<VerifyRow>,
    ) -> Self {
        for row in &mut rows {
            row.tolerance = row.quantity.tolerance(options.precision) * row.tolerance_factor;
        }

        // Before sorting, because the diagnosis needs the order of the computation.
        let first_deviation = diagnosis::find_first_deviation(&rows);
        rows.sort_by(|a, b| b.tolerance_share().total_cmp(&a.tolerance_share()));
        let device = memory.device().map(|device| device.name());
        Self {
            passed: rows.iter().all(VerifyRow::passes),
            device: device.unwrap_or_else(|| "this machine's CPU".to_owned()),
            model,
            precision: options.precision,
            batch: options.batch,
            seed: options.seed,
            first_deviation,
            rows,
        }
    }

    /// How many tensors are outside of their tolerance.
    pub fn failure_count(&self) -> usize {
        self.rows.iter().filter(|row| !row.passes()).count()
    }

    /// One line: the outcome, and where to look if it is a failure.
    pub fn summary(&self) -> String {
        let precision = match self.precision {
            Precision::Fp32 => "fp32",
            Precision::Bf16 => "bf16",
        };

        let what = format!(
            "{} in {precision} against candle in fp32: {}",
            self.device, self.model
        );
        let compared = self.rows.len();
        match &self.first_deviation {
            None => format!("{what}; all {compared} tensors are within tolerance"),
            Some(deviation) => format!(
                "{what}; {} of {compared} tensors are out of tolerance. {deviation}",
                self.failure_count()
            ),
        }
    }

    /// All rows below a head.
    pub fn table(&self) -> String {
        let head = [
            "TENSOR",
            "QUANTITY",
            "RESULT",
            "RELATIVE ERROR",
            "TOLERANCE",
        ];
        let row = |row: &VerifyRow| {
            let result = if row.passes() { "ok" } else { "FAILED" };
            vec![
                row.tensor.clone(),
                row.quantity.label().to_owned(),
                result.to_owned(),
                format!("{:.2e}", row.relative_error),
                format!("{:.0e}", row.tolerance),
            ]
        };

        let rows: Vec<_> = self.rows.iter().map(row).collect();
        format_table(&head, 3, &rows)
    }
}
