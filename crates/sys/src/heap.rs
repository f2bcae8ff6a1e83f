//! The heap of the C library.
//!
//! glibc gives threads arenas of their own, up to eight a processor. What one thread freed is of no use to another then, so
//! a program whose threads take turns at the same work grows long after it has stopped holding more. With other C libraries
//! nothing here does anything.

/// Has all threads that start from now on share the arena of the first. Threads that allocate all the time would wait for
/// each other; a few free pieces of each size stay with each thread without that.
pub fn share_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes no pointers, and may be made at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Bytes that the program has allocated and not freed, with the C library's own bookkeeping, and with the few pieces that
/// each thread has freed and keeps for itself. What was freed otherwise does not count, also where its memory was not given
/// back to the kernel, which is what resident memory counts.
///
/// `None` with other C libraries.
#[must_use]
pub fn in_use_len() -> Option<u64> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: the call takes no pointers; it locks what it reads.
        let info = unsafe { libc::mallinfo2() };
        Some((info.uordblks + info.hblkhd) as u64)
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_counts_until_it_is_freed() {
        const LEN: usize = 64 << 20;
        // Other tests of this process allocate meanwhile, but not as much.
        let before = in_use_len().unwrap();
        let held = vec![1_u8; LEN];
        let with = in_use_len().unwrap();
        assert!(with >= before + LEN as u64 / 2, "{before} {with}");
        drop(held);
        assert!(in_use_len().unwrap() < before + LEN as u64 / 2);
    }
}
