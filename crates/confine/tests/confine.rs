//! What a confined thread can and cannot do. Each test has a thread of its own, which stays confined for good.

use std::fs;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use nix::errno::Errno;
use nix::sys::personality;
use weft_confine::{Access, Files, confine};

/// Runs `f` on a thread that may write beneath `own`.
fn confined<T: Send + 'static>(own: PathBuf, f: impl FnOnce(Files) -> T + Send + 'static) -> T {
    let run = move || f(confine(&Access::of_daemon([own])).unwrap());
    thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[test]
fn the_daemons_own_files_are_open_to_it_and_no_others() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(other.path().join("secret"), "s3cret").unwrap();
    let (own_path, other_path) = (own.path().to_owned(), other.path().to_owned());
    confined(own_path.clone(), move |files| {
        fs::write(own_path.join("state"), "x").unwrap();
        fs::rename(own_path.join("state"), own_path.join("renamed")).unwrap();
        assert_eq!(fs::read_to_string(own_path.join("renamed")).unwrap(), "x");
        fs::remove_file(own_path.join("renamed")).unwrap();
        fs::read_to_string("/proc/self/status").unwrap();
        let refused = |result: std::io::Result<()>| {
            let is_refused = matches!(&result, Err(error) if error.kind() == ErrorKind::PermissionDenied);
            assert!(is_refused || files == Files::Unconfined, "{result:?} where files are {files:?}");
        };
        refused(fs::read(other_path.join("secret")).map(drop));
        refused(fs::write(other_path.join("new"), "x"));
        refused(fs::remove_file(other_path.join("secret")));
        refused(fs::write("/etc/weft-was-here", "x"));
    });
}

#[test]
fn refused_calls_fail_and_leave_the_thread_alive() {
    let own = tempfile::tempdir().unwrap();
    assert!(personality::get().is_ok(), "the call works where nothing is confined");
    let result = confined(own.path().to_owned(), |_| personality::get());
    assert_eq!(result, Err(Errno::EPERM));
}

#[test]
fn what_a_daemon_does_still_works() {
    let own = tempfile::tempdir().unwrap();
    let socket = own.path().join("weft.sock");
    confined(own.path().to_owned(), move |_| {
        let listener = UnixListener::bind(&socket).unwrap();
        UnixStream::connect(&socket).unwrap();
        listener.accept().unwrap();
        UdpSocket::bind("127.0.0.1:0").unwrap();
        let child =
            Command::new("sh").args(["-c", "exit 7"]).stdin(Stdio::null()).stdout(Stdio::null()).status();
        assert_eq!(child.unwrap().code(), Some(7));
        thread::spawn(|| ()).join().unwrap();
    });
}

#[test]
fn children_are_confined_too() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = other.path().join("file");
    fs::write(&file, "x").unwrap();
    confined(own.path().to_owned(), move |files| {
        let mut cat = Command::new("cat");
        let status = cat.arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.success(), files == Files::Unconfined);
    });
}
