//! Image volumes: what is in an image, as a folder.
//!
//! The image comes as the tar that `docker save` writes, and its layers are
//! laid one over the other here. That works with every engine and every way it
//! may store images, and shows the image as it is: a container of it, even one
//! never started, has files that the engine added. The price is a copy on the
//! disk for every pod.
//!
//! Whoever made the image is not trusted: nothing is written outside the
//! folder, set-user-id bits are dropped, and what is neither file, folder nor
//! link is left out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::lchown;
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use futures::TryStreamExt;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::mounts::ensure_dir;
use super::{blocking, folder_of};
use crate::runtime::Tar;

/// A name with this before it says that a lower layer's file is gone.
const WHITEOUT: &[u8] = b".wh.";
/// A file of this name says that all of a lower layer's folder is gone.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Where the volume is; `Err` with the path it will have when it has not been
/// laid out yet.
pub(super) fn find(pod_dir: &Path, volume: &str) -> Result<PathBuf, PathBuf> {
    let dir = folder_of(pod_dir, volume);
    if dir.is_dir() { Ok(dir) } else { Err(dir) }
}

/// Lays the image out in `dir`, at once or not at all.
pub(super) async fn lay_out(mut tar: Tar, dir: &Path) -> io::Result<()> {
    // No volume's name begins with a dot.
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (saved, half) =
        (dir.with_file_name(format!(".{name}.tar")), dir.with_file_name(format!(".{name}")));
    if let Some(parent) = dir.parent() {
        let parent = parent.to_owned();
        blocking(move || ensure_dir(&parent, 0o755)).await?;
    }
    let mut file = tokio::fs::File::create(&saved).await?;
    while let Some(piece) = tar.try_next().await.map_err(io::Error::other)? {
        file.write_all(&piece).await?;
    }
    file.flush().await?;
    drop(file);
    let dir = dir.to_owned();
    blocking(move || {
        if half.exists() {
            fs::remove_dir_all(&half)?;
        }
        ensure_dir(&half, 0o755)?;
        unpack(&saved, &half)?;
        fs::remove_file(&saved)?;
        fs::rename(&half, &dir)
    })
    .await
}

/// Unpacks all layers of a saved image into `root`.
fn unpack(saved: &Path, root: &Path) -> io::Result<()> {
    let mut file = File::open(saved)?;
    let parts = Parts::of(&mut file)?;
    let manifest: Value = serde_json::from_reader(parts.open(&file, "manifest.json")?)?;
    let layers = manifest[0]["Layers"].as_array().ok_or_else(|| wrong("it has no layers"))?;
    for layer in layers.iter().filter_map(Value::as_str) {
        let mut reader = BufReader::new(parts.open(&file, layer)?);
        let mut magic = [0; 4];
        let read = reader.read(&mut magic)?;
        let whole = (&magic[..read]).chain(reader);
        match magic {
            [0x1f, 0x8b, ..] => apply(GzDecoder::new(whole), root)?,
            [0x28, 0xb5, 0x2f, 0xfd] => return Err(wrong("a layer is packed with zstd")),
            _ => apply(whole, root)?,
        }
    }
    Ok(())
}

fn wrong(what: &str) -> io::Error {
    io::Error::other(format!("the image cannot be laid out: {what}"))
}

/// Where the parts of a tar are in its file, by name.
struct Parts {
    places: BTreeMap<PathBuf, (u64, u64)>,
    /// Layers that are there already under another name.
    links: BTreeMap<PathBuf, PathBuf>,
}

impl Parts {
    fn of(file: &mut File) -> io::Result<Self> {
        let (mut places, mut links) = (BTreeMap::new(), BTreeMap::new());
        for entry in tar::Archive::new(file).entries_with_seek()? {
            let entry = entry?;
            let path = entry.path()?.into_owned();
            match entry.link_name()? {
                Some(target) => {
                    links.insert(path.clone(), normal(&path.with_file_name(target.as_ref())));
                }
                None => {
                    places.insert(path, (entry.raw_file_position(), entry.size()));
                }
            }
        }
        Ok(Self { places, links })
    }

    fn open<'a>(&self, mut file: &'a File, name: &str) -> io::Result<io::Take<&'a File>> {
        let path = Path::new(name);
        let path = self.links.get(path).map_or(path, PathBuf::as_path);
        let (start, size) =
            self.places.get(path).ok_or_else(|| wrong(&format!("{name} is missing")))?;
        file.seek(SeekFrom::Start(*start))?;
        Ok(file.take(*size))
    }
}

/// A path without its steps upward.
fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                parts.pop();
            }
            Component::Normal(name) => parts.push(name),
            _ => {}
        }
    }
    parts
}

/// Lays one layer over what is in `root`.
fn apply(layer: impl Read, root: &Path) -> io::Result<()> {
    let gives_away = nix::unistd::geteuid().is_root();
    let mut archive = tar::Archive::new(layer);
    archive.set_preserve_permissions(false);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(target) = beneath(root, &path)? else { continue };
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name == OPAQUE {
            let lower = target.parent().unwrap_or(root);
            // Where no lower layer has the folder there is nothing to hide.
            for old in fs::read_dir(lower).into_iter().flatten() {
                discard(&old?.path())?;
            }
            continue;
        }
        if let Some(gone) = name.strip_prefix(WHITEOUT) {
            // What is left of a whole name without its first bytes is one.
            let gone = String::from_utf8_lossy(gone);
            if !matches!(&*gone, "" | "." | "..") {
                discard(&target.with_file_name(&*gone))?;
            }
            continue;
        }
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link()) {
            continue;
        }
        // Only a folder may take the place of a folder and keep what is in it.
        let known = fs::symlink_metadata(&target).ok();
        if known.is_some_and(|known| !(known.is_dir() && kind.is_dir())) {
            discard(&target)?;
        }
        // Made elsewhere than by Docker, an image may name no owner.
        let id = |id: io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
        let (user, group) = (id(entry.header().uid()), id(entry.header().gid()));
        if entry.unpack_in(root)? && gives_away && !kind.is_hard_link() {
            lchown(&target, Some(user), Some(group))?;
        }
    }
    Ok(())
}

/// Where an entry goes; `None` when it would go elsewhere than below `root`,
/// as through a link that an earlier layer made.
fn beneath(root: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
    let plain =
        path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let Some(name) = path.file_name().filter(|_| plain) else { return Ok(None) };
    let parent = root.join(path.parent().unwrap_or(Path::new("")));
    match (parent.canonicalize(), root.canonicalize()?) {
        (Ok(parent), root) if parent.starts_with(&root) => Ok(Some(parent.join(name))),
        (Ok(_), _) => Ok(None),
        // Its folder comes with it.
        (Err(error), root) if error.kind() == io::ErrorKind::NotFound => Ok(Some(root.join(path))),
        (Err(error), _) => Err(error),
    }
}

/// Removes whatever has this name.
fn discard(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    /// One entry of a layer: name, content or target of a link, mode.
    enum Part<'a> {
        File(&'a str, &'a str, u32),
        Link(&'a str, &'a str),
        Device(&'a str),
    }

    fn layer(parts: &[Part<'_>]) -> Vec<u8> {
        let mut layer = tar::Builder::new(Vec::new());
        for part in parts {
            let mut header = tar::Header::new_gnu();
            let (name, content) = match part {
                Part::File(name, content, mode) => {
                    header.set_mode(*mode);
                    (*name, *content)
                }
                Part::Link(name, target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_link_name_literal(target).unwrap();
                    (*name, "")
                }
                Part::Device(name) => {
                    header.set_entry_type(tar::EntryType::Char);
                    (*name, "")
                }
            };
            header.set_size(content.len() as u64);
            // Names that lead out are what others would write, not this crate.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            layer.append(&header, content.as_bytes()).unwrap();
        }
        layer.into_inner().unwrap()
    }

    fn image(layers: &[Vec<u8>]) -> Tar {
        let mut image = tar::Builder::new(Vec::new());
        let mut put = |name: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_cksum();
            image.append_data(&mut header, name, content).unwrap();
        };
        let names: Vec<_> = (0..layers.len()).map(|index| format!("{index}/layer.tar")).collect();
        for (name, layer) in names.iter().zip(layers) {
            put(name, layer);
        }
        put("manifest.json", json!([{"Layers": names}]).to_string().as_bytes());
        let bytes = image.into_inner().unwrap();
        // In pieces, as it comes.
        let pieces: Vec<_> =
            bytes.chunks(700).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Box::pin(futures::stream::iter(pieces))
    }

    fn packed(layer: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(layer).unwrap();
        packed.finish().unwrap()
    }

    #[tokio::test]
    async fn layers_lie_over_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let lower = layer(&[
            Part::File("a/kept", "1", 0o4755),
            Part::File("a/gone", "1", 0o644),
            Part::File("b/old", "1", 0o644),
            Part::File("c", "1", 0o644),
            Part::Device("null"),
        ]);
        let upper = layer(&[
            Part::File("a/.wh.gone", "", 0o644),
            Part::File("b/.wh..wh..opq", "", 0o644),
            Part::File("b/new", "2", 0o644),
            Part::File("c", "2", 0o600),
        ]);
        assert_eq!(find(dir.path(), "v"), Err(dir.path().join("volumes/v")));
        lay_out(image(&[lower, packed(&upper)]), &folder_of(dir.path(), "v")).await.unwrap();
        let root = find(dir.path(), "v").unwrap();
        let read = |path: &str| fs::read_to_string(root.join(path)).ok();
        let all = ["a/kept", "a/gone", "b/old", "b/new", "c", "null"].map(read);
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(all, [text("1"), None, None, text("2"), text("2"), None]);
        let mode = fs::metadata(root.join("a/kept")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "no set-user-id");
        assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 1, "nothing is left");
    }

    #[tokio::test]
    async fn nothing_is_written_or_removed_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "mine").unwrap();
        let target = outside.to_str().unwrap();
        let cases = [
            vec![Part::File("../outside/file", "theirs", 0o644)],
            vec![Part::Link("out", target), Part::File("out/file", "theirs", 0o644)],
            vec![Part::Link("out", target), Part::File("out/.wh.file", "", 0o644)],
            vec![Part::Link("out", target), Part::File("out/.wh..wh..opq", "", 0o644)],
            vec![Part::File("a/.wh...", "", 0o644)],
        ];
        for (index, parts) in cases.iter().enumerate() {
            let volume = dir.path().join(format!("volumes/v{index}"));
            // Refused or passed over, either will do.
            let laid = lay_out(image(&[layer(parts)]), &volume).await;
            let kept = fs::read_to_string(outside.join("file"));
            assert_eq!(kept.unwrap(), "mine", "case {index}: {laid:?}");
        }
        symlink(&outside, dir.path().join("volumes/link")).unwrap();
        assert!(
            lay_out(Box::pin(futures::stream::empty()), &dir.path().join("volumes/x"))
                .await
                .is_err()
        );
        assert!(!dir.path().join("volumes/x").exists(), "half an image is none");
    }
}
