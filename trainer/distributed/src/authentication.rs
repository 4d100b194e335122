//! Proofs that both ends of a connection know the secret of the run, which itself never travels. Knows no sockets.
//!
//! A proof is the HMAC-SHA256 of the connection's first message, which has a nonce of the connecting side and says
//! who that is, and of a nonce of the accepting side. So a recorded proof is worth nothing on another connection, for
//! another worker or in the other direction.

use std::fmt;

use cnclip_crds::names::ENV_RENDEZVOUS_SECRET;
use cnclip_crds::rendezvous_secret::RendezvousSecret;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A number that is used once.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nonce([u8; 32]);

impl Nonce {
    /// # Errors
    /// If the system gives no random numbers.
    pub(super) fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce")
    }
}

/// What only a side that knows the secret can send.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretProof([u8; 32]);

impl fmt::Debug for SecretProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretProof")
    }
}

/// The side of a connection that a proof comes from.
#[derive(Clone, Copy)]
pub(super) enum ProofSide {
    Connecting,
    Accepting,
}

impl ProofSide {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Connecting => b"cnclip rendezvous 1, connecting",
            Self::Accepting => b"cnclip rendezvous 1, accepting",
        }
    }
}

/// Makes and checks the proofs of a run.
#[derive(Clone, Debug)]
pub(super) struct Authenticator {
    secret: RendezvousSecret,
}

impl Authenticator {
    pub(super) fn new(secret: RendezvousSecret) -> Self {
        Self { secret }
    }

    /// Reads the value of the environment variable; `workers` of the run wait for each other.
    ///
    /// # Errors
    /// If it is missing or no secret.
    pub(super) fn from_variable(value: Option<&str>, workers: usize) -> Result<Self> {
        let version = env!("CARGO_PKG_VERSION");
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return Err(Error::Config(format!(
                "{ENV_RENDEZVOUS_SECRET} is not set: the {workers} workers of a run prove to each other that they \
                 know it. The operator of the same version as this trainer image ({version}) sets it: upgrade the \
                 operator, or set spec.image to the trainer image of the operator's version. By hand, set the same \
                 value for all workers, such as that of `openssl rand -hex 32`."
            )));
        };

        RendezvousSecret::parse(value)
            .map(Self::new)
            .map_err(|fault| {
                Error::Config(format!(
                    "{ENV_RENDEZVOUS_SECRET} {fault}. Set the same value for all workers, such as that of \
                 `openssl rand -hex 32`."
                ))
            })
    }

    /// The proof of one side for a connection that began with this message.
    pub(super) fn prove(&self, side: ProofSide, first: &[u8], nonce: &Nonce) -> SecretProof {
        SecretProof(self.mac(side, first, nonce).finalize().into_bytes().into())
    }

    /// Whether this is that proof. Takes the same time for every wrong one.
    pub(super) fn verify(
        &self,
        side: ProofSide,
        first: &[u8],
        nonce: &Nonce,
        proof: &SecretProof,
    ) -> bool {
        self.mac(side, first, nonce).verify_slice(&proof.0).is_ok()
    }

    fn mac(&self, side: ProofSide, first: &[u8], nonce: &Nonce) -> Hmac<Sha256> {
        // As HMAC itself does with a long key: hashed, and filled up with zeros to a block.
        let mut key = [0; 64];
        key[..32].copy_from_slice(&Sha256::digest(self.secret.reveal()));
        let mut mac = Hmac::<Sha256>::new(&key.into());

        // Each part with its length, so that no two different connections give the same bytes.
        for part in [side.label(), first, &nonce.0] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }

        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticator(character: &str) -> Authenticator {
        Authenticator::from_variable(Some(&character.repeat(32)), 2).unwrap()
    }

    #[test]
    fn a_proof_holds_for_one_secret_side_first_message_and_nonce() {
        use ProofSide::{Accepting, Connecting};
        let nonce = Nonce([3; 32]);
        let own = authenticator("a");
        let proof = own.prove(Connecting, b"worker 1", &nonce);

        assert!(own.verify(Connecting, b"worker 1", &nonce, &proof));
        assert!(!own.verify(Accepting, b"worker 1", &nonce, &proof));
        assert!(!own.verify(Connecting, b"worker 2", &nonce, &proof));
        assert!(!own.verify(Connecting, b"worker 1", &Nonce([4; 32]), &proof));
        assert!(!authenticator("b").verify(Connecting, b"worker 1", &nonce, &proof));
    }

    #[test]
    fn a_missing_secret_names_both_versions_and_no_error_or_debug_output_shows_one() {
        let missing = Authenticator::from_variable(None, 3)
            .unwrap_err()
            .to_string();
        for expected in [ENV_RENDEZVOUS_SECRET, "operator", "trainer image (0."] {
            assert!(missing.contains(expected), "{missing}");
        }

        let short = Authenticator::from_variable(Some("swordfish"), 3).unwrap_err();
        assert!(!format!("{short:?}").contains("swordfish"));
        assert!(!format!("{:?}", authenticator("s")).contains("sss"));
        let proof = authenticator("s").prove(ProofSide::Accepting, b"", &Nonce([0; 32]));
        assert_eq!(format!("{proof:?}"), "SecretProof");
    }
}
