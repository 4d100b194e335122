//! Every string that two parties must share. Nothing else.

/// API group.
pub const GROUP: &str = "cnclip.dev";
/// Field manager of everything the operator writes.
pub const FIELD_MANAGER: &str = "cnclip-operator";
/// Label: the run that an object belongs to.
pub const LABEL_RUN: &str = "cnclip.dev/run";
/// Label: `training` or `evaluation`.
pub const LABEL_KIND: &str = "cnclip.dev/kind";
/// Label: the stage that an object belongs to.
pub const LABEL_STAGE: &str = "cnclip.dev/stage";
/// Label: the attempt at the stage.
pub const LABEL_ATTEMPT: &str = "cnclip.dev/attempt";
/// Annotation: the checkpoint that an evaluation's Job scores.
pub const ANNOTATION_CHECKPOINT: &str = "cnclip.dev/checkpoint";
/// Label that hands a Job to Kueue.
pub const LABEL_QUEUE: &str = "kueue.x-k8s.io/queue-name";

/// The port on which a trainer answers.
pub const HTTP_PORT: u16 = 8080;
/// The port on which worker 0 awaits the other workers of its run.
pub const RENDEZVOUS_PORT: u16 = 8081;
/// The last report, as JSON.
pub const PATH_PROGRESS: &str = "/progress";
/// Prometheus metrics.
pub const PATH_METRICS: &str = "/metrics";
/// Alive.
pub const PATH_HEALTHZ: &str = "/healthz";

/// Gauge of what an evaluation measured, told by its trainer and by the operator.
pub const METRIC_SCORE: &str = "cnclip_evaluation_score";

/// The stage of a run that is an evaluation.
pub const STAGE_EVALUATE: &str = "evaluate";
/// Where a trainer finds its configuration in a pod.
pub const CONFIG_PATH: &str = "/etc/cnclip/run.json";
/// The vocabulary that the trainer image carries.
pub const VOCABULARY_PATH: &str = "/usr/share/cnclip/vocab.txt";
/// Environment: overrides [`VOCABULARY_PATH`].
pub const ENV_VOCABULARY: &str = "CNCLIP_VOCAB";
/// sha256 of the vocabulary of all published models.
pub const VOCABULARY_SHA256: &str =
    "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c";
/// Environment: the UID of the pod, echoed in every report.
pub const ENV_POD_UID: &str = "POD_UID";
/// Environment: the number of a worker, from 0; an Indexed Job sets it.
pub const ENV_WORKER_INDEX: &str = "JOB_COMPLETION_INDEX";
/// Environment: the file for the last report.
pub const ENV_TERMINATION_LOG: &str = "CNCLIP_TERMINATION_LOG";
/// Kubernetes' own place for a container's last words.
pub const TERMINATION_LOG: &str = "/dev/termination-log";

/// Condition types, in the order in which people read them.
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
