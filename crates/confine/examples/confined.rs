//! Runs a program as confined as a daemon is: `confined DIRECTORY PROGRAM ARGUMENT…`, where DIRECTORY is its own.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use weft_confine::{Access, confine};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args_os().skip(1);
    let (Some(own), Some(program)) = (arguments.next(), arguments.next()) else {
        return Err("confined DIRECTORY PROGRAM ARGUMENT...".into());
    };
    eprintln!("files: {:?}", confine(&Access::of_daemon([PathBuf::from(own)]))?);
    Err(Command::new(program).args(arguments).exec().into())
}
