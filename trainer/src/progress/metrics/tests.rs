use cnclip_crds::{
    report::{EvaluationReport, ValidationReport},
    tasks::{RetrievalScores, TaskResult, TaskScores},
    trainer_config::RunIdentity,
};

use super::*;

fn report(stage: &str) -> ProgressReport {
    let name = "muge \"b16\"\n".into();
    let run = RunIdentity {
        name,
        stage: stage.into(),
        ..RunIdentity::default()
    };

    ProgressReport {
        run,
        step: 7,
        steps: 9,
        samples_seen: 1792,
        ..ProgressReport::default()
    }
}

#[test]
fn a_training_exports_its_numbers_with_run_and_stage() {
    let recall = RecallAtK {
        r1: 58.4,
        r5: 83.6,
        r10: 90.0,
        mean_recall: 77.4,
    };

    let recalls = RetrievalRecalls {
        text_to_image: recall,
        image_to_text: RecallAtK::default(),
    };

    let validation = Some(ValidationReport { step: 5, recalls });
    let report = ProgressReport {
        loss: Some(0.412),
        validation,
        ..report("align")
    };

    let text = encode_metrics(&report).unwrap();
    for line in [
        "# TYPE cnclip_train_samples_total counter",
        r#"cnclip_train_samples_total{run="muge \"b16\"\n",stage="align"} 1792"#,
        r#"cnclip_train_loss{run="muge \"b16\"\n",stage="align"} 0.412"#,
        r#"cnclip_validation_recall_ratio{direction="text_to_image",k="10",run="muge \"b16\"\n",stage="align"} 0.9"#,
        r#"cnclip_validation_mean_recall_ratio{direction="image_to_text",run="muge \"b16\"\n",stage="align"} 0"#,
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }

    assert!(text.contains("process_resident_memory_bytes"), "{text}");
}

#[test]
fn what_is_not_known_is_not_exported_as_zero() {
    let text = encode_metrics(&report("align")).unwrap();
    for name in [
        "loss",
        "checkpoint_step",
        "validation",
        "evaluation",
        "remaining",
    ] {
        assert!(!text.contains(name), "{name} is in\n{text}");
    }
}

#[test]
fn an_evaluation_exports_its_scores_whatever_its_stage_is_called() {
    let recall = RecallAtK {
        r1: 58.4,
        r5: 83.6,
        r10: 90.0,
        mean_recall: 77.4,
    };

    let recalls = Some(RetrievalRecalls {
        text_to_image: recall,
        image_to_text: recall,
    });

    let result = TaskResult {
        name: "muge".into(),
        dataset: "s3://data/muge/valid/".into(),
        digest: String::new(),
        images: 5,
        seconds: 1.0,
        measured: TaskScores::Retrieval(RetrievalScores {
            texts: 5,
            recalls,
            threshold: None,
        }),
    };

    let evaluation = Some(EvaluationReport::default());
    let results = vec![result];
    let text = encode_metrics(&ProgressReport {
        evaluation,
        results,
        ..report("align-3800")
    })
    .unwrap();

    let line = r#"cnclip_evaluation_score{metric="textToImage.meanRecall",run="muge \"b16\"\n",stage="align-3800",task="muge"} 77.4"#;
    assert!(
        text.lines().any(|found| found == line),
        "{line} is not in\n{text}"
    );

    assert_eq!(
        text.matches("cnclip_evaluation_score{").count(),
        8,
        "{text}"
    );

    assert!(!text.contains("cnclip_train"), "{text}");
}

#[test]
fn an_evaluation_counts_tasks_and_not_steps() {
    let text = encode_metrics(&report(names::STAGE_EVALUATE)).unwrap();
    assert!(text.contains("cnclip_evaluation_tasks_done"), "{text}");
    assert!(!text.contains("cnclip_train"), "{text}");
}
