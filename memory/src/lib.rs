//! How the program's allocator keeps memory, and when it returns it.
//!
//! Both calls are glibc's. With another C library they do nothing.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    /// The most arenas: for the first thread, for each of the runtime's two, and
    /// one for all that come and go.
    const ARENAS: libc::c_int = 4;

    pub(super) fn keep_together() {
        // SAFETY: takes no pointer, and a thread that has an arena keeps it. Every
        // glibc since 2.10 knows the parameter; one that did not would say so and
        // change nothing.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
    }

    pub(super) fn give_back() {
        // SAFETY: takes no pointer and touches only the allocator's own free
        // pages, under its own locks.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Has the allocator keep few arenas; to be called before threads are made. By
/// default each new thread gets one of its own, up to eight for each core, and
/// what a thread that lived for a moment freed in it is of no use to others.
pub fn keep_together() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::keep_together();
}

/// Gives freed memory back to the system. To be called after work that needed
/// much for once: the allocator would keep it for the next time, which may never
/// come. Takes about a millisecond for 20 MB.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::give_back();
}
