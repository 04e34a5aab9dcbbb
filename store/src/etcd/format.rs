//! Whether what etcd holds is ours to read.

use super::client::Client;
use super::proto::{
    self, CREATED, EQUAL, Op, Operand, PutRequest, RangeRequest, Response, TxnRequest,
};
use crate::sealing::Sealer;
use crate::types::StoreError;

/// The version of what is written to etcd. This program reads no other.
const FORMAT: u32 = 1;

/// Writes the format if etcd holds nothing of ours, or checks it.
pub(super) async fn check_format(client: &Client, sealer: &Sealer) -> Result<(), StoreError> {
    let fingerprint = u64::from_be_bytes(sealer.fingerprint());
    let name = client.aside("format");
    let expected = format!("skiff-store {FORMAT} {fingerprint:016x}");
    let put = PutRequest {
        key: name.clone(),
        value: expected.clone().into_bytes(),
        ..PutRequest::default()
    };
    let absent = proto::Compare {
        result: EQUAL,
        target: CREATED,
        key: name.clone(),
        operand: Some(Operand::Created(0)),
    };
    let answer = client
        .txn(&TxnRequest {
            compare: vec![absent],
            success: vec![Op::Put(put).into()],
            failure: vec![Op::Range(RangeRequest { key: name, ..RangeRequest::default() }).into()],
        })
        .await?;
    if answer.succeeded {
        return Ok(());
    }
    let found = answer.responses.into_iter().find_map(|response| match response.response {
        Some(Response::Range(range)) => range.kvs.into_iter().next(),
        _ => None,
    });
    let found = found.map_or(String::new(), |kv| String::from_utf8_lossy(&kv.value).into_owned());
    judge_format(&found, &expected, &client.prefix)
}

/// Accepts what etcd holds, or says what is wrong with it.
fn judge_format(found: &str, expected: &str, prefix: &str) -> Result<(), StoreError> {
    let fields: Vec<_> = found.split(' ').collect();
    match fields[..] {
        _ if found == expected => Ok(()),
        ["skiff-store", version, _] if version == FORMAT.to_string() => Err(StoreError::Invalid(
            format!("what etcd holds under {} was made with another sealing key", prefix),
        )),
        ["skiff-store", version, _] => Err(StoreError::Invalid(format!(
            "what etcd holds under {} has format {version}, this program reads format {FORMAT}: \
             use the program that wrote it",
            prefix
        ))),
        _ => Err(StoreError::Invalid(format!("what etcd holds under {} is not of Skiff", prefix))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_accepted_or_named() {
        let cases = [
            ("skiff-store 1 00ff", None),
            ("skiff-store 1 00fe", Some("another sealing key")),
            ("skiff-store 2 00ff", Some("has format 2, this program reads format 1")),
            ("something else", Some("not of Skiff")),
            ("", Some("not of Skiff")),
        ];
        for (found, expected) in cases {
            let judged = judge_format(found, "skiff-store 1 00ff", "/skiff");
            match (judged, expected) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => {
                    assert!(error.to_string().contains(words), "{found}: {error}");
                }
                (judged, _) => panic!("{found}: {judged:?}"),
            }
        }
    }
}
