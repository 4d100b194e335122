//! Signal handling: the first SIGTERM or SIGINT requests a stop, a second one ends the process at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use cnclip::error::Error;
use cnclip::progress::{Reporter, logging};
use cnclip::stop::StopSignal;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long after a stop was requested a run still waits for data: most batches come in time, and all workers can
/// stop after the same step.
const WAIT_AFTER_REQUEST: Duration = Duration::from_secs(5);

/// The stop that the process was sent.
#[derive(Clone, Debug, Default)]
pub(super) struct ProcessStop(Arc<StopState>);

#[derive(Debug, Default)]
struct StopState {
    requested: OnceLock<Instant>,
    saves_state: AtomicBool,
}

impl StopSignal for ProcessStop {
    fn is_requested(&self) -> bool {
        self.0.requested.get().is_some()
    }

    fn interrupts_waiting(&self) -> bool {
        let requested = self.0.requested.get();
        requested.is_some_and(|requested| requested.elapsed() >= WAIT_AFTER_REQUEST)
    }

    fn begin_saving_state(&self) {
        self.0.saves_state.store(true, Ordering::SeqCst);
    }
}

/// Handles signals on a background thread.
///
/// # Errors
/// If the system gives no thread or no signal handler.
pub(super) fn install_signal_handlers(reporter: Weak<Reporter>) -> std::io::Result<ProcessStop> {
    let stop = ProcessStop::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;

    let mut signals = {
        // Registered before the thread runs, so that no signal after this function is lost; tokio
        // registers signals only within a runtime.
        let _inside = runtime.enter();
        StopSignals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        }
    };

    let state = stop.0.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                let number = signals.next_signal().await;
                if !state.saves_state.load(Ordering::SeqCst) {
                    end_process(&reporter, number);
                }

                tracing::info!("Stop requested: saving the state after this step");
                let _ = state.requested.set(Instant::now());

                // The kubelet sends one SIGTERM and kills after the grace period; who sends a second one does not
                // want to wait for the state.
                let number = signals.next_signal().await;
                std::process::exit(128 + number);
            });
        })?;

    Ok(stop)
}

/// Ends a process that has no state to save: a training that is starting, an evaluation.
fn end_process(reporter: &Weak<Reporter>, number: i32) -> ! {
    let error = Error::Stopped(format!(
        "stopped by signal {number} before there was anything to save; run the same command again"
    ));

    let exit_code = error.exit_code().exit_code().into();
    logging::flush_process_log();
    if let Some(reporter) = reporter.upgrade() {
        reporter.report_failure(&error);
        reporter.write_last_message(|| std::process::exit(exit_code));
    }

    std::process::exit(exit_code)
}

struct StopSignals {
    term: Signal,
    int: Signal,
}

impl StopSignals {
    /// The number of the next signal.
    async fn next_signal(&mut self) -> i32 {
        tokio::select! {
            _ = self.term.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.int.recv() => SignalKind::interrupt().as_raw_value(),
        }
    }
}
