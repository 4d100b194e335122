//! The start of every connection between two workers, before which nothing that arrives is believed:
//!
//! ```text
//! connecting → accepting    first message, with a nonce
//! connecting ← accepting    challenge: a proof of the secret, and a nonce
//! connecting → accepting    answer: a proof of the secret
//! connecting ← accepting    welcome
//! ```

use std::io::{Error, ErrorKind, Read, Result};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::authentication::{Authenticator, Nonce, ProofSide};
use crate::control_message::ControlMessage;

/// How long a handshake may take altogether. Port scanners and health checks connect and send nothing, or a byte a
/// second.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection whose reads and writes end with the handshake's time.
pub(super) struct HandshakeStream<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl<'a> HandshakeStream<'a> {
    /// # Errors
    /// If the connection has ended.
    pub(super) fn new(stream: &'a TcpStream) -> Result<Self> {
        // Some systems let an accepted connection inherit the listener's mode.
        stream.set_nonblocking(false)?;
        // Messages are small and awaited: Nagle's algorithm would only delay them.
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;

        Ok(Self {
            stream,
            deadline: Instant::now() + HANDSHAKE_TIMEOUT,
        })
    }

    /// The next message of a peer that has proved nothing yet.
    pub(super) fn read_message(&mut self) -> Result<ControlMessage> {
        ControlMessage::read_unproven(self)
    }

    pub(super) fn write_message(&mut self, message: &ControlMessage) -> Result<()> {
        message.write_to(&mut self.stream)
    }
}

impl Read for HandshakeStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }

        self.stream.set_read_timeout(Some(left))?;
        Read::read(&mut self.stream, buffer)
    }
}

/// Why a connection is of no use to the side that opened it.
#[derive(Debug)]
pub(super) enum HandshakeError {
    /// Nobody answers, or something that is no worker; another attempt may succeed.
    Failed,
    /// The accepting side does not know the secret of this one.
    WrongSecret,
    /// The accepting side does not want this worker.
    Refused { reason: String, retryable: bool },
}

impl From<Error> for HandshakeError {
    fn from(_: Error) -> Self {
        Self::Failed
    }
}

/// The connecting side.
///
/// # Errors
/// If the other side does not prove that it knows the secret, or does not welcome this one.
pub(super) fn connect_with_proof(
    stream: &TcpStream,
    authenticator: &Authenticator,
    first: &ControlMessage,
) -> std::result::Result<(), HandshakeError> {
    let mut stream = HandshakeStream::new(stream)?;
    let first_bytes = serde_json::to_vec(first).map_err(Error::from)?;
    stream.write_message(first)?;

    let (nonce, proof) = match stream.read_message()? {
        ControlMessage::Challenge { nonce, proof } => (nonce, proof),
        ControlMessage::Refused { reason, retryable } => {
            return Err(HandshakeError::Refused { reason, retryable });
        }
        _ => return Err(HandshakeError::Failed),
    };

    if !authenticator.verify(ProofSide::Accepting, &first_bytes, &nonce, &proof) {
        return Err(HandshakeError::WrongSecret);
    }

    let proof = authenticator.prove(ProofSide::Connecting, &first_bytes, &nonce);
    stream.write_message(&ControlMessage::Answer { proof })?;
    match stream.read_message()? {
        ControlMessage::Welcome => Ok(()),
        _ => Err(HandshakeError::Failed),
    }
}

/// The accepting side, after the first message; the welcome is up to the caller.
///
/// # Errors
/// If the other side does not prove that it knows the secret.
pub(super) fn challenge_peer(
    stream: &mut HandshakeStream<'_>,
    authenticator: &Authenticator,
    first: &ControlMessage,
) -> Result<()> {
    let first = serde_json::to_vec(first)?;
    let nonce = Nonce::random()?;
    let proof = authenticator.prove(ProofSide::Accepting, &first, &nonce);
    stream.write_message(&ControlMessage::Challenge { nonce, proof })?;

    match stream.read_message()? {
        ControlMessage::Answer { proof }
            if authenticator.verify(ProofSide::Connecting, &first, &nonce, &proof) =>
        {
            Ok(())
        }
        _ => Err(ErrorKind::PermissionDenied.into()),
    }
}
