//! Where log lines go: readable ones to a terminal, around its progress bars, and JSON to anything else.
//! Never blocks the thread that logs on a slow reader.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indicatif::MultiProgress;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::threads::spawn_named;

/// Lines that may wait to be written; more are dropped, and counted.
const QUEUE_CAPACITY: usize = 1024;
/// How long the end of the process waits for the last line to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// For ends of the process that drop nothing.
static PROCESS_LOG: OnceLock<SyncSender<LogCommand>> = OnceLock::new();

enum LogCommand {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The process's log; dropping it waits for the last lines, a few seconds at most.
#[derive(Debug)]
pub struct ProcessLog {
    commands: SyncSender<LogCommand>,
    progress_bars: Option<MultiProgress>,
}

impl ProcessLog {
    /// Sends everything logged through `tracing` to standard error. `RUST_LOG` sets the level.
    ///
    /// # Errors
    /// If the process has a log already, or no thread can be started.
    pub fn init_logging() -> std::io::Result<Self> {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        let (writer, commands) = spawn_log_writer(std::io::stderr(), bars.clone())?;
        // A second log is refused below.
        let _ = PROCESS_LOG.set(commands.clone());
        let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter.from_env_lossy())
            .with_target(false)
            .with_writer(move || writer.clone());

        match &bars {
            Some(_) => log.without_time().compact().try_init(),
            // Flattened: collectors index `message` and fields at the top of a JSON object.
            None => log.json().flatten_event(true).try_init(),
        }
        .map_err(std::io::Error::other)?;

        Ok(Self {
            commands,
            progress_bars: bars,
        })
    }

    /// The terminal's progress bars; none if standard error is no terminal.
    pub fn progress_bars(&self) -> Option<MultiProgress> {
        self.progress_bars.clone()
    }
}

impl Drop for ProcessLog {
    fn drop(&mut self) {
        flush_log(&self.commands);
    }
}

/// Waits until what was logged is written: for a process that is about to end without dropping its log.
pub fn flush_process_log() {
    if let Some(commands) = PROCESS_LOG.get() {
        flush_log(commands);
    }
}

fn flush_log(commands: &SyncSender<LogCommand>) {
    let (done, wait) = sync_channel(1);
    // A blocking send would wait forever on a full queue whose writer hangs.
    if commands.try_send(LogCommand::Flush(done)).is_ok() {
        // A pipe that is not read never flushes; the process must end all the same.
        let _ = wait.recv_timeout(FLUSH_TIMEOUT);
    }
}

/// Sends lines to the thread that writes them.
#[derive(Clone)]
struct LogLineWriter {
    commands: SyncSender<LogCommand>,
    dropped_lines: Arc<AtomicU64>,
}

impl Write for LogLineWriter {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        // Never `send`: with a full queue that would block a training step on the reader of a pipe.
        if self
            .commands
            .try_send(LogCommand::Line(line.to_vec()))
            .is_err()
        {
            self.dropped_lines.fetch_add(1, Ordering::Relaxed);
        }
        // A dropped line counts as written: for an error tracing-subscriber prints to standard
        // error itself, and blocks on the same pipe.
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn spawn_log_writer(
    to: impl Write + Send + 'static,
    bars: Option<MultiProgress>,
) -> std::io::Result<(LogLineWriter, SyncSender<LogCommand>)> {
    let (commands, queue) = sync_channel(QUEUE_CAPACITY);
    let dropped_lines = Arc::new(AtomicU64::new(0));
    let writer = LogLineWriter {
        commands: commands.clone(),
        dropped_lines: dropped_lines.clone(),
    };

    spawn_named("log", move || {
        write_log_lines(to, bars, queue, &dropped_lines);
    })?;

    Ok((writer, commands))
}

/// Errors are ignored: there is no other place to report that the log cannot be written.
fn write_log_lines(
    mut to: impl Write,
    bars: Option<MultiProgress>,
    commands: Receiver<LogCommand>,
    dropped_lines: &AtomicU64,
) {
    for command in commands {
        let line = match command {
            LogCommand::Flush(done) => {
                let _ = to.flush().and(Ok(done.try_send(())));
                continue;
            }
            LogCommand::Line(line) => line,
        };

        let mut write = || write_line(&mut to, &line, dropped_lines.swap(0, Ordering::Relaxed));
        // Between bars that redraw themselves a line would be overwritten: they are taken off meanwhile.
        let _ = match &bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        };
    }
}

fn write_line(to: &mut impl Write, line: &[u8], dropped: u64) -> std::io::Result<()> {
    if dropped > 0 {
        writeln!(
            to,
            "{{\"level\":\"WARN\",\"message\":\"lines lost\",\"lines\":{dropped}}}"
        )?;
    }

    to.write_all(line)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes lines only while it is not locked.
    #[derive(Clone, Default)]
    struct Reader(Arc<Mutex<Vec<u8>>>);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_hangs_blocks_no_thread_and_dropped_lines_are_counted() {
        let reader = Reader::default();
        let (mut lines, commands) = spawn_log_writer(reader.clone(), None).unwrap();
        let hang = reader.0.lock().unwrap();
        (0..QUEUE_CAPACITY * 2).for_each(|_| lines.write_all(b"line\n").unwrap());
        drop(hang);
        let (done, wait) = sync_channel(1);

        commands.send(LogCommand::Flush(done)).unwrap();
        wait.recv().unwrap();
        let text = String::from_utf8(reader.0.lock().unwrap().clone()).unwrap();
        let (warnings, kept): (Vec<_>, Vec<_>) =
            text.lines().partition(|line| line.starts_with('{'));
        let lost = warnings.iter().map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["lines"]
                .as_u64()
                .unwrap()
        });

        assert_eq!(lost.sum::<u64>() as usize + kept.len(), QUEUE_CAPACITY * 2);
        assert!(
            kept.len() < QUEUE_CAPACITY * 2,
            "{} lines were kept",
            kept.len()
        );
    }

    #[test]
    fn lines_written_before_a_flush_are_read_before_it_returns() {
        let reader = Reader::default();
        let (mut lines, commands) = spawn_log_writer(reader.clone(), None).unwrap();
        (0..100).for_each(|_| lines.write_all(b"line\n").unwrap());
        flush_log(&commands);
        assert_eq!(
            reader
                .0
                .lock()
                .unwrap()
                .iter()
                .filter(|&&byte| byte == b'\n')
                .count(),
            100
        );
    }
}
