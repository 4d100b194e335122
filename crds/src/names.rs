//! Names shared by the operator and the trainer: labels, ports, paths, environment variables, conditions.

/// API group.
pub const GROUP: &str = "cnclip.dev";
/// Field manager of the operator's server-side apply.
pub const FIELD_MANAGER: &str = "cnclip-operator";
/// Label: name of the run that an object belongs to.
pub const LABEL_RUN: &str = "cnclip.dev/run";
/// Label: kind of the run, `training` or `evaluation`.
pub const LABEL_KIND: &str = "cnclip.dev/kind";
/// Label: stage that an object belongs to.
pub const LABEL_STAGE: &str = "cnclip.dev/stage";
/// Label: attempt at the stage.
pub const LABEL_ATTEMPT: &str = "cnclip.dev/attempt";
/// Annotation: URI of the checkpoint that an evaluation's Job scores.
pub const ANNOTATION_CHECKPOINT: &str = "cnclip.dev/checkpoint";
/// Label: Kueue queue of a Job.
pub const LABEL_QUEUE: &str = "kueue.x-k8s.io/queue-name";

/// HTTP port of a trainer.
// Above 1023: the trainer has no capability to bind privileged ports.
pub const HTTP_PORT: u16 = 8080;
/// Name of the trainer's container.
pub const TRAINER_CONTAINER: &str = "trainer";
/// Rendezvous port of worker 0.
pub const RENDEZVOUS_PORT: u16 = 8081;
/// Path of the progress report, as JSON.
pub const PATH_PROGRESS: &str = "/progress";
/// Path of the Prometheus metrics.
pub const PATH_METRICS: &str = "/metrics";
/// Path of the health check.
pub const PATH_HEALTHZ: &str = "/healthz";

/// Gauge of evaluation metrics, exported by the trainer and by the operator.
pub const METRIC_SCORE: &str = "cnclip_evaluation_score";

/// Stage name of an evaluation.
pub const STAGE_EVALUATE: &str = "evaluate";
/// Path of the trainer's configuration file in a pod.
pub const CONFIG_PATH: &str = "/etc/cnclip/run.json";
/// Path of the vocabulary in the trainer image.
pub const VOCABULARY_PATH: &str = "/usr/share/cnclip/vocab.txt";
/// Environment variable: overrides [`VOCABULARY_PATH`].
pub const ENV_VOCABULARY: &str = "CNCLIP_VOCAB";
/// SHA-256 digest of the vocabulary of all published models.
// Pinned, because another vocabulary would silently map texts to other rows of the embedding.
pub const VOCABULARY_SHA256: &str =
    "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c";
/// Environment variable: UID of the pod, echoed in every report.
pub const ENV_POD_UID: &str = "POD_UID";
/// Environment variable: index of a worker, from 0; set by an Indexed Job.
pub const ENV_WORKER_INDEX: &str = "JOB_COMPLETION_INDEX";
/// Environment variable: the [secret](crate::rendezvous_secret::RendezvousSecret) that the workers of an attempt
/// prove to each other.
pub const ENV_RENDEZVOUS_SECRET: &str = "CNCLIP_RENDEZVOUS_SECRET";
/// Environment variable: path of the termination message.
pub const ENV_TERMINATION_LOG: &str = "CNCLIP_TERMINATION_LOG";
/// Default termination message path of Kubernetes.
pub const TERMINATION_LOG: &str = "/dev/termination-log";

/// Condition types, in display order.
pub mod condition {
    /// The manifest can work.
    pub const ACCEPTED: &str = "Accepted";
    /// Pods are at work.
    pub const RUNNING: &str = "Running";
    /// Reports arrive and the step moves.
    pub const PROGRESSING: &str = "Progressing";
    /// A whole checkpoint is in the store.
    pub const CHECKPOINT_VERIFIED: &str = "CheckpointVerified";
    /// It works, but not as it should.
    pub const DEGRADED: &str = "Degraded";
    /// The user holds it back.
    pub const SUSPENDED: &str = "Suspended";
    /// Everything is done.
    pub const COMPLETE: &str = "Complete";
    /// It will not be tried again.
    pub const FAILED: &str = "Failed";
    /// What was measured passes the gate; only where there is one.
    pub const GATE_PASSED: &str = "GatePassed";
}
