//! Where a call finds its thread: one word of each thread, null while a call is under way.
//!
//! std's thread-local variables take a call into the dynamic linker each time, in a library; with five calls a message
//! that is more than the rest of what the interface adds. So where we can, the word is asked for as the linker has it for
//! the program's own variables (the initial-exec model), in two instructions. A library that is loaded late may have few
//! such words (glibc keeps some 1,600 bytes); this is eight bytes.

use std::cell::Cell;

use crate::thread::Thread;

#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
mod word {
    use std::arch::{asm, global_asm};
    use std::cell::Cell;

    use crate::thread::Thread;

    global_asm!(
        ".pushsection .tbss.demi_here, \"awT\", @nobits",
        ".globl demi_here",
        ".hidden demi_here",
        ".p2align 3",
        "demi_here:",
        ".zero 8",
        ".size demi_here, 8",
        ".popsection",
    );

    #[inline(always)]
    pub(super) fn with<R>(look: impl FnOnce(&Cell<*mut Thread>) -> R) -> R {
        let at: *const Cell<*mut Thread>;
        // SAFETY: it reads the word's offset, which the dynamic linker has filled in, and the thread's own address, which
        // the x86-64 ABI has at fs:0. (System V ABI, thread-local storage, §4.4.6.)
        unsafe {
            asm!(
                "mov {at}, qword ptr [rip + demi_here@GOTTPOFF]",
                "add {at}, qword ptr fs:[0]",
                at = out(reg) at,
                options(pure, nomem, nostack),
            );
        }
        // SAFETY: a word of this thread's, zero-filled when the thread began, which nothing else names, and which is
        // there as long as the thread runs.
        look(unsafe { &*at })
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")))]
mod word {
    use std::cell::Cell;
    use std::ptr;

    use crate::thread::Thread;

    thread_local! {
        static HERE: Cell<*mut Thread> = const { Cell::new(ptr::null_mut()) };
    }

    #[inline(always)]
    pub(super) fn with<R>(look: impl FnOnce(&Cell<*mut Thread>) -> R) -> R {
        HERE.with(look)
    }
}

/// Looks at the calling thread's word.
#[inline(always)]
pub(crate) fn with<R>(look: impl FnOnce(&Cell<*mut Thread>) -> R) -> R {
    word::with(look)
}

/// Exchanges it.
pub(crate) fn replace(thread: *mut Thread) -> *mut Thread {
    with(|here| here.replace(thread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_a_word_of_its_own() {
        let threads = (0..4).map(|_| {
            std::thread::spawn(|| {
                let mark = std::ptr::without_provenance_mut::<Thread>(8);
                assert!(replace(mark).is_null(), "it is null at first");
                std::thread::yield_now();
                assert_eq!(replace(std::ptr::null_mut()), mark);
            })
        });
        threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
        assert!(replace(std::ptr::null_mut()).is_null());
    }
}
