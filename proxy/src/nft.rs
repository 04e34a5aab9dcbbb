//! Carries rulesets out: one `nft` run per transaction.
//!
//! A change is in force some 3 ms after it was planned. `nft` itself takes up
//! to 20 ms to exit when a transaction deleted something: closing its socket
//! waits until the kernel has freed what no packet uses any more. Changes that
//! come meanwhile make one batch.

use nftables::helper::{
    DEFAULT_ARGS, DEFAULT_NFT, NftablesError, apply_ruleset_raw_async,
    get_current_ruleset_raw_async,
};
use serde_json::{Value as Json, json};

/// nft did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// A transaction was refused; nothing of it is in effect.
    #[error("nft refused {commands} commands: {said}")]
    Refused {
        /// How many there were.
        commands: usize,
        /// What nft said.
        said: String,
    },
    /// `nft` could not be run or not be understood.
    #[error("cannot run nft")]
    Run(#[source] NftablesError),
}

/// Runs all commands as one transaction. Runs nothing for an empty list.
pub async fn apply_commands(commands: Vec<Json>) -> Result<(), NftError> {
    if commands.is_empty() {
        return Ok(());
    }
    let count = commands.len();
    let payload = json!({"nftables": commands}).to_string();
    match apply_ruleset_raw_async(&payload, DEFAULT_NFT, DEFAULT_ARGS).await {
        Ok(_) => Ok(()),
        Err(NftablesError::NftFailed { stderr, .. }) => {
            let said = stderr.split_whitespace().collect::<Vec<_>>().join(" ");
            Err(NftError::Refused { commands: count, said })
        }
        Err(err) => Err(NftError::Run(err)),
    }
}

/// The rules of one chain of ours; `None` when there is no such chain, as on a
/// machine without `nft`.
pub async fn observe_chain(table: &str, chain: &str) -> Result<Option<Vec<Json>>, NftError> {
    let args = ["list", "chain", "ip", table, chain];
    match get_current_ruleset_raw_async(DEFAULT_NFT, &args).await {
        Ok(text) => {
            let listing: Json = serde_json::from_str(&text)
                .map_err(|err| NftError::Run(NftablesError::NftInvalidJson(err)))?;
            let objects = listing["nftables"].as_array().into_iter().flatten();
            Ok(Some(objects.filter_map(|object| object.get("rule")).cloned().collect()))
        }
        Err(NftablesError::NftFailed { stderr, .. }) if stderr.contains("No such file") => Ok(None),
        Err(err) if is_missing(&err) => Ok(None),
        Err(err) => Err(NftError::Run(err)),
    }
}

fn is_missing(err: &NftablesError) -> bool {
    let NftablesError::NftExecution { inner, .. } = err else { return false };
    inner.kind() == std::io::ErrorKind::NotFound
}
