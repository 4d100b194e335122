//! What requests to object stores look like on the network: encryption, session tokens, proxies.
#![cfg(test)]

use std::path::Path;
use std::process::{Command, Output};

use cnclip_data::store::Store;

#[path = "support/recording_server.rs"]
mod recording_server;
use recording_server::{RecordingServer, Request};

/// Writes a small data set to an S3 store, with nothing in the environment but `variables`.
fn write_dataset(variables: &[(&str, &str)]) -> Output {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dataset");
    let mut command = Command::new(env!("CARGO_BIN_EXE_cnclip"));
    command
        .env_clear()
        .args(["prepare", "--most-skipped", "10", "--images"])
        .arg(golden.join("train_imgs.tsv"))
        .arg("--texts")
        .arg(golden.join("train_texts.jsonl"))
        .args(["--output", "s3://bucket/set"])
        .envs([
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ])
        .envs(variables.iter().copied());

    command.output().unwrap()
}

fn assert_written(output: &Output, server: &RecordingServer) -> Vec<Request> {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let mut requests = server.requests();
    requests.retain(|request| request.method == "PUT");
    assert!(requests.len() >= 2, "a shard and its index: {requests:?}");

    requests
}

#[test]
fn objects_are_encrypted_with_the_key_of_the_environment() {
    let server = RecordingServer::start();
    let url = server.url();
    let output = write_dataset(&[
        ("AWS_ENDPOINT_URL", &url),
        ("AWS_SERVER_SIDE_ENCRYPTION", "aws:kms"),
        ("AWS_SSE_KMS_KEY_ID", "key-of-the-team"),
    ]);

    for request in assert_written(&output, &server) {
        let header = |name| request.headers.get(name).map(String::as_str);
        assert_eq!(header("x-amz-server-side-encryption"), Some("aws:kms"));
        assert_eq!(
            header("x-amz-server-side-encryption-aws-kms-key-id"),
            Some("key-of-the-team")
        );
    }
}

#[test]
fn parts_of_a_large_object_belong_to_an_upload_that_is_encrypted() {
    let server = RecordingServer::start();
    let variables = [
        ("AWS_ENDPOINT_URL", server.url()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ("AWS_SERVER_SIDE_ENCRYPTION", "aws:kms".to_owned()),
        ("AWS_SSE_KMS_KEY_ID", "key-of-the-team".to_owned()),
    ];

    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    let store = Store::open_with("s3://bucket/large", variables).unwrap();
    store.put("object", vec![0; 17 << 20].into()).unwrap();

    let requests = server.requests();
    let begin = requests.iter().find(|request| request.method == "POST");
    let header = |name| begin.unwrap().headers.get(name).map(String::as_str);
    assert_eq!(header("x-amz-server-side-encryption"), Some("aws:kms"));
    assert_eq!(
        header("x-amz-server-side-encryption-aws-kms-key-id"),
        Some("key-of-the-team")
    );
}

#[test]
fn temporary_credentials_are_sent_with_their_token_and_never_logged() {
    let server = RecordingServer::start();
    let url = server.url();
    let output = write_dataset(&[
        ("AWS_ENDPOINT_URL", &url),
        ("AWS_SESSION_TOKEN", "token-of-a-session"),
        ("RUST_LOG", "trace"),
    ]);

    for request in assert_written(&output, &server) {
        let token = &request.headers["x-amz-security-token"];
        assert_eq!(token, "token-of-a-session");
        assert!(request.headers["authorization"].contains("Credential=key/"));
    }

    for printed in [&output.stdout, &output.stderr] {
        let printed = String::from_utf8_lossy(printed);
        assert!(!printed.contains("token-of-a-session"), "{printed}");
    }
}

#[test]
fn requests_go_through_the_proxy_of_the_environment() {
    let proxy = RecordingServer::start();
    let url = proxy.url();
    // A name that only the proxy could resolve.
    let endpoint = ("AWS_ENDPOINT_URL", "http://store.invalid:9000");
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let output = write_dataset(&[endpoint, (variable, &url)]);
        for request in assert_written(&output, &proxy) {
            let target = &request.target;
            assert!(
                target.starts_with("http://store.invalid:9000/bucket/set/"),
                "{variable}: {target}"
            );
        }
    }
}

#[test]
fn hosts_that_need_no_proxy_are_asked_directly() {
    let [proxy, server] = [RecordingServer::start(), RecordingServer::start()];
    let [proxy_url, url] = [proxy.url(), server.url()];
    let output = write_dataset(&[
        ("AWS_ENDPOINT_URL", &url),
        ("HTTP_PROXY", &proxy_url),
        ("NO_PROXY", "10.0.0.0/8,127.0.0.1"),
    ]);

    assert_written(&output, &server);
    assert_eq!(proxy.requests().len(), 0);
}
