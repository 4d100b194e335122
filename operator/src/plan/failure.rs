//! What went wrong with an attempt, whose fault it was, and whether another try is worth it. Pure.

use cnclip_crds::{
    exit::Exit,
    shared::{Restarts, Retries},
};
use k8s_openapi::jiff::Timestamp;

use crate::{
    observed::{JobSeen, JobState, Worker, WorkerState},
    work::Cause,
};

/// What ended an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The trainer was called wrongly (exit code 64).
    Usage,
    /// The configuration can never work (78).
    Config,
    /// The data is unusable (65).
    Data,
    /// The image has no trainer in it.
    Image,
    /// A fault of the trainer's (70, or a code that nobody promised).
    Bug,
    /// More memory than it may have.
    OutOfMemory,
    /// Killed by somebody (137).
    Killed,
    /// Crashed (any other signal).
    Crashed,
    /// Asked to be run again (75).
    Requeued,
    /// Ended by SIGTERM before it could save (143).
    Terminated,
    /// Made way for a pod of higher priority.
    Preempted,
    /// Evicted from its node.
    Evicted,
    /// The node did not take it or did not keep it.
    NodeRefused,
    /// The node stopped answering.
    NodeLost,
    /// Somebody deleted the pod.
    PodDeleted,
    /// Somebody deleted the Job.
    JobDeleted,
    /// It did not begin in time.
    StartDeadline,
    /// The whole run took too long.
    Deadline,
}

/// Which budget a restart is paid from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// None: it would end the same way.
    Never,
    /// `retries.application`.
    Application,
    /// `retries.infrastructure`.
    Infrastructure,
}

impl Class {
    /// The name that status, events and metrics use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "Usage",
            Self::Config => "Config",
            Self::Data => "Data",
            Self::Image => "Image",
            Self::Bug => "Bug",
            Self::OutOfMemory => "OutOfMemory",
            Self::Killed => "Killed",
            Self::Crashed => "Crashed",
            Self::Requeued => "Requeued",
            Self::Terminated => "Terminated",
            Self::Preempted => "Preempted",
            Self::Evicted => "Evicted",
            Self::NodeRefused => "NodeRefused",
            Self::NodeLost => "NodeLost",
            Self::PodDeleted => "PodDeleted",
            Self::JobDeleted => "JobDeleted",
            Self::StartDeadline => "StartDeadlineExceeded",
            Self::Deadline => "DeadlineExceeded",
        }
    }

    /// Who pays for another try.
    pub fn budget(self) -> Budget {
        match self {
            Self::Usage
            | Self::Config
            | Self::Data
            | Self::Image
            | Self::StartDeadline
            | Self::Deadline => Budget::Never,
            Self::Bug | Self::OutOfMemory | Self::Killed | Self::Crashed => Budget::Application,
            Self::Requeued
            | Self::Terminated
            | Self::Preempted
            | Self::Evicted
            | Self::NodeRefused
            | Self::NodeLost
            | Self::PodDeleted
            | Self::JobDeleted => Budget::Infrastructure,
        }
    }
}

/// One failure, with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it was.
    pub class: Class,
    /// Exit code of the trainer.
    pub exit_code: Option<i32>,
    /// Node of the pod.
    pub node: Option<String>,
    /// What was found, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure of which no pod tells.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self {
            class,
            exit_code: None,
            node: None,
            message: message.into(),
        }
    }

    /// The same, told of one worker among several.
    fn told_of(self, worker: &Worker, workers: usize) -> Self {
        if workers < 2 {
            return self;
        }

        Self {
            message: format!("worker {}: {}", worker.index, self.message),
            ..self
        }
    }
}

/// What ended the attempt of a Job, if something did: of several failures the cause, and not what
/// followed from it.
pub fn of_attempt(job: &JobSeen, workers: &[&Worker], now: Timestamp) -> Option<Failure> {
    let failures: Vec<_> = workers
        .iter()
        .filter_map(|worker| Some((*worker, of_worker(worker, now)?)))
        .collect();

    let nearest = failures
        .iter()
        .min_by_key(|(worker, failure)| distance(worker, failure.class));

    if let Some((worker, failure)) = nearest {
        let unsure =
            may_follow(worker, failure.class, now) && workers.iter().any(|one| one.lives(now));
        return (!unsure).then(|| failure.clone().told_of(worker, workers.len()));
    }

    match &job.state {
        JobState::Failed(message) => Some(Failure::new(
            Class::PodDeleted,
            format!("the pods are gone before their work was done ({message})"),
        )),
        _ => None,
    }
}

/// Orders the ends of workers by how near each is to the cause: what no restart cures, then what
/// befell one worker, then what a worker also does because another ended; of equals the first.
fn distance(worker: &Worker, class: Class) -> (u8, Timestamp, bool, i32) {
    let rank = match class {
        _ if class.budget() == Budget::Never => 0,
        Class::Requeued | Class::Terminated | Class::PodDeleted => 2,
        _ => 1,
    };

    (
        rank,
        worker.began_to_end(),
        class == Class::Requeued,
        worker.index,
    )
}

/// Whether a worker may have ended because of another whose end is not seen yet.
fn may_follow(worker: &Worker, class: Class, now: Timestamp) -> bool {
    const PATIENCE_SECONDS: i64 = 10;
    let waited = now.as_second() - worker.began_to_end().as_second();
    class == Class::Requeued && waited < PATIENCE_SECONDS
}

fn of_worker(worker: &Worker, now: Timestamp) -> Option<Failure> {
    let (class, exit_code, told) = match &worker.state {
        WorkerState::Ended {
            exit_code: Some(0), ..
        } => return None,
        WorkerState::Ended {
            exit_code,
            reason,
            message,
        } => (
            class(worker, *exit_code, reason),
            *exit_code,
            last_words(worker, message),
        ),
        _ if worker.is_lost(now) => (Class::NodeLost, None, String::new()),
        _ => return None,
    };

    let message = if told.is_empty() {
        sentence(class, worker, exit_code)
    } else {
        told
    };

    Some(Failure {
        class,
        exit_code,
        node: worker.node.clone(),
        message,
    })
}

fn class(worker: &Worker, exit_code: Option<i32>, reason: &str) -> Class {
    match exit_code.and_then(Exit::from_code) {
        Some(Exit::Usage) => return Class::Usage,
        Some(Exit::Config) => return Class::Config,
        Some(Exit::Data) => return Class::Data,
        _ => {}
    }

    if let Some(class) = disruption(worker.disruption.as_deref(), reason) {
        return class;
    }

    match (exit_code, reason) {
        (_, "OOMKilled") => Class::OutOfMemory,
        (_, "StartError" | "ContainerCannotRun") | (Some(126..=128), _) => Class::Image,
        _ if worker.ends_by.is_some() => Class::PodDeleted,
        (Some(75), _) => Class::Requeued,
        (Some(143), _) => Class::Terminated,
        (Some(137), _) => Class::Killed,
        (Some(129..=255), _) => Class::Crashed,
        (Some(_), _) => Class::Bug,
        (None, _) => Class::NodeRefused,
    }
}

/// What Kubernetes itself did to the pod.
fn disruption(disruption: Option<&str>, reason: &str) -> Option<Class> {
    match (disruption, reason) {
        (Some("PreemptionByScheduler"), _) | (_, "Preempting") => Some(Class::Preempted),
        (Some("DeletionByTaintManager" | "DeletionByPodGC"), _) | (_, "NodeLost") => {
            Some(Class::NodeLost)
        }
        (Some("EvictionByEvictionAPI" | "TerminationByKubelet"), _) | (_, "Evicted") => {
            Some(Class::Evicted)
        }
        _ => None,
    }
}

/// What the trainer said of its end.
fn last_words(worker: &Worker, message: &str) -> String {
    const LONGEST: usize = 1024;
    let told = match worker.last_report() {
        Some(report) => report
            .failure
            .map(|failure| failure.message)
            .unwrap_or_default(),
        None => message.trim().to_owned(),
    };

    told.chars().take(LONGEST).collect()
}

fn sentence(class: Class, worker: &Worker, exit_code: Option<i32>) -> String {
    let node = worker.node.as_deref().unwrap_or("unknown");
    let name = &worker.name;
    let code = exit_code.map_or_else(
        || "no exit code".to_owned(),
        |code| format!("exit code {code}"),
    );

    match class {
        Class::OutOfMemory => format!(
            "pod {name} needed more memory than it may have: raise spec.workers.resources.limits.memory, \
             or set microBatchSize of the stage to Auto"
        ),
        Class::NodeLost => format!("node {node} of pod {name} stopped answering"),
        Class::Preempted => {
            format!("pod {name} made way on node {node} for one of higher priority")
        }
        Class::Evicted => format!("pod {name} was evicted from node {node}"),
        Class::PodDeleted => format!("pod {name} was deleted ({code})"),
        Class::Image => format!(
            "image {} could not be started: it must hold the program cnclip of this release",
            worker.image
        ),
        _ => format!(
            "pod {name} on node {node} ended with {code}; `kubectl logs {name}` has its words"
        ),
    }
}

/// Why pods that did not begin in time never will, if their time is over.
pub fn not_started(
    limit: i64,
    job: &JobSeen,
    cause: Option<&Cause>,
    now: Timestamp,
) -> Option<Failure> {
    let cause = cause?;
    let waited = now.as_second() - job.started.as_second();
    (job.state == JobState::Active && !job.queued && waited > limit).then(|| {
        let message = format!(
            "not started within {limit} s (spec.startDeadlineSeconds): {}",
            cause.message
        );

        Failure::new(Class::StartDeadline, message)
    })
}

/// Whether a failure is the last; if so, why. `restarts` holds those before it.
pub fn gives_up(class: Class, restarts: &Restarts, retries: &Retries) -> Option<String> {
    let (used, allowed, field) = match class.budget() {
        Budget::Never => return Some("it would end the same way again".to_owned()),
        Budget::Application => (restarts.application, retries.application, "application"),
        Budget::Infrastructure => (
            restarts.infrastructure,
            retries.infrastructure,
            "infrastructure",
        ),
    };

    (used >= allowed).then(|| format!("all {allowed} restarts of spec.retries.{field} are used up"))
}

/// One more restart on record.
pub fn count(restarts: &mut Restarts, class: Class) {
    restarts.total += 1;
    match class.budget() {
        Budget::Never => {}
        Budget::Application => restarts.application += 1,
        Budget::Infrastructure => restarts.infrastructure += 1,
    }

    *restarts
        .by_class
        .entry(class.name().to_owned())
        .or_default() += 1;
}

/// Those so far no longer count against a budget: each checkpoint of a series has its own.
pub fn forgive(restarts: &mut Restarts) {
    restarts.application = 0;
    restarts.infrastructure = 0;
}

/// Seconds to wait before the restart that was counted last: 2, 4, 8 … 300.
pub fn backoff_seconds(restarts: &Restarts) -> i64 {
    let counted = restarts.application + restarts.infrastructure;
    2_i64.pow(counted.clamp(1, 9).unsigned_abs()).min(300)
}

#[cfg(test)]
mod tests;
