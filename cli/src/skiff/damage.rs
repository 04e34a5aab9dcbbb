//! What to do about a store that is damaged, or that its group has removed.
//!
//! The store says what it found and stops the master. Which commands help
//! after damage depends on whether others hold the same state; the master
//! cannot know, so both ways are told.

use std::path::PathBuf;

use skiff_store::StoreError;

/// The id of a cluster's first master. Only those that join are given one.
const FIRST: u64 = 1;

/// How a store that is of no use any more is replaced.
pub(super) struct WayOut {
    /// Where the store is.
    pub(super) dir: PathBuf,
    /// The id that the master was given when it joined others.
    pub(super) joined_as: Option<u64>,
}

impl WayOut {
    /// Adds the way out to an error of the store, if there is one.
    pub(super) fn tell(&self, error: anyhow::Error) -> anyhow::Error {
        let way_out = match error.downcast_ref() {
            Some(StoreError::Damaged(_)) => self.after_damage(),
            Some(StoreError::Removed) => format!(
                "To let it join again: run `skiff member add` on one of the other masters, {}",
                self.join()
            ),
            _ => return error,
        };
        anyhow::anyhow!("{error:#}. {way_out}")
    }

    /// How a master joins that has a store, but none that is of use.
    fn join(&self) -> String {
        let store = self.dir.display();
        let old = match self.joined_as {
            Some(_) => format!("{store} and {}", self.dir.with_file_name("master.json").display()),
            None => store.to_string(),
        };
        format!(
            "move {old} away, and start with the printed `skiff server --join URL --token TOKEN`"
        )
    }

    fn after_damage(&self) -> String {
        let store = self.dir.display();
        let with_others = |others: &str, id: u64| {
            format!(
                "{others}: run `skiff member remove {id}` and `skiff member add` on one of them \
                 (after `skiff server --force-new-group` there, if they have no majority without \
                 this one), {}",
                self.join()
            )
        };
        match self.joined_as {
            Some(id) => with_others("The other masters hold the same state", id),
            None => format!(
                "{}. If this master is the only one: move {store} away, and run \
                 `skiff restore BACKUP`",
                with_others("If other masters live, they hold the same state", FIRST)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_store_is_told_with_the_commands_that_help() {
        let told = |joined_as, error: StoreError| {
            let way_out = WayOut { dir: "/var/lib/skiff/store".into(), joined_as };
            way_out.tell(error.into()).to_string()
        };
        let damaged = StoreError::Damaged("the log is damaged: entry 5".into());
        let alone_or_first = told(None, damaged.clone());
        let joined = told(Some(3), damaged);
        let cases = [
            (&alone_or_first, "the log is damaged: entry 5; ", true),
            (&alone_or_first, "skiff member remove 1`", true),
            (&alone_or_first, "skiff restore BACKUP`", true),
            (&alone_or_first, "master.json", false),
            (&joined, "skiff member remove 3`", true),
            (&joined, "skiff member add`", true),
            (&joined, "--force-new-group`", true),
            (&joined, "`skiff server --join URL --token TOKEN`", true),
            (&joined, "/var/lib/skiff/store and /var/lib/skiff/master.json away", true),
            // A backup would make a second cluster beside the living one.
            (&joined, "skiff restore", false),
        ];
        for (text, part, expected) in cases {
            assert_eq!(text.contains(part), expected, "{part}: {text}");
            assert!(!text.contains('\n'), "one line: {text}");
        }
        assert_eq!(
            told(Some(3), StoreError::Removed),
            "this member was removed from the group. To let it join again: run `skiff member add` on \
             one of the other masters, move /var/lib/skiff/store and /var/lib/skiff/master.json away, \
             and start with the printed `skiff server --join URL --token TOKEN`"
        );
        assert!(told(None, StoreError::Removed).contains("move /var/lib/skiff/store away"));
        let full = StoreError::Disk("no space left".into());
        assert_eq!(told(Some(3), full.clone()), full.to_string(), "no way out");
    }
}
