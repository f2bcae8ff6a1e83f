//! Control groups: one a host in every hierarchy, so that all that its engine makes is under it and goes with it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::wait;

const ROOT: &str = "/sys/fs/cgroup";

/// The mount points of the hierarchies: one on a machine with cgroup v2, one a controller with v1.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc is not mounted")?;
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (dir, kind) = (fields.next()?, fields.next()?);
            (dir.starts_with(ROOT) && matches!(kind, "cgroup" | "cgroup2")).then(|| dir.into())
        })
        .collect())
}

/// Makes `name` (a lab) and `name/host` in every hierarchy; returns the directories of the host.
pub(crate) fn create(name: &str, host: &str) -> Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for hierarchy in hierarchies()? {
        let lab = hierarchy.join(name);
        let dir = lab.join(host);
        for (parent, child) in [(&hierarchy, &lab), (&lab, &dir)] {
            fs::create_dir_all(child).with_context(|| format!("cannot make {}", child.display()))?;
            // v1: a new cpuset holds no CPU, and nothing can enter it.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if hierarchy.join("cgroup.controllers").exists() {
                    continue;
                }
                if let Ok(value) = fs::read_to_string(parent.join(file)) {
                    fs::write(child.join(file), value.trim())?;
                }
            }
            // v2: a controller is there only if the parent hands it down. One that is busy elsewhere is done
            // without.
            if let Ok(controllers) = fs::read_to_string(parent.join("cgroup.controllers")) {
                for controller in controllers.split_whitespace() {
                    let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
                }
            }
        }
        dirs.push(dir);
    }
    Ok(dirs)
}

/// Readies the groups of a host whose process 1 runs, and returns those that its services are to enter.
///
/// With v2 a group has either processes or groups of its own with controllers: the processes move one level down.
pub(crate) fn settle(dirs: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    dirs.into_iter()
        .map(|dir| {
            let Ok(controllers) = fs::read_to_string(dir.join("cgroup.controllers")) else { return Ok(dir) };
            let init = dir.join("init");
            fs::create_dir_all(&init)?;
            for pid in fs::read_to_string(dir.join("cgroup.procs"))?.lines() {
                // One that has just ended needs no moving.
                let _ = fs::write(init.join("cgroup.procs"), pid);
            }
            for controller in controllers.split_whitespace() {
                let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            Ok(init)
        })
        .collect()
}

/// The processes in the groups of lab `name`, all hosts.
pub(crate) fn processes(name: &str) -> Vec<u32> {
    let mut pids = Vec::new();
    for hierarchy in hierarchies().unwrap_or_default() {
        for_each_below(&hierarchy.join(name), &mut |dir| {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        });
    }
    pids.sort_unstable();
    pids.dedup();
    // 0 stands for a process of another pid namespace: not ours to touch.
    pids.retain(|&pid| pid != 0);
    pids
}

/// Removes the groups of lab `name`, whose processes have been ended.
pub(crate) fn remove(name: &str) -> Result<()> {
    let dirs: Vec<PathBuf> = hierarchies()?.into_iter().map(|hierarchy| hierarchy.join(name)).collect();
    // A group stays busy for a moment after its last process has ended.
    wait::wait_until("removal of the lab's control groups", std::time::Duration::from_secs(10), || {
        for dir in &dirs {
            let mut below = Vec::new();
            for_each_below(dir, &mut |dir| below.push(dir.to_owned()));
            for dir in below.iter().rev() {
                let _ = fs::remove_dir(dir);
            }
        }
        Ok(!dirs.iter().any(|dir| dir.exists()))
    })
}

/// The labs that have a group in some hierarchy.
pub(crate) fn names(prefix: &str) -> Vec<String> {
    let mut names: Vec<String> = hierarchies()
        .unwrap_or_default()
        .iter()
        .filter_map(|hierarchy| fs::read_dir(hierarchy).ok())
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// `dir` and all directories below it, parents first.
fn for_each_below(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    if !dir.is_dir() {
        return;
    }
    visit(dir);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            for_each_below(&entry.path(), visit);
        }
    }
}
