//! A request to stop: the first SIGTERM or SIGINT asks, a second one of SIGINT ends at once.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

static STOP_REQUESTED: AtomicBool = AtomicBool::new(false);

/// Whether somebody asked to stop. Becomes true at the first signal after [`listen`].
pub(super) fn stop_requested() -> bool {
    STOP_REQUESTED.load(Ordering::Relaxed)
}

/// Begins to listen for signals on a thread of its own.
///
/// # Errors
/// If the system gives no thread or no signal handler.
pub(super) fn install_signal_handlers() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;

    let (mut term, mut int) = {
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
                tracing::info!("Asked to stop: saving the state after this step");
                STOP_REQUESTED.store(true, Ordering::Relaxed);
                int.recv().await;
                std::process::exit(130);
            });
        })?;

    Ok(())
}
