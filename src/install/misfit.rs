//! Whether an image is for this machine: by the names it bears, and by its compatibility version.
//!
//! | the image | stock | here |
//! | --- | --- | --- |
//! | does not name the device | refused, -F | refused, -F |
//! | has another major version | refused, -F | refused, -F |
//! | has another minor version | refused where `SAVE_CONFIG` is told, that is on the command line | may not keep the configuration, whoever asks; refused if that is asked for; -F, --ignore-minor-compat-version |
//! | the same, and migrates from this version | | fits |
//! | has no metadata | as the platform has it | refused, -F |

use super::Wish;
use crate::board::Board;
use crate::image::candidate::{Contents, Format};
use crate::image::openwrt::compat::{self, Fit};
use crate::image::openwrt::{Compat, Device};
use crate::machine::Identity;
use crate::report::{Reason, Refusal, printable};

/// The names by which images may address this machine.
#[derive(Clone, Debug)]
pub struct Names {
    /// For images of our own: those of the board file.
    pub ours: Vec<String>,
    /// For stock images: what the device calls itself, as their makers knew it. The names of the board
    /// file if it does not.
    pub stock: Vec<String>,
}

impl Names {
    /// Of a machine, with its board file if it has one.
    #[must_use]
    pub fn of(identity: &Identity, board: Option<&Board>) -> Self {
        let told: Vec<String> = identity.board_name.iter().cloned().collect();
        let ours = board.map_or_else(|| told.clone(), |board| board.compatible.clone());
        let stock = if told.is_empty() { ours.clone() } else { told };
        Self { ours, stock }
    }

    /// The name that the directory of a stock tar must bear; none if that is to be forced.
    pub(super) fn of_stock(&self, wish: &Wish) -> Option<&str> {
        let name = self.stock.first().map_or("", String::as_str);
        (!wish.force).then_some(name)
    }

    fn for_format(&self, format: &Format) -> &[String] {
        match format {
            Format::Ours => &self.ours,
            Format::Stock(_) => &self.stock,
        }
    }
}

/// How an image goes together with a machine.
#[derive(Clone, Debug)]
pub struct Misfit<'a> {
    fit: Fit,
    contents: &'a Contents,
    names: &'a [String],
    compat: &'a Compat,
    migrates: bool,
}

impl<'a> Misfit<'a> {
    /// Of this image and this machine.
    #[must_use]
    pub fn of(contents: &'a Contents, names: &'a Names, identity: &'a Identity) -> Self {
        let names = names.for_format(&contents.format);
        let fits = names.iter().map(|name| {
            let device = Device {
                name: name.clone(),
                oem_name: identity.oem_name.clone(),
                compat: identity.compat.clone(),
            };
            compat::judge(&contents.boards, &contents.compat, &device)
        });
        let named = fits
            .into_iter()
            .find(|fit| !matches!(fit, Fit::WrongDevice));
        let ours = identity.compat.as_str();
        let migrates = matches!(named, Some(Fit::Minor { oem: false, .. }))
            && contents.migrates_from.iter().any(|compat| compat == ours);
        let fit = match named {
            Some(_) if migrates => Fit::Fits,
            Some(fit) => fit,
            None => Fit::WrongDevice,
        };
        Self {
            fit,
            contents,
            names,
            compat: &identity.compat,
            migrates,
        }
    }

    /// The compatibility version of a configuration that goes with it: the image's, if the image
    /// migrates it. Otherwise it stays as it is, also where somebody forces it onto the image.
    #[must_use]
    pub(super) fn kept_compat(&self) -> &'a Compat {
        match self.migrates {
            true => &self.contents.compat,
            false => self.compat,
        }
    }

    /// True if the configuration may go with it.
    #[must_use]
    pub fn may_keep(&self) -> bool {
        matches!(self.fit, Fit::Fits)
    }

    /// The rule that says no to this wish.
    #[must_use]
    pub fn refusal(&self, wish: &Wish) -> Option<Refusal> {
        match self.fit {
            Fit::WrongDevice => Some(self.wrong_board()),
            Fit::Major { .. } => Some(self.incompatible(
                Reason::Incompatible,
                "they do not go together, with or without configuration",
                "look for the way from one to the other in the release notes",
            )),
            Fit::Minor { .. } if wish.keep && !wish.ignore_minor_compat => Some(self.incompatible(
                Reason::IncompatibleConfig,
                "the configuration of one is not for the other",
                "start the new version from its defaults with -n, or keep the configuration all the same with --ignore-minor-compat-version",
            )),
            Fit::Fits | Fit::Minor { .. } => None,
        }
    }

    fn wrong_board(&self) -> Refusal {
        let boards = &self.contents.boards;
        let found = printable(&boards.join(", "));
        let ours: Vec<&str> = self
            .names
            .iter()
            .map(String::as_str)
            .filter(|name| !name.is_empty())
            .collect();
        let wanted = printable(&ours.join(", "));
        let (reason, message) = match (boards.is_empty(), ours.is_empty()) {
            (true, _) => (
                Reason::MetadataMissing,
                "the image does not say for which boards it is".to_owned(),
            ),
            (false, true) => (
                Reason::WrongBoard,
                format!("the image is for board {found}, and this machine does not tell its name"),
            ),
            (false, false) => (
                Reason::WrongBoard,
                format!("the image is for board {found}, this is {wanted}"),
            ),
        };
        Refusal {
            reason,
            message,
            found,
            wanted,
            hint: "get the image for this board; -F installs it all the same".into(),
            forceable: true,
        }
    }

    fn incompatible(&self, reason: Reason, why: &str, hint: &str) -> Refusal {
        let (found, wanted) = (
            printable(self.contents.compat.as_str()),
            self.compat.to_string(),
        );
        let said = self.contents.compat_message.as_deref().map(printable);
        Refusal {
            reason,
            message: format!(
                "the image has compatibility version {found}, this system has {wanted}: {why}"
            ),
            found,
            wanted,
            hint: match said {
                Some(said) => format!("{hint}; the maker of the image says: {said}"),
                None => hint.to_owned(),
            },
            forceable: true,
        }
    }
}
