//! The secret that the workers of an attempt know and nobody else: it goes from the operator to the trainer in
//! [`ENV_RENDEZVOUS_SECRET`](crate::names::ENV_RENDEZVOUS_SECRET).

use std::fmt;

/// Fewest characters: 128 bits in hexadecimal.
const MIN_CHARS: usize = 32;
/// Most characters, far below the size limit of an environment.
const MAX_CHARS: usize = 256;

/// A secret of the workers of one attempt.
///
/// # Guarantees
/// Neither `Debug` nor an error shows it, and it is not serializable: only [`reveal`](Self::reveal) gives it.
#[derive(Clone, PartialEq, Eq)]
pub struct RendezvousSecret(String);

impl RendezvousSecret {
    /// A secret of 256 random bits.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Reads the value of an environment variable.
    ///
    /// # Errors
    /// What is wrong with it, if it is too short to be a secret, or has spaces or characters outside ASCII.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !(MIN_CHARS..=MAX_CHARS).contains(&text.len()) {
            return Err(format!(
                "has {} characters; it must have {MIN_CHARS} to {MAX_CHARS}",
                text.len()
            ));
        }

        // A line break at the end, as of `$(cat file)` in one place and a mounted file in another, would make two
        // equal secrets differ.
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has spaces, line breaks or characters outside ASCII".to_owned());
        }

        Ok(Self(text.to_owned()))
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RendezvousSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RendezvousSecret([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_and_errors_do_not_show_the_secret() {
        let secret = RendezvousSecret::from_random([0xab; 32]);
        assert_eq!(secret.reveal(), "ab".repeat(32));
        assert_eq!(format!("{secret:?}"), "RendezvousSecret([redacted])");
        for text in ["swordfish", &format!("swordfish {}", "a".repeat(40))] {
            let error = RendezvousSecret::parse(text).unwrap_err();
            assert!(!error.contains("swordfish"), "{error}");
        }
    }

    #[test]
    fn a_drawn_secret_is_read_back_and_a_weak_one_is_refused() {
        let secret = RendezvousSecret::from_random([7; 32]);
        assert_eq!(RendezvousSecret::parse(secret.reveal()), Ok(secret));
        for text in [
            "",
            &"a".repeat(31),
            &"a".repeat(257),
            &format!("{}\n", "a".repeat(32)),
        ] {
            assert!(RendezvousSecret::parse(text).is_err(), "{text:?}");
        }
    }
}
