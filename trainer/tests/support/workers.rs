//! Workers of one run as processes of their own, as pods would be.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cnclip_crds::names::{ENV_RENDEZVOUS_SECRET, ENV_TERMINATION_LOG, ENV_WORKER_INDEX};
use cnclip_crds::report::ProgressReport;
use cnclip_crds::trainer_config::{DistributedConfig, EvaluateConfig, TrainConfig};
use serde::Serialize;

/// Longer than anything takes here.
const WAIT_TIMEOUT: Duration = Duration::from_secs(120);

/// A secret that all workers of the tests know.
pub(crate) const SHARED_SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Processes; they are killed when this is dropped.
pub(crate) struct WorkerProcesses {
    folder: PathBuf,
    children: Vec<Child>,
}

/// Where workers meet: below the ports that the system gives away by itself.
pub(crate) fn free_coordinator_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ports = std::iter::repeat_with(|| {
        // Far from those of a neighbouring process.
        20_000 + (16 * std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000
    });

    let free = |port: &u32| TcpListener::bind(("0.0.0.0", *port as u16)).is_ok();
    format!("127.0.0.1:{}", ports.take(10_000).find(free).unwrap())
}

/// Starts as many workers as the configuration has, in a folder; `astray` in another one.
pub(crate) fn start_training(
    folder: &Path,
    config: &TrainConfig,
    astray: Option<usize>,
) -> WorkerProcesses {
    start_training_with(folder, config, astray, &[])
}

/// The same with variables in the environment.
pub(crate) fn start_training_with(
    folder: &Path,
    config: &TrainConfig,
    astray: Option<usize>,
    environment: &[(&str, String)],
) -> WorkerProcesses {
    start_workers(
        folder,
        "train",
        (&config.run.name, &config.world),
        config,
        astray,
        environment,
    )
}

/// The same for an evaluation.
pub(crate) fn start_evaluation(
    folder: &Path,
    config: &EvaluateConfig,
    astray: Option<usize>,
) -> WorkerProcesses {
    start_evaluation_with(folder, config, astray, &[])
}

/// The same with variables in the environment.
pub(crate) fn start_evaluation_with(
    folder: &Path,
    config: &EvaluateConfig,
    astray: Option<usize>,
    environment: &[(&str, String)],
) -> WorkerProcesses {
    start_workers(
        folder,
        "evaluate",
        (&config.run.name, &config.world),
        config,
        astray,
        environment,
    )
}

fn start_workers(
    folder: &Path,
    job: &str,
    (name, world): (&str, &DistributedConfig),
    config: &impl Serialize,
    astray: Option<usize>,
    environment: &[(&str, String)],
) -> WorkerProcesses {
    let file = write_config(folder, name, config);
    let start = |worker: usize| {
        let mut command = worker_command(folder, job, &file, worker);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(if astray == Some(worker) {
            Path::new("/")
        } else {
            folder
        });

        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };

    let children = (0..world.replicas as usize).map(start).collect();
    WorkerProcesses {
        folder: folder.to_owned(),
        children,
    }
}

/// Writes the configuration that all workers of a run have.
pub(crate) fn write_config(folder: &Path, name: &str, config: &impl Serialize) -> PathBuf {
    let file = folder.join(format!("{name}.json"));
    std::fs::write(&file, serde_json::to_vec(config).unwrap()).unwrap();
    file
}

/// A worker of a run.
pub(crate) fn worker_command(folder: &Path, job: &str, config: &Path, worker: usize) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cnclip"));
    command
        .args([job, "--config"])
        .arg(config)
        .env(ENV_WORKER_INDEX, worker.to_string())
        .env(ENV_RENDEZVOUS_SECRET, SHARED_SECRET)
        .env(
            ENV_TERMINATION_LOG,
            termination_message_path(folder, worker),
        );

    command
}

fn termination_message_path(folder: &Path, worker: usize) -> PathBuf {
    folder.join(format!("last-words-{worker}"))
}

/// Waits until something is so.
pub(crate) fn wait_until(mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < WAIT_TIMEOUT, "waited in vain");
        thread::sleep(Duration::from_millis(5));
    }
}

impl WorkerProcesses {
    /// Sends a signal, by its name.
    pub(crate) fn send_signal(&self, worker: usize, name: &str) {
        let pid = self.children[worker].id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// The exit code of each, none of a killed one; those that hang are left out.
    pub(crate) fn wait_for_exit(&mut self, hanging: Option<usize>) -> Vec<Option<i32>> {
        let mut ended: Vec<Option<ExitStatus>> = vec![None; self.children.len()];
        wait_until(|| {
            for (child, ended) in self.children.iter_mut().zip(&mut ended) {
                *ended = child.try_wait().unwrap();
            }

            ended
                .iter()
                .enumerate()
                .all(|(worker, ended)| Some(worker) == hanging || ended.is_some())
        });

        ended
            .into_iter()
            .map(|ended| ended.and_then(|ended| ended.code()))
            .collect()
    }

    /// The last report of a worker.
    pub(crate) fn last_report(&self, worker: usize) -> ProgressReport {
        let text = std::fs::read_to_string(termination_message_path(&self.folder, worker)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The last report, if there is a whole one: it is written over while a worker runs.
    pub(crate) fn last_report_if_any(&self, worker: usize) -> Option<ProgressReport> {
        let text = std::fs::read_to_string(termination_message_path(&self.folder, worker)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// What a worker that ended badly said.
    pub(crate) fn failure_message(&self, worker: usize) -> String {
        self.last_report(worker).failure.unwrap().message
    }
}

impl Drop for WorkerProcesses {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
