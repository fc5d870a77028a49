//! The command line: what was typed, and what it asks for.
//!
//! Two stages. The first knows how things are spelled and belongs to clap, whose types stay in this
//! file. The second turns the words into a [`Command`] and [`Settings`], plain values in which no
//! contradiction can be expressed; what does not go together is refused, never ignored. Both are
//! pure: [`parse`] looks at nothing but its arguments.

mod config;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use thiserror::Error;

use crate::board::parse_duration;
use crate::config::bundle::Scope;
use crate::config::keep::{Changed, Listing};
use crate::config::report::Winner;
use crate::report::{ExitCode, printable};
use config::ConfigWord;
pub use config::{ConfigCommand, Merge};

/// What the run is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Write an image to the other slot and start its trial.
    Install {
        /// A path, `-`, or an address: for [`source::open`](super::source::open).
        image: OsString,
        /// What the owner decided about this upgrade.
        choices: Choices,
        /// What comes after the commit.
        reboot: Reboot,
        /// How long the new system may run unconfirmed; the board file's time if not given.
        confirm_within: Option<Duration>,
    },
    /// Verify a whole image and run every check that needs no write.
    Test {
        /// As in `Install`.
        image: OsString,
        /// As in `Install`.
        choices: Choices,
    },
    /// Verify the head of an image and tell what installing it would do.
    Plan {
        /// As in `Install`.
        image: OsString,
        /// As in `Install`.
        choices: Choices,
        /// Disputes to decide before the plan is told.
        resolve: Vec<Resolve>,
    },
    /// Write the archive of kept files.
    Backup {
        /// Where to; standard output for `-`.
        to: Place,
        /// As in [`Choices`].
        carry: Carry,
    },
    /// Unpack an archive of kept files over the running system.
    Restore {
        /// Where from; standard input for `-`.
        from: Place,
    },
    /// List the kept files.
    List {
        /// As in [`Choices`].
        listing: Listing,
    },
    /// Tell which slot runs, and how it stands.
    Status,
    /// Finish an upgrade on the first boot of the new system.
    FirstBoot,
    /// End the trial of the running slot as good.
    Confirm,
    /// Go back to the other slot.
    Rollback {
        /// What comes after the boot environment is written.
        reboot: Reboot,
    },
    /// Watch over a trial: keep a system that works, or go back.
    Guard,
    /// Run the health checks once.
    Health,
    /// Show what an image says of itself.
    Inspect {
        /// As in `Install`.
        image: OsString,
    },
    /// Apply revocation records, as `ucert -R` does.
    Revoke {
        /// The records.
        file: PathBuf,
    },
    /// Examine board file, boot environment and slots.
    Doctor {
        /// Make the boot environment whole instead.
        repair_env: bool,
    },
    /// List past upgrades.
    History,
    /// Something about configuration alone.
    Config(ConfigCommand),
}

/// What the owner decided about one upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choices {
    /// The new system gets the configuration of this one.
    pub keep_config: bool,
    /// Refusals that may be overridden are.
    pub force: bool,
    /// The configuration is kept although only its minor compatibility version says no.
    pub ignore_minor_compat: bool,
    /// The owner is asked before anything is done.
    pub interactive: bool,
    /// The whole disk was to be written, its partition table too: the owner is told that it never is.
    pub whole_disk: bool,
    /// What is carried.
    pub carry: Carry,
    /// A ready archive that is carried instead.
    pub archive: Option<PathBuf>,
}

/// What is carried, or saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carry {
    /// How far the configuration goes; as the board file says if not given.
    pub scope: Option<Scope>,
    /// Which files of it, as OpenWrt's `-c`, `-o`, `-u` and `-k` say.
    pub listing: Listing,
}

/// An end for a dispute, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// `PATH`, or `PATH#PLACE`.
    pub place: String,
    /// Who wins.
    pub winner: Winner,
}

/// What follows when the next boot is another slot's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reboot {
    /// Nothing: somebody else reboots.
    Never,
    /// A reboot, after this delay.
    After(Duration),
}

/// The other end of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Standard input or output.
    Standard,
    /// A file.
    File(PathBuf),
}

/// What holds for every command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The board file, if not the installed one.
    pub board: Option<PathBuf>,
    /// Below the root of the system, where `etc` is as it was shipped, if not where the board file
    /// says.
    pub defaults: Option<PathBuf>,
    /// The directory that stands for `/`.
    pub root: Option<PathBuf>,
    /// Answers are JSON documents.
    pub json: bool,
    /// How progress is shown.
    pub progress: ProgressWord,
    /// 1, more for each `-v`, less for each `-q`; below 1 nothing but errors and answers is printed.
    pub verbosity: i16,
    /// The time, in seconds since 1970, if not the clock's.
    pub now: Option<i64>,
}

/// How progress is to be shown, as typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressWord {
    /// What fits where standard error goes.
    #[default]
    Auto,
    /// One line that is redrawn.
    Bar,
    /// A JSON object a line.
    Json,
    /// None.
    None,
}

/// A command line that leads to no command.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoCommand {
    /// `--help` or `--version`: the text for standard output; exit code 0.
    #[error("{0}")]
    Answer(String),
    /// It makes no sense: what is wrong, in one printable line; exit code 2.
    #[error("{0}")]
    Usage(String),
}

/// Reads a command line; the first word is the name of the program.
///
/// # Errors
/// [`NoCommand`]: help was asked for, or the words make no sense.
pub fn parse(words: impl Iterator<Item = OsString>) -> Result<(Settings, Command), NoCommand> {
    let words = Words::command()
        .after_help(after_help())
        .try_get_matches_from(words)
        .and_then(|matches| Words::from_arg_matches(&matches))
        .map_err(|error| no_command(&error))?;
    words.meaning()
}

const USAGE: &str = "sysupgrade-rs [OPTIONS] IMAGE
       sysupgrade-rs [OPTIONS] -b FILE | -r FILE | -l
       sysupgrade-rs [OPTIONS] COMMAND

IMAGE is a path, - for standard input, or an http:// or https:// address. A file
with the name of a command is written ./NAME.";

/// The words of a command line, as spelled.
#[derive(Debug, Parser)]
#[command(
    name = "sysupgrade-rs",
    bin_name = "sysupgrade-rs",
    version,
    about = "Upgrade a router with two system slots: write the other one, try it, keep it",
    override_usage = USAGE,
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_override_self = true,
    subcommand_value_name = "COMMAND"
)]
struct Words {
    #[command(flatten)]
    form: FormWords,

    #[command(flatten)]
    general: GeneralWords,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = GENERAL)]
    version: Option<bool>,

    #[command(subcommand)]
    command: Option<CommandWord>,
}

/// What is said without a command: the stock forms.
#[derive(Debug, Args)]
struct FormWords {
    /// The image
    #[arg(value_name = "IMAGE", hide = true)]
    image: Option<OsString>,

    #[command(flatten)]
    upgrade: UpgradeWords,

    /// Make all checks, change nothing
    #[arg(short = 'T', long, help_heading = UPGRADE)]
    test: bool,

    /// Save kept files; - is standard output
    #[arg(short = 'b', long, value_name = "FILE", help_heading = BACKUP)]
    create_backup: Option<OsString>,

    /// Unpack them over /; - is standard input
    #[arg(short = 'r', long, value_name = "FILE", help_heading = BACKUP)]
    restore_backup: Option<OsString>,

    /// List them, one a line
    #[arg(short = 'l', long, help_heading = BACKUP)]
    list_backup: bool,

    #[command(flatten)]
    carry: CarryWords,
}

/// What is kept, carried or saved.
#[derive(Clone, Copy, Debug, Args)]
struct CarryWords {
    /// What is kept: declared, or etc (what changed)
    #[arg(long, value_name = "WHAT", value_parser = scope, help_heading = BACKUP)]
    scope: Option<Scope>,

    /// Keep what the overlay has in /etc
    #[arg(short = 'c', overrides_with = "changed_files", help_heading = BACKUP)]
    changed_etc: bool,

    /// Keep all of it but files of packages
    #[arg(short = 'o', overrides_with = "changed_etc", help_heading = BACKUP)]
    changed_files: bool,

    /// Leave out files that are as in /rom
    #[arg(short = 'u', help_heading = BACKUP)]
    skip_unchanged: bool,

    /// Add a list of the installed packages
    #[arg(short = 'k', help_heading = BACKUP)]
    packages: bool,
}

const UPGRADE: &str = "Upgrade";
const BACKUP: &str = "Kept files";
const GENERAL: &str = "General";

/// Options of an upgrade, which `plan` understands too.
#[derive(Debug, Args)]
struct UpgradeWords {
    /// Do not keep the configuration
    #[arg(short = 'n', long, help_heading = UPGRADE)]
    no_config: bool,

    /// Override wrong board or compat
    #[arg(short = 'F', long, help_heading = UPGRADE)]
    force: bool,

    /// Accept another minor compatibility version
    #[arg(long, help_heading = UPGRADE)]
    ignore_minor_compat_version: bool,

    /// Carry this archive, not the kept files
    #[arg(short = 'f', value_name = "FILE", help_heading = UPGRADE)]
    archive: Option<PathBuf>,

    /// Ask: keep the configuration? edit the list?
    #[arg(short = 'i', help_heading = UPGRADE)]
    interactive: bool,

    /// No effect: partition tables stay
    #[arg(short = 'p', help_heading = UPGRADE)]
    partitions: bool,

    /// Refused: would write the running slot
    #[arg(short = 's', hide = true, help_heading = UPGRADE)]
    same_slot: bool,

    /// Refused: make the volume with ubimkvol, it is kept
    #[arg(short = 'P', hide = true, help_heading = UPGRADE)]
    provisioning: bool,

    /// Go back unless confirmed in: 90s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = UPGRADE)]
    confirm_within: Option<Duration>,

    #[command(flatten)]
    reboot: RebootWords,
}

/// Options of everything that ends in a reboot.
#[derive(Debug, Args)]
struct RebootWords {
    /// Wait before the reboot
    #[arg(short = 'd', long, value_name = "SECONDS", value_parser = seconds, help_heading = UPGRADE)]
    delay: Option<u32>,

    /// Leave the reboot to somebody else
    #[arg(long, help_heading = UPGRADE)]
    no_reboot: bool,
}

/// Options that go with every command.
#[derive(Debug, Args)]
struct GeneralWords {
    /// Use this board file
    #[arg(long, global = true, value_name = "FILE", help_heading = GENERAL)]
    board: Option<PathBuf>,

    /// Look below it for etc as it was shipped
    #[arg(long, global = true, value_name = "DIR", help_heading = GENERAL)]
    defaults: Option<PathBuf>,

    /// Work on the system below this directory
    #[arg(long, global = true, value_name = "DIR", help_heading = GENERAL)]
    root: Option<PathBuf>,

    /// The time for certificates, in seconds since 1970
    #[arg(long, global = true, value_name = "SECONDS", help_heading = GENERAL)]
    now: Option<i64>,

    /// Answer with one JSON document on standard output
    #[arg(long, global = true, help_heading = GENERAL)]
    json: bool,

    /// Show progress on standard error: auto, bar, json or none
    #[arg(
        long, global = true, value_name = "HOW", value_enum, default_value_t,
        hide_possible_values = true, hide_default_value = true, help_heading = GENERAL
    )]
    progress: ProgressWord,

    /// Say less
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = GENERAL)]
    quiet: u8,

    /// Say more; again for more
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = GENERAL)]
    verbose: u8,

    /// Print this help
    #[arg(short, long, global = true, action = ArgAction::Help, help_heading = GENERAL)]
    help: Option<bool>,
}

#[derive(Debug, Subcommand)]
enum CommandWord {
    /// Show both slots, and where the running one stands
    Status,
    /// Check an image and show what installing it would do
    Plan {
        /// A path, - for standard input, or an http:// or https:// address
        image: OsString,
        #[command(flatten)]
        upgrade: UpgradeWords,
        #[command(flatten)]
        carry: CarryWords,
        /// Decide a dispute; again for more
        #[arg(long, value_name = "PLACE=user|new", value_parser = resolve, help_heading = BACKUP)]
        resolve: Vec<Resolve>,
    },
    /// Finish an upgrade; run by the new system on its first boot
    FirstBoot,
    /// End the trial of the running system: it is good
    Confirm,
    /// Go back to the other system
    Rollback {
        #[command(flatten)]
        reboot: RebootWords,
    },
    /// Watch over a trial: keep a system that works, or go back
    Guard,
    /// Run the health checks once
    Health,
    /// Show what an image says of itself
    Inspect {
        /// A path, - for standard input, or an http:// or https:// address
        image: OsString,
    },
    /// Stop trusting keys, as records signed by trusted ones say
    Revoke {
        /// Revocation records, as ucert makes them
        file: PathBuf,
    },
    /// Examine board file, boot environment and slots
    Doctor {
        /// Make a damaged boot environment whole; if its state is lost: the running slot is good
        #[arg(long)]
        repair_env: bool,
    },
    /// List past upgrades
    History,
    /// Look at the configuration and at what upgrades do to it
    Config {
        #[command(subcommand)]
        word: ConfigWord,
    },
}

/// What stands below the options: every exit code, and examples.
fn after_help() -> String {
    let mut text = String::from("Exit codes:\n");
    for code in ExitCode::ALL {
        text.push_str(&format!("  {:>2}  {}\n", code as u8, code.meaning()));
    }
    text.push_str(
        "
Examples:
  sysupgrade-rs plan image.bin            what would happen
  sysupgrade-rs config diff               what is not as it was shipped
  sysupgrade-rs image.bin                 upgrade, keep configuration, reboot
  wget -O- URL | sysupgrade-rs -n -       upgrade from a stream, start afresh
  sysupgrade-rs confirm                   the new system is good
  sysupgrade-rs rollback                  it is not",
    );
    text
}

/// Splits at the last equals sign: names of places may hold some.
fn resolve(text: &str) -> Result<Resolve, &'static str> {
    let wrong = "not like etc/config/dhcp#lan.leasetime=new";
    let (place, winner) = text.rsplit_once('=').ok_or(wrong)?;
    let winner = match winner {
        "user" => Winner::User,
        "new" => Winner::New,
        _ => return Err("the winner is neither user nor new"),
    };
    if place.is_empty() {
        return Err(wrong);
    }
    Ok(Resolve {
        place: place.to_owned(),
        winner,
    })
}

fn scope(text: &str) -> Result<Scope, &'static str> {
    match text {
        "declared" => Ok(Scope::Declared),
        "etc" => Ok(Scope::Etc),
        _ => Err("neither declared nor etc"),
    }
}

fn time(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).ok_or("not a time like 90s, 10m or 2h")
}

fn seconds(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "not a number of seconds")
}

/// What clap has to say, in our form: help and version as they are, a problem as one line.
fn no_command(error: &clap::Error) -> NoCommand {
    let text = error.render().to_string();
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return NoCommand::Answer(text);
    }
    let problem = text.split("\n\n").next().unwrap_or(&text);
    let problem = problem.strip_prefix("error: ").unwrap_or(problem);
    let line = problem.split_whitespace().collect::<Vec<_>>().join(" ");
    NoCommand::Usage(printable(&line))
}

impl Words {
    fn meaning(self) -> Result<(Settings, Command), NoCommand> {
        let command = match self.command {
            Some(command) => {
                if let Some(word) = self.form.first() {
                    return usage(format!("{word} before a command: its options follow it"));
                }
                command.meaning()?
            }
            None => self.form.meaning()?,
        };
        let mut settings = self.general.settings();
        let to_stdout = match &command {
            Command::Backup { to, .. } | Command::Config(ConfigCommand::AtticGet { to, .. }) => {
                Some(to)
            }
            _ => None,
        };
        if settings.json && to_stdout == Some(&Place::Standard) {
            return usage("--json and the content of a file cannot share standard output");
        }
        if to_stdout == Some(&Place::Standard) {
            // Whoever takes the content takes no notice of words beside it: OpenWrt has it so.
            settings.verbosity = settings.verbosity.min(0);
        }
        Ok((settings, command))
    }
}

impl FormWords {
    fn meaning(self) -> Result<Command, NoCommand> {
        if self.image.is_none()
            && let Some(word) = self.upgrade_word()
        {
            return usage(format!("{word} needs an IMAGE"));
        }
        if self.create_backup.is_none() && self.image.is_none() && self.carry.scope.is_some() {
            return usage("--scope needs an IMAGE or --create-backup");
        }
        if self.restore_backup.is_some()
            && let Some(word) = self.carry.first()
        {
            return usage(format!("{word} has no meaning for --restore-backup"));
        }
        match (
            self.image,
            self.create_backup,
            self.restore_backup,
            self.list_backup,
        ) {
            (Some(image), None, None, false) => {
                let image = image_word(image)?;
                let choices = self.upgrade.choices(self.carry)?;
                let reboot = self.upgrade.reboot.meaning()?;
                let confirm_within = self.upgrade.confirm_within;
                if self.test {
                    return Ok(Command::Test { image, choices });
                }
                Ok(Command::Install {
                    image,
                    choices,
                    reboot,
                    confirm_within,
                })
            }
            (None, Some(file), None, false) => Ok(Command::Backup {
                to: place(file)?,
                carry: self.carry.meaning(),
            }),
            (None, None, Some(file), false) => Ok(Command::Restore { from: place(file)? }),
            // As OpenWrt has it, a list is wanted whatever else is.
            (None, _, None, true) => Ok(Command::List {
                listing: self.carry.meaning().listing,
            }),
            (None, None, None, false) => usage("no IMAGE and no command"),
            _ => usage("IMAGE, --create-backup, --restore-backup, --list-backup: one at a time"),
        }
    }

    /// The first word that says something about an upgrade.
    fn upgrade_word(&self) -> Option<&'static str> {
        let UpgradeWords {
            no_config,
            force,
            ignore_minor_compat_version,
            archive,
            interactive,
            partitions,
            same_slot,
            provisioning,
            confirm_within,
            reboot: RebootWords { delay, no_reboot },
        } = &self.upgrade;
        [
            (*no_config, "--no-config"),
            (*force, "--force"),
            (
                *ignore_minor_compat_version,
                "--ignore-minor-compat-version",
            ),
            (archive.is_some(), "-f"),
            (*interactive, "-i"),
            (*partitions, "-p"),
            (*same_slot, "-s"),
            (*provisioning, "-P"),
            (confirm_within.is_some(), "--confirm-within"),
            (delay.is_some(), "--delay"),
            (*no_reboot, "--no-reboot"),
            (self.test, "--test"),
        ]
        .into_iter()
        .find_map(|(given, word)| given.then_some(word))
    }

    /// The first word of the form.
    fn first(&self) -> Option<&'static str> {
        let other = [
            (self.image.is_some(), "IMAGE"),
            (self.create_backup.is_some(), "--create-backup"),
            (self.restore_backup.is_some(), "--restore-backup"),
            (self.list_backup, "--list-backup"),
        ];
        let other = other
            .into_iter()
            .find_map(|(given, word)| given.then_some(word));
        self.upgrade_word().or(other).or(self.carry.first())
    }
}

impl CarryWords {
    fn meaning(self) -> Carry {
        let changed = match (self.changed_etc, self.changed_files) {
            (false, false) => None,
            (true, _) => Some(Changed::Etc),
            (false, true) => Some(Changed::Everything),
        };
        Carry {
            scope: self.scope,
            listing: Listing {
                changed,
                skip_unchanged: self.skip_unchanged,
                packages: self.packages,
            },
        }
    }

    fn first(self) -> Option<&'static str> {
        [
            (self.scope.is_some(), "--scope"),
            (self.changed_etc, "-c"),
            (self.changed_files, "-o"),
            (self.skip_unchanged, "-u"),
            (self.packages, "-k"),
        ]
        .into_iter()
        .find_map(|(given, word)| given.then_some(word))
    }
}

impl CommandWord {
    fn meaning(self) -> Result<Command, NoCommand> {
        Ok(match self {
            Self::Status => Command::Status,
            Self::Plan {
                image,
                upgrade,
                carry,
                resolve,
            } => {
                upgrade.reboot.meaning()?;
                if !resolve.is_empty() && upgrade.no_config {
                    return usage("--no-config and --resolve contradict each other");
                }
                if !resolve.is_empty() && image == "-" {
                    return usage("--resolve needs an IMAGE that can be read twice");
                }
                Command::Plan {
                    image: image_word(image)?,
                    choices: upgrade.choices(carry)?,
                    resolve,
                }
            }
            Self::FirstBoot => Command::FirstBoot,
            Self::Confirm => Command::Confirm,
            Self::Rollback { reboot } => Command::Rollback {
                reboot: reboot.meaning()?,
            },
            Self::Guard => Command::Guard,
            Self::Health => Command::Health,
            Self::Inspect { image } => Command::Inspect {
                image: image_word(image)?,
            },
            Self::Revoke { file } => Command::Revoke { file },
            Self::Doctor { repair_env } => Command::Doctor { repair_env },
            Self::History => Command::History,
            Self::Config { word } => Command::Config(word.meaning()?),
        })
    }
}

impl UpgradeWords {
    fn choices(&self, carry: CarryWords) -> Result<Choices, NoCommand> {
        if self.same_slot {
            return usage(
                "-s would write over the running system: here the other slot is written, always",
            );
        }
        if self.provisioning {
            return usage(
                "-P is not needed here: make the volume with ubimkvol, no upgrade removes it",
            );
        }
        Ok(Choices {
            // A ready archive is to be used, whatever else was said: OpenWrt has it so.
            keep_config: !self.no_config || self.archive.is_some(),
            force: self.force,
            ignore_minor_compat: self.ignore_minor_compat_version,
            interactive: self.interactive,
            whole_disk: self.partitions,
            carry: carry.meaning(),
            archive: self.archive.clone(),
        })
    }
}

impl RebootWords {
    fn meaning(&self) -> Result<Reboot, NoCommand> {
        match (self.no_reboot, self.delay) {
            (true, None) => Ok(Reboot::Never),
            (false, seconds) => {
                let delay = Duration::from_secs(seconds.unwrap_or_default().into());
                Ok(Reboot::After(delay))
            }
            (true, Some(_)) => usage("--delay and --no-reboot contradict each other"),
        }
    }
}

impl GeneralWords {
    fn settings(self) -> Settings {
        Settings {
            board: self.board,
            defaults: self.defaults,
            root: self.root,
            json: self.json,
            progress: self.progress,
            now: self.now,
            verbosity: 1 + i16::from(self.verbose) - i16::from(self.quiet),
        }
    }
}

fn usage<T>(problem: impl Into<String>) -> Result<T, NoCommand> {
    Err(NoCommand::Usage(problem.into()))
}

/// An empty word comes from an unset variable in a script, and names no image.
fn image_word(word: OsString) -> Result<OsString, NoCommand> {
    if word.is_empty() {
        return usage("IMAGE is empty");
    }
    Ok(word)
}

fn path_word(word: OsString) -> Result<OsString, NoCommand> {
    if word.is_empty() {
        return usage("PATH is empty");
    }
    Ok(word)
}

fn place(word: OsString) -> Result<Place, NoCommand> {
    match word.to_str() {
        Some("") => usage("the name of the file is empty"),
        Some("-") => Ok(Place::Standard),
        _ => Ok(Place::File(word.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn parsed(line: &str) -> Result<(Settings, Command), NoCommand> {
        let words = std::iter::once("sysupgrade-rs").chain(line.split_whitespace());
        parse(words.map(OsString::from))
    }

    pub(super) fn command(line: &str) -> Command {
        match parsed(line) {
            Ok((_, command)) => command,
            Err(error) => panic!("{line}: {error}"),
        }
    }

    pub(super) fn problem(line: &str) -> String {
        match parsed(line) {
            Err(NoCommand::Usage(problem)) => problem,
            other => panic!("{line}: {other:?}"),
        }
    }

    const PLAIN: Choices = Choices {
        keep_config: true,
        force: false,
        ignore_minor_compat: false,
        interactive: false,
        whole_disk: false,
        carry: Carry {
            scope: None,
            listing: Listing {
                changed: None,
                skip_unchanged: false,
                packages: false,
            },
        },
        archive: None,
    };

    #[test]
    fn an_image_alone_is_installed_with_its_configuration_and_a_reboot() {
        let expected = Command::Install {
            image: "image.bin".into(),
            choices: PLAIN,
            reboot: Reboot::After(Duration::ZERO),
            confirm_within: None,
        };
        assert_eq!(command("image.bin"), expected);
    }

    #[test]
    fn options_of_an_upgrade_are_understood_in_both_spellings() {
        let expected = Command::Install {
            image: "-".into(),
            choices: Choices {
                keep_config: false,
                force: true,
                ..PLAIN
            },
            reboot: Reboot::After(Duration::from_secs(5)),
            confirm_within: Some(Duration::from_secs(600)),
        };
        assert_eq!(command("-nF -d 5 --confirm-within 10m -"), expected);
        let long = "- --no-config --force --delay=5 --confirm-within=600";
        assert_eq!(command(long), expected);
    }

    #[test]
    fn every_command_is_understood() {
        let image = || OsString::from("i");
        let choices = || PLAIN;
        for (line, expected) in [
            ("status", Command::Status),
            ("first-boot", Command::FirstBoot),
            ("confirm", Command::Confirm),
            (
                "rollback",
                Command::Rollback {
                    reboot: Reboot::After(Duration::ZERO),
                },
            ),
            (
                "rollback --no-reboot",
                Command::Rollback {
                    reboot: Reboot::Never,
                },
            ),
            ("guard", Command::Guard),
            ("health", Command::Health),
            ("inspect i", Command::Inspect { image: image() }),
            ("doctor", Command::Doctor { repair_env: false }),
            ("doctor --repair-env", Command::Doctor { repair_env: true }),
            ("history", Command::History),
            (
                "plan --no-reboot i",
                Command::Plan {
                    image: image(),
                    choices: choices(),
                    resolve: Vec::new(),
                },
            ),
            (
                "-T --no-reboot i",
                Command::Test {
                    image: image(),
                    choices: choices(),
                },
            ),
            (
                "-l",
                Command::List {
                    listing: Listing::default(),
                },
            ),
            (
                "-b -",
                Command::Backup {
                    to: Place::Standard,
                    carry: Carry::default(),
                },
            ),
            (
                "--restore-backup f",
                Command::Restore {
                    from: Place::File("f".into()),
                },
            ),
        ] {
            assert_eq!(command(line), expected, "{line}");
        }
    }

    #[test]
    fn a_file_named_as_a_command_can_be_given() {
        for line in ["./status", "-n ./status"] {
            let Command::Install { image, .. } = command(line) else {
                panic!("{line} is not an install");
            };
            assert_eq!(image, "./status");
        }
    }

    #[test]
    fn settings_may_stand_before_and_after_a_command() {
        for line in [
            "--json --root /r --board /b --defaults /d --now 5 -v --progress json status",
            "status --json --root /r --board /b --defaults /d --now 5 -v --progress json",
        ] {
            let (settings, command) = parsed(line).expect(line);
            assert_eq!(command, Command::Status);
            let expected = Settings {
                board: Some("/b".into()),
                defaults: Some("/d".into()),
                root: Some("/r".into()),
                json: true,
                progress: ProgressWord::Json,
                verbosity: 2,
                now: Some(5),
            };
            assert_eq!(settings, expected, "{line}");
        }
    }

    #[test]
    fn q_and_v_are_counted_against_each_other() {
        for (line, expected) in [("i", 1), ("-q i", 0), ("-qq i", -1), ("-vv -q i", 2)] {
            assert_eq!(parsed(line).expect(line).0.verbosity, expected, "{line}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (line, expected) in [
            ("", "no IMAGE and no command"),
            ("-n", "--no-config needs an IMAGE"),
            ("-l -T", "--test needs an IMAGE"),
            ("-b f -d 3", "--delay needs an IMAGE"),
            ("-b f image", "one at a time"),
            ("-l -r f", "one at a time"),
            ("-n status", "--no-config before a command"),
            ("-T plan i", "--test before a command"),
            ("image status", "IMAGE before a command"),
            ("-l doctor", "--list-backup before a command"),
            ("-d 3 --no-reboot i", "contradict each other"),
            ("plan -d 3 --no-reboot i", "contradict each other"),
            ("--json -b -", "cannot share standard output"),
            ("-l --scope etc", "--scope needs an IMAGE"),
            ("-r f --scope etc", "--scope needs an IMAGE"),
            ("--scope etc status", "--scope before a command"),
            ("plan -n --resolve etc/x=new i", "contradict each other"),
            ("plan --resolve etc/x=new -", "read twice"),
        ] {
            let found = problem(line);
            assert!(found.contains(expected), "{line}: {found}");
        }
    }

    #[test]
    fn stock_options_mean_what_they_mean_on_stock_systems() {
        let choices = |line: &str| match command(line) {
            Command::Install { choices, .. } => choices,
            other => panic!("{line}: {other:?}"),
        };
        let listing = |line: &str| choices(line).carry.listing;
        assert_eq!(listing("-c i").changed, Some(Changed::Etc));
        assert_eq!(listing("-o i").changed, Some(Changed::Everything));
        assert_eq!(listing("-o -c i").changed, Some(Changed::Etc));
        assert_eq!(listing("-co i").changed, Some(Changed::Everything));
        let both = Listing {
            changed: None,
            skip_unchanged: true,
            packages: true,
        };
        assert_eq!(listing("-u -k i"), both);
        assert_eq!(command("-l -k -u"), Command::List { listing: both });
        // A ready archive is to be used, whatever else was said.
        let ready = choices("-n -f a.tgz i");
        assert!(ready.keep_config);
        assert_eq!(ready.archive, Some("a.tgz".into()));
        assert!(choices("--ignore-minor-compat-version i").ignore_minor_compat);
        assert!(choices("-p i").whole_disk);
        assert!(choices("-i i").interactive);
        let list = Command::List {
            listing: Listing::default(),
        };
        assert_eq!(command("-l -b f"), list);
    }

    #[test]
    fn what_would_break_a_promise_is_refused() {
        assert!(problem("-s i").contains("over the running system"));
        assert!(problem("-P i").contains("ubimkvol"));
    }

    #[test]
    fn options_that_are_not_there_are_refused() {
        for option in ["-a", "-x", "--no", "--forced"] {
            let found = problem(&format!("{option} image"));
            assert!(found.contains(option), "{option}: {found}");
        }
        for line in ["status -n", "confirm image", "plan", "--progress fast i"] {
            problem(line);
        }
    }

    #[test]
    fn the_scope_is_a_word_of_upgrades_plans_and_backups() {
        for line in ["--scope etc i", "plan --scope=etc i", "-T i --scope etc"] {
            let choices = match command(line) {
                Command::Install { choices, .. }
                | Command::Test { choices, .. }
                | Command::Plan { choices, .. } => choices,
                other => panic!("{line}: {other:?}"),
            };
            assert_eq!(choices.carry.scope, Some(Scope::Etc), "{line}");
        }
        let expected = Command::Backup {
            to: Place::File("f".into()),
            carry: Carry {
                scope: Some(Scope::Declared),
                ..Carry::default()
            },
        };
        assert_eq!(command("-b f --scope declared"), expected);
    }

    #[test]
    fn decisions_are_read_up_to_their_last_equals_sign() {
        let line = "plan i --resolve etc/config/a#x.y[b=c]=new --resolve /etc/rc.local=user";
        let Command::Plan { resolve, .. } = command(line) else {
            panic!("no plan");
        };
        let expected = [
            ("etc/config/a#x.y[b=c]", Winner::New),
            ("/etc/rc.local", Winner::User),
        ];
        let expected = expected.map(|(place, winner)| Resolve {
            place: place.to_owned(),
            winner,
        });
        assert_eq!(resolve, expected);
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for line in [
            "plan i --resolve etc/x",
            "plan i --resolve etc/x=mine",
            "plan i --resolve =new",
            "--resolve etc/x=new i",
            "--scope all i",
            "-d soon i",
            "-d -1 i",
            "--confirm-within 0 i",
            "-b",
            "-b -n",
        ] {
            problem(line);
        }
        let empty = ["sysupgrade-rs", ""].map(OsString::from);
        assert!(matches!(parse(empty.into_iter()), Err(NoCommand::Usage(_))));
    }

    #[test]
    fn a_usage_error_is_one_printable_line() {
        let words = ["sysupgrade-rs", "--\u{1b}[31m\nx"].map(OsString::from);
        let Err(NoCommand::Usage(line)) = parse(words.into_iter()) else {
            panic!("accepted");
        };
        assert!(!line.contains(char::is_control), "{line:?}");
    }

    #[test]
    fn help_names_every_command_option_and_exit_code_and_fits_80_columns() {
        for line in [
            "plan --help",
            "config --help",
            "config diff --help",
            "config keep --help",
            "config attic get --help",
        ] {
            let Err(NoCommand::Answer(help)) = parsed(line) else {
                panic!("no help: {line}");
            };
            for row in help.lines() {
                assert!(row.chars().count() <= 80, "{line}: {row}");
            }
        }
        for line in ["--help", "-h"] {
            let Err(NoCommand::Answer(help)) = parsed(line) else {
                panic!("no help");
            };
            for code in ExitCode::ALL {
                let row = format!("{:>2}  {}", code as u8, code.meaning());
                assert!(help.contains(&row), "{row} is missing");
            }
            for word in [
                "--create-backup",
                "--confirm-within",
                "--progress",
                "first-boot",
                "guard",
                "config",
                "--scope",
            ] {
                assert!(help.contains(word), "{word} is missing");
            }
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }
}
