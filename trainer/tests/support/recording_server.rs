//! An S3 server without objects that takes what is written to it and records the requests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What a client sent, without the body.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query; a whole URL if the client takes the server for a proxy.
    pub(crate) target: String,
    /// By names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
}

/// A running server; its threads end with the process.
pub(crate) struct RecordingServer {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl RecordingServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<Request>>>::default();

        let recorded = requests.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let recorded = recorded.clone();
                // The client may go away at any time.
                std::thread::spawn(move || serve(&connection, &recorded).ok());
            }
        });

        Self { url, requests }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// All requests until now.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(connection: &TcpStream, recorded: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    while let Some(request) = read_head(&mut reader)? {
        let length = request.headers.get("content-length");
        let length = length.map_or(0, |length| length.parse().unwrap());
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;

        let (status, body) = answer(&request);
        recorded.lock().unwrap().push(request);
        let length = body.len();
        let mut writer = connection;
        write!(
            writer,
            "HTTP/1.1 {status}\r\netag: \"0\"\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
    }

    Ok(())
}

fn answer(request: &Request) -> (&'static str, &'static str) {
    let is_upload = request.target.contains("uploads") || request.target.contains("uploadId");
    match request.method.as_str() {
        "GET" if request.target.contains("list-type=2") => (
            "200 OK",
            "<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>",
        ),
        "GET" | "HEAD" => ("404 Not Found", "<Error><Code>NoSuchKey</Code></Error>"),
        "DELETE" => ("204 No Content", ""),
        "POST" if is_upload => (
            "200 OK",
            "<InitiateMultipartUploadResult><UploadId>7</UploadId><ETag>0</ETag></InitiateMultipartUploadResult>",
        ),
        _ => ("200 OK", ""),
    }
}

fn read_head(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }

        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }

    let mut start = lines[0].split(' ').map(str::to_owned);
    let headers = lines[1..].iter().filter_map(|line| line.split_once(':'));
    Ok(Some(Request {
        method: start.next().unwrap_or_default(),
        target: start.next().unwrap_or_default(),
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect(),
    }))
}
