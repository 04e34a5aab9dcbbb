//! The file by which logind is told how long a shutdown may be delayed. It is
//! ours alone: named after the installation, and removed with it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where logind looks for settings of the machine's administrator.
pub const CONF_DIR: &str = "/etc/systemd/logind.conf.d";

/// A file of logind's settings.
pub struct DropIn {
    path: PathBuf,
}

impl DropIn {
    /// The installation's, in `dir`. Of several files the last by name counts.
    pub fn new(dir: &Path, instance: &str) -> Self {
        Self { path: dir.join(format!("99-skiff-{instance}.conf")) }
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Writes it; false if it said so already.
    pub fn write(&self, delay: Duration) -> io::Result<bool> {
        let text = format!(
            "# Made by Skiff for --shutdown-grace-period; `skiff down` removes it.\n\
             [Login]\nInhibitDelayMaxSec={}\n",
            delay.as_secs()
        );
        if fs::read_to_string(&self.path).is_ok_and(|known| known == text) {
            return Ok(false);
        }
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(&self.path, text)?;
        Ok(true)
    }

    /// Removes it, and its folder if nothing else is there; false if it was not
    /// there.
    pub fn remove(&self) -> io::Result<bool> {
        match fs::remove_file(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        match self.path.parent().map(fs::remove_dir) {
            Some(Err(error)) if error.kind() != ErrorKind::DirectoryNotEmpty => Err(error),
            _ => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leaves_no_trace_and_touches_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("logind.conf.d");
        let ours = DropIn::new(&conf, "1234");
        assert!(!ours.remove().unwrap(), "nothing to remove");
        assert!(ours.write(Duration::from_secs(32)).unwrap());
        assert!(!ours.write(Duration::from_secs(32)).unwrap(), "it says so already");
        assert!(ours.write(Duration::from_secs(7)).unwrap());
        let text = fs::read_to_string(conf.join("99-skiff-1234.conf")).unwrap();
        assert!(text.ends_with("\n[Login]\nInhibitDelayMaxSec=7\n"), "{text}");
        let other = DropIn::new(&conf, "5678");
        other.write(Duration::from_secs(1)).unwrap();
        assert!(ours.remove().unwrap());
        assert!(other.exists() && !ours.exists());
        assert!(other.remove().unwrap());
        assert!(!conf.exists());
    }
}
