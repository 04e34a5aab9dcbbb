//! The key behind ServiceAccount tokens: compact JWS, ES256, one key.
//!
//! A JWS with one fixed algorithm is two base64 texts and a signature; a JWT
//! library would bring every algorithm that a token could then name. Ours is
//! fixed, so `alg: none` and its cousins are not even a branch.

use std::path::Path;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use rcgen::{KeyPair, PublicKeyData};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
        UnparsedPublicKey,
    },
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    PkiError,
    files::{self, Access},
};

/// Signs and checks tokens.
pub struct ServiceAccountKey {
    key: EcdsaKeyPair,
    key_id: String,
    random: SystemRandom,
}

impl ServiceAccountKey {
    /// Opens the key at `path`, or makes one when there is none.
    pub fn open(path: &Path) -> Result<Self, PkiError> {
        if let Some(pem) = files::read(path)? {
            return Self::from_pem(&pem)
                .map_err(|why| PkiError::Damaged { path: path.to_owned(), why: why.to_string() });
        }
        let pem = KeyPair::generate()?.serialize_pem();
        files::write(path, pem.as_bytes(), Access::Private)?;
        Self::from_pem(&pem)
    }

    /// Reads a PKCS #8 key.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        let pair = KeyPair::from_pem(pem)?;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            pair.serialized_der(),
            &random,
        )
        .map_err(|error| PkiError::Certificate(format!("not a P-256 key: {error}")))?;
        let key_id = BASE64URL.encode(Sha256::digest(pair.subject_public_key_info()));
        Ok(Self { key, key_id, random })
    }

    /// Signs `claims`.
    pub fn sign(&self, claims: &Value) -> Result<String, PkiError> {
        let header = json!({ "alg": "ES256", "kid": self.key_id });
        let mut token = BASE64URL.encode(header.to_string());
        token.push('.');
        token.push_str(&BASE64URL.encode(claims.to_string()));
        let signature = self
            .key
            .sign(&self.random, token.as_bytes())
            .map_err(|_| PkiError::Certificate("signing a token failed".to_owned()))?;
        token.push('.');
        token.push_str(&BASE64URL.encode(signature));
        Ok(token)
    }

    /// The claims of a token that this key signed. Says nothing about time,
    /// audience or whether the account still lives.
    pub fn verify(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Value = serde_json::from_slice(&BASE64URL.decode(header).ok()?).ok()?;
        if header["alg"] != "ES256" || header["kid"] != self.key_id.as_str() {
            return None;
        }
        let signature = BASE64URL.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        serde_json::from_slice(&BASE64URL.decode(claims).ok()?).ok()
    }

    /// The key set at `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        // An uncompressed point: 0x04, then x and y of 32 bytes each.
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        json!({ "keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.key_id,
            "crv": "P-256",
            "alg": "ES256",
            "x": BASE64URL.encode(x),
            "y": BASE64URL.encode(y),
        }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ServiceAccountKey {
        ServiceAccountKey::from_pem(&KeyPair::generate().unwrap().serialize_pem()).unwrap()
    }

    #[test]
    fn only_our_own_untouched_tokens_verify() {
        let ours = key();
        let claims = json!({ "sub": "system:serviceaccount:a:b" });
        let token = ours.sign(&claims).unwrap();
        assert_eq!(ours.verify(&token), Some(claims.clone()));

        let parts: Vec<&str> = token.split('.').collect();
        let forged = BASE64URL.encode(json!({ "sub": "system:admin" }).to_string());
        let none = BASE64URL.encode(json!({ "alg": "none", "kid": ours.key_id }).to_string());
        let cases = [
            ("another key", key().sign(&claims).unwrap()),
            ("other claims", format!("{}.{forged}.{}", parts[0], parts[2])),
            ("alg none", format!("{none}.{}.", parts[1])),
            ("no signature", format!("{}.{}.", parts[0], parts[1])),
            ("two parts", format!("{}.{}", parts[0], parts[1])),
            ("empty", String::new()),
            ("not base64", "a.b.c".to_owned()),
            ("longer", format!("{token}A")),
        ];
        for (name, token) in cases {
            assert_eq!(ours.verify(&token), None, "{name}");
        }
    }

    #[test]
    fn the_key_set_names_the_signing_key() {
        let key = key();
        let set = key.jwks();
        assert_eq!(set["keys"][0]["kid"], key.key_id.as_str());
        for part in ["x", "y"] {
            let text = set["keys"][0][part].as_str().unwrap();
            assert_eq!(BASE64URL.decode(text).unwrap().len(), 32);
        }
    }
}
