//! Sealing: values marked secret are encrypted wherever they touch a disk.
//!
//! AES-256-GCM under the one key of the store's configuration, with a random
//! nonce per sealing and the entry's key as associated data, so that a sealed
//! value moved under another key does not open. Memory and readers see plain
//! bytes; the log, the state tree and snapshots see only sealed ones.
//!
//! A random 96-bit nonce stays safe for 2³² sealings under one key, far more
//! than a cluster writes secrets in its life.
//!
//! Left out: rotating the key. It needs a second key id per value.

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// What sealing adds to a value's length: nonce and tag.
pub(crate) const SEALING_BYTES: usize = NONCE_LEN + 16;

/// Encrypts and decrypts sealed values.
pub(crate) struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
    fingerprint: [u8; 8],
}

/// A sealed value that does not open: wrong key or damaged bytes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a sealed value does not open (wrong key or damaged bytes)")]
pub(crate) struct SealError;

impl Sealer {
    /// A sealer under `key`.
    pub(crate) fn new(key: &[u8; 32]) -> Result<Self, SealError> {
        let unbound = UnboundKey::new(&AES_256_GCM, key).map_err(|_| SealError)?;
        let tag =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), b"skiff store key fingerprint");
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(&tag.as_ref()[..8]);
        Ok(Self { key: LessSafeKey::new(unbound), random: SystemRandom::new(), fingerprint })
    }

    /// Eight bytes that tell keys apart without telling the key. Kept in the
    /// data directory, so that a wrong key is refused at open, not at the
    /// first secret.
    pub(crate) fn fingerprint(&self) -> [u8; 8] {
        self.fingerprint
    }

    /// Encrypts `plain` as a value of `key`: nonce, ciphertext, tag.
    pub(crate) fn seal(&self, key: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| SealError)?;
        let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(key.as_bytes()),
                &mut sealed[NONCE_LEN..],
            )
            .map_err(|_| SealError)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Decrypts what [`Sealer::seal`] made for the same `key`.
    pub(crate) fn open(&self, key: &str, sealed: &[u8]) -> Result<Bytes, SealError> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(SealError)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError)?;
        let mut buffer = body.to_vec();
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(key.as_bytes()), &mut buffer)
            .map_err(|_| SealError)?;
        Ok(Bytes::copy_from_slice(plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_was_sealed_for_the_same_key() {
        let sealer = Sealer::new(&[7; 32]).unwrap();
        let other = Sealer::new(&[8; 32]).unwrap();
        let sealed = sealer.seal("a", b"password").unwrap();
        let mut flipped = sealed.clone();
        flipped[NONCE_LEN] ^= 1;
        assert_eq!(sealer.open("a", &sealed), Ok(Bytes::from_static(b"password")));
        let cases = [
            ("under another key name", sealer.open("b", &sealed)),
            ("with another sealing key", other.open("a", &sealed)),
            ("with a flipped bit", sealer.open("a", &flipped)),
            ("cut short", sealer.open("a", &sealed[..5])),
        ];
        for (name, observed) in cases {
            assert_eq!(observed, Err(SealError), "{name}");
        }
        assert_ne!(sealer.fingerprint(), other.fingerprint());
    }

    #[test]
    fn equal_values_seal_differently() {
        let sealer = Sealer::new(&[7; 32]).unwrap();
        assert_ne!(sealer.seal("a", b"x").unwrap(), sealer.seal("a", b"x").unwrap());
    }
}
