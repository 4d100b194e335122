//! Where every thread of this process is: for the log of a process that hangs. Changes nothing in them.

use std::fmt::Write;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cnclip_compute::sync::lock_ignoring_poison;

/// A thread that the kernel lets run answers within milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
/// Frames of a thread that are logged: the innermost ones say where it is.
const MAX_FRAMES: usize = 32;

/// The thread that is asked for its stack; a late answer of another is dropped.
static ASKED: AtomicI32 = AtomicI32::new(0);
/// The thread whose stack is in `FRAMES`.
static ANSWERED: AtomicI32 = AtomicI32::new(0);
static FRAMES: [AtomicUsize; MAX_FRAMES] = [const { AtomicUsize::new(0) }; MAX_FRAMES];
/// Of those that use the above.
static DUMPING: Mutex<()> = Mutex::new(());

/// Name, state, system call and stack of every thread, a block of lines for each.
///
/// A thread that the kernel does not let run, such as one that waits for a broken disk or that a debugger stopped,
/// cannot give its stack: then the place in the kernel is what is known.
pub(crate) fn dump_threads() -> String {
    let _dumping = lock_ignoring_poison(&DUMPING);
    let has_handler = install_handler();
    let mut text = String::new();

    for thread in list_threads() {
        // A write into a String does not fail.
        let _ = writeln!(text, "{}", describe_thread(thread));
        if has_handler && thread != own_thread() {
            write_stack(&mut text, &request_stack(thread));
        }
    }

    text
}

/// What `/proc` knows of a thread.
fn describe_thread(thread: i32) -> String {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/self/task/{thread}/{name}"));
        text.unwrap_or_default().trim().to_owned()
    };

    let status = read("status");
    let state = status
        .lines()
        .find_map(|line| line.strip_prefix("State:"))
        .unwrap_or_default()
        .trim();

    let syscall = read("syscall");
    let syscall = syscall.split(' ').next().unwrap_or_default();
    let name = read("comm");
    let channel = read("wchan");
    format!("thread {thread} {name}: {state}, system call {syscall}, waits in {channel}")
}

fn list_threads() -> Vec<i32> {
    let entries = fs::read_dir("/proc/self/task").into_iter().flatten();
    let mut threads: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();

    threads.sort_unstable();
    threads
}

/// The addresses that a thread is at, the innermost first; none if it does not answer.
fn request_stack(thread: i32) -> Vec<usize> {
    FRAMES
        .iter()
        .for_each(|frame| frame.store(0, Ordering::Relaxed));
    ANSWERED.store(0, Ordering::Relaxed);
    ASKED.store(thread, Ordering::Release);

    // SAFETY: sends a signal that has a handler to a thread of this process; one that has ended is an error code.
    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, stack_signal()) };

    let asked = Instant::now();
    while ANSWERED.load(Ordering::Acquire) != thread {
        if asked.elapsed() > ANSWER_TIMEOUT {
            ASKED.store(0, Ordering::Release);
            return Vec::new();
        }

        std::thread::sleep(Duration::from_millis(1));
    }

    let frames = FRAMES.iter().map(|frame| frame.load(Ordering::Relaxed));
    frames.take_while(|address| *address != 0).collect()
}

/// A signal that nothing else in a process uses.
fn stack_signal() -> libc::c_int {
    libc::SIGRTMIN() + 5
}

fn install_handler() -> bool {
    // SAFETY: the action is zeroed memory, which is a valid `sigaction` without flags and mask; its handler is a
    // function that lives as long as the process.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = record_stack as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(stack_signal(), &action, std::ptr::null_mut()) == 0
    }
}

/// Runs in the thread that is asked, wherever that is: it takes no lock and allocates nothing.
extern "C" fn record_stack(_: libc::c_int) {
    let thread = own_thread();
    if ASKED.load(Ordering::Acquire) != thread {
        return;
    }

    let mut slots = FRAMES.iter();
    // SAFETY: unsynchronized is what a handler needs. Threads are asked one at a time, and a late one returns above;
    // the closure only stores addresses.
    unsafe {
        backtrace::trace_unsynchronized(|frame| match slots.next() {
            Some(slot) => {
                slot.store(frame.ip() as usize, Ordering::Relaxed);
                true
            }
            None => false,
        });
    }

    ANSWERED.store(thread, Ordering::Release);
}

fn own_thread() -> i32 {
    // SAFETY: takes no arguments and does not fail.
    unsafe { libc::gettid() }
}

/// Writes the functions at addresses, a line each.
fn write_stack(text: &mut String, addresses: &[usize]) {
    for address in addresses {
        backtrace::resolve(*address as *mut _, |symbol| {
            if let Some(name) = symbol.name() {
                let _ = writeln!(text, "    {name:#}");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[inline(never)]
    fn wait_where_the_test_looks(gate: &std::sync::mpsc::Receiver<()>) {
        std::hint::black_box(gate.recv().is_ok());
    }

    #[test]
    fn every_thread_is_named_with_the_functions_that_it_is_in() {
        let (open, gate) = channel();
        let waiting = std::thread::Builder::new()
            .name("waiting".into())
            .spawn(move || wait_where_the_test_looks(&gate))
            .unwrap();

        std::thread::sleep(Duration::from_millis(100));
        let dump = dump_threads();
        open.send(()).unwrap();
        waiting.join().unwrap();

        let (_, block) = dump.split_once(" waiting: ").unwrap();
        let block = block.split("\nthread ").next().unwrap();
        assert!(block.contains("S (sleeping)"), "{dump}");
        assert!(block.contains("wait_where_the_test_looks"), "{dump}");
    }
}
