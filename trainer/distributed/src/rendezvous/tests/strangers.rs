//! Whoever connects and does not belong neither delays the run nor ends it.

use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::authentication::{ProofSide, SecretProof};
use crate::control_message::ControlMessage::{Answer, Challenge, Welcome};
use crate::topology::RING_CHANNELS;

/// How long three workers may take to meet, however many strangers there are. Without any it takes a fraction of a second.
const MEETING_TIME: Duration = Duration::from_secs(10);

fn pair() -> [WorkerHello; 2] {
    [0, 1].map(|worker| WorkerHello {
        workers: 2,
        ..hello(worker)
    })
}

/// Connects as soon as somebody listens.
fn connect(address: &str) -> TcpStream {
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(_) => thread::yield_now(),
        }
    }
}

/// Ends what waits when a test has failed.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Two workers that meet while strangers are there; returns how long worker 1 needed from its start.
fn meet_among<T>(strangers: impl FnOnce(&str) -> T) -> Duration {
    let address = coordinator();
    let [first, second] = pair();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let first = scope.spawn(|| join_and_sum_unless(&address, first, &|| is_over.load(Relaxed)));
        let _guard = SetOnDrop(&is_over);
        // Kept until both have met.
        let _strangers = strangers(&address);
        let start = Instant::now();
        assert_eq!(join_and_sum(&address, second).unwrap(), [6.0, 6.0]);
        assert_eq!(first.join().unwrap().unwrap(), [6.0, 6.0]);
        start.elapsed()
    })
}

/// What a peer does after it has connected, and its answer to that.
fn read_message(mut stream: &TcpStream) -> std::io::Result<ControlMessage> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    ControlMessage::read_from(&mut stream)
}

fn is_closed(mut stream: &TcpStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    // A reset counts: it comes when something was not read.
    !matches!(stream.read(&mut [0; 1]), Ok(1..))
}

#[test]
fn ten_thousand_silent_connections_delay_nobody() {
    let elapsed = meet_among(|address| {
        drop(connect(address));
        // From many threads, because a connection that the system does not take at once is tried again after a second.
        // Or as many as this process may have open.
        let connect_many = || {
            (0..250)
                .map_while(|_| TcpStream::connect(address).ok())
                .collect::<Vec<_>>()
        };

        let all = thread::scope(|scope| {
            let threads: Vec<_> = (0..40).map(|_| scope.spawn(connect_many)).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect::<Vec<_>>()
        });

        assert!(all.len() > 500, "{}", all.len());
        (all, SteadyStrangers::start(address.to_owned()))
    });

    assert!(elapsed < MEETING_TIME, "{elapsed:?}");
}

/// Connects a thousand times a second, without a word.
struct SteadyStrangers {
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl SteadyStrangers {
    fn start(address: String) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_over);
        let connect = move || {
            let mut all = Vec::new();
            while !stop.load(Relaxed) {
                all.extend(TcpStream::connect(&address));
                thread::sleep(Duration::from_millis(1));
            }
        };

        Self {
            is_over,
            thread: Some(thread::spawn(connect)),
        }
    }
}

impl Drop for SteadyStrangers {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn a_connection_that_sends_a_byte_now_and_then_is_closed_in_time() {
    let address = coordinator();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let [first, _] = pair();
        let waiting =
            scope.spawn(|| join_and_sum_unless(&address, first, &|| is_over.load(Relaxed)));

        let guard = SetOnDrop(&is_over);
        let mut slow = connect(&address);
        let start = Instant::now();
        // The length of a message of 4,000 bytes, and then a byte of it each time.
        slow.write_all(&4000u32.to_le_bytes()).unwrap();
        while slow.write_all(b" ").is_ok() && start.elapsed() < 4 * HANDSHAKE_TIMEOUT {
            thread::sleep(Duration::from_millis(200));
        }

        let elapsed = start.elapsed();
        drop(guard);
        waiting.join().unwrap().unwrap_err();
        assert!(elapsed < 2 * HANDSHAKE_TIMEOUT, "{elapsed:?}");
    });
}

#[test]
fn scanners_browsers_and_huge_messages_are_cut_off_at_once() {
    let elapsed = meet_among(|address| {
        let huge = [&u32::MAX.to_le_bytes()[..], &[b' '; 1 << 16]].concat();
        // The beginning of one: its end is not waited for.
        let too_long = [&5000u32.to_le_bytes()[..], b" "].concat();
        let messages: [&[u8]; 4] = [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            &huge,
            &too_long,
        ];

        messages.map(|message| {
            let start = Instant::now();
            let mut stream = connect(address);
            // It may be closed before all is sent.
            let _ = stream.write_all(message);
            assert!(is_closed(&stream));
            assert!(start.elapsed() < HANDSHAKE_TIMEOUT / 2, "{message:?}");
            stream
        })
    });

    assert!(elapsed < MEETING_TIME, "{elapsed:?}");
}

#[test]
fn a_worker_with_another_secret_ends_for_good_and_the_others_meet() {
    let elapsed = meet_among(|address| {
        let other = Authenticator::from_variable(Some(&"t".repeat(32)), 2).unwrap();
        let [_, second] = pair();
        let start = Instant::now();
        let error = LocalRanks::join_rendezvous(address, second, &other, &|| false).unwrap_err();

        assert!(
            matches!(&error, Error::Config(text) if text.contains("CNCLIP_RENDEZVOUS_SECRET differs")),
            "{error}"
        );
        assert!(start.elapsed() < HANDSHAKE_TIMEOUT);
    });

    assert!(elapsed < MEETING_TIME, "{elapsed:?}");
}

#[test]
fn a_recorded_greeting_is_worth_nothing_the_second_time() {
    meet_among(|address| {
        let first = ControlMessage::Hello {
            hello: pair()[1].clone(),
            nonce: Some(Nonce::random().unwrap()),
        };
        let bytes = serde_json::to_vec(&first).unwrap();

        // A worker that belongs, and dies after its handshake.
        let genuine = connect(address);
        first.write_to(&mut &genuine).unwrap();
        let Challenge { nonce, .. } = read_message(&genuine).unwrap() else {
            panic!("no challenge")
        };
        let proof = authenticator().prove(ProofSide::Connecting, &bytes, &nonce);
        Answer { proof }.write_to(&mut &genuine).unwrap();
        assert_eq!(read_message(&genuine).unwrap(), Welcome);
        genuine.shutdown(Shutdown::Both).unwrap();

        // What it sent, once more.
        let replay = connect(address);
        first.write_to(&mut &replay).unwrap();
        Answer { proof }.write_to(&mut &replay).unwrap();
        assert!(matches!(read_message(&replay).unwrap(), Challenge { .. }));
        assert!(is_closed(&replay));

        // What worker 0 sent, back to it.
        let reflected = connect(address);
        first.write_to(&mut &reflected).unwrap();
        let Challenge { proof, .. } = read_message(&reflected).unwrap() else {
            panic!("no challenge")
        };
        Answer { proof }.write_to(&mut &reflected).unwrap();
        assert!(is_closed(&reflected));
    });
}

#[test]
fn a_worker_believes_no_worker_zero_that_cannot_prove_the_secret() {
    let address = coordinator();
    let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
    let listener = bind_any_address(port).unwrap();
    listener.set_nonblocking(false).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let second = pair()[1].clone();
        let worker =
            scope.spawn(|| join_and_sum_unless(&address, second, &|| is_over.load(Relaxed)));
        let _guard = SetOnDrop(&is_over);
        // One that takes the hello and sends a table without a proof: not believed, and tried again.
        let (impostor, _) = listener.accept().unwrap();
        read_message(&impostor).unwrap();
        let table = ControlMessage::Table {
            rings: vec!["127.0.0.1:9".parse().unwrap(); 2],
            session: Nonce::random().unwrap(),
        };
        table.write_to(&mut &impostor).unwrap();
        assert!(is_closed(&impostor));

        // One with a proof of nothing.
        let (impostor, _) = listener.accept().unwrap();
        read_message(&impostor).unwrap();
        let proof: SecretProof = serde_json::from_value([7; 32].to_vec().into()).unwrap();
        let nonce = Nonce::random().unwrap();
        Challenge { nonce, proof }.write_to(&mut &impostor).unwrap();
        assert!(is_closed(&impostor));
        assert!(matches!(worker.join().unwrap(), Err(Error::Config(_))));
    });
}

#[test]
fn the_ring_port_takes_the_worker_before_and_is_not_held_up_by_others() {
    let session = Nonce::random().unwrap();
    let listener = bind_any_address(0).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    let abort_state = AbortState::default();
    let deadline = RendezvousDeadline {
        deadline: Instant::now() + Duration::from_secs(30),
        abort_state: &abort_state,
        stop: &|| false,
    };
    let previous = RingIdentity { session, worker: 2 };
    let own = authenticator();

    // More than could be waited for one after the other.
    let _silent = [(); 40].map(|()| TcpStream::connect(address).unwrap());
    thread::scope(|scope| {
        let start = Instant::now();
        let accepting =
            scope.spawn(|| server::accept_previous_worker(listener, previous, &own, &deadline));

        let neighbour = |session, worker, channel| ControlMessage::Neighbour {
            session,
            worker,
            channel,
            nonce: Nonce::random().unwrap(),
        };

        let other_secret = Authenticator::from_variable(Some(&"t".repeat(32)), 2).unwrap();
        let other_session = Nonce::random().unwrap();
        let strangers = [
            (&other_secret, neighbour(session, 2, 0)),
            (&own, neighbour(other_session, 2, 0)),
            (&own, neighbour(session, 1, 0)),
            (&own, neighbour(session, 2, RING_CHANNELS)),
        ];
        for (authenticator, first) in strangers {
            let stream = TcpStream::connect(address).unwrap();
            connect_with_proof(&stream, authenticator, &first).unwrap_err();
        }

        let outgoing = client::connect_next_worker(address, previous, &own, &deadline).unwrap();
        let incoming = accepting.join().unwrap().unwrap();
        assert!(start.elapsed() < MEETING_TIME, "{:?}", start.elapsed());
        for (channel, (outgoing, incoming)) in outgoing.iter().zip(&incoming).enumerate() {
            (&mut &*outgoing).write_all(&[channel as u8]).unwrap();
            let mut byte = [9];
            (&mut &*incoming).read_exact(&mut byte).unwrap();
            assert_eq!(byte, [channel as u8]);
        }
    });
}
