//! Where a call finds its thread: one word of each thread, null while a call is under way.
//!
//! std's thread-local variables take a call into the dynamic linker each time, in a library; with five calls a message
//! that is more than the rest of what the interface adds. So where we can, the word is asked for as the linker has it for
//! the program's own variables (the initial-exec model), in two instructions. A library that is loaded late may have few
//! such words (glibc keeps some 1,600 bytes); this is eight bytes.

use crate::thread::Thread;

#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
mod word {
    use std::arch::{asm, global_asm};

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

    /// Where the calling thread's word is, seen from what the x86-64 ABI has at fs:0. (System V ABI, thread-local storage,
    /// §4.4.6.)
    #[derive(Clone, Copy)]
    pub(crate) struct Here(usize);

    impl Here {
        #[inline(always)]
        pub(crate) fn find() -> Here {
            let offset;
            // SAFETY: it reads the word's offset, which the dynamic linker has filled in.
            unsafe {
                asm!(
                    "mov {offset}, qword ptr [rip + demi_here@GOTTPOFF]",
                    offset = out(reg) offset,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            Here(offset)
        }

        #[inline(always)]
        pub(crate) fn take(self) -> *mut Thread {
            let taken;
            // SAFETY: a word of this thread's, zero-filled when the thread began, which nothing else names, and which is
            // there as long as the thread runs. A signal handler comes before, in between or after; it leaves it as it was.
            unsafe {
                asm!(
                    "mov {taken}, qword ptr fs:[{offset}]",
                    "mov qword ptr fs:[{offset}], 0",
                    offset = in(reg) self.0,
                    taken = out(reg) taken,
                    options(nostack, preserves_flags),
                );
            }
            taken
        }

        #[inline(always)]
        pub(crate) fn put(self, thread: *mut Thread) {
            // SAFETY: as above.
            unsafe {
                asm!(
                    "mov qword ptr fs:[{offset}], {thread}",
                    offset = in(reg) self.0,
                    thread = in(reg) thread,
                    options(nostack, preserves_flags),
                );
            }
        }
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

    #[derive(Clone, Copy)]
    pub(crate) struct Here;

    impl Here {
        #[inline(always)]
        pub(crate) fn find() -> Here {
            Here
        }

        #[inline(always)]
        pub(crate) fn take(self) -> *mut Thread {
            HERE.replace(ptr::null_mut())
        }

        #[inline(always)]
        pub(crate) fn put(self, thread: *mut Thread) {
            HERE.set(thread);
        }
    }
}

/// The calling thread's word: found, it can be taken (null is left), and put.
pub(crate) use word::Here;

/// Exchanges it.
pub(crate) fn replace(thread: *mut Thread) -> *mut Thread {
    let here = Here::find();
    let was = here.take();
    here.put(thread);
    was
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
