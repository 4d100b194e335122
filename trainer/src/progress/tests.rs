use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;

fn identity() -> RunIdentity {
    RunIdentity {
        name: "muge".into(),
        uid: "u-1".into(),
        stage: "align".into(),
        attempt: 2,
    }
}

fn started(outlets: ReportOutputs) -> Reporter {
    Reporter::start(identity(), outlets).unwrap()
}

fn listening() -> ReportOutputs {
    ReportOutputs {
        listen: Some("127.0.0.1:0".into()),
        ..ReportOutputs::default()
    }
}

/// The status line, the headers, and the body of an answer.
fn ask(reporter: &Reporter, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(reporter.listen_address().unwrap()).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: trainer\r\nConnection: close\r\n\r\n"
    )
    .unwrap();

    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

#[test]
fn progress_is_the_whole_report_as_it_is_now() {
    let reporter = started(listening());
    for step in [1, 2] {
        reporter.update_report(|report| {
            report.step = step;
            report.loss = Some(5.5);
        });

        let (head, body) = ask(&reporter, names::PATH_PROGRESS);
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("application/json"), "{head}");
        let found: ProgressReport = serde_json::from_str(&body).unwrap();
        assert_eq!(found, reporter.current_report());
        assert_eq!((found.step, found.run), (step, identity()));
        assert!(found.reported_at > 1_700_000_000 && found.peak_rss_bytes > 0);
    }
}

#[test]
fn metrics_are_scraped_in_prometheus_format() {
    let reporter = started(listening());
    reporter.update_report(|report| report.samples_seen = 512);
    let (head, body) = ask(&reporter, names::PATH_METRICS);
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );

    let line = "cnclip_train_samples_total{run=\"muge\",stage=\"align\"} 512";
    assert!(body.lines().any(|found| found == line), "{body}");
    assert!(
        ask(&reporter, names::PATH_HEALTHZ)
            .0
            .starts_with("http/1.1 200")
    );

    assert!(ask(&reporter, "/other").0.starts_with("http/1.1 404"));
}

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let first = started(listening());
    let taken = first.listen_address().unwrap().to_string();
    let outlets = ReportOutputs {
        listen: Some(taken.clone()),
        ..ReportOutputs::default()
    };

    let error = Reporter::start(identity(), outlets).unwrap_err();
    for word in [taken.as_str(), "in use", "Set `listen`"] {
        assert!(error.to_string().contains(word), "{error}");
    }

    assert_eq!(error.exit_code().exit_code(), 78);
}

#[test]
fn a_client_that_says_nothing_delays_neither_a_step_nor_the_end() {
    let reporter = started(listening());
    let address = reporter.listen_address().unwrap();
    let _silent = TcpStream::connect(address).unwrap();
    let start = std::time::Instant::now();
    reporter.update_report(|report| report.step = 1);
    drop(reporter);
    assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
}

#[test]
fn the_last_report_is_in_the_file_when_the_reporter_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last");
    let reporter = started(ReportOutputs {
        termination_log: Some(file.clone()),
        ..ReportOutputs::default()
    });

    reporter.update_report(|report| report.step = 7);
    reporter.report_failure(&Error::Data("Shard x ends after 3 of 9 bytes.".into()));
    drop(reporter);
    let found: ProgressReport = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!((found.step, found.activity), (7, TrainerActivity::Failed));
    let failure = found.failure.unwrap();

    assert_eq!(failure.exit_code, 65);
    assert_eq!(failure.message, "Shard x ends after 3 of 9 bytes.");
}

#[test]
fn a_termination_message_that_cannot_be_written_ends_no_run() {
    let nowhere = PathBuf::from("/proc/none/last");
    let reporter = started(ReportOutputs {
        termination_log: Some(nowhere),
        ..ReportOutputs::default()
    });

    (1..=3).for_each(|step| reporter.update_report(|report| report.step = step));
    assert_eq!(reporter.current_report().step, 3);
}
