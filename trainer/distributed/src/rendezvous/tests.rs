use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use super::server::check_hello;
use super::*;
use crate::{Communicator, LocalRanks};
use cnclip_compute::collective::Collective;

/// A port below those that the system gives away by itself.
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

fn join(coordinator: &str, hello: WorkerHello) -> Result<LocalRanks> {
    LocalRanks::join_rendezvous(coordinator, hello, &|| false)
}

/// Joins, and adds up the numbers of all ranks, long and short.
fn add_up(coordinator: &str, hello: WorkerHello) -> Result<Vec<f64>> {
    let sums = Mutex::new(Vec::new());
    let job = |world: Arc<Communicator>| {
        let mut values = vec![world.rank() as f64; 100_000];
        world.all_reduce_sum(&mut values);
        world.barrier()?;
        sums.lock()
            .unwrap()
            .push(values.iter().sum::<f64>() / values.len() as f64);

        Ok(())
    };

    join(coordinator, hello)?.run_ranks::<Error>(job, job)?;
    Ok(sums.into_inner().unwrap())
}

#[test]
fn workers_that_come_in_any_order_are_one_ring_whoever_else_knocks() {
    let at = coordinator();
    thread::scope(|scope| {
        let other = |change: fn(&mut WorkerHello)| {
            let mut hello = hello(1);
            change(&mut hello);
            join(&at, hello).map(drop).unwrap_err()
        };

        let late = scope.spawn(|| add_up(&at, hello(2)));
        let first = scope.spawn(|| add_up(&at, hello(0)));
        // Those that do not belong: they knock while worker 1 is missing.
        let mut scanner = loop {
            match TcpStream::connect(&at) {
                Ok(stream) => break stream,
                Err(_) => thread::yield_now(),
            }
        };

        let silent = TcpStream::connect(&at).unwrap();
        std::io::Write::write_all(&mut scanner, b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(
            scanner.read(&mut [0; 9]).unwrap_or(0),
            0,
            "it is hung up on"
        );

        let stranger = other(|hello| hello.run = "muge".into());
        assert!(
            stranger
                .to_string()
                .contains("another run than worker 0, muge"),
            "{stranger}"
        );

        assert!(matches!(stranger, Error::Config(_)));
        assert!(matches!(other(|hello| hello.attempt = 1), Error::Lost(_)));

        let second = scope.spawn(|| add_up(&at, hello(1)));
        for worker in [first, second, late] {
            assert_eq!(worker.join().unwrap().unwrap(), [15.0, 15.0]);
        }

        drop(silent);
    });
}

#[test]
fn who_does_not_belong_is_refused_and_told_why() {
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
    for (change, expected, again) in rows {
        let mut its = hello(1);
        change(&mut its);
        let refused = check_hello(&hello(0), &its, present).unwrap();
        assert!(refused.reason.contains(expected), "{refused:?}");
        assert_eq!(refused.retryable, again, "{refused:?}");
    }

    assert_eq!(check_hello(&hello(0), &hello(1), present), None);
}

#[test]
fn a_worker_that_left_while_others_came_may_come_again() {
    let at = coordinator();
    thread::scope(|scope| {
        let first = scope.spawn(|| add_up(&at, hello(0)));
        let early = loop {
            if let Ok(stream) = TcpStream::connect(&at) {
                break stream;
            }
        };

        ControlMessage::Hello(WorkerHello {
            port: 9,
            ..hello(1)
        })
        .write_to(&mut &early)
        .unwrap();

        drop(early);
        let [late, again] = [2, 1].map(|worker| {
            let at = &at;
            scope.spawn(move || add_up(at, hello(worker)))
        });

        for worker in [again, first, late] {
            assert_eq!(worker.join().unwrap().unwrap(), [15.0, 15.0]);
        }
    });
}

#[test]
fn who_is_asked_to_stop_waits_no_longer() {
    for worker in [0, 1] {
        let error =
            LocalRanks::join_rendezvous(&coordinator(), hello(worker), &|| true).unwrap_err();
        assert!(
            matches!(&error, Error::Lost(text) if text.contains("asked to stop")),
            "{error}"
        );
    }
}
