//! Indexed Job of one attempt, one pod per worker. Pure.

use std::collections::BTreeMap;

use cnclip_crds::{
    common::{WorkerResources, WorkersSpec},
    names,
    rendezvous_secret::RendezvousSecret,
    stage::Accelerator,
};
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource,
            EnvFromSource, EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector,
            PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
            SeccompProfile, SecretEnvSource, SecurityContext, Toleration, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString,
    },
};

use super::{config_map, service};
use crate::resolved_run::{ResolvedRun, TrainerConfig};
use cnclip_crds::grace::TERMINATION_GRACE;

/// User ID of the trainer.
// The `nonroot` user of distroless images; numeric, because `runAsNonRoot` cannot verify a name.
const TRAINER_UID: i64 = 65532;
/// Seconds that a pod stays bound to an unreachable node.
// A lost worker blocks all ranks in their collectives: waiting for its node costs the whole run.
const UNREACHABLE_TOLERATION_SECONDS: i64 = 30;
/// Extended resource of a GPU.
const GPU_RESOURCE: &str = "nvidia.com/gpu";

/// Builds the Job. The workers of the attempt, and no other, know the secret.
pub fn build_job(
    metadata: ObjectMeta,
    resolved: &ResolvedRun,
    config: &TrainerConfig,
    secret: Option<&RendezvousSecret>,
) -> Job {
    let name = metadata.name.clone().unwrap_or_default();
    let labels = metadata.labels.clone();
    Job {
        metadata: job_metadata(metadata, resolved, config),
        spec: Some(JobSpec {
            // No retries by the Job controller: a single restarted rank cannot rejoin its collectives. The
            // operator restarts all ranks together, counts the restart and waits for the backoff.
            backoff_limit: Some(0),
            // The completion index is the worker index, and gives worker 0 a stable DNS name.
            completion_mode: Some("Indexed".to_owned()),
            completions: Some(resolved.workers.replicas),
            parallelism: Some(resolved.workers.replicas),
            // No replacement of a pod that is still terminating: it may hold its GPUs and save its state.
            pod_replacement_policy: Some("Failed".to_owned()),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels,
                    annotations: Some(scrape_annotations()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod_spec(&name, resolved, config, secret)),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

fn job_metadata(
    mut metadata: ObjectMeta,
    resolved: &ResolvedRun,
    config: &TrainerConfig,
) -> ObjectMeta {
    // On the Job only: with the label on its pods too, Kueue would also manage each as a single pod.
    if let (Some(labels), Some(queue)) = (&mut metadata.labels, &resolved.policy.queue_name) {
        labels.insert(names::LABEL_QUEUE.to_owned(), queue.clone());
    }

    // The operator has no other memory of it if the status update after the creation is lost.
    if let TrainerConfig::Evaluate(evaluate) = config {
        let checkpoint = (
            names::ANNOTATION_CHECKPOINT.to_owned(),
            evaluate.checkpoint.clone(),
        );

        metadata.annotations = Some([checkpoint].into());
    }

    metadata
}

fn scrape_annotations() -> BTreeMap<String, String> {
    let port = names::HTTP_PORT.to_string();
    [
        ("prometheus.io/scrape", "true"),
        ("prometheus.io/port", &port),
        ("prometheus.io/path", names::PATH_METRICS),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn pod_spec(
    name: &str,
    resolved: &ResolvedRun,
    config: &TrainerConfig,
    secret: Option<&RendezvousSecret>,
) -> PodSpec {
    let workers = &resolved.workers;
    PodSpec {
        // The trainer does not use the Kubernetes API. Workload identity projects tokens of its own.
        automount_service_account_token: Some(false),
        containers: vec![trainer_container(resolved, config, secret)],
        // The kubelet must not restart the container in place: the end of the pod is what the
        // operator classifies.
        restart_policy: Some("Never".to_owned()),
        // Environment variables for every Service of the namespace may exceed the argument size limit.
        enable_service_links: Some(false),
        // With the headless Service of this name, every pod gets a DNS name.
        subdomain: Some(name.to_owned()),
        service_account_name: workers.service_account_name.clone(),
        priority_class_name: workers.priority_class_name.clone(),
        node_selector: Some(workers.node_selector.clone()).filter(|wanted| !wanted.is_empty()),
        affinity: workers.affinity.clone(),
        tolerations: Some(pod_tolerations(workers)),
        termination_grace_period_seconds: Some(TERMINATION_GRACE.as_secs() as i64),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(TRAINER_UID),
            run_as_group: Some(TRAINER_UID),
            // Makes projected tokens, as of workload identity, readable to a process that is not
            // root.
            fs_group: Some(TRAINER_UID),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        volumes: Some(pod_volumes(name)),
        ..PodSpec::default()
    }
}

/// The tolerations of the spec, and shorter ones than Kubernetes' default of five minutes for nodes that are
/// not ready or unreachable.
fn pod_tolerations(workers: &WorkersSpec) -> Vec<Toleration> {
    let lost = [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ];

    let named = |key: &str| {
        workers
            .tolerations
            .iter()
            .any(|own| own.key.as_deref() == Some(key))
    };

    // With a toleration of these keys present, the DefaultTolerationSeconds admission plugin adds
    // none of its own.
    let missing = lost
        .into_iter()
        .filter(|key| !named(key))
        .map(|key| Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            toleration_seconds: Some(UNREACHABLE_TOLERATION_SECONDS),
            ..Toleration::default()
        });

    workers.tolerations.iter().cloned().chain(missing).collect()
}

fn pod_volumes(config_map: &str) -> Vec<Volume> {
    let config = Volume {
        name: "config".to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config_map.to_owned(),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };

    // The root file system is read-only.
    let scratch = Volume {
        name: "tmp".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };

    vec![config, scratch]
}

fn trainer_container(
    resolved: &ResolvedRun,
    config: &TrainerConfig,
    secret: Option<&RendezvousSecret>,
) -> Container {
    Container {
        name: names::TRAINER_CONTAINER.to_owned(),
        image: Some(resolved.image.clone()),
        command: Some(vec!["cnclip".to_owned()]),
        args: Some(vec![
            config.trainer_subcommand().to_owned(),
            "--config".to_owned(),
            names::CONFIG_PATH.to_owned(),
        ]),
        env: Some(container_env(secret)),
        env_from: resolved
            .secret
            .clone()
            .map(|secret| vec![secret_env_from(secret)]),
        ports: Some(
            service::worker_ports(resolved.workers.replicas)
                .map(container_port)
                .collect(),
        ),
        // A restart costs all ranks the work since the last checkpoint, so only five minutes
        // without an answer count as hung: the server has a thread of its own and answers during
        // long steps too.
        liveness_probe: Some(health_probe(60, 5)),
        readiness_probe: Some(health_probe(5, 1)),
        resources: Some(resource_requirements(&resolved.workers)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        termination_message_path: Some(names::TERMINATION_LOG.to_owned()),
        // The file has the last progress report. The end of the log would not parse as one.
        termination_message_policy: Some("File".to_owned()),
        volume_mounts: Some(vec![
            volume_mount("config", config_map::mount_folder(), true),
            volume_mount("tmp", "/tmp", false),
        ]),
        ..Container::default()
    }
}

fn container_port(port: service::WorkerPort) -> ContainerPort {
    ContainerPort {
        name: Some(port.name.to_owned()),
        container_port: port.port.into(),
        ..ContainerPort::default()
    }
}

fn container_env(secret: Option<&RendezvousSecret>) -> Vec<EnvVar> {
    let pod_uid = EnvVar {
        name: names::ENV_POD_UID.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: "metadata.uid".to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };

    let termination_log = EnvVar {
        name: names::ENV_TERMINATION_LOG.to_owned(),
        value: Some(names::TERMINATION_LOG.to_owned()),
        ..EnvVar::default()
    };

    // In the Job itself and in no Secret: the operator has no permission for those.
    let secret = secret.map(|secret| EnvVar {
        name: names::ENV_RENDEZVOUS_SECRET.to_owned(),
        value: Some(secret.reveal().to_owned()),
        ..EnvVar::default()
    });

    [pod_uid, termination_log]
        .into_iter()
        .chain(secret)
        .collect()
}

/// The variable of the trainer's container that has the secret of its workers.
pub fn secret_variable(job: &mut Job) -> Option<&mut EnvVar> {
    let pod = job.spec.as_mut()?.template.spec.as_mut()?;
    // By its name: what admits the Job may have added containers.
    let mut containers = pod.containers.iter_mut();
    let trainer = containers.find(|container| container.name == names::TRAINER_CONTAINER)?;
    let mut variables = trainer.env.iter_mut().flatten();
    variables.find(|variable| variable.name == names::ENV_RENDEZVOUS_SECRET)
}

/// By reference only: the kubelet reads the Secret, the operator has no permission to.
fn secret_env_from(name: String) -> EnvFromSource {
    let secret = SecretEnvSource {
        name,
        // A missing Secret keeps the container from starting, with a reason that the status shows,
        // instead of failing at the first request to the store.
        optional: Some(false),
    };

    EnvFromSource {
        secret_ref: Some(secret),
        ..EnvFromSource::default()
    }
}

fn health_probe(period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(names::PATH_HEALTHZ.to_owned()),
            port: IntOrString::Int(names::HTTP_PORT.into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

fn volume_mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    }
}

fn resource_requirements(workers: &WorkersSpec) -> ResourceRequirements {
    let WorkerResources { requests, limits } = workers.resources.clone().unwrap_or_default();
    let mut limits = to_quantities(limits);
    // As a limit only: the request of an extended resource defaults to it, and must not differ.
    if workers.accelerator == Accelerator::Nvidia {
        limits.insert(
            GPU_RESOURCE.to_owned(),
            Quantity(workers.devices.to_string()),
        );
    }

    ResourceRequirements {
        requests: Some(to_quantities(requests)).filter(|wanted| !wanted.is_empty()),
        limits: Some(limits).filter(|wanted| !wanted.is_empty()),
        claims: None,
    }
}

fn to_quantities(amounts: BTreeMap<String, IntOrString>) -> BTreeMap<String, Quantity> {
    let text = |amount| match amount {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text,
    };

    amounts
        .into_iter()
        .map(|(name, amount)| (name, Quantity(text(amount))))
        .collect()
}

#[cfg(test)]
mod tests;
