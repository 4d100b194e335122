//! Messages between workers: a length, then JSON. Bounded in size, and far more so before the sender has proved that
//! it belongs to the run, because anybody can connect to the port.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use crate::abort_state::{FailureCause, WorkerFailure};
pub use crate::authentication::{Nonce, SecretProof};
use crate::topology::WorkerTopology;

/// The longest message. The table of ring addresses is the longest, a few dozen bytes for each worker; the
/// first four bytes of other protocols, read as a length, are larger.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// The longest message of a peer that has proved nothing yet. A hello is the longest, of a few hundred bytes.
const MAX_HANDSHAKE_BYTES: usize = 4 << 10;

/// Who a worker is. All must have the same of everything but `worker` and `port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerHello {
    /// Version of cnclip.
    pub version: String,
    /// UID of the run, or its name.
    pub run: String,
    /// Name of the stage.
    pub stage: String,
    /// Attempt of the stage.
    pub attempt: i32,
    /// Processes of the run.
    pub workers: usize,
    /// Devices of each.
    pub devices: usize,
    /// SHA-256 of the configuration.
    pub config: String,
    /// Index of this process.
    pub worker: usize,
    /// Where the previous worker of the ring connects to.
    pub port: u16,
}

impl WorkerHello {
    /// The worker's place among the others.
    pub(super) fn topology(&self) -> WorkerTopology {
        WorkerTopology {
            worker: self.worker,
            workers: self.workers,
            devices: self.devices,
        }
    }
}

/// A message on a connection between two workers.
///
/// Hello and refusal keep their names and fields on the wire, because they pass between workers of different
/// versions; all others follow a hello of the same version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlMessage {
    /// The first message of a worker to worker 0.
    Hello {
        /// Who the sender is.
        #[serde(flatten)]
        hello: WorkerHello,
        /// None in the hello of a version that proves nothing.
        #[serde(default)]
        nonce: Option<Nonce>,
    },
    /// The first message of a worker to the next one in the ring.
    Neighbour {
        /// The random number of the table.
        session: Nonce,
        /// Index of the sender.
        worker: usize,
        /// Which of the connections between the two.
        channel: usize,
        /// What the accepting side must prove its knowledge of the secret with.
        nonce: Nonce,
    },
    /// The answer to a first message: the accepting side proves that it knows the secret, and asks for the same.
    Challenge {
        /// What the other side must prove its knowledge with.
        nonce: Nonce,
        /// That of the accepting side.
        proof: SecretProof,
    },
    /// The answer to a challenge.
    Answer {
        /// That of the connecting side.
        proof: SecretProof,
    },
    /// Both sides have proved that they know the secret.
    Welcome,
    /// Worker 0's answer to a worker that it does not accept.
    Refused {
        /// What does not fit.
        #[serde(rename = "why")]
        reason: String,
        /// Whether a later attempt may be accepted.
        #[serde(rename = "again")]
        retryable: bool,
    },
    /// Worker 0's answer once all workers are there: where each one's ring port is, and a random number that
    /// binds ring connections to this rendezvous.
    Table {
        /// The ring port of each worker.
        rings: Vec<SocketAddr>,
        /// The random number.
        session: Nonce,
    },
    /// The sender is alive.
    Heartbeat,
    /// A worker failed.
    Failed(WorkerFailure),
    /// All ranks of the sender have finished.
    Done,
}

impl ControlMessage {
    /// Writes it in one piece.
    ///
    /// # Errors
    /// If the connection ends.
    pub fn write_to(&self, writer: &mut impl Write) -> Result<()> {
        let text = serde_json::to_vec(self)?;
        let mut bytes = (text.len() as u32).to_le_bytes().to_vec();
        bytes.extend(text);
        // In one write: the connections have Nagle's algorithm off, so two would be two packets.
        writer.write_all(&bytes)
    }

    /// Reads the next message.
    ///
    /// # Errors
    /// If the connection ends, or this is no message.
    pub fn read_from(reader: &mut impl Read) -> Result<Self> {
        Self::read_bounded(reader, MAX_MESSAGE_BYTES)
    }

    /// Reads a message of a peer that has proved nothing yet.
    ///
    /// # Errors
    /// If the connection ends, or this is no message of a handshake.
    pub(super) fn read_unproven(reader: &mut impl Read) -> Result<Self> {
        Self::read_bounded(reader, MAX_HANDSHAKE_BYTES)
    }

    fn read_bounded(reader: &mut impl Read, max_bytes: usize) -> Result<Self> {
        let mut length = [0; 4];
        reader.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > max_bytes {
            return Err(Error::from(ErrorKind::InvalidData));
        }

        // Memory is taken for the bytes that come, and not for the length that anybody may declare.
        let mut text = Vec::new();
        reader.take(length as u64).read_to_end(&mut text)?;
        if text.len() < length {
            return Err(Error::from(ErrorKind::UnexpectedEof));
        }

        serde_json::from_slice(&text).map_err(Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written_and_anything_else_is_refused() {
        let message = ControlMessage::Table {
            rings: vec!["10.0.0.7:4711".parse().unwrap()],
            session: Nonce::random().unwrap(),
        };

        let mut bytes = Vec::new();
        message.write_to(&mut bytes).unwrap();
        assert_eq!(
            ControlMessage::read_from(&mut bytes.as_slice()).unwrap(),
            message
        );

        let table: [&[u8]; 5] = [
            b"",
            b"GET / HTTP/1.1\r\n",
            b"\x04\0\0\0nope",
            b"\xff\xff\xff\x7f",
            &bytes[..9],
        ];

        for bytes in table {
            ControlMessage::read_from(&mut &bytes[..]).unwrap_err();
        }
    }

    #[test]
    fn a_hello_of_another_version_is_read_in_both_directions() {
        let hello = WorkerHello {
            version: "0.1.0".into(),
            run: "emoji".into(),
            stage: "align".into(),
            attempt: 2,
            workers: 3,
            devices: 2,
            config: "abc".into(),
            worker: 1,
            port: 4711,
        };

        let before = serde_json::json!({ "Hello": hello }).to_string();
        let read: ControlMessage = serde_json::from_str(&before).unwrap();
        let expected = ControlMessage::Hello {
            hello: hello.clone(),
            nonce: None,
        };
        assert_eq!(read, expected);

        let now = serde_json::to_value(ControlMessage::Hello {
            hello: hello.clone(),
            nonce: Some(Nonce::random().unwrap()),
        });
        let read: WorkerHello = serde_json::from_value(now.unwrap()["Hello"].take()).unwrap();
        assert_eq!(read, hello);
    }

    #[test]
    fn nothing_large_is_read_before_a_proof() {
        let message = ControlMessage::Table {
            rings: vec!["10.0.0.7:4711".parse().unwrap(); 1000],
            session: Nonce::random().unwrap(),
        };

        let mut bytes = Vec::new();
        message.write_to(&mut bytes).unwrap();
        ControlMessage::read_from(&mut bytes.as_slice()).unwrap();
        ControlMessage::read_unproven(&mut bytes.as_slice()).unwrap_err();
    }
}
