//! Layout of the artifact prefix. Names only: no I/O.
//!
//! ```text
//! <prefix>/report.html                            HTML report
//! <prefix>/results.json                           results of an evaluation
//! <prefix>/tasks/<task>/…                         predictions and metrics of a task
//! <prefix>/<stage>/metrics.jsonl                  one JSON object per report
//! <prefix>/<stage>/fence/<term>.json              write claims; the highest term is valid
//! <prefix>/<stage>/checkpoints/<step>-<term>/…    weights, moments, state; manifest.json is written last
//! <prefix>/<stage>/final.json                     reference to the resulting checkpoint
//! ```

/// Folder of write claims (fencing tokens) under a stage's prefix; the highest term is valid.
pub const FENCE_FOLDER: &str = "fence";
/// HTML report.
pub const REPORT_FILE: &str = "report.html";
/// Results of an evaluation.
pub const RESULTS_FILE: &str = "results.json";
/// Training metrics: one JSON object per report.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// Folder of a stage's checkpoints.
pub const CHECKPOINTS_FOLDER: &str = "checkpoints";
/// Reference to the resulting checkpoint of a stage.
pub const FINAL_FILE: &str = "final.json";
/// Digests of a checkpoint's files. Written last: a checkpoint with a manifest is complete.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Joins two parts of a URI with exactly one slash.
///
/// # Examples
/// ```
/// use cnclip_crds::artifacts::join_uri;
///
/// assert_eq!(join_uri("s3://runs/muge/", "align"), "s3://runs/muge/align");
/// ```
pub fn join_uri(prefix: &str, rest: &str) -> String {
    // Users write prefixes with and without a slash at the end. Object stores do not normalize
    // keys: a double slash would be another key.
    format!(
        "{}/{}",
        prefix.trim_end_matches('/'),
        rest.trim_start_matches('/')
    )
}

/// The folder of a task's files, relative to the artifact prefix of an evaluation.
pub fn task_folder(name: &str) -> String {
    join_uri("tasks", name)
}

/// The artifact prefix of a stage.
///
/// # Examples
/// ```
/// use cnclip_crds::artifacts::stage_prefix;
///
/// assert_eq!(stage_prefix("s3://runs/muge", "tune"), "s3://runs/muge/tune");
/// ```
pub fn stage_prefix(prefix: &str, stage: &str) -> String {
    join_uri(prefix, stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_joined_by_one_slash() {
        for (prefix, rest) in [("s3://a/b", "c"), ("s3://a/b/", "c"), ("s3://a/b/", "/c")] {
            assert_eq!(join_uri(prefix, rest), "s3://a/b/c");
        }
    }
}
