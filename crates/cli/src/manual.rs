//! `weft completions` and `weft man`: what packages ship beside the program, made of the grammar itself.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Args;

/// Prints a shell's script.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    clap_complete::generate(shell, &mut Args::command(), "weft", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}

/// Writes `weft.1` and a page for each command into `dir`, which is made.
pub(crate) fn pages(dir: &Path) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make the directory {}", dir.display()))?;
    let command = Args::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, dir).with_context(|| format!("cannot write into {}", dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_every_command() {
        let dir = tempfile::tempdir().unwrap();
        pages(dir.path()).unwrap();
        for page in ["weft.1", "weft-status.1", "weft-doctor.1", "weft-secret-rotate-add.1"] {
            let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
            assert!(text.contains(".TH"), "{page}");
        }
    }
}
