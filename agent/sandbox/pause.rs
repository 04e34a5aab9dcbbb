//! The first process of a pod: it holds the pod's namespaces and does nothing.
//!
//! A program without a standard library, so that it is a few kilobytes, links
//! to nothing, and can be built wherever this crate is.
//!
//! As process 1 of a shared process namespace it collects the children whose
//! parents have died. SIGTERM and SIGINT end it. With an argument it first
//! moves into the network namespace at that path: that is how a pod with
//! `hostNetwork` gets its node's network when the node is itself a namespace.
//!
//! Left out: everything that allocates, prints or can fail later on.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIGINT: u64 = 2;
const SIGTERM: u64 = 15;
const SIGCHLD: u64 = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
const CLONE_NEWNET: usize = 0x4000_0000;
const AT_FDCWD: usize = -100isize as usize;

// The kernel enters with the argument count and vector on the stack and no
// return address. Hand the stack pointer over and align the stack for a call.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call {main}", "ud2", main = sym main);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x0, sp", "bl {main}", "brk #1", main = sym main);

#[cfg(target_arch = "x86_64")]
mod nr {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const EXIT_GROUP: usize = 231;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const OPENAT: usize = 257;
    pub const SETNS: usize = 308;
}

#[cfg(target_arch = "aarch64")]
mod nr {
    pub const RT_SIGPROCMASK: usize = 135;
    pub const EXIT_GROUP: usize = 94;
    pub const WAIT4: usize = 260;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const OPENAT: usize = 56;
    pub const SETNS: usize = 268;
}

/// Makes a system call with up to four arguments.
///
/// # Safety
/// The arguments must be what the call expects; pointers must be valid.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c,
             in("r10") d, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// Makes a system call with up to four arguments.
///
/// # Safety
/// The arguments must be what the call expects; pointers must be valid.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d,
             options(nostack));
    }
    result
}

fn exit(code: usize) -> ! {
    loop {
        // SAFETY: takes a number and does not return.
        unsafe { syscall(nr::EXIT_GROUP, code, 0, 0, 0) };
    }
}

/// Moves into the network namespace at `path`, a C string.
fn enter_network(path: usize) {
    // SAFETY: `path` comes from the argument vector, which lives as long as
    // the process.
    let file = unsafe { syscall(nr::OPENAT, AT_FDCWD, path, 0, 0) };
    if file < 0 {
        exit(111);
    }
    // SAFETY: takes numbers only.
    if unsafe { syscall(nr::SETNS, file as usize, CLONE_NEWNET, 0, 0) } < 0 {
        exit(112);
    }
}

extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the kernel puts the count there and as many pointers after it.
    let (count, first) = unsafe { (*stack, *stack.add(2)) };
    if count > 1 {
        enter_network(first);
    }
    let set: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
    let set_at = &raw const set as usize;
    // Blocked signals stay pending even for process 1, so none is lost
    // between two waits.
    // SAFETY: `set_at` points to a signal set of eight bytes.
    unsafe { syscall(nr::RT_SIGPROCMASK, SIG_BLOCK, set_at, 0, 8) };
    loop {
        // SAFETY: as above; no signal information is asked for.
        let signal = unsafe { syscall(nr::RT_SIGTIMEDWAIT, set_at, 0, 0, 8) };
        if signal == SIGTERM as isize || signal == SIGINT as isize {
            exit(0);
        }
        // SAFETY: no status is asked for.
        while unsafe { syscall(nr::WAIT4, usize::MAX, 0, WNOHANG, 0) } > 0 {}
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(113)
}
