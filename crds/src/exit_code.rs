//! The trainer's last word: its exit codes, and what each means for another try.

/// Why a trainer ended. Signals keep the numbers the kernel gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainerExit {
    /// Everything asked for is done.
    Done,
    /// The command line makes no sense; the same one never will.
    Usage,
    /// The data is unusable: torn shards, too many bad samples, a damaged checkpoint.
    Data,
    /// A fault of ours.
    Bug,
    /// The state is saved (or nothing was to be saved): run me again.
    Retry,
    /// The configuration can never work as it stands.
    Config,
}

impl TrainerExit {
    /// The process exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Usage => 64,
            Self::Data => 65,
            Self::Bug => 70,
            Self::Retry => 75,
            Self::Config => 78,
        }
    }

    /// The meaning of an exit code; `None` for a code that is not the trainer's own.
    pub fn from_code(code: i32) -> Option<Self> {
        [
            Self::Done,
            Self::Usage,
            Self::Data,
            Self::Bug,
            Self::Retry,
            Self::Config,
        ]
        .into_iter()
        .find(|exit| i32::from(exit.exit_code()) == code)
    }

    /// Whether running the same thing again could end otherwise.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Bug | Self::Retry)
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
            TrainerExit::Retry,
            TrainerExit::Config,
        ] {
            assert_eq!(TrainerExit::from_code(exit.exit_code().into()), Some(exit));
        }

        assert_eq!(TrainerExit::from_code(137), None);
    }
}
