//! The ranks that train together: threads of this process and of other processes, in one ring. Carries
//! values between them and detects when one of them fails; never knows what the values mean.
//!
//! ```text
//! rank = worker · devices + device
//! ring      each rank → the next, around: a channel inside a process, TCP between two
//! control   each worker ↔ worker 0: hello, heartbeats, failures
//! ```
//!
//! # Protocol
//! A run goes through three phases. What happens when a peer dies depends on the phase:
//!
//! 1. **Rendezvous.** Every worker connects to worker 0 (the coordinator) and sends a hello; both prove that they
//!    know the secret of the run. Worker 0 compares the hello with its own, refuses a worker of another run, version
//!    or configuration, and answers all of them once everybody is there with the table of ring addresses. A worker
//!    that dies before that answer may come again; nobody else notices.
//! 2. **Training.** Collectives run around the ring. The control connections stay open and carry a
//!    heartbeat a second. A closed connection, ten seconds without a heartbeat, or a reported failure is
//!    recorded in the abort state of every process, once: worker 0 passes it on to all others. From then on
//!    no collective waits any more; values stay as they are, and [`Communicator::check_peers`] returns the
//!    failure. There is no recovery inside a run: all workers end, and the run is started again from its
//!    newest checkpoint.
//! 3. **Shutdown.** A worker whose ranks all succeeded announces that it is done before it closes its
//!    connections, so that nobody takes the closed connection for a failure. The last barrier of the ranks
//!    came before, so done on one worker means that no other needs it any more.
//!
//! # Examples
//! ```
//! use cnclip_compute::collective::Collective;
//! use cnclip_distributed::run_on_ranks;
//!
//! let sums = run_on_ranks(3, |communicator| {
//!     let mut values = [communicator.rank() as f32, 1.0];
//!     communicator.all_reduce_sum(&mut values);
//!     values
//! })?;
//!
//! assert_eq!(sums, [[3.0, 3.0]; 3]);
//! # Ok::<(), cnclip_distributed::Error>(())
//! ```

mod abort_state;
mod authentication;
mod communicator;
mod control;
pub mod control_message;
mod device_group;
pub mod error;
mod failure_reporter;
mod gradient_buckets;
mod link;
mod local_ranks;
mod rendezvous;
mod ring;
mod straggler;
mod topology;

pub use communicator::Communicator;
pub use error::{Error, Origin, RankError, Result};
pub use gradient_buckets::GradientBuckets;
pub use local_ranks::{JoinRequest, LocalRanks, run_on_ranks};
pub use straggler::{Straggler, StragglerDetector};

#[cfg(test)]
mod tests;
