use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use cnclip_compute::collective::Collective;

use super::handshake::{HANDSHAKE_TIMEOUT, connect_with_proof};
use super::server::check_hello;
use super::*;
use crate::{Communicator, LocalRanks};

/// A port below those that the system assigns by itself.
fn coordinator() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let port = || {
        20_000
            + (16 * (std::process::id() % 1000) as u16)
                .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))
                % 10_000
    };

    let port = std::iter::repeat_with(port)
        .find(|port| bind_any_address(*port).is_ok())
        .unwrap();

    format!("127.0.0.1:{port}")
}

fn hello(worker: usize) -> WorkerHello {
    WorkerHello {
        version: "1".into(),
        run: "emoji".into(),
        stage: "align".into(),
        attempt: 2,
        workers: 3,
        devices: 2,
        config: "abc".into(),
        worker,
        port: 0,
    }
}

fn first_message(worker: usize) -> ControlMessage {
    ControlMessage::Hello {
        hello: hello(worker),
        nonce: Some(Nonce::random().unwrap()),
    }
}

fn authenticator() -> Authenticator {
    Authenticator::from_variable(Some(&"s".repeat(32)), 3).unwrap()
}

fn join(coordinator: &str, hello: WorkerHello) -> Result<LocalRanks> {
    LocalRanks::join_rendezvous(coordinator, hello, &authenticator(), &|| false)
}

/// Joins, and sums over all ranks.
fn join_and_sum(coordinator: &str, hello: WorkerHello) -> Result<Vec<f64>> {
    join_and_sum_unless(coordinator, hello, &|| false)
}

fn join_and_sum_unless(
    coordinator: &str,
    hello: WorkerHello,
    stop: StopRequest<'_>,
) -> Result<Vec<f64>> {
    let sums = Mutex::new(Vec::new());
    let job = |communicator: Arc<Communicator>| {
        let mut values = vec![communicator.rank() as f64; 100_000];
        communicator.all_reduce_sum(&mut values);
        communicator.barrier()?;
        sums.lock()
            .unwrap()
            .push(values.iter().sum::<f64>() / values.len() as f64);

        Ok(())
    };

    LocalRanks::join_rendezvous(coordinator, hello, &authenticator(), stop)?
        .run_ranks::<Error>(job, job)?;
    Ok(sums.into_inner().unwrap())
}

#[test]
fn workers_that_come_in_any_order_form_one_ring_whoever_else_connects() {
    let address = coordinator();
    thread::scope(|scope| {
        let other = |change: fn(&mut WorkerHello)| {
            let mut hello = hello(1);
            change(&mut hello);
            join(&address, hello).map(drop).unwrap_err()
        };

        let late = scope.spawn(|| join_and_sum(&address, hello(2)));
        let first = scope.spawn(|| join_and_sum(&address, hello(0)));
        // Those that do not belong connect while worker 1 is missing.
        let mut scanner = loop {
            match TcpStream::connect(&address) {
                Ok(stream) => break stream,
                Err(_) => thread::yield_now(),
            }
        };

        let silent = TcpStream::connect(&address).unwrap();
        std::io::Write::write_all(&mut scanner, b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(
            scanner.read(&mut [0; 9]).unwrap_or(0),
            0,
            "its connection is closed"
        );

        let stranger = other(|hello| hello.run = "muge".into());
        assert!(
            stranger
                .to_string()
                .contains("another run than worker 0, muge"),
            "{stranger}"
        );

        assert!(matches!(stranger, Error::Config(_)));
        assert!(matches!(
            other(|hello| hello.attempt = 1),
            Error::WorkerLost(_)
        ));

        let second = scope.spawn(|| join_and_sum(&address, hello(1)));
        for worker in [first, second, late] {
            assert_eq!(worker.join().unwrap().unwrap(), [15.0, 15.0]);
        }

        drop(silent);
    });
}

#[test]
fn who_does_not_belong_is_refused_with_the_reason() {
    type Change = fn(&mut WorkerHello);
    let rows: [(Change, &str, bool); 9] = [
        (|h| h.run = "muge".into(), "another run", false),
        (|h| h.stage = "fit".into(), "another stage", false),
        (
            |h| h.attempt = 1,
            "another attempt than worker 0, 1 and not 2",
            true,
        ),
        (|h| h.workers = 4, "another number of workers", false),
        (|h| h.devices = 1, "another number of devices", false),
        (|h| h.version = "0".into(), "another version", false),
        (|h| h.config = "abd".into(), "another configuration", false),
        (|h| h.worker = 3, "must be 1 to 2", false),
        (|h| h.worker = 2, "worker 2 is here already", true),
    ];

    let present = |worker| worker == 2;
    for (change, expected, retryable) in rows {
        let mut other = hello(1);
        change(&mut other);
        let refused = check_hello(&hello(0), &other, present).unwrap();
        assert!(refused.reason.contains(expected), "{refused:?}");
        assert_eq!(refused.retryable, retryable, "{refused:?}");
    }

    assert_eq!(check_hello(&hello(0), &hello(1), present), None);
}

#[test]
fn a_worker_that_died_during_the_rendezvous_may_come_again() {
    let address = coordinator();
    thread::scope(|scope| {
        let first = scope.spawn(|| join_and_sum(&address, hello(0)));
        let early = loop {
            if let Ok(stream) = TcpStream::connect(&address) {
                break stream;
            }
        };

        connect_with_proof(&early, &authenticator(), &first_message(1)).unwrap();
        drop(early);
        let [late, again] = [2, 1].map(|worker| {
            let address = &address;
            scope.spawn(move || join_and_sum(address, hello(worker)))
        });

        for worker in [again, first, late] {
            assert_eq!(worker.join().unwrap().unwrap(), [15.0, 15.0]);
        }
    });
}

#[test]
fn a_worker_that_is_to_stop_waits_no_longer() {
    for worker in [0, 1] {
        let error =
            LocalRanks::join_rendezvous(&coordinator(), hello(worker), &authenticator(), &|| true)
                .unwrap_err();
        assert!(
            matches!(&error, Error::WorkerLost(text) if text.contains("stopped while waiting")),
            "{error}"
        );
    }
}

mod strangers;
