//! The headless Service that gives the workers of one attempt names of their own. Pure.

use cnclip_crds::names;
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// The Service. Workers find each other before they are ready.
pub fn build(metadata: ObjectMeta) -> Service {
    let selector = metadata.labels.clone();
    Service {
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector,
            ports: Some(vec![ServicePort {
                name: Some("http".to_owned()),
                port: names::PORT.into(),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        metadata,
        ..Service::default()
    }
}
