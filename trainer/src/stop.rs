//! How a run learns that it is asked to stop. Decides nothing about what is saved then.

/// Asked by a training whether to stop.
///
/// A closure is a signal that is looked at between two steps alone.
pub trait StopSignal {
    /// Whether a stop was requested. Asked after every step.
    fn is_requested(&self) -> bool;

    /// Whether to give up waiting: a stop was requested, and what is waited for has had a while to come. Asked again
    /// and again while a run waits for data or validates.
    fn interrupts_waiting(&self) -> bool {
        false
    }

    /// From now on a stop is answered by saving the state. Before, there is none that is not saved, and the process
    /// may end at once.
    fn begin_saving_state(&self) {}
}

impl<F: Fn() -> bool> StopSignal for F {
    fn is_requested(&self) -> bool {
        self()
    }
}
