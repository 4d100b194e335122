//! Workers of one run as processes of their own, as pods would be.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cnclip_crds::names::{ENV_TERMINATION_LOG, ENV_WORKER};
use cnclip_crds::report::Report;
use cnclip_crds::run_config::{EvaluateConfig, TrainConfig, WorldConfig};
use serde::Serialize;

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(120);

/// Processes; they are killed when this is dropped.
pub(crate) struct Workers {
    folder: PathBuf,
    children: Vec<Child>,
}

/// Where workers meet: below the ports that the system gives away by itself.
pub(crate) fn coordinator() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ports = std::iter::repeat_with(|| {
        // Far from those of a neighbouring process.
        20_000 + (16 * std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000
    });

    let free = |port: &u32| TcpListener::bind(("0.0.0.0", *port as u16)).is_ok();
    format!("127.0.0.1:{}", ports.take(10_000).find(free).unwrap())
}

/// Starts as many workers as the configuration has, in a folder; `astray` in another one.
pub(crate) fn start(folder: &Path, config: &TrainConfig, astray: Option<usize>) -> Workers {
    begin(
        folder,
        "train",
        (&config.run.name, &config.world),
        config,
        astray,
    )
}

/// The same for an evaluation.
pub(crate) fn score(folder: &Path, config: &EvaluateConfig, astray: Option<usize>) -> Workers {
    begin(
        folder,
        "evaluate",
        (&config.run.name, &config.world),
        config,
        astray,
    )
}

fn begin(
    folder: &Path,
    job: &str,
    (name, world): (&str, &WorldConfig),
    config: &impl Serialize,
    astray: Option<usize>,
) -> Workers {
    let file = folder.join(format!("{name}.json"));
    std::fs::write(&file, serde_json::to_vec(config).unwrap()).unwrap();
    let start = |worker: usize| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cnclip"));
        command
            .args([job, "--config"])
            .arg(&file)
            .env(ENV_WORKER, worker.to_string());

        command.env(ENV_TERMINATION_LOG, last_words(folder, worker));
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
    Workers {
        folder: folder.to_owned(),
        children,
    }
}

fn last_words(folder: &Path, worker: usize) -> PathBuf {
    folder.join(format!("last-words-{worker}"))
}

/// Waits until something is so.
pub(crate) fn until(mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        thread::sleep(Duration::from_millis(5));
    }
}

impl Workers {
    /// Sends a signal, by its name.
    pub(crate) fn signal(&self, worker: usize, name: &str) {
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
    pub(crate) fn end(&mut self, hanging: Option<usize>) -> Vec<Option<i32>> {
        let mut ended: Vec<Option<ExitStatus>> = vec![None; self.children.len()];
        until(|| {
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
    pub(crate) fn report(&self, worker: usize) -> Report {
        let text = std::fs::read_to_string(last_words(&self.folder, worker)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// What a worker that ended badly said.
    pub(crate) fn failure(&self, worker: usize) -> String {
        self.report(worker).failure.unwrap().message
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
