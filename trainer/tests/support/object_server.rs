//! An S3 server over a folder, `s3://bucket/...`, which records requests, counts what is read and can hold back uploads.
//! It answers as a proxy too: for whatever host it is asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode, header};

/// The only bucket.
const BUCKET: &str = "bucket";

/// A running server; its threads end with the process.
pub(crate) struct ObjectServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    /// Bytes that were sent of each object.
    bytes_read: Mutex<BTreeMap<String, u64>>,
    /// Uploads of names with this end are not answered.
    held_back: Mutex<Option<String>>,
    /// All requests, without their bodies.
    requests: Mutex<Vec<Parts>>,
    /// Parts of objects that are not complete, by key and number.
    parts: Mutex<BTreeMap<(String, u32), Vec<u8>>>,
}

impl ObjectServer {
    pub(crate) fn start(folder: &Path) -> Self {
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            bytes_read: Mutex::default(),
            held_back: Mutex::default(),
            requests: Mutex::default(),
            parts: Mutex::default(),
        });

        let (sender, bound) = mpsc::channel();
        let serving = shared.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                sender.send(listener.local_addr().unwrap()).unwrap();
                let app = axum::Router::new().fallback(answer).with_state(serving);
                axum::serve(listener, app).await.unwrap();
            });
        });

        let address = bound.recv().unwrap();
        Self { address, shared }
    }

    /// The URI of what lies in a folder below the server's.
    pub(crate) fn uri(&self, folder: &str) -> String {
        format!("s3://{BUCKET}/{folder}")
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The variables with which a process reaches it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.url()),
            ("AWS_REGION", "test".into()),
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "test".into()),
        ]
    }

    /// Bytes that were sent of each object, and what was sent before is forgotten.
    pub(crate) fn take_bytes_read(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.shared.bytes_read.lock().unwrap())
    }

    /// From now on uploads of names with this end are not answered.
    pub(crate) fn hold_back(&self, end: &str) {
        *self.shared.held_back.lock().unwrap() = Some(end.to_owned());
    }

    /// The requests of a method until now.
    pub(crate) fn requests(&self, method: &Method) -> Vec<Parts> {
        let mut requests = self.shared.requests.lock().unwrap().clone();
        requests.retain(|request| request.method == *method);
        requests
    }

    /// The names of uploads that were begun.
    pub(crate) fn uploads(&self) -> Vec<String> {
        let puts = self.requests(&Method::PUT);
        let bucket = format!("/{BUCKET}/");
        let key = |put: &Parts| Some(put.uri.path().strip_prefix(&bucket)?.to_owned());
        puts.iter().filter_map(key).collect()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    shared.requests.lock().unwrap().push(head.clone());
    let query = head.uri.query().unwrap_or_default().to_owned();
    let bucket = format!("/{BUCKET}");
    let Some(key) = head.uri.path().strip_prefix(&bucket) else {
        return status(StatusCode::NOT_FOUND);
    };

    let key = key.trim_start_matches('/').to_owned();
    let path = shared.folder.join(&key);
    let value = |name: header::HeaderName| head.headers.get(name)?.to_str().ok().map(str::to_owned);

    match head.method {
        Method::GET if key.is_empty() => list(&shared.folder, &query),
        Method::GET | Method::HEAD => {
            let Ok(content) = std::fs::read(&path) else {
                return status(StatusCode::NOT_FOUND);
            };

            let range = value(header::RANGE);
            let answer = object(&content, range.as_deref());
            if head.method == Method::GET {
                let sent = answer.1;
                *shared.bytes_read.lock().unwrap().entry(key).or_default() += sent;
            }

            answer.0
        }
        Method::PUT => {
            let is_held_back = || {
                let end = shared.held_back.lock().unwrap();
                end.as_ref().is_some_and(|end| key.ends_with(end.as_str()))
            };

            while is_held_back() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }

            let content = to_bytes(body, usize::MAX).await.unwrap();
            if let Some(number) = query_value(&query, "partNumber") {
                let part = (key, number.parse().unwrap());
                shared.parts.lock().unwrap().insert(part, content.into());
                return with_tag(StatusCode::OK, Body::empty());
            }

            if value(header::IF_NONE_MATCH).is_some() && path.exists() {
                return status(StatusCode::PRECONDITION_FAILED);
            }

            write(&path, &content);
            with_tag(StatusCode::OK, Body::empty())
        }
        Method::POST if query_value(&query, "uploadId").is_some() => {
            let mut parts = shared.parts.lock().unwrap();
            let all = std::mem::take(&mut *parts).into_iter();
            let (own, others): (BTreeMap<_, _>, _) = all.partition(|(part, _)| part.0 == key);
            *parts = others;

            write(&path, &own.into_values().collect::<Vec<_>>().concat());
            let xml =
                "<CompleteMultipartUploadResult><ETag>tag</ETag></CompleteMultipartUploadResult>";
            with_tag(StatusCode::OK, Body::from(xml))
        }
        Method::POST => {
            let xml = "<InitiateMultipartUploadResult><UploadId>7</UploadId></InitiateMultipartUploadResult>";
            with_tag(StatusCode::OK, Body::from(xml))
        }
        Method::DELETE => {
            let _ = std::fs::remove_file(&path);
            status(StatusCode::NO_CONTENT)
        }
        _ => status(StatusCode::NOT_IMPLEMENTED),
    }
}

fn write(path: &Path, content: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn query_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(found, value)| (found == name).then_some(value))
}

fn status(code: StatusCode) -> Response<Body> {
    Response::builder()
        .status(code)
        .body(Body::empty())
        .unwrap()
}

fn with_tag(code: StatusCode, body: Body) -> Response<Body> {
    let answer = Response::builder()
        .status(code)
        .header(header::ETAG, "\"tag\"");
    answer.body(body).unwrap()
}

/// An object or a part of it, and the size of that.
fn object(content: &[u8], range: Option<&str>) -> (Response<Body>, u64) {
    let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let (code, part) = match range {
        Some((first, last)) => {
            let first: usize = first.parse().unwrap();
            let last = last.parse::<usize>().unwrap().min(content.len() - 1);
            (StatusCode::PARTIAL_CONTENT, first..last + 1)
        }
        None => (StatusCode::OK, 0..content.len()),
    };

    let bounds = format!("bytes {}-{}/{}", part.start, part.end - 1, content.len());
    let sent = part.len() as u64;
    let answer = Response::builder()
        .status(code)
        .header(header::ETAG, "\"tag\"")
        .header(header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT")
        .header(header::CONTENT_RANGE, bounds)
        .body(Body::from(content[part].to_vec()));

    (answer.unwrap(), sent)
}

fn list(folder: &Path, query: &str) -> Response<Body> {
    let prefix = query_value(query, "prefix").unwrap_or_default();
    let prefix = prefix.replace("%2F", "/");

    let mut entries = Vec::new();
    collect_files(&folder.join(&prefix), &mut entries);
    let entries = entries.iter().map(|(path, size)| {
        let key = path.strip_prefix(folder).unwrap().display();
        format!(
            "<Contents><Key>{key}</Key><Size>{size}</Size><ETag>\"tag\"</ETag>\
             <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        )
    });

    let entries: String = entries.collect();
    let xml =
        format!("<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>");
    with_tag(StatusCode::OK, Body::from(xml))
}

fn collect_files(folder: &Path, files: &mut Vec<(PathBuf, u64)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => collect_files(&path, files),
            false => files.push((path, entry.metadata().unwrap().len())),
        }
    }
}
