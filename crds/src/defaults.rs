//! Default values of optional fields. Functions, because `serde` takes defaults by path.

/// Reporting interval, in steps.
pub fn report_every_steps() -> i64 {
    10
}

/// Maximum percentage of unusable samples that are skipped.
pub fn max_skipped_percent() -> i32 {
    1
}

/// [`max_skipped_percent`] in trainer configurations, which allow fractions.
pub fn max_skipped_percent_f64() -> f64 {
    max_skipped_percent().into()
}

/// Maximum number of steps with a non-finite loss or gradient that are skipped.
pub fn max_skipped_steps() -> i64 {
    10
}

/// Batch size of evaluations.
pub fn evaluation_batch_size() -> i32 {
    256
}

/// Maximum number of seconds that pods may be pending.
pub fn start_deadline_seconds() -> i64 {
    1800
}

/// Maximum text length in tokens: that of the published models.
pub fn context_length() -> i32 {
    52
}

/// Decoupled weight decay.
pub fn weight_decay() -> String {
    "0.001".to_owned()
}

/// Weight of the distillation loss.
pub fn distillation_weight() -> String {
    "0.5".to_owned()
}

/// Checkpoint interval, in steps.
pub fn checkpoint_every_steps() -> i64 {
    1000
}

/// Checkpoint interval, in seconds.
pub fn checkpoint_every_seconds() -> i64 {
    600
}

/// Number of most recent checkpoints to retain.
pub fn kept_checkpoints() -> i32 {
    3
}

/// Restarts after application errors.
pub fn application_retries() -> i32 {
    3
}

/// Restarts after infrastructure failures: many, because preemptions are no fault of the run.
pub fn infrastructure_retries() -> i32 {
    20
}

/// Number of workers, and of devices per worker.
pub fn one() -> i32 {
    1
}

/// First attempt.
pub fn first_attempt() -> i32 {
    1
}

/// SHA-256 digest of the vocabulary of all published models.
pub fn vocabulary_sha256() -> String {
    crate::names::VOCABULARY_SHA256.to_owned()
}

/// Tolerated regression of a gate, in percentage points.
pub fn gate_tolerance() -> String {
    "0".to_owned()
}

/// Dimension of an attention head of the image tower.
pub fn head_width() -> i32 {
    64
}

/// Vocabulary size of Chinese BERT.
pub fn vocab_size() -> i32 {
    21128
}

/// Number of position embeddings of BERT.
pub fn positions() -> i32 {
    512
}

/// Dropout rate of BERT, in percent.
pub fn dropout_percent() -> i32 {
    10
}
