//! `skiff restore`: a new data directory out of a backup and the cluster's keys.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, bail};
use skiff_apiserver::pki;
use skiff_store::{BackupError, StoreConfig};

use super::args::RestoreArgs;
use super::preflight::DataDir;

/// Restores `args.file` into `args.data_dir`, which must hold no store.
pub(super) fn run(args: &RestoreArgs) -> anyhow::Result<()> {
    let file = &args.file;
    skiff_store::inspect(file).with_context(|| format!("cannot restore {}", file.display()))?;
    let data_dir = DataDir::take(&args.data_dir)?.path;
    let own = pki::dir(&data_dir);
    let keys = match &args.pki {
        Some(_) if own.exists() => {
            bail!("{} exists already; restore without --pki, or remove it", own.display())
        }
        Some(given) => given,
        None => &own,
    };
    let Some(sealing_key) = pki::read_sealing_key(keys)? else {
        bail!(
            "{} holds no sealing.key, and a backup opens only with that of its cluster; \
             name the old master's pki folder with --pki",
            keys.display()
        );
    };
    let config = StoreConfig::new(data_dir.join("store"), sealing_key);
    let contents = skiff_store::restore(&config, file).map_err(|error| match error {
        BackupError::Exists(dir) => anyhow::anyhow!(
            "{} holds a store already; move it away, or choose another folder with --data-dir",
            dir.display()
        ),
        BackupError::Key => anyhow::anyhow!(
            "{} was made under another sealing key than {}",
            file.display(),
            keys.join("sealing.key").display()
        ),
        other => anyhow::Error::new(other).context(format!("cannot restore {}", file.display())),
    })?;
    if keys != &own {
        copy_keys(keys, &own).with_context(|| format!("cannot copy {}", keys.display()))?;
    }
    println!(
        "skiff: restored {} objects of revision {} into {}",
        contents.keys,
        contents.revision,
        data_dir.display()
    );
    Ok(())
}

/// Copies the files of a folder of keys; they keep their modes.
fn copy_keys(from: &Path, to: &Path) -> std::io::Result<()> {
    let aside = to.with_extension("restoring");
    match std::fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&aside)?;
    for file in std::fs::read_dir(from)? {
        let file = file?;
        if file.file_type()?.is_file() {
            std::fs::copy(file.path(), aside.join(file.file_name()))?;
        }
    }
    std::fs::rename(aside, to)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use skiff_store::{Draft, Key, Store, Txn, Write};

    use super::*;

    /// A data directory with a key, a store with one secret in it, and a
    /// backup of that.
    async fn cluster(dir: &Path) -> std::path::PathBuf {
        let key = pki::sealing_key(dir).unwrap();
        let store = Store::open(StoreConfig::new(dir.join("store"), key)).await.unwrap();
        let draft = Draft { bytes: "secret".into(), revision_at: None, sealed: true };
        store.commit(Txn::default().write(Write::Put(Key::from("a"), draft))).await.unwrap();
        let file: Vec<u8> =
            store.backup().await.unwrap().flat_map(|piece| piece.unwrap()).collect();
        store.close().await.unwrap();
        let path = dir.join("backup");
        std::fs::write(&path, file).unwrap();
        path
    }

    fn args(file: &Path, data_dir: &Path, pki: Option<&Path>) -> RestoreArgs {
        RestoreArgs {
            file: file.to_path_buf(),
            data_dir: data_dir.to_path_buf(),
            pki: pki.map(Path::to_path_buf),
        }
    }

    #[tokio::test]
    async fn a_backup_is_restored_with_the_keys_of_its_cluster_only() {
        let (old, new, other) = (
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
        );
        let backup = cluster(old.path()).await;
        cluster(other.path()).await;
        let target = new.path().join("data");
        let refused = |args: RestoreArgs, words: &str| {
            let error = format!("{:#}", run(&args).unwrap_err());
            assert!(error.contains(words) && !error.contains('\n'), "{words}: {error}");
            assert!(!args.data_dir.join("pki").exists() || args.data_dir == old.path());
        };
        refused(args(Path::new("/nonexistent"), &target, None), "No such file");
        refused(args(&old.path().join("pki/sealing.key"), &target, None), "not a backup of Skiff");
        refused(args(&backup, &target, None), "--pki");
        refused(args(&backup, &target, Some(new.path())), "holds no sealing.key");
        let foreign = other.path().join("pki");
        refused(args(&backup, &target, Some(&foreign)), "another sealing key");
        refused(args(&backup, old.path(), None), "holds a store already");
        refused(args(&backup, old.path(), Some(&foreign)), "exists already");

        run(&args(&backup, &target, Some(&old.path().join("pki")))).unwrap();
        let mode = std::fs::metadata(target.join("pki/sealing.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let key = pki::sealing_key(&target).unwrap();
        let store = Store::open(StoreConfig::new(target.join("store"), key)).await.unwrap();
        assert_eq!(store.snapshot().get("a").unwrap().value, "secret");
        store.close().await.unwrap();
    }
}
