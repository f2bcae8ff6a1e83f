//! The record of a lab: who owns it, and what is to be removed when it has ended or its owner has died.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{cgroup, command, paths, wait};

/// What names of labs begin with where they stand among others' names.
const PREFIX: &str = "weft-lab-";

/// Names everything that one lab makes outside its hosts.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    id: String,
}

/// The process that a lab ends with.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    /// A process, told from a later one of the same number by its start time.
    Process { pid: u32, start: u64 },
    /// None: the lab stays until it is taken down by name.
    Nobody,
}

impl Record {
    /// Takes a new random id and writes the owner down before anything else of the lab exists.
    pub(crate) fn create(kind: &str) -> Result<Self> {
        let mut random = [0_u8; 4];
        fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        let record = Self { id: format!("{kind}-{:08x}", u32::from_ne_bytes(random)) };
        let pid = process::id();
        let owner = format!("{pid} {}", start_time(pid).context("this process has no /proc entry")?);
        // Renamed into place, so that no sweep sees a lab without its owner.
        let new = paths::run_dir().join(format!(".new-{}", record.id));
        fs::create_dir_all(&new)?;
        fs::write(new.join("owner"), owner)?;
        fs::rename(&new, record.run_dir())?;
        Ok(record)
    }

    /// From now on nobody owns the lab: it stays until it is taken down by its kind.
    pub(crate) fn give_up(&self) -> Result<()> {
        let new = self.run_dir().join("owner.new");
        fs::write(&new, "nobody")?;
        fs::rename(&new, self.run_dir().join("owner"))?;
        Ok(())
    }

    /// The lab's id: its kind and a random number.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Sockets, logs, and what the hosts share.
    pub(crate) fn run_dir(&self) -> PathBuf {
        paths::run_dir().join(&self.id)
    }

    /// The hosts' disks.
    pub(crate) fn data_dir(&self) -> PathBuf {
        paths::data_dir().join(&self.id)
    }

    /// The name of the lab's control groups.
    pub(crate) fn group(&self) -> String {
        format!("{PREFIX}{}", self.id)
    }

    /// Ends every process of the lab and removes its groups and directories. Does all it can, and may be called
    /// again.
    ///
    /// # Errors
    /// The first thing that could not be removed; the record stays then.
    pub(crate) fn remove(&self) -> Result<()> {
        let group = self.group();
        // The processes 1 of the hosts are among these, and take the rest with them.
        wait::wait_until("end of the lab's processes", Duration::from_secs(20), || {
            let pids = cgroup::processes(&group);
            if !pids.is_empty() {
                let pids = pids.iter().map(u32::to_string);
                command::output(&mut command::command("kill", ["-KILL".to_owned()].into_iter().chain(pids)))?;
            }
            Ok(pids.is_empty())
        })?;
        cgroup::remove(&group)?;
        remove_tree(&self.data_dir())?;
        remove_tree(&self.run_dir())?;
        // Leave no empty directory either; another lab's is not empty.
        let _ = fs::remove_dir(paths::data_dir());
        let _ = fs::remove_dir(paths::run_dir());
        Ok(())
    }
}

fn remove_tree(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}

/// Removes what labs left whose owner has died. Labs with a living owner, and those that stay, are let be.
///
/// # Errors
/// The first thing that could not be removed.
pub fn sweep() -> Result<()> {
    for record in records(&paths::run_dir()) {
        let owner =
            fs::read_to_string(record.run_dir().join("owner")).ok().and_then(|text| parse_owner(&text));
        if owner.is_some_and(|owner| !is_alive(&owner)) {
            record.remove().with_context(|| format!("cannot remove what lab {} left", record.id))?;
        }
    }
    // After a reboot, or a cleaned /run: disks and groups without a record. A record comes first and goes last,
    // so that these are nobody's.
    let orphans = records(&paths::data_dir()).into_iter().chain(
        cgroup::names(PREFIX)
            .into_iter()
            .filter_map(|name| Some(Record { id: name.strip_prefix(PREFIX)?.into() })),
    );
    for record in orphans {
        if !record.run_dir().exists() {
            record.remove().with_context(|| format!("cannot remove what lab {} left", record.id))?;
        }
    }
    Ok(())
}

/// Takes down the labs of this kind that stay after their maker; returns how many there were.
///
/// # Errors
/// The first thing that could not be removed.
pub fn remove_staying(kind: &str) -> Result<usize> {
    let mut n_removed = 0;
    for record in records(&paths::run_dir()) {
        let owner =
            fs::read_to_string(record.run_dir().join("owner")).ok().and_then(|text| parse_owner(&text));
        let same_kind = record.id.rsplit_once('-').is_some_and(|(of, _)| of == kind);
        if owner == Some(Owner::Nobody) && same_kind {
            record.remove()?;
            n_removed += 1;
        }
    }
    Ok(n_removed)
}

/// The run directories of the labs of this kind that stay after their maker.
#[must_use]
pub fn staying(kind: &str) -> Vec<PathBuf> {
    records(&paths::run_dir())
        .into_iter()
        .filter(|record| record.id.rsplit_once('-').is_some_and(|(of, _)| of == kind))
        .map(|record| record.run_dir())
        .filter(|dir| fs::read_to_string(dir.join("owner")).is_ok_and(|text| text == "nobody"))
        .collect()
}

fn records(dir: &Path) -> Vec<Record> {
    let names = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.starts_with('.')).map(|id| Record { id }).collect()
}

fn parse_owner(text: &str) -> Option<Owner> {
    if text == "nobody" {
        return Some(Owner::Nobody);
    }
    let (pid, start) = text.split_once(' ')?;
    Some(Owner::Process { pid: pid.parse().ok()?, start: start.parse().ok()? })
}

fn is_alive(owner: &Owner) -> bool {
    match *owner {
        Owner::Process { pid, start } => start_time(pid) == Some(start),
        Owner::Nobody => true,
    }
}

/// When the process started, in clock ticks since boot; `None` when there is no such process.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the start time is the 20th field after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_told_from_a_later_process_of_the_same_number() {
        let pid = process::id();
        let start = start_time(pid).unwrap();
        let owner = parse_owner(&format!("{pid} {start}")).unwrap();
        assert!(is_alive(&owner));
        assert!(!is_alive(&Owner::Process { pid, start: start + 1 }));
        assert!(is_alive(&parse_owner("nobody").unwrap()));
        assert_eq!(parse_owner("12"), None);
    }
}
