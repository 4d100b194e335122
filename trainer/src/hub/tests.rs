use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::json;

use super::*;

const FILES: [&str; 2] = ["model.safetensors", "pytorch_model.bin.index.json"];
const COMMIT: &str = "0123456789012345678901234567890123456789";

type Asked = Arc<Mutex<Vec<String>>>;

/// A server that speaks the hub's API and hands out three repositories: one of one file, one of
/// several, and one that is gated.
fn serve() -> (HubClient, Asked, tempfile::TempDir) {
    let asked = Asked::default();
    let cache = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(asked.clone());

    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();

        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
    });

    (
        HubClient {
            endpoint,
            token: None,
            cache: cache.path().to_owned(),
        },
        asked,
        cache,
    )
}

async fn answer(State(asked): State<Asked>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .map(|token| token.to_str().unwrap());

    asked.lock().unwrap().push(path.clone());
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let held: &[&str] = match &parts[..] {
        [.., "gated", _, _] | [_, "gated", ..] if token != Some("Bearer right") => {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        [
            "api",
            "models",
            "org",
            "single" | "gated",
            "revision",
            "main" | "refs%2Fpr%2F3",
        ] => &[
            "README.md",
            "config.json",
            "model.safetensors",
            "sub/other.pt",
        ],
        ["api", "models", "org", "several", "revision", "main"] => {
            &["pytorch_model.bin.index.json", "a.bin", "b.bin"]
        }
        ["org", "single" | "several" | "gated", "resolve", COMMIT, ..] => {
            return file(&parts[4..].join("/"), request.headers());
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };

    let siblings: Vec<_> = held
        .iter()
        .map(|name| json!({ "rfilename": name }))
        .collect();

    Json(json!({ "sha": COMMIT, "siblings": siblings })).into_response()
}

/// The part of a file that was asked for.
fn file(name: &str, headers: &HeaderMap) -> Response {
    let content = match name {
        "pytorch_model.bin.index.json" => r#"{"weight_map":{"x":"a.bin","y":"b.bin"}}"#.to_owned(),
        name => format!("content of {name}"),
    };

    let range = headers[header::RANGE]
        .to_str()
        .unwrap()
        .trim_start_matches("bytes=");

    let (start, stop) = range.split_once('-').unwrap();
    let (start, stop): (usize, usize) = (start.parse().unwrap(), stop.parse().unwrap());
    let stop = stop.min(content.len() - 1);
    let expected = [
        ("x-repo-commit", COMMIT.to_owned()),
        ("etag", format!("\"{}\"", name.replace('/', "-"))),
        (
            "content-range",
            format!("bytes {start}-{stop}/{}", content.len()),
        ),
    ];

    (
        StatusCode::PARTIAL_CONTENT,
        expected,
        content[start..=stop].to_owned(),
    )
        .into_response()
}

#[test]
fn the_weights_of_a_repository_are_copied_once_with_what_lies_beside_them() {
    let (hub, asked, _cache) = serve();
    let fetched = hub.fetch_weights("hf://org/single", &FILES).unwrap();
    assert_eq!(
        fetched.uri,
        format!("hf://org/single@{COMMIT}/model.safetensors")
    );

    let read = |name: &str| std::fs::read_to_string(fetched.folder.join(name)).unwrap();
    assert_eq!(read("model.safetensors"), "content of model.safetensors");
    assert_eq!(read("config.json"), "content of config.json");
    assert!(!fetched.folder.join("README.md").exists());

    asked.lock().unwrap().clear();
    assert_eq!(
        hub.fetch_weights("hf://org/single", &FILES).unwrap(),
        fetched
    );
    assert_eq!(
        *asked.lock().unwrap(),
        ["/api/models/org/single/revision/main"]
    );
}

#[test]
fn a_file_of_a_revision_and_weights_in_several_files_are_copied() {
    let (hub, _, _cache) = serve();
    let one = hub
        .fetch_weights("hf://org/single@refs%2Fpr%2F3/sub/other.pt", &FILES)
        .unwrap();

    let content = std::fs::read_to_string(one.folder.join(&one.file)).unwrap();
    assert_eq!(
        (one.file.as_str(), content.as_str()),
        ("sub/other.pt", "content of sub/other.pt")
    );

    let several = hub.fetch_weights("hf://org/several", &FILES).unwrap();
    assert_eq!(several.file, "pytorch_model.bin.index.json");
    for shard in ["a.bin", "b.bin"] {
        let content = std::fs::read_to_string(several.folder.join(shard)).unwrap();
        assert_eq!(content, format!("content of {shard}"));
    }
}

#[test]
fn a_gated_repository_opens_to_the_right_token() {
    let (hub, _, _cache) = serve();
    let with = |token: Option<&str>| HubClient {
        token: token.map(Into::into),
        ..hub.clone()
    };

    let fetch = |token| with(token).fetch_weights("hf://org/gated", &FILES);
    for (token, right) in [(None, "set HF_TOKEN"), (Some("wrong"), "to this HF_TOKEN")] {
        let error = fetch(token).unwrap_err();
        assert!(error.to_string().contains(right), "{error}");
        assert_eq!(error.exit_code().exit_code(), 78);
    }

    assert_eq!(fetch(Some("right")).unwrap().file, "model.safetensors");
}

#[test]
fn what_the_hub_does_not_have_is_told() {
    let (hub, _, _cache) = serve();
    let unreachable = HubClient {
        endpoint: "http://127.0.0.1:1".into(),
        ..hub.clone()
    };

    let table = [
        (
            &hub,
            "hf://org/absent",
            78,
            "has no hf://org/absent. Check organisation, name",
        ),
        (&hub, "hf://org/single@v9", 78, "has no hf://org/single@v9"),
        (
            &hub,
            "hf://org/single/absent.pt",
            78,
            "It holds README.md, config.json, model.safetensors",
        ),
        (&hub, "hf://org", 78, "Expected hf://organisation/name"),
        (&hub, "hf://org/../x", 78, "Expected hf://organisation/name"),
        (
            &hub,
            "hf://org/single@",
            78,
            "Expected hf://organisation/name",
        ),
        (
            &unreachable,
            "hf://org/single",
            75,
            "http://127.0.0.1:1 does not answer",
        ),
    ];

    for (hub, uri, code, right) in table {
        let error = hub.fetch_weights(uri, &FILES).unwrap_err();
        assert!(error.to_string().contains(right), "{error}");
        assert_eq!(error.exit_code().exit_code(), code, "{error}");
    }
}
