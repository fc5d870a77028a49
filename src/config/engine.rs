//! The engine: from three trees, rules and steps to the configuration of the new system.
//!
//! ```text
//! B, U := migrate(B), migrate(U)       the same steps in the same order
//! R    := merge(B, U, N)
//! ```
//!
//! A plan before the upgrade, the first boot after it, and a builder's `config merge` run this very
//! function, so that they say the same.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use super::merge::policy::{self, Policy};
use super::merge::resolve::Resolutions;
use super::merge::{self, Merge, Rules, Scope, Versions};
use super::report::{Notice, NoticeKind, ReportEntry};
use super::steps::{self, Facts, Migration, State, StepReport, StepSet};
use super::tree::Tree;
use super::{ConfigError, Deadline, EntryPath, compat};
use crate::config::carry::bundle::{Bundle, MAX_DOCUMENT, Member};
use crate::config::carry::keep::PACKAGE_LIST;
use crate::files;
use crate::image::openwrt::Compat;
use crate::report::describe;

/// Number of this engine. An image that names a higher one was made for rules that this program
/// does not know: its plan is a forecast.
pub const ENGINE: u32 = 1;

/// Some hundred steps of some KiB.
const MAX_MIGRATIONS: u64 = 4 << 20;

/// What the engine goes by, beside the three trees.
#[derive(Clone, Debug)]
pub struct Context {
    /// How paths are merged.
    pub rules: Rules,
    /// The steps of the new image.
    pub(crate) migrations: Vec<Migration>,
    /// Steps that were taken before; `None` if the old system keeps no record of them.
    pub(crate) state: Option<State>,
    /// About the machine and both systems.
    pub(crate) facts: Facts,
    /// Defaults that no image ships: the first boot of the old system made them. Where the new image
    /// does not have them, the old ones stay the default.
    pub generated: BTreeSet<EntryPath>,
    /// The compatibility version that the result has to bear, whichever side wins; `None`: as it comes.
    pub compat: Option<Compat>,
    /// Oddities of what it was read from.
    pub notices: Vec<Notice>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The result, and what became of each path.
    pub merge: Merge,
    /// The steps that were taken.
    pub steps: Vec<StepReport>,
    /// Steps that are taken now; `None` if there never was one.
    pub(crate) state: Option<State>,
    /// The generated defaults that stay.
    pub generated: Tree,
    /// The old defaults after the steps.
    pub base: Tree,
    /// The user's tree after the steps.
    pub user: Tree,
}

/// In a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing to look at.
    Clean,
    /// Disputes were decided for the owner, who should look at them.
    NeedsReview,
    /// The result must not be used.
    Refused,
}

impl Context {
    /// What an archive and the new image say.
    ///
    /// # Errors
    /// When the image's steps or the state of the old system make no sense: what they would have
    /// changed is not known.
    pub fn of(bundle: &Bundle, user: &Tree, new: &Tree) -> Result<Self, ConfigError> {
        let mut notices = bundle.notices.clone();
        let mut policy = policy(new, user, &mut notices)?;
        let is_list = |member: &Member| member.path.as_bytes() == PACKAGE_LIST.as_bytes();
        if bundle.kept().any(is_list) {
            // It is left behind where it just lies about; here somebody asked for it.
            policy.append(format!("/{PACKAGE_LIST} keep").as_bytes(), "");
        }
        let state = match &bundle.state {
            None => None,
            Some(state) => Some(State::parse(state.to_string().as_bytes())?),
        };
        let resolutions = match &bundle.resolutions {
            None => Resolutions::default(),
            Some(value) => Resolutions::deserialize(value)
                .map_err(|error| ConfigError::damaged("the stored decisions", error.to_string()))?,
        };
        Ok(Self {
            rules: Rules {
                policy,
                scope: Scope::Carried,
                resolutions,
                services: bundle.services.clone(),
                deadline: Deadline::default(),
                owners: Some(bundle.owners.clone()),
            },
            migrations: migrations(new)?,
            state,
            facts: Facts {
                boards: vec![bundle.board.clone()],
                from_release: Some(bundle.from_version.clone()),
                attic: Vec::new(),
            },
            generated: bundle.generated().collect(),
            compat: None,
            notices,
        })
    }
}

/// What the owner of the system below `root` should know of an image that does not say that an engine is
/// in it, as no stock image does.
///
/// Nothing is undone before such an image is installed. If there is an engine in it after all, that undoes
/// what its steps do not have, by the record in the archive. If not, nobody opens the archive, and the
/// trial is not confirmed.
///
/// # Errors
/// When the record of the steps cannot be read.
pub fn absent(root: &Path, keep: bool) -> Result<Vec<Notice>, ConfigError> {
    let mut notices = vec![Notice::new(NoticeKind::NoEngine, "")];
    let state = files::read_if_exists(&root.join(State::PATH), MAX_DOCUMENT)?;
    if let Some(state) = state.filter(|_| keep) {
        let steps = State::parse(&state)?.applied.into_iter();
        notices.extend(steps.map(|applied| Notice::new(NoticeKind::StepStays, applied.step.id)));
    }
    Ok(notices)
}

/// The policy of an image with the user's.
pub(super) fn policy(
    image: &Tree,
    user: &Tree,
    notices: &mut Vec<Notice>,
) -> Result<Policy, ConfigError> {
    let mut policy = Policy::built_in();
    let is_policy = |path: &EntryPath| {
        path.strip(policy::IMAGE_DIR)
            .is_some_and(|name| policy::is_file_name(name.as_bytes()))
    };
    let images = image.iter().filter(|(path, _)| is_policy(path));
    let images = images.map(|(path, _)| (image, path.clone()));
    let users = EntryPath::new(policy::USER_FILE.as_bytes()).map(|path| (user, path));
    for (tree, path) in images.chain(users.ok()).collect::<Vec<_>>() {
        if let Some(text) = tree.bytes(&path, policy::MAX_FILE)? {
            notices.extend(policy.append(&text, &path.to_string()));
        }
    }
    Ok(policy)
}

/// The steps of an image; none if it has none.
pub(super) fn migrations(image: &Tree) -> Result<Vec<Migration>, ConfigError> {
    let Ok(path) = EntryPath::new(StepSet::PATH.as_bytes()) else {
        return Ok(Vec::new());
    };
    if image.get(&path).is_none() {
        return Ok(Vec::new());
    }
    match image.bytes(&path, MAX_MIGRATIONS)? {
        Some(bytes) => Ok(StepSet::parse(&bytes)?.steps),
        None => Err(ConfigError::damaged(
            &path,
            "is no file, or too large to be one",
        )),
    }
}

/// Migrates and merges.
///
/// # Errors
/// When a file of a tree cannot be read. That a step fails is no error but a refused outcome.
pub fn run(
    mut base: Tree,
    mut user: Tree,
    new: &Tree,
    context: &Context,
) -> Result<Outcome, ConfigError> {
    let due = steps::due(context.state.as_ref(), &context.migrations, &context.facts);
    let mut state = context.state.clone().unwrap_or_default();
    let mut steps = match steps::run(&mut base, &mut user, &due, &context.facts, &mut state) {
        Ok(steps) => steps,
        Err(error) => {
            return Ok(Outcome {
                merge: Merge {
                    refused: vec![describe(&error)],
                    notices: context.notices.clone(),
                    ..Merge::default()
                },
                steps: Vec::new(),
                state: context.state.clone(),
                generated: Tree::default(),
                base,
                user,
            });
        }
    };
    let mut defaults = new.clone();
    if let Some(compat) = &context.compat {
        steps.extend(compat::write(
            [&mut base, &mut user, &mut defaults],
            compat,
        )?);
    }
    // No image ships a generated default: the new system has it as the old one had.
    let mut generated = Tree::default();
    for path in &context.generated {
        if let (None, Some(entry)) = (new.get(path), base.get(path)) {
            defaults.take(path, &base, path, entry.meta);
            generated.take(path, &base, path, entry.meta);
        }
    }
    let versions = Versions {
        base: &base,
        user: &user,
        new: &defaults,
    };
    let any = context.state.is_some() || !state.applied.is_empty();
    let state = Some(state).filter(|_| any);
    let mut merge = merge::merge(versions, &context.rules)?;
    merge.notices.splice(0..0, context.notices.iter().cloned());
    Ok(Outcome {
        merge,
        steps,
        state,
        generated,
        base,
        user,
    })
}

impl Outcome {
    /// The outcome in a word.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if !self.merge.refused.is_empty() {
            Verdict::Refused
        } else if self.merge.entries.iter().any(ReportEntry::is_undecided) {
            Verdict::NeedsReview
        } else {
            Verdict::Clean
        }
    }
}
