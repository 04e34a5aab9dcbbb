//! Parts of a container's status. Pure.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, LinuxContainerUser, Pod, PodStatus, VolumeMount, VolumeMountStatus,
};

use super::super::model::{Attempt, all_containers};
use super::seconds;
use crate::runtime::{State, User, labels};
use crate::volume::is_deeply_read_only;

/// Whom a container runs as.
pub(super) fn container_user(user: &User) -> ContainerUser {
    let linux = LinuxContainerUser {
        uid: user.uid,
        gid: user.gid,
        supplemental_groups: (!user.groups.is_empty()).then(|| user.groups.clone()),
    };
    ContainerUser { linux: Some(linux) }
}

/// Whom the container with this id runs as, if the status tells.
pub fn user_in(status: &PodStatus, id: &str) -> Option<User> {
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let wanted = format!("docker://{id}");
    let mut all = lists.into_iter().flatten().flatten();
    let known = all.find(|known| known.container_id.as_ref() == Some(&wanted))?;
    let linux = known.user.as_ref()?.linux.as_ref()?;
    Some(User {
        uid: linux.uid,
        gid: linux.gid,
        groups: linux.supplemental_groups.clone().unwrap_or_default(),
    })
}

/// The mounts of a container; those that are to be read-only all the way down
/// are.
pub(super) fn mount_statuses(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let status = |mount: &VolumeMount| VolumeMountStatus {
        mount_path: mount.mount_path.clone(),
        name: mount.name.clone(),
        read_only: mount.read_only,
        recursive_read_only: (mount.read_only == Some(true))
            .then(|| if is_deeply_read_only(mount) { "Enabled" } else { "Disabled" }.to_owned()),
    };
    container.volume_mounts.as_ref().map(|mounts| mounts.iter().map(status).collect())
}

/// The state of a container that does not run yet.
pub(super) fn waiting(reason: &str, message: String) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: (!message.is_empty()).then_some(message),
    };
    ContainerState { waiting: Some(waiting), ..Default::default() }
}

/// Ends a container of which nothing tells how it ended, or that never began.
/// The reason, the words and the code are upstream's.
pub(super) fn close(status: &mut ContainerStatus) {
    if status.state.as_ref().is_some_and(|state| state.terminated.is_some()) {
        return;
    }
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        reason: Some("ContainerStatusUnknown".to_owned()),
        ..Default::default()
    };
    status.state = Some(ContainerState { terminated: Some(terminated), ..Default::default() });
}

/// What all containers of a pod may say together when they end, in bytes;
/// upstream's own figure.
const POD_MESSAGE_BYTES: usize = 12 << 10;

/// How much of its last words each container's status has.
pub(super) fn message_bytes(pod: &Pod) -> usize {
    POD_MESSAGE_BYTES / all_containers(pod).len().max(1)
}

/// What is told of a container's image; of one that was made before there was a
/// label for it, the id.
pub(super) fn image_id(attempt: &Attempt) -> String {
    let labelled = attempt.container.label(labels::IMAGE);
    if labelled.is_empty() { &attempt.container.image_id } else { labelled }.to_owned()
}

/// The terminated state of a container that ended, with `words` bytes of its
/// message at most.
pub(super) fn terminated(attempt: &Attempt, words: usize) -> Option<ContainerState> {
    let State::Exited { exit_code, oom_killed, error, started, finished } =
        &attempt.container.state
    else {
        return None;
    };
    let (reason, message) = match (error.is_empty(), oom_killed, exit_code) {
        (false, _, _) => ("StartError", error.clone()),
        (_, true, _) => ("OOMKilled", attempt.message.clone()),
        (_, _, 0) => ("Completed", attempt.message.clone()),
        _ => ("Error", attempt.message.clone()),
    };
    let message = &message[..message.floor_char_boundary(words)];
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("docker://{}", attempt.id())),
        exit_code: *exit_code,
        finished_at: Some(seconds(*finished)),
        message: (!message.is_empty()).then(|| message.to_owned()),
        reason: Some(reason.to_owned()),
        signal: None,
        started_at: started.map(seconds),
    };
    Some(ContainerState { terminated: Some(terminated), ..Default::default() })
}
