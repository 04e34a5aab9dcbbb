//! The sandbox image: one static program of ours, made in memory and loaded.
//!
//! It is never pulled, so a node works without any registry. Its tag is the
//! hash of its content: an upgrade that changes the program loads a new image
//! beside the old one, whose pods go on running.

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Result, Runtime, RuntimeError};

/// The program, compiled by `build.rs`.
const PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// Where it is in the image.
pub const PAUSE_PATH: &str = "/pause";

/// The name of all sandbox images.
const REPOSITORY: &str = "skiff/pause:";

/// The image's name and tag.
pub fn name() -> String {
    format!("{REPOSITORY}{}", &hex(&Sha256::digest(PAUSE))[..12])
}

/// Removes the sandbox images that no container uses, of this and of earlier
/// versions; how many went. Should another installation just have looked for
/// one, it loads it anew.
pub async fn remove_unused(runtime: &dyn Runtime) -> Result<usize> {
    let mut removed = 0;
    for name in runtime.images().await?.into_iter().flat_map(|image| image.tags) {
        if !name.starts_with(REPOSITORY) {
            continue;
        }
        match runtime.remove_image(&name).await {
            Ok(()) => removed += 1,
            // A container uses it.
            Err(RuntimeError::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// Loads the image unless it is there.
pub async fn ensure(runtime: &dyn Runtime) -> Result<String> {
    let name = name();
    if runtime.image(&name).await?.is_none() {
        let tar =
            image_tar(&name, PAUSE).map_err(|error| RuntimeError::Refused(error.to_string()))?;
        runtime.load(tar).await?;
    }
    Ok(name)
}

/// An image of one executable, in the format that `docker load` reads. Tests
/// use it for images of their own.
pub fn image_tar(name: &str, program: &[u8]) -> std::io::Result<Bytes> {
    let layer = {
        let mut layer = tar::Builder::new(Vec::new());
        append(&mut layer, PAUSE_PATH.trim_start_matches('/'), 0o755, program)?;
        layer.into_inner()?
    };
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        // A fixed date keeps the image's id the same on every machine.
        "created": "2026-01-01T00:00:00Z",
        "config": { "Entrypoint": [PAUSE_PATH], "StopSignal": "SIGTERM" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&Sha256::digest(&layer)))] },
    })
    .to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(config.as_bytes())));
    let manifest =
        json!([{ "Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"] }]).to_string();

    let mut image = tar::Builder::new(Vec::new());
    append(&mut image, &config_name, 0o644, config.as_bytes())?;
    append(&mut image, "layer.tar", 0o644, &layer)?;
    append(&mut image, "manifest.json", 0o644, manifest.as_bytes())?;
    Ok(Bytes::from(image.into_inner()?))
}

fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &str,
    mode: u32,
    content: &[u8],
) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_mtime(0);
    header.set_cksum();
    tar.append_data(&mut header, path, content)
}

/// The architecture in the spelling of images and Node objects.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_a_small_static_executable() {
        assert_eq!(&PAUSE[..4], b"\x7fELF");
        assert!(PAUSE.len() < 32 * 1024, "{} bytes", PAUSE.len());
    }

    #[test]
    fn the_same_program_gives_the_same_image() {
        assert_eq!(image_tar("a:b", b"x").unwrap(), image_tar("a:b", b"x").unwrap());
        assert!(name().starts_with("skiff/pause:"));
    }

    #[tokio::test]
    async fn a_sandbox_image_goes_when_no_container_uses_it() {
        let memory = crate::runtime::memory::Memory::new();
        let name = ensure(&memory).await.unwrap();
        memory.add_image("theirs/pause:1");
        let spec = crate::runtime::ContainerSpec {
            name: "c".into(),
            image: name.clone(),
            ..Default::default()
        };
        let id = memory.create(&spec).await.unwrap();
        assert_eq!(remove_unused(&memory).await.unwrap(), 0);
        memory.remove(&id).await.unwrap();
        assert_eq!(remove_unused(&memory).await.unwrap(), 1);
        assert_eq!(memory.images().await.unwrap().len(), 1, "what is not ours stays");
    }
}
