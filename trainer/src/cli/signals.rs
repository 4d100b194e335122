//! Signal handling: the first SIGTERM or SIGINT requests a graceful stop, a further SIGINT exits immediately.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

static STOP_REQUESTED: AtomicBool = AtomicBool::new(false);

/// Whether a stop was requested: true from the first signal after [`install_signal_handlers`] on.
pub(super) fn stop_requested() -> bool {
    // Relaxed suffices: the flag guards no other data, and the training loop polls it between steps.
    STOP_REQUESTED.load(Ordering::Relaxed)
}

/// Handles signals on a background thread.
///
/// # Errors
/// If the system gives no thread or no signal handler.
pub(super) fn install_signal_handlers() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;

    let (mut term, mut int) = {
        // Registered before the thread runs, so that no signal after this function is lost; tokio
        // registers signals only within a runtime.
        let _inside = runtime.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        )
    };

    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                tracing::info!("Stop requested: saving the state after this step");
                STOP_REQUESTED.store(true, Ordering::Relaxed);

                // Kubernetes repeats SIGTERM at will and kills after the grace period anyway; only a person
                // who presses Ctrl-C again does not want to wait for the state to be saved.
                int.recv().await;
                // 128 + SIGINT, as a shell reports it.
                std::process::exit(130);
            });
        })?;

    Ok(())
}
