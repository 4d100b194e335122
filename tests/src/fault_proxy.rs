//! A TCP proxy in front of a server that breaks connections as a test asks for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What happens to every connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Nothing.
    None,
    /// A request is read and never answered.
    Swallow,
    /// The connection is closed when a request arrives.
    Reset,
    /// The answer is cut off after some bytes.
    Cut(usize),
    /// The answer arrives at this many bytes a second.
    Slow(usize),
    /// The server is not asked: this is the answer.
    Answer {
        /// Such as `503 Slow Down`.
        status: &'static str,
        /// The code that S3 puts into the body.
        code: &'static str,
    },
}

/// A running proxy, which ends when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    _runtime: Runtime,
}

impl FaultProxy {
    /// Starts a proxy for an address such as `127.0.0.1:7070`.
    ///
    /// # Errors
    /// When the system gives no port.
    pub fn start(upstream: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;

        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let (fault, faults) = watch::channel(Fault::None);
        runtime.spawn(accept(listener, Arc::from(upstream), faults));

        Ok(Self {
            address,
            fault,
            _runtime: runtime,
        })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on every connection has this fault. Those that are open are closed.
    pub fn set_fault(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Has a fault for a while, and none after it.
    pub fn set_fault_for(self: &Arc<Self>, fault: Fault, duration: Duration) {
        self.set_fault(fault);
        let proxy = Arc::clone(self);
        std::thread::spawn(move || {
            std::thread::sleep(duration);
            proxy.set_fault(Fault::None);
        });
    }
}

async fn accept(listener: TcpListener, upstream: Arc<str>, faults: watch::Receiver<Fault>) {
    while let Ok((client, _)) = listener.accept().await {
        let mut faults = faults.clone();
        let fault = faults.borrow_and_update().clone();
        let upstream = Arc::clone(&upstream);

        tokio::spawn(async move {
            tokio::select! {
                // An error is a connection that is closed, by either side.
                _ = relay(client, &upstream, fault) => {}
                // Keep-alive connections would go on with the fault that they began with.
                _ = faults.changed() => {}
            }
        });
    }
}

async fn relay(mut client: TcpStream, upstream: &str, fault: Fault) -> anyhow::Result<()> {
    match fault {
        Fault::None => {
            let mut server = TcpStream::connect(upstream).await.context("connect")?;
            copy_bidirectional(&mut client, &mut server).await?;
        }
        Fault::Swallow => drain(&mut client).await?,
        Fault::Reset => {
            client.read_u8().await?;
        }
        Fault::Cut(bytes) => relay_throttled(client, upstream, bytes, None).await?,
        Fault::Slow(bytes) => relay_throttled(client, upstream, usize::MAX, Some(bytes)).await?,
        Fault::Answer { status, code } => {
            read_head(&mut client).await?;
            let body =
                format!("<Error><Code>{code}</Code><Message>injected fault</Message></Error>");
            let head = format!("content-length: {}\r\nconnection: close", body.len());
            let answer = format!("HTTP/1.1 {status}\r\n{head}\r\n\r\n{body}");
            client.write_all(answer.as_bytes()).await?;
            // The rest of the request: closed with bytes unread, the connection would be reset.
            drain(&mut client).await?;
        }
    }

    Ok(())
}

/// Sends the first `bytes` of the answers, at a limited rate.
async fn relay_throttled(
    client: TcpStream,
    upstream: &str,
    bytes: usize,
    per_second: Option<usize>,
) -> anyhow::Result<()> {
    let (mut from_server, mut to_server) = TcpStream::connect(upstream).await?.into_split();
    let (mut from_client, mut to_client) = client.into_split();
    let requests = tokio::io::copy(&mut from_client, &mut to_server);
    let answers = copy_limited(&mut from_server, &mut to_client, bytes, per_second);

    tokio::select! {
        done = answers => done,
        done = requests => Ok(done.map(drop)?),
    }
}

async fn copy_limited(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    bytes: usize,
    per_second: Option<usize>,
) -> anyhow::Result<()> {
    let mut left = bytes;
    let mut buffer = vec![0; per_second.unwrap_or(64 << 10)];

    while left > 0 {
        let count = from.read(&mut buffer).await?.min(left);
        if count == 0 {
            break;
        }

        to.write_all(&buffer[..count]).await?;
        left -= count;
        if per_second.is_some() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    Ok(())
}

async fn read_head(client: &mut TcpStream) -> anyhow::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }

    Ok(())
}

async fn drain(client: &mut TcpStream) -> anyhow::Result<()> {
    tokio::io::copy(client, &mut tokio::io::sink()).await?;
    Ok(())
}
