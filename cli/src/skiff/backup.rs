//! `skiff backup`: the cluster's state in one file.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use futures::AsyncReadExt;
use kube::Client;

use super::args::BackupArgs;
use super::token;

/// Asks the API server for a backup, proves it whole, and puts it in place.
pub(super) async fn run(args: BackupArgs) -> anyhow::Result<()> {
    let client = token::client(&args.master.kubeconfig())?;
    let mut name = args.file.clone().into_os_string();
    name.push(".part");
    let part = PathBuf::from(name);
    let fetched = fetch(&client, &part).await.and_then(|bytes| {
        let contents = skiff_store::inspect(&part).context("the backup did not arrive whole")?;
        std::fs::rename(&part, &args.file)?;
        Ok((bytes, contents))
    });
    let (bytes, contents) = match fetched {
        Ok(fetched) => fetched,
        Err(error) => {
            // The first error is the one worth telling.
            let _ = std::fs::remove_file(&part);
            return Err(error.context(format!("{} was not written", args.file.display())));
        }
    };
    println!(
        "skiff: backup of {} objects at revision {}, {bytes} bytes, in {}",
        contents.keys,
        contents.revision,
        args.file.display()
    );
    Ok(())
}

/// Writes the server's answer to `path`, which is then durable and readable by
/// its owner only.
async fn fetch(client: &Client, path: &Path) -> anyhow::Result<u64> {
    let request = http::Request::get(skiff_apiserver::backup::PATH).body(Vec::new())?;
    let mut answer = client.request_stream(request).await.context("the master gave no backup")?;
    let mut file = create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0;
    loop {
        let len = answer.read(&mut buffer).await.context("the master broke off")?;
        if len == 0 {
            break;
        }
        file.write_all(&buffer[..len])?;
        bytes += len as u64;
    }
    file.sync_all()?;
    Ok(bytes)
}

/// A new file that nobody else reads; what an earlier attempt left gives way.
fn create(path: &Path) -> std::io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().write(true).create_new(true).mode(0o600).open(path)
}
