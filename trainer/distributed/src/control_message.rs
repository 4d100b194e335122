//! What workers say to each other besides numbers: a length, then JSON. Never long, and never read
//! without a bound.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::abort_state::WorkerLost;

/// The longest word, in bytes.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Who a worker is. All must agree on everything but `worker` and `port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WorkerHello {
    pub(super) version: String,
    /// UID of the run, or its name.
    pub(super) run: String,
    pub(super) stage: String,
    pub(super) attempt: i32,
    pub(super) workers: usize,
    pub(super) devices: usize,
    /// SHA-256 of the configuration.
    pub(super) config: String,
    pub(super) worker: usize,
    /// Where the worker before it in the ring finds it.
    pub(super) port: u16,
}

/// A sentence on the connection between a worker and worker 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ControlMessage {
    /// A worker's first.
    Hello(WorkerHello),
    /// Worker 0's answer to whom it cannot take; `again` says whether that can change.
    Refused { why: String, again: bool },
    /// Worker 0's answer once all are here: where each one's ring begins, and a number that nobody
    /// else knows.
    Table { rings: Vec<SocketAddr>, secret: u64 },
    /// A worker's first word to the next one in the ring.
    Neighbour {
        secret: u64,
        worker: usize,
        lane: usize,
    },
    /// Still here.
    Beat,
    /// Somebody is not.
    Lost(WorkerLost),
    /// All is done.
    Done,
}

impl ControlMessage {
    pub(super) fn write_to(&self, to: &mut impl Write) -> Result<()> {
        let text = serde_json::to_vec(self)?;
        let mut bytes = (text.len() as u32).to_le_bytes().to_vec();
        bytes.extend(text);
        to.write_all(&bytes)
    }

    /// # Errors
    /// If the connection ends, or this is no word.
    pub(super) fn read_from(from: &mut impl Read) -> Result<Self> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;

        if length > MAX_MESSAGE_BYTES {
            return Err(Error::from(ErrorKind::InvalidData));
        }

        let mut text = vec![0; length];
        from.read_exact(&mut text)?;
        serde_json::from_slice(&text).map_err(Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_as_it_was_written_and_anything_else_is_refused() {
        let word = ControlMessage::Neighbour {
            secret: u64::MAX,
            worker: 3,
            lane: 1,
        };

        let mut bytes = Vec::new();
        word.write_to(&mut bytes).unwrap();
        assert_eq!(
            ControlMessage::read_from(&mut bytes.as_slice()).unwrap(),
            word
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
}
