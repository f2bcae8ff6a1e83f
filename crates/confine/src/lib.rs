//! Takes from a process what it never needs, so that who gets hold of it has less.
//!
//! - **Files**, by Landlock: what [`Access`] does not name cannot be opened, whoever asks. By the `landlock` crate, since
//!   the kernel's three system calls have no wrapper in the C library and differ by version.
//! - **System calls**, by seccomp: those that no part of weft, nor a program that it starts, has any use for. By
//!   `seccompiler`, which compiles the filter in Rust; `libseccomp` would be a C library to carry along, and `extrasafe`
//!   builds on lists of what is allowed, which the programs of iptables, weft's children, would have to be covered by.
//!
//! Both hold for the calling thread, the threads it starts from then on, and all children: call [`confine`] first thing,
//! before any thread. Neither can be taken back.

mod files;
mod syscalls;

use std::path::PathBuf;

pub use files::FilesError;
pub use syscalls::SyscallsError;

/// What may be opened.
///
/// A path stands for itself and all beneath it; one that does not exist when [`confine`] is called is left out, so make
/// the state's directory before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Read, listed and executed.
    pub read: Vec<PathBuf>,
    /// All of that, written, made, removed and, devices, controlled.
    pub write: Vec<PathBuf>,
}

impl Access {
    /// What a weft daemon needs beside its own directories `own` (state, sockets, the allowlist's and the secret's).
    ///
    /// | path | for |
    /// |---|---|
    /// | `/usr`, `/bin`, `/sbin`, `/lib`, `/lib64` | the iptables programs and their libraries |
    /// | `/etc` | names of hosts, settings |
    /// | `/proc` (read), `/proc/sys/net` (write) | capabilities of the process; settings of interfaces |
    /// | `/sys` | what a network interface is |
    /// | `/run` (write) | sockets towards dockerd and the operator, the lock of iptables, network namespaces |
    /// | `/dev/net/tun`, `/dev/null` (write) | TAPs; a child's standard streams |
    /// | `/dev/urandom` (read) | seeds, where the system call is not there |
    #[must_use]
    pub fn of_daemon(own: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        let read = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev/urandom"];
        let mut write = paths(&["/run", "/proc/sys/net", "/dev/net/tun", "/dev/null"]);
        write.extend(own);
        Self { read: paths(&read), write }
    }
}

/// How far the kernel could go along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// All of it holds.
    Confined,
    /// An older kernel: some kinds of access (such as truncation, or control of devices) are not confined.
    Partly,
    /// A kernel without Landlock, or with it switched off: files are not confined.
    Unconfined,
}

/// Why a process is not confined. What was done up to there holds. The machine causes it: a kernel without seccomp, or a
/// container that forbids the calls; the daemon can go on, with a warning.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfineError {
    /// Nothing is confined.
    #[error("access to files could not be confined")]
    Files(#[from] FilesError),
    /// Files are confined, system calls are not.
    #[error("system calls could not be confined")]
    Syscalls(#[from] SyscallsError),
}

/// Confines the calling thread and what comes of it. It can no longer gain privileges by executing a file, either.
///
/// ```no_run
/// # use weft_confine::{Access, Files, confine};
/// if confine(&Access::of_daemon(["/var/lib/weft".into()]))? == Files::Unconfined {
///     eprintln!("this kernel has no Landlock");
/// }
/// # Ok::<(), weft_confine::ConfineError>(())
/// ```
///
/// # Errors
/// See [`ConfineError`].
pub fn confine(access: &Access) -> Result<Files, ConfineError> {
    let files = files::confine(access)?;
    syscalls::confine()?;
    Ok(files)
}
