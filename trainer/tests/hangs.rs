//! A rank whose main thread stands still is noticed, and ends the run; one that waits is not.
#![cfg(test)]

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cnclip_crds::names::{ENV_RENDEZVOUS_SECRET, ENV_TERMINATION_LOG, ENV_WORKER_INDEX};
use cnclip_crds::report::ProgressReport;
use cnclip_crds::trainer_config::{TrainConfig, TrainingLength};

#[path = "support/runs.rs"]
#[allow(dead_code, reason = "shared with the tests of resuming")]
mod runs;
#[path = "support/small.rs"]
#[allow(dead_code, reason = "shared with the tests of resuming")]
mod small;
#[path = "support/workers.rs"]
#[allow(dead_code, reason = "shared with the tests of workers")]
mod workers;
use workers::{free_coordinator_address, wait_until};

/// A run without end.
fn config(folder: &Path, name: &str, replicas: i32) -> TrainConfig {
    let mut config = small::train_config(folder, name);
    config.global_batch_size = 6;
    config.length = TrainingLength::Steps(10_000_000);
    config.validation = None;
    config.checkpoint.every_steps = 50;
    config.world.replicas = replicas;
    if replicas > 1 {
        config.synchronize_batch_norm = true;
        config.world.coordinator = Some(free_coordinator_address());
    }

    config
}

/// A worker, whose steps count as stuck after three seconds.
struct Worker(Child);

impl Worker {
    fn start(folder: &Path, config: &TrainConfig, worker: usize) -> Self {
        let file = folder.join("config.json");
        std::fs::write(&file, serde_json::to_vec(config).unwrap()).unwrap();
        let log = File::create(log_path(folder, worker)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_cnclip"))
            .args(["train", "--config"])
            .arg(&file)
            .env(ENV_WORKER_INDEX, worker.to_string())
            .env(ENV_RENDEZVOUS_SECRET, workers::SHARED_SECRET)
            .env(ENV_TERMINATION_LOG, folder.join(format!("end-{worker}")))
            .env("CNCLIP_STUCK_STEP_SECONDS", "3")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();

        Self(child)
    }

    /// Stops the main thread alone, as a device that never finishes would: the others run on.
    fn stop_main_thread(&self) {
        let thread = self.0.id() as libc::pid_t;
        // SAFETY: traces a child of this process, whose memory is not touched.
        let traced = unsafe {
            libc::ptrace(libc::PTRACE_SEIZE, thread, 0, 0) == 0
                && libc::ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0) == 0
        };

        assert!(traced, "{}", std::io::Error::last_os_error());
    }

    /// Not `Child::wait`, which takes the stop of a traced thread for the end.
    fn exit_code(&self) -> Option<i32> {
        let mut status = 0;
        loop {
            // SAFETY: waits for a child of this process, and writes a number that is there.
            let ended = unsafe { libc::waitpid(self.0.id() as libc::pid_t, &mut status, 0) };
            assert!(ended > 0, "{}", std::io::Error::last_os_error());
            if libc::WIFEXITED(status) {
                return Some(libc::WEXITSTATUS(status));
            }

            if libc::WIFSIGNALED(status) {
                return None;
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn log_path(folder: &Path, worker: usize) -> std::path::PathBuf {
    folder.join(format!("log-{worker}"))
}

fn message(folder: &Path, worker: usize) -> String {
    let text = std::fs::read_to_string(folder.join(format!("end-{worker}"))).unwrap();
    let report: ProgressReport = serde_json::from_str(&text).unwrap();
    report.failure.unwrap().message
}

fn has_checkpoint(folder: &Path, name: &str) -> bool {
    let checkpoints = folder.join(name).join("train/checkpoints");
    checkpoints.exists() && !small::checkpoints(folder, name).is_empty()
}

#[test]
fn a_main_thread_that_stands_still_ends_the_process_with_the_stacks_of_all_threads() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let worker = Worker::start(folder, &config(folder, "alone", 1), 0);
    wait_until(|| has_checkpoint(folder, "alone"));
    worker.stop_main_thread();

    let stopped = Instant::now();
    assert_eq!(worker.exit_code(), Some(71));
    assert!(
        stopped.elapsed() < Duration::from_secs(20),
        "{:?}",
        stopped.elapsed()
    );
    let message = message(folder, 0);
    assert!(
        message.starts_with("rank 0 made no progress for "),
        "{message}"
    );

    let log = std::fs::read_to_string(log_path(folder, 0)).unwrap();
    assert!(log.contains("(tracing stop)"), "the main thread: {log}");
    let (_, loader) = log.split_once(" load: ").unwrap();
    let loader = loader.split("thread ").next().unwrap();
    assert!(loader.contains("Condvar"), "a loader that waits: {loader}");
}

#[test]
fn a_report_that_hangs_does_not_keep_a_process_that_makes_no_progress() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    // Who opens a FIFO to write waits for a reader, and there is none.
    let made = Command::new("mkfifo").arg(folder.join("end-0")).status();
    assert!(made.unwrap().success());

    let worker = Worker::start(folder, &config(folder, "mute", 1), 0);
    wait_until(|| has_checkpoint(folder, "mute"));
    worker.stop_main_thread();
    assert_eq!(worker.exit_code(), Some(71));
}

#[test]
fn of_two_workers_the_one_that_stands_still_is_named_by_both() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let config = config(folder, "two", 2);
    let workers = [0, 1].map(|worker| Worker::start(folder, &config, worker));
    wait_until(|| has_checkpoint(folder, "two"));
    workers[1].stop_main_thread();

    assert_eq!(workers[1].exit_code(), Some(71));
    assert_eq!(workers[0].exit_code(), Some(75));
    assert!(message(folder, 1).starts_with("rank 1 made no progress for "));
    let message = message(folder, 0);
    assert!(
        message.starts_with("worker 1 (rank 1) failed in step "),
        "{message}"
    );
    assert!(message.contains("made no progress"), "{message}");
}
