//! What the machine must offer before traffic can be carried.

use std::io;
use std::path::Path;

/// The number of CAP_NET_ADMIN in a capability set, from the kernel's `capability.h`.
const CAP_NET_ADMIN: u32 = 12;

/// Something that the machine lacks. Nothing was changed; the operator can mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MachineError {
    /// The process may not configure the network.
    #[error("CAP_NET_ADMIN is missing: run weft as root, or install the plugin with --grant-all-permissions")]
    NetAdmin,
    /// The kernel lacks TUN/TAP, or the container was not given the device.
    #[error(
        "there is no /dev/net/tun: load the kernel's module by `modprobe tun`, or give the container the device"
    )]
    NoTun,
    /// The device is there and cannot be opened.
    #[error("cannot open /dev/net/tun")]
    Tun(#[source] io::Error),
}

/// Checks what can be checked without making anything.
pub(crate) fn check() -> Result<(), MachineError> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if has_net_admin(&status) == Some(false) {
        return Err(MachineError::NetAdmin);
    }
    check_tun(Path::new("/dev/net/tun"))
}

/// Opening the device makes no interface; it only shows that it is there and allowed.
fn check_tun(device: &Path) -> Result<(), MachineError> {
    match std::fs::OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => Err(MachineError::NoTun),
        // ENODEV, ENXIO: the node is there, its driver is not.
        Err(error) if matches!(error.raw_os_error(), Some(6 | 19)) => Err(MachineError::NoTun),
        Err(error) => Err(MachineError::Tun(error)),
    }
}

/// Whether the effective set in `/proc/self/status` has CAP_NET_ADMIN; `None` when the text does not say.
fn has_net_admin(status: &str) -> Option<bool> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let set = u64::from_str_radix(set.trim(), 16).ok()?;
    Some(set >> CAP_NET_ADMIN & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read() {
        assert_eq!(has_net_admin("Name:\tweft\nCapEff:\t000001ffffffffff\n"), Some(true));
        assert_eq!(has_net_admin("CapEff:\t00000000a80425fb\n"), Some(false));
        assert_eq!(has_net_admin("CapEff:\t0000000000001000\n"), Some(true));
        assert_eq!(has_net_admin("Name:\tweft\n"), None);
    }

    #[test]
    fn a_missing_device_is_named() {
        let error = check_tun(Path::new("/nonexistent/net/tun")).unwrap_err();
        assert!(
            matches!(error, MachineError::NoTun) && error.to_string().contains("modprobe tun"),
            "{error}"
        );
    }
}
