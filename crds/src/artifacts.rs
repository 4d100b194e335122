//! Where things lie under an artifact prefix. Names only: nothing here reads or writes.
//!
//! ```text
//! <prefix>/report.html                            the page people look at
//! <prefix>/results.json                           what an evaluation measured
//! <prefix>/tasks/<task>/…                         what was found, for people and other programs
//! <prefix>/<stage>/metrics.jsonl                  one line a report
//! <prefix>/<stage>/fence/<term>.json              claims to write; the last one holds
//! <prefix>/<stage>/checkpoints/<step>-<term>/…    weights, moments, state; manifest.json last
//! <prefix>/<stage>/final.json                     which checkpoint the stage ended with
//! ```

/// The folder of claims to write under a stage's prefix; the last one holds.
pub const FENCE_FOLDER: &str = "fence";
/// The page people look at.
pub const REPORT_FILE: &str = "report.html";
/// What an evaluation measured.
pub const RESULTS_FILE: &str = "results.json";
/// One line a report, for curves.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// The folder of a stage's checkpoints.
pub const CHECKPOINTS_FOLDER: &str = "checkpoints";
/// Which checkpoint a stage ended with.
pub const FINAL_FILE: &str = "final.json";
/// Digests of a checkpoint's files; written last, so that what has one is whole.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Joins two parts of a URI with exactly one slash between them.
pub fn join_uri(prefix: &str, rest: &str) -> String {
    format!(
        "{}/{}",
        prefix.trim_end_matches('/'),
        rest.trim_start_matches('/')
    )
}

/// The folder of a task's files under the prefix of an evaluation.
pub fn task_folder(name: &str) -> String {
    join_uri("tasks", name)
}

/// The prefix of one stage.
pub fn stage_prefix(prefix: &str, stage: &str) -> String {
    join_uri(prefix, stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slash_joins_whatever_the_user_wrote() {
        for (prefix, rest) in [("s3://a/b", "c"), ("s3://a/b/", "c"), ("s3://a/b/", "/c")] {
            assert_eq!(join_uri(prefix, rest), "s3://a/b/c");
        }
    }
}
