//! What became of a configuration: one entry a path, and what the owner should know.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::EntryPath;
use super::engine::{ENGINE, Outcome};
use super::merge::Merger;
use super::steps::StepReport;
use crate::digest::Digest;

/// Version of the report document.
pub const FORMAT: u32 = 1;

/// What happened to one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Nothing changed.
    Same,
    /// Only the image has it.
    New,
    /// Only the user has it.
    UserAdded,
    /// The user left it alone, the image changed it.
    Updated,
    /// The user changed it, the image did not.
    Kept,
    /// Both made the same change.
    Converged,
    /// Both changed it, without a dispute.
    Merged,
    /// Both changed it; the user's stays.
    ConflictUser,
    /// Both changed it; the image's is taken.
    ConflictNew,
    /// The image dropped it, the user had left it alone.
    Removed,
    /// The image dropped it, but the user had changed it: it stays.
    KeptOrphan,
    /// The user deleted it.
    StayDeleted,
    /// The user deleted it, it is there again.
    Restored,
    /// The image's, always, as the policy says.
    Replaced,
    /// Never carried, as the policy says.
    Dropped,
    /// Changed by the user, but not among what is carried.
    OutOfScope,
}

impl Action {
    /// The word for it, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::New => "new",
            Self::UserAdded => "user-added",
            Self::Updated => "updated",
            Self::Kept => "kept",
            Self::Converged => "converged",
            Self::Merged => "merged",
            Self::ConflictUser => "conflict-user",
            Self::ConflictNew => "conflict-new",
            Self::Removed => "removed",
            Self::KeptOrphan => "kept-orphan",
            Self::StayDeleted => "stay-deleted",
            Self::Restored => "restored",
            Self::Replaced => "replaced",
            Self::Dropped => "dropped",
            Self::OutOfScope => "out-of-scope",
        }
    }
}

/// Kinds of dispute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConflictKind {
    /// User and image changed it differently.
    BothChanged,
    /// User and image added it, with different content.
    AddAdd,
    /// The user changed it, the image removed it.
    ChangeDelete,
    /// File, link and directory.
    Type,
    /// Permissions were changed differently.
    Mode,
    /// Both changed it, and it cannot be merged: a program, binary, too large, or broken.
    Unmergeable,
}

/// Who won a dispute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Winner {
    /// The user's side.
    User,
    /// The image's side.
    New,
}

/// One side of a dispute, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Shown {
    /// A value.
    Text(String),
    /// Items of a list.
    List(Vec<String>),
    /// A password or key: neither it nor its digest is ever told (short secrets fall to a
    /// dictionary).
    Secret {
        /// Always true.
        secret: bool,
    },
}

impl Shown {
    /// What stands for a value that is not shown.
    pub const SECRET: Self = Self::Secret { secret: true };
}

/// A dispute and its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The place inside the file: `SECTION`, `SECTION.OPTION`, `SECTION.OPTION[ITEM]` for UCI, with
    /// SECTION a name, `@type[key]` or `@type[index]`; `NAME[FIELD]` for accounts; `None` for the
    /// whole file.
    #[serde(default)]
    pub locus: Option<String>,
    /// What about.
    pub kind: ConflictKind,
    /// The old default; `None` if there is none, or if the dispute is about a whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Shown>,
    /// What the user made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Shown>,
    /// The new default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Shown>,
    /// Who won.
    pub resolved: Winner,
    /// True if the owner decided that before the upgrade: nothing is left to review.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub decided: bool,
}

impl Conflict {
    /// A dispute about a whole file.
    pub(super) fn whole(kind: ConflictKind, resolved: Winner) -> Self {
        Self {
            locus: None,
            kind,
            default: None,
            user: None,
            new: None,
            resolved,
            decided: false,
        }
    }
}

/// What happened to one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportEntry {
    /// Below the root.
    pub path: EntryPath,
    /// What was done.
    pub action: Action,
    /// What joined the two changes, if both sides changed it.
    #[serde(default)]
    pub merger: Option<Merger>,
    /// Disputes; empty for most.
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
    /// True if it lost set-user-id or set-group-id bits that the new image does not give it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub set_id_cleared: bool,
}

impl ReportEntry {
    /// True if a dispute about it was decided for the owner, who should look at it.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        self.conflicts.iter().any(|conflict| !conflict.decided)
    }
}

/// A service that is not as the new image has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceChange {
    /// Its name, as text without loss.
    pub name: String,
    /// What it is instead.
    pub action: ServiceAction,
}

/// Whether a service starts at boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceAction {
    /// It does.
    Enabled,
    /// It does not.
    Disabled,
}

/// An account of the image whose number was taken by an account of the user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renumbered {
    /// Its name, as text without loss.
    pub name: String,
    /// True for a group.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub group: bool,
    /// Its number in the image.
    pub image: u32,
    /// Its number now.
    pub result: u32,
    /// What the image has under `/etc` that belongs to the number there, and so to somebody else
    /// here.
    pub files: Vec<EntryPath>,
}

/// Kinds of notices: worth knowing, no review needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoticeKind {
    /// A keep list begins with a UTF-8 byte order mark.
    ByteOrderMark,
    /// A line of a keep list ends in a carriage return.
    CarriageReturn,
    /// A comment that does not begin its line.
    TrailingComment,
    /// A path in quotes.
    Quotes,
    /// Several words that are one path with blanks in it.
    Blanks,
    /// A word that stock tools would take for search options.
    Option,
    /// A path without a slash at its begin.
    Relative,
    /// A path with `..` in it.
    Upward,
    /// An entry that names nothing.
    MatchesNothing,
    /// An entry that cannot be a path.
    NotAPath,
    /// Socket, fifo or device: not carried.
    SpecialFile,
    /// A path that leads through a link; the real one is kept.
    BehindLink,
    /// A link that leads out of the root.
    LeadsOut,
    /// More than 64 directories deep: not carried.
    TooDeep,
    /// A kept file that was gone when it was read.
    Vanished,
    /// Changed under `/etc`, but not kept.
    NotKept,
    /// The user deleted it and the image changed it.
    DeleteChange,
    /// Software of the image needs an account that the user had deleted: it is there again.
    AccountRestored,
    /// A new account got another number, because its own is taken.
    IdReassigned,
    /// A default that the user had deleted is there again, as the policy says.
    Restored,
    /// The image dropped it, nobody told the user's change of it: it stays, maybe without use.
    OrphanKept,
    /// A decision that was stored for this place does not fit any more: it was not followed.
    ResolutionStale,
    /// A word of a policy that is not understood: its line was passed over.
    PolicyLine,
    /// A policy has more lines than are followed.
    PolicyTooLong,
    /// A set-user-id or set-group-id bit of a restored file was taken away.
    SetIdCleared,
    /// The user's version did not fit into the attic; it is still in the old slot.
    AtticFull,
    /// The archive knows no defaults of the old image.
    NoBaseline,
    /// It was changed while a cut first boot waited to be finished.
    ChangedMeanwhile,
    /// An absolute name in a restored archive, taken below the root.
    AbsoluteName,
    /// A name occurs twice in a restored archive: the last one counts.
    Duplicate,
    /// A hard link to something that is not in the archive.
    HardLinkOutside,
    /// A directory where a file should go, or the other way round.
    OtherKind,
    /// A name in a restored archive has `..` in it.
    NameLeadsOut,
    /// A link in a restored archive climbs above the root.
    LinkLeadsOut,
    /// An entry of a restored archive lies behind a link.
    ThroughLink,
    /// Bytes after the end of a restored archive.
    TrailingBytes,
    /// Belongs to this program, not to the configuration.
    StateFile,
    /// A restored package came with the compatibility version of another time.
    CompatStays,
    /// Nothing says that the new system has what takes over a configuration and confirms a trial.
    NoEngine,
    /// A step that such a system does not undo.
    StepStays,
}

impl NoticeKind {
    /// True if it tells of an entry that was not carried or not restored.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::NotAPath
                | Self::SpecialFile
                | Self::TooDeep
                | Self::HardLinkOutside
                | Self::OtherKind
                | Self::NameLeadsOut
                | Self::LinkLeadsOut
                | Self::ThroughLink
        )
    }

    /// What it means, for people; follows the path.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::ByteOrderMark => "the file begins with a byte order mark, which is passed over",
            Self::CarriageReturn => "the line ends in a carriage return, which is passed over",
            Self::TrailingComment => {
                "a comment that does not begin its line; paths in it are kept, as stock tools do"
            }
            Self::Quotes => "the quotes are not taken as part of the path",
            Self::Blanks => "taken as one path with blanks in it",
            Self::Option => {
                "taken as a path; stock tools take it for a search option and then keep nothing"
            }
            Self::Relative => "taken from the root, though it does not begin with a slash",
            Self::Upward => "`..` was resolved by name",
            Self::MatchesNothing => "names nothing on this system",
            Self::NotAPath => "cannot be a path; not kept",
            Self::SpecialFile => "a socket, fifo or device; not carried",
            Self::BehindLink => {
                "leads through a link; what is behind it is kept under its real path"
            }
            Self::LeadsOut => "a link that leads out of the root",
            Self::TooDeep => "more than 64 directories deep; not kept",
            Self::Vanished => "was gone when it was read",
            Self::NotKept => "differs from its default, but no keep list names it; it stays behind",
            Self::DeleteChange => "deleted by the user, changed by the new image",
            Self::AccountRestored => "software of the image needs this account: it is there again",
            Self::IdReassigned => "its number is taken, the new account got another one",
            Self::Restored => "you had deleted it; it is there again",
            Self::OrphanKept => "the new image does not have it any more; yours stays",
            Self::ResolutionStale => {
                "a stored decision was not followed: what it was about has changed since"
            }
            Self::PolicyLine => "not understood; this line of the policy was not followed",
            Self::PolicyTooLong => {
                "the policy has too many lines; this one and those after it were not followed"
            }
            Self::SetIdCleared => "lost its set-user-id and set-group-id bits",
            Self::AtticFull => "your version did not fit into the attic; it is in the old slot",
            Self::NoBaseline => "the defaults of the old image are not known; your files stay",
            Self::ChangedMeanwhile => "was changed while the first boot was unfinished; replaced",
            Self::AbsoluteName => "an absolute name, taken below the root",
            Self::Duplicate => "is twice in the archive; the last one counts",
            Self::HardLinkOutside => {
                "a hard link to a file that is not in the archive; not restored"
            }
            Self::OtherKind => "file and directory are in each other's place; not restored",
            Self::NameLeadsOut => "has `..` in its name; not restored",
            Self::LinkLeadsOut => "a link that leads out of the root; not restored",
            Self::ThroughLink => "lies behind a link; not restored",
            Self::TrailingBytes => "bytes after the end of the archive were passed over",
            Self::StateFile => "belongs to sysupgrade-rs itself; not restored",
            Self::CompatStays => {
                "the backup is of another compatibility version; that of this system stays: \
                 look whether the restored settings still fit"
            }
            Self::NoEngine => {
                "the image does not say that sysupgrade-rs is in it: without it the new system does not take \
                 over the configuration, and when its tries are used up this one comes back; make sure that it is \
                 in the image, or build the image with sysupgrade-pack"
            }
            Self::StepStays => {
                "this migration step was taken here, and the image does not say whether it is to stay: if it needs \
                 the older form, only sysupgrade-rs in the image undoes it; otherwise start from its defaults with -n"
            }
        }
    }
}

/// Something the owner should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// What it is.
    pub kind: NoticeKind,
    /// About which path or word; lossless text as that of [`EntryPath`].
    pub path: String,
    /// The place inside the file, as of a [`Conflict`].
    #[serde(default)]
    pub locus: Option<String>,
    /// Where it was written, for keep lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<Line>,
}

/// A line of a keep list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Name of the file, below the root.
    pub file: String,
    /// From 1.
    pub number: u64,
    /// What it says.
    pub text: String,
}

impl Notice {
    pub(super) fn new(kind: NoticeKind, path: impl Into<String>) -> Self {
        Self {
            kind,
            path: path.into(),
            locus: None,
            line: None,
        }
    }

    /// About a place inside the file.
    pub(super) fn at(mut self, locus: impl Into<String>) -> Self {
        self.locus = Some(locus.into());
        self
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = &self.line {
            write!(f, "{}:{}: ", line.file, line.number)?;
        }
        if !self.path.is_empty() {
            f.write_str(&self.path)?;
            if let Some(locus) = &self.locus {
                write!(f, "#{locus}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(self.kind.text())
    }
}

/// What becomes of a configuration on its way to a new system: a plan before, a report after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Number of the engine that made it.
    pub engine: u32,
    /// Version of the image that it came from; empty if not known.
    pub from: String,
    /// Version of the image that it was brought to.
    pub to: String,
    /// SHA-256 of the archive, so that a report says which one it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Digest>,
    /// True if it had been done before; the rest tells of that time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub already_done: bool,
    /// How many paths each action was taken on.
    pub summary: BTreeMap<String, u64>,
    /// One a path, sorted.
    pub entries: Vec<ReportEntry>,
    /// Services that are not as the new image has them.
    #[serde(default)]
    pub services: Vec<ServiceChange>,
    /// Accounts of the image that have other numbers than there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renumbered: Vec<Renumbered>,
    /// In the order of events.
    pub notices: Vec<Notice>,
    /// Paths whose user's version had to give way and is in the attic.
    #[serde(default)]
    pub attic: Vec<EntryPath>,
    /// Migration steps that were taken.
    #[serde(default)]
    pub steps: Vec<StepReport>,
    /// Why it cannot be done at all.
    #[serde(default)]
    pub blocked: Vec<String>,
}

impl Report {
    /// Tells of an outcome.
    #[must_use]
    pub fn of(outcome: &Outcome, from: &str, to: &str) -> Self {
        let merge = &outcome.merge;
        let mut summary = BTreeMap::new();
        for entry in &merge.entries {
            *summary.entry(entry.action.name().to_owned()).or_insert(0) += 1;
        }
        Self {
            format: FORMAT,
            engine: ENGINE,
            from: from.to_owned(),
            to: to.to_owned(),
            archive: None,
            already_done: false,
            summary,
            entries: merge.entries.clone(),
            services: merge.services.clone(),
            renumbered: merge.renumbered.clone(),
            notices: merge.notices.clone(),
            attic: merge.attic.clone(),
            steps: outcome.steps.clone(),
            blocked: merge.refused.clone(),
        }
    }

    /// True if a dispute was decided for the owner, who should look at it.
    #[must_use]
    pub fn needs_review(&self) -> bool {
        self.entries.iter().any(ReportEntry::is_undecided)
    }
}
