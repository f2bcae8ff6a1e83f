//! seccomp.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use libc::c_long;
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter};

/// The filter could not be made or set. System calls are not confined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyscallsError {
    /// There is no filter for this processor.
    #[error("the filter could not be made")]
    Filter(#[from] BackendError),
    /// The kernel refused it.
    #[error("the kernel refused the filter")]
    Refused(#[from] seccompiler::Error),
}

/// What is refused, with EPERM. Neither weft nor the programs of iptables use any of these; the kernel loads modules by
/// itself where a rule or link needs one.
#[rustfmt::skip]
const REFUSED: &[c_long] = &[
    // Into other processes.
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_kcmp, libc::SYS_pidfd_getfd,
    // Into the kernel, or large and often faulty parts of it.
    libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_userfaultfd, libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_init_module, libc::SYS_finit_module,
    libc::SYS_delete_module, libc::SYS_kexec_load, libc::SYS_kexec_file_load, libc::SYS_add_key, libc::SYS_keyctl,
    libc::SYS_request_key, libc::SYS_personality,
    // Mounts, and ways around them; CAP_SYS_ADMIN would allow them.
    libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot, libc::SYS_move_mount,
    libc::SYS_open_tree, libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick,
    libc::SYS_mount_setattr, libc::SYS_open_by_handle_at, libc::SYS_mknodat,
    // The machine as a whole.
    libc::SYS_reboot, libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_acct, libc::SYS_quotactl, libc::SYS_sethostname,
    libc::SYS_setdomainname, libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
];

/// Those that only this processor has.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_mknod];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

fn filter() -> Result<BpfProgram, BackendError> {
    let rules: BTreeMap<i64, _> =
        REFUSED.iter().chain(REFUSED_HERE).map(|call| (*call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, ARCH.try_into()?)?.try_into()
}

pub(crate) fn confine() -> Result<(), SyscallsError> {
    Ok(seccompiler::apply_filter(&filter()?)?)
}
