//! Exit codes of the trainer.

/// Exit status of a trainer. Signals keep the exit codes of the kernel (128 + signal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainerExit {
    /// Completed.
    Done,
    /// Invalid command line. Not retryable.
    Usage,
    /// Unusable data: corrupt shards, too many unusable samples, a damaged checkpoint. Not retryable.
    Data,
    /// Internal error.
    Bug,
    /// A rank made no progress and was ended: restart.
    Hang,
    /// Interrupted or failed temporarily, with the state saved if there was any: restart.
    Retry,
    /// Invalid configuration. Not retryable.
    Config,
}

impl TrainerExit {
    /// The process exit code.
    // The codes of BSD's sysexits.h, below 126: shells, container runtimes and signals use those
    // above.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Usage => 64,
            Self::Data => 65,
            Self::Bug => 70,
            Self::Hang => 71,
            Self::Retry => 75,
            Self::Config => 78,
        }
    }

    /// The exit status of an exit code; `None` if the trainer does not use the code.
    ///
    /// # Examples
    /// ```
    /// use cnclip_crds::exit_code::TrainerExit;
    ///
    /// assert_eq!(TrainerExit::from_code(75), Some(TrainerExit::Retry));
    /// assert_eq!(TrainerExit::from_code(137), None, "SIGKILL");
    /// ```
    pub fn from_code(code: i32) -> Option<Self> {
        // Derived from `exit_code`, so that the two directions cannot disagree.
        [
            Self::Done,
            Self::Usage,
            Self::Data,
            Self::Bug,
            Self::Hang,
            Self::Retry,
            Self::Config,
        ]
        .into_iter()
        .find(|exit| i32::from(exit.exit_code()) == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_read_back_as_what_it_was() {
        for exit in [
            TrainerExit::Done,
            TrainerExit::Usage,
            TrainerExit::Data,
            TrainerExit::Bug,
            TrainerExit::Hang,
            TrainerExit::Retry,
            TrainerExit::Config,
        ] {
            assert_eq!(TrainerExit::from_code(exit.exit_code().into()), Some(exit));
        }

        assert_eq!(TrainerExit::from_code(137), None);
    }
}
