//! Landlock.

use landlock::{
    ABI, Access as _, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    path_beneath_rules,
};

use crate::{Access, Files};

/// The newest rights that are asked for (Linux 6.10); an older kernel confines what it knows.
const NEWEST: ABI = ABI::V5;

/// The kernel refused the rules. Nothing is confined.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct FilesError(#[from] RulesetError);

pub(crate) fn confine(access: &Access) -> Result<Files, FilesError> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(&access.read, AccessFs::from_read(NEWEST)))?
        .add_rules(path_beneath_rules(&access.write, AccessFs::from_all(NEWEST)))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Files::Confined,
        RulesetStatus::PartiallyEnforced => Files::Partly,
        RulesetStatus::NotEnforced => Files::Unconfined,
    })
}
