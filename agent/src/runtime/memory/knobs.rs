//! How tests drive the runtime without processes, and what they read of it.

use std::time::Duration;

use tokio::sync::broadcast;

use super::super::{ContainerSpec, DiskUse, Output};
use super::{EVENT_CAPACITY, Memory, image_named};

impl Memory {
    /// Puts an image among the local ones.
    pub fn add_image(&self, name: &str) {
        let image = image_named(name);
        self.lock().images.insert(name.into(), image);
    }

    /// Makes an image available to `pull`.
    pub fn add_remote_image(&self, name: &str) {
        let image = image_named(name);
        self.lock().remote.insert(name.into(), image);
    }

    /// Ends a running container by itself.
    pub fn exit(&self, id: &str, exit_code: i32) {
        self.end(id, exit_code, false);
    }

    /// Appends to a container's log.
    pub fn write_log(&self, id: &str, output: Output) {
        self.lock().logs.entry(id.into()).or_default().push(output);
    }

    /// What every exec of a command that starts with `program` returns.
    pub fn set_exec_code(&self, program: &str, code: i64) {
        self.lock().exec_codes.insert(program.into(), code);
    }

    /// Makes the starts of containers of this image fail.
    pub fn fail_start(&self, image: &str, message: &str) {
        self.lock().failing_starts.insert(image.into(), message.into());
    }

    /// Makes changes of limits fail, or succeed again.
    pub fn fail_updates(&self, message: Option<&str>) {
        self.lock().failing_updates = message.map(str::to_owned);
    }

    /// What the containers of an image have at `path`.
    pub fn set_file(&self, image: &str, path: &str, content: &str) {
        self.lock().files.insert((image.to_owned(), path.to_owned()), content.into());
    }

    /// How long containers take from now on to heed a stop.
    pub fn slow_stops(&self, time: Duration) {
        self.lock().stop_time = time;
    }

    /// Keeps containers with a CPU limit from ending: the kernel gives their
    /// processes no time for it.
    pub fn throttle(&self) {
        self.lock().throttled = true;
    }

    /// Sets how much memory a container uses, in bytes.
    pub fn set_memory_use(&self, id: &str, bytes: u64) {
        self.lock().memory_use.insert(id.into(), bytes);
    }

    /// Sets what a container takes of the disk.
    pub fn set_disk_use(&self, id: &str, used: DiskUse) {
        self.lock().disk_use.insert(id.into(), used);
    }

    /// Which drivers of devices there are, and which devices are known by name.
    pub fn serve_devices(&self, drivers: &[&str], devices: &[&str]) {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        let mut inner = self.lock();
        (inner.drivers, inner.devices) = (owned(drivers), owned(devices));
    }

    /// Takes the runtime down, which ends all event streams, or brings it back.
    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
        if down {
            *self.events() = broadcast::Sender::new(EVENT_CAPACITY);
        }
    }

    /// What a container was created from.
    pub fn spec(&self, id: &str) -> Option<ContainerSpec> {
        self.lock().specs.get(id).cloned()
    }

    /// The calls made so far that change something or ask for one container,
    /// as `verb subject`; tests count them.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }
}
