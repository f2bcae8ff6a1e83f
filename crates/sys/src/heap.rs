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

/// Gives the kernel back the pages of the heap on which nothing is held. glibc does so by itself at the heap's end alone: one
/// piece that stays there keeps what a burst of work took.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes no pointers, and may be made at any time; it locks what it changes.
    unsafe {
        libc::malloc_trim(0);
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
    use std::sync::Mutex;

    use super::*;

    /// Held by a test that measures this process.
    static MEASURING: Mutex<()> = Mutex::new(());

    #[test]
    fn what_is_held_counts_until_it_is_freed() {
        const LEN: usize = 64 << 20;
        let _alone = MEASURING.lock();
        // Other tests of this process allocate meanwhile, but not as much.
        let before = in_use_len().unwrap();
        let held = vec![1_u8; LEN];
        let with = in_use_len().unwrap();
        assert!(with >= before + LEN as u64 / 2, "{before} {with}");
        drop(held);
        assert!(in_use_len().unwrap() < before + LEN as u64 / 2);
    }

    #[test]
    fn pages_of_what_was_freed_go_back_though_the_heaps_end_is_held() {
        let _alone = MEASURING.lock();
        // Too small to be mapped by itself; what is between those that stay is not at the heap's end.
        let mut pieces: Vec<_> = (0..4096).map(|_| Some(vec![1_u8; 16 << 10])).collect();
        let resident_len = || -> u64 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
        };
        for (n, piece) in pieces.iter_mut().enumerate() {
            if n % 64 != 63 {
                *piece = None;
            }
        }
        let before = resident_len();
        trim();
        let after = resident_len();
        assert!(after + (48 << 20) < before, "{before} bytes, {after} after it");
        drop(pieces);
    }
}
