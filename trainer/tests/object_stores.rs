//! What requests to object stores look like on the network: encryption, session tokens, proxies.
#![cfg(test)]

use std::path::Path;
use std::process::{Command, Output};

use axum::http::Method;
use axum::http::request::Parts;
use cnclip_data::store::Store;

#[path = "support/object_server.rs"]
#[allow(dead_code, reason = "shared with the tests of restoring")]
mod object_server;
use object_server::ObjectServer;

/// A server over an empty folder, which is there as long as the server.
struct EmptyStore {
    server: ObjectServer,
    _folder: tempfile::TempDir,
}

fn start_server() -> EmptyStore {
    let folder = tempfile::tempdir().unwrap();
    EmptyStore {
        server: ObjectServer::start(folder.path()),
        _folder: folder,
    }
}

fn header<'a>(request: &'a Parts, name: &str) -> Option<&'a str> {
    request.headers.get(name)?.to_str().ok()
}

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

/// The requests that wrote the data set.
fn assert_written(output: &Output, server: &ObjectServer) -> Vec<Parts> {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let requests = server.requests(&Method::PUT);
    assert!(requests.len() >= 2, "a shard and its index: {requests:?}");

    requests
}

#[test]
fn objects_are_encrypted_with_the_key_of_the_environment() {
    let EmptyStore { server, _folder } = start_server();
    let url = server.url();
    let output = write_dataset(&[
        ("AWS_ENDPOINT_URL", &url),
        ("AWS_SERVER_SIDE_ENCRYPTION", "aws:kms"),
        ("AWS_SSE_KMS_KEY_ID", "key-of-the-team"),
    ]);

    for request in assert_written(&output, &server) {
        assert_encrypted(&request);
    }
}

#[test]
fn parts_of_a_large_object_belong_to_an_upload_that_is_encrypted() {
    let EmptyStore { server, _folder } = start_server();
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

    // The first begins the upload, the second ends it.
    assert_encrypted(&server.requests(&Method::POST)[0]);
    assert_eq!(store.object_size("object").unwrap(), Some(17 << 20));
}

fn assert_encrypted(request: &Parts) {
    let found = [
        "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-aws-kms-key-id",
    ]
    .map(|name| header(request, name));

    assert_eq!(found, [Some("aws:kms"), Some("key-of-the-team")]);
}

#[test]
fn temporary_credentials_are_sent_with_their_token_and_never_logged() {
    let EmptyStore { server, _folder } = start_server();
    let url = server.url();
    let output = write_dataset(&[
        ("AWS_ENDPOINT_URL", &url),
        ("AWS_SESSION_TOKEN", "token-of-a-session"),
        ("RUST_LOG", "trace"),
    ]);

    for request in assert_written(&output, &server) {
        let token = header(&request, "x-amz-security-token");
        assert_eq!(token, Some("token-of-a-session"));
        let authorization = header(&request, "authorization").unwrap();
        assert!(authorization.contains("Credential=key/"));
    }

    for printed in [&output.stdout, &output.stderr] {
        let printed = String::from_utf8_lossy(printed);
        assert!(!printed.contains("token-of-a-session"), "{printed}");
    }
}

#[test]
fn requests_go_through_the_proxy_of_the_environment() {
    let EmptyStore {
        server: proxy,
        _folder,
    } = start_server();
    let url = proxy.url();
    // A name that only the proxy could resolve.
    let endpoint = ("AWS_ENDPOINT_URL", "http://store.invalid:9000");
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let output = write_dataset(&[endpoint, (variable, &url)]);
        for request in assert_written(&output, &proxy) {
            let target = request.uri.to_string();
            assert!(
                target.starts_with("http://store.invalid:9000/bucket/set/"),
                "{variable}: {target}"
            );
        }
    }
}

#[test]
fn hosts_that_need_no_proxy_are_asked_directly() {
    let [proxy, direct] = [start_server(), start_server()];
    let [proxy_url, url] = [proxy.server.url(), direct.server.url()];
    let output = write_dataset(&[
        ("AWS_ENDPOINT_URL", &url),
        ("HTTP_PROXY", &proxy_url),
        ("NO_PROXY", "10.0.0.0/8,127.0.0.1"),
    ]);

    assert_written(&output, &direct.server);
    assert_eq!(proxy.server.requests(&Method::PUT).len(), 0);
}
