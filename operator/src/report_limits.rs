//! Limits of a progress report, which is written by an image of the user's choice and ends up in the status.
//! Pure.

use cnclip_crds::{
    report::{MAX_CHECKPOINTS, ProgressReport},
    tasks::{TaskResult, TemplatesReport},
};

use crate::text_limits::truncate_to_bytes;

/// Maximum size of an answer: 64 results with URIs of the maximum length have half of it.
pub const MAX_REPORT_BYTES: usize = 256 * 1024;
/// Maximum number of results: that of the tasks of an evaluation.
const MAX_RESULTS: usize = 64;
/// Maximum length of a URI: 1024 for the one in the manifest, and as much for what is appended.
const MAX_URI_BYTES: usize = 2048;
/// Maximum length of a name, version or digest.
const MAX_NAME_BYTES: usize = 256;
/// Length to which messages are cut.
const MAX_MESSAGE_BYTES: usize = 2048;

/// The report with its messages cut to the limits.
///
/// # Errors
/// If it has more entries, longer names or longer URIs than a report may have: the message says which.
pub fn bound_report(mut report: ProgressReport) -> Result<ProgressReport, String> {
    check_count("checkpoints", report.checkpoints.len(), MAX_CHECKPOINTS)?;
    check_count("results", report.results.len(), MAX_RESULTS)?;
    for checkpoint in &report.checkpoints {
        check_length("checkpoints.uri", &checkpoint.uri, MAX_URI_BYTES)?;
        check_length("checkpoints.digest", &checkpoint.digest, MAX_NAME_BYTES)?;
    }

    if let Some(evaluation) = &report.evaluation {
        let checkpoint = evaluation.checkpoint.as_deref().unwrap_or_default();
        check_length("evaluation.checkpoint", checkpoint, MAX_URI_BYTES)?;
        let digest = evaluation.digest.as_deref().unwrap_or_default();
        check_length("evaluation.digest", digest, MAX_NAME_BYTES)?;
        check_length("evaluation.version", &evaluation.version, MAX_NAME_BYTES)?;
    }

    report.results.iter().try_for_each(check_result)?;
    // Errors of object stores have the whole answer of the store.
    let failure = report
        .failure
        .iter_mut()
        .map(|failure| &mut failure.message);
    let messages = report.checkpoint_error.iter_mut().chain(failure);
    messages.for_each(cut_message);
    Ok(report)
}

fn check_result(result: &TaskResult) -> Result<(), String> {
    check_length("results.name", &result.name, MAX_NAME_BYTES)?;
    check_length("results.dataset", &result.dataset, MAX_URI_BYTES)?;
    check_length("results.digest", &result.digest, MAX_NAME_BYTES)?;
    let Some(TemplatesReport { from, digest, .. }) = result.measured.templates() else {
        return Ok(());
    };

    check_length("results.templates.from", from, MAX_URI_BYTES)?;
    check_length("results.templates.digest", digest, MAX_NAME_BYTES)
}

fn check_count(field: &str, count: usize, limit: usize) -> Result<(), String> {
    if count <= limit {
        return Ok(());
    }

    Err(format!(
        "{field} has {count} entries, at most {limit} are read"
    ))
}

fn check_length(field: &str, text: &str, limit: usize) -> Result<(), String> {
    if text.len() <= limit {
        return Ok(());
    }

    let bytes = text.len();
    Err(format!(
        "{field} has {bytes} bytes, at most {limit} are read"
    ))
}

fn cut_message(message: &mut String) {
    let length = truncate_to_bytes(message, MAX_MESSAGE_BYTES).len();
    message.truncate(length);
}

#[cfg(test)]
mod tests {
    use cnclip_crds::{
        report::{CheckpointReport, EvaluationReport},
        tasks::{RetrievalRecalls, RetrievalScores, SimilarityThreshold, TaskScores},
    };

    use super::*;

    fn result(name: &str, dataset: String) -> TaskResult {
        TaskResult {
            name: name.to_owned(),
            dataset,
            digest: "d".repeat(64),
            images: 5000,
            seconds: 12.345,
            measured: TaskScores::Retrieval(RetrievalScores {
                texts: 25_000,
                recalls: Some(RetrievalRecalls::default()),
                threshold: Some(SimilarityThreshold::default()),
            }),
        }
    }

    fn checkpoint(uri: String) -> CheckpointReport {
        CheckpointReport {
            step: 1,
            uri,
            digest: "d".repeat(64),
            written_at: 0,
        }
    }

    #[test]
    fn the_largest_report_of_our_trainer_is_read() {
        let report = ProgressReport {
            checkpoints: vec![checkpoint("u".repeat(1100)); 8],
            results: (0..64)
                .map(|task| result(&format!("{task}{}", "n".repeat(60)), "u".repeat(1024)))
                .collect(),
            ..ProgressReport::default()
        };

        assert!(serde_json::to_vec(&report).unwrap().len() < MAX_REPORT_BYTES / 2);
        assert_eq!(bound_report(report.clone()), Ok(report));
    }

    #[test]
    fn entries_names_and_uris_beyond_the_limits_are_named() {
        let base = ProgressReport::default;
        let rows = [
            (
                ProgressReport {
                    checkpoints: vec![checkpoint(String::new()); 9],
                    ..base()
                },
                "checkpoints has 9 entries, at most 8 are read",
            ),
            (
                ProgressReport {
                    checkpoints: vec![checkpoint("u".repeat(2049))],
                    ..base()
                },
                "checkpoints.uri has 2049 bytes, at most 2048 are read",
            ),
            (
                ProgressReport {
                    results: vec![result("valid", String::new()); 65],
                    ..base()
                },
                "results has 65 entries, at most 64 are read",
            ),
            (
                ProgressReport {
                    results: vec![result(&"n".repeat(257), String::new())],
                    ..base()
                },
                "results.name has 257 bytes, at most 256 are read",
            ),
            (
                ProgressReport {
                    evaluation: Some(EvaluationReport {
                        version: "v".repeat(300),
                        ..EvaluationReport::default()
                    }),
                    ..base()
                },
                "evaluation.version has 300 bytes, at most 256 are read",
            ),
        ];

        for (report, expected) in rows {
            assert_eq!(bound_report(report).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_long_message_is_cut_and_the_report_is_read() {
        let report = ProgressReport {
            step: 7,
            checkpoint_error: Some("中".repeat(5000)),
            ..ProgressReport::default()
        };

        let bounded = bound_report(report).unwrap();
        assert_eq!(bounded.step, 7);
        assert_eq!(bounded.checkpoint_error.unwrap().len(), 2046);
    }
}
