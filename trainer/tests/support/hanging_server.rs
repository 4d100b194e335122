//! A web server over a folder that does not answer for some of its files, until the test lets it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A running server; its threads end with the process.
pub(crate) struct HangingServer {
    url: String,
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    /// The file that is not answered for.
    hanging: String,
    answers: AtomicBool,
    requests: Mutex<Vec<String>>,
}

impl HangingServer {
    pub(crate) fn start(folder: &Path, hanging: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            hanging: hanging.to_owned(),
            answers: AtomicBool::new(false),
            requests: Mutex::default(),
        });

        let accepting = shared.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let shared = accepting.clone();
                // The client may go away at any time.
                std::thread::spawn(move || serve(&connection, &shared).ok());
            }
        });

        Self { url, shared }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Whether the file that is not answered for was asked for.
    pub(crate) fn is_asked(&self) -> bool {
        let requests = self.shared.requests.lock().unwrap();
        requests.contains(&self.shared.hanging)
    }

    /// From now on every file is answered for.
    pub(crate) fn answer(&self) {
        self.shared.answers.store(true, Ordering::SeqCst);
    }
}

fn serve(connection: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    loop {
        let mut head = Vec::new();
        while head.last().is_none_or(|line: &String| line != "\r\n") {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }

            head.push(line);
        }

        let mut request = head[0].split(' ');
        let method = request.next().unwrap_or_default().to_owned();
        let name = request
            .next()
            .unwrap_or_default()
            .trim_start_matches('/')
            .to_owned();
        shared.requests.lock().unwrap().push(name.clone());

        if name == shared.hanging && !shared.answers.load(Ordering::SeqCst) {
            // Until the client gives up.
            std::thread::sleep(std::time::Duration::from_secs(3600));
        }

        let (status, body) = match std::fs::read(shared.folder.join(&name)) {
            Ok(body) => ("200 OK", body),
            Err(_) => ("404 Not Found", Vec::new()),
        };

        let mut writer = connection;
        write!(
            writer,
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )?;
        if method != "HEAD" {
            writer.write_all(&body)?;
        }
    }
}
