//! Headless Service of one attempt: DNS names and ports of its workers. Pure.

use cnclip_crds::names;
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// Builds the headless Service. It publishes addresses of pods that are not ready: the rendezvous happens
/// before readiness.
pub fn build_service(metadata: ObjectMeta, workers: i32) -> Service {
    // With the attempt's labels, so that pods of an earlier attempt that still terminate get no DNS
    // record here.
    let selector = metadata.labels.clone();
    Service {
        spec: Some(ServiceSpec {
            // Headless: one DNS record per pod instead of a virtual IP.
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector,
            ports: Some(worker_ports(workers).map(service_port).collect()),
            ..ServiceSpec::default()
        }),
        metadata,
        ..Service::default()
    }
}

/// Named ports of each of so many workers.
pub fn worker_ports(workers: i32) -> impl Iterator<Item = WorkerPort> {
    let http = WorkerPort {
        name: "http",
        port: names::HTTP_PORT,
    };

    let rendezvous = WorkerPort {
        name: "world",
        port: names::RENDEZVOUS_PORT,
    };

    std::iter::once(http).chain((workers > 1).then_some(rendezvous))
}

/// A named port of a worker.
#[derive(Clone, Copy, Debug)]
pub struct WorkerPort {
    /// Name of the port.
    pub name: &'static str,
    /// Number of the port.
    pub port: u16,
}

/// Rendezvous address: the DNS name of the pod with completion index 0. The Service and the Job have the name
/// of the attempt.
pub fn coordinator_address(metadata: &ObjectMeta) -> String {
    let name = metadata.name.as_deref().unwrap_or_default();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    // Without the cluster domain, which is configurable: the search list of the pod's resolver adds
    // it.
    format!("{name}-0.{name}.{namespace}.svc:{}", names::RENDEZVOUS_PORT)
}

fn service_port(port: WorkerPort) -> ServicePort {
    ServicePort {
        name: Some(port.name.to_owned()),
        port: port.port.into(),
        ..ServicePort::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{manifest_fixtures, objects::AttemptObjects, observed::ObservedState};

    fn objects(replicas: i32) -> AttemptObjects {
        let workers = json!({"accelerator": "None", "replicas": replicas});
        let run = manifest_fixtures::sample_training_with("/workers", workers);
        manifest_fixtures::attempt_objects(&run, &ObservedState::default())
    }

    fn trainer_config(objects: &AttemptObjects) -> serde_json::Value {
        let json = objects.config_map.data.as_ref().unwrap()["run.json"].clone();
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn rendezvous_address_resolves_before_the_workers_are_ready() {
        let objects = objects(2);
        let service = json!(objects.service);
        let job = json!(objects.job);
        assert_eq!(
            trainer_config(&objects)["world"]["coordinator"],
            "muge-align-3-0.muge-align-3.team.svc:8081"
        );

        assert_eq!(
            service["metadata"]["name"],
            job["spec"]["template"]["spec"]["subdomain"]
        );

        assert_eq!(service["spec"]["publishNotReadyAddresses"], true);
        assert_eq!(
            service["spec"]["selector"],
            job["spec"]["template"]["metadata"]["labels"]
        );

        assert_eq!(
            service["spec"]["ports"][1],
            json!({"name": "world", "port": 8081})
        );

        let ports = &job["spec"]["template"]["spec"]["containers"][0]["ports"];
        assert_eq!(ports[1], json!({"name": "world", "containerPort": 8081}));
        assert_eq!(
            (&job["spec"]["completions"], &job["spec"]["parallelism"]),
            (&json!(2), &json!(2))
        );
    }

    #[test]
    fn a_single_worker_needs_no_rendezvous() {
        let objects = objects(1);
        assert_eq!(trainer_config(&objects)["world"].get("coordinator"), None);
        assert_eq!(
            json!(objects.service)["spec"]["ports"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }
}
