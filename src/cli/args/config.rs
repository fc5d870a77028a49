//! The words after `config`: everything about configuration that is not an upgrade.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{NoCommand, Place, path_word, place};

/// What `config` is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigCommand {
    /// Merge three directories into a fourth, as a first boot would.
    Merge(Merge),
    /// Run recorded cases and show where the result differs.
    Test {
        /// One directory a case.
        cases: Vec<PathBuf>,
    },
    /// Show what differs from the defaults.
    Diff {
        /// These paths and what is below them; all that differs if none is given.
        paths: Vec<OsString>,
    },
    /// Show what became of the configuration in an upgrade.
    Report {
        /// Which; the last one if not given.
        number: Option<u32>,
    },
    /// Store the defaults that the first boot of a system made.
    Baseline,
    /// Put paths on the user's keep list.
    Keep {
        /// As typed.
        paths: Vec<OsString>,
    },
    /// Put paths into the user's policy, so that the user's version of them always stays.
    Pin {
        /// As typed.
        paths: Vec<OsString>,
    },
    /// List the files that had to give way in upgrades.
    AtticList,
    /// Get one of them back.
    AtticGet {
        /// As typed.
        path: OsString,
        /// Where to.
        to: Place,
    },
}

/// Three directories that become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The old defaults.
    pub base: PathBuf,
    /// What the user made of them.
    pub user: PathBuf,
    /// The new defaults.
    pub new: PathBuf,
    /// Where the result goes; `None`: it is only told.
    pub out: Option<PathBuf>,
    /// The document that stands for what a machine and an image would say.
    pub context: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigWord {
    /// Merge three directories into a fourth, as a first boot would
    Merge(MergeWords),
    /// Run recorded cases and show each difference
    Test {
        /// Directories with old-default, user, new-default, expected and case.json
        #[arg(value_name = "DIR", required = true)]
        cases: Vec<PathBuf>,
    },
    /// Show what differs from the defaults
    Diff {
        /// Files and directories; everything under /etc if none is given
        #[arg(value_name = "PATH")]
        paths: Vec<OsString>,
    },
    /// Show what became of the configuration in an upgrade
    Report {
        /// Number of the report; the last one if not given
        #[arg(value_name = "NUMBER")]
        number: Option<u32>,
    },
    /// Store the defaults that the first boot of a fresh system made
    Baseline,
    /// Put files and directories on the keep list, /etc/sysupgrade.conf
    Keep {
        /// Files, directories or shell patterns
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<OsString>,
    },
    /// Let your version always win, in /etc/sysupgrade.policy
    Pin {
        /// Files, directories or shell patterns
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<OsString>,
    },
    /// Look at files of yours that had to give way
    Attic {
        #[command(subcommand)]
        word: AtticWord,
    },
}

#[derive(Debug, Args)]
pub(super) struct MergeWords {
    /// The old defaults
    #[arg(long, value_name = "DIR")]
    base: PathBuf,

    /// What the user made of them
    #[arg(long, value_name = "DIR")]
    user: PathBuf,

    /// The new defaults
    #[arg(long, value_name = "DIR")]
    new: PathBuf,

    /// Where the result goes: a directory that is not there yet, or empty
    #[arg(long, value_name = "DIR", required_unless_present = "plan")]
    out: Option<PathBuf>,

    /// Scope, policy, steps and facts, as in the case.json of a recorded case
    #[arg(long, value_name = "FILE")]
    context: Option<PathBuf>,

    /// Tell what would be done, write nothing
    #[arg(long)]
    plan: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum AtticWord {
    /// List them
    List,
    /// Get the newest one of this path
    Get {
        /// What its path was
        #[arg(value_name = "PATH")]
        path: OsString,
        /// Where to; - is standard output
        #[arg(value_name = "FILE", default_value = "-", hide_default_value = true)]
        file: OsString,
    },
}

impl ConfigWord {
    pub(super) fn meaning(self) -> Result<ConfigCommand, NoCommand> {
        Ok(match self {
            Self::Merge(words) => ConfigCommand::Merge(Merge {
                base: words.base,
                user: words.user,
                new: words.new,
                out: words.out.filter(|_| !words.plan),
                context: words.context,
            }),
            Self::Test { cases } => ConfigCommand::Test { cases },
            Self::Diff { paths } => ConfigCommand::Diff {
                paths: path_words(paths)?,
            },
            Self::Report { number } => ConfigCommand::Report { number },
            Self::Baseline => ConfigCommand::Baseline,
            Self::Keep { paths } => ConfigCommand::Keep {
                paths: path_words(paths)?,
            },
            Self::Pin { paths } => ConfigCommand::Pin {
                paths: path_words(paths)?,
            },
            Self::Attic {
                word: AtticWord::List,
            } => ConfigCommand::AtticList,
            Self::Attic {
                word: AtticWord::Get { path, file },
            } => ConfigCommand::AtticGet {
                path: path_word(path)?,
                to: place(file)?,
            },
        })
    }
}

fn path_words(words: Vec<OsString>) -> Result<Vec<OsString>, NoCommand> {
    words.into_iter().map(path_word).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{command, parsed, problem};
    use super::super::{Command, Settings};
    use super::*;

    fn config(line: &str) -> ConfigCommand {
        match command(line) {
            Command::Config(command) => command,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_command_about_configuration_is_understood() {
        let words = |words: &str| words.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (line, expected) in [
            (
                "config test a b",
                ConfigCommand::Test {
                    cases: vec!["a".into(), "b".into()],
                },
            ),
            ("config diff", ConfigCommand::Diff { paths: vec![] }),
            (
                "config diff /etc/hosts etc/config",
                ConfigCommand::Diff {
                    paths: words("/etc/hosts etc/config"),
                },
            ),
            ("config report", ConfigCommand::Report { number: None }),
            ("config report 3", ConfigCommand::Report { number: Some(3) }),
            ("config baseline", ConfigCommand::Baseline),
            (
                "config keep /a /b",
                ConfigCommand::Keep {
                    paths: words("/a /b"),
                },
            ),
            ("config pin /a", ConfigCommand::Pin { paths: words("/a") }),
            ("config attic list", ConfigCommand::AtticList),
            (
                "config attic get /etc/x",
                ConfigCommand::AtticGet {
                    path: "/etc/x".into(),
                    to: Place::Standard,
                },
            ),
            (
                "config attic get /etc/x x",
                ConfigCommand::AtticGet {
                    path: "/etc/x".into(),
                    to: Place::File("x".into()),
                },
            ),
        ] {
            assert_eq!(config(line), expected, "{line}");
        }
    }

    #[test]
    fn a_merge_has_three_directories_and_a_place_for_the_result_unless_it_is_only_planned() {
        let three = "config merge --base b --user u --new n";
        let plain = Merge {
            base: "b".into(),
            user: "u".into(),
            new: "n".into(),
            out: None,
            context: None,
        };
        for (more, expected) in [
            (
                "--out o",
                Merge {
                    out: Some("o".into()),
                    ..plain.clone()
                },
            ),
            ("--plan", plain.clone()),
            ("--plan --out o", plain.clone()),
            (
                "--plan --context c",
                Merge {
                    context: Some("c".into()),
                    ..plain.clone()
                },
            ),
        ] {
            let line = format!("{three} {more}");
            assert_eq!(config(&line), ConfigCommand::Merge(expected), "{line}");
        }
        assert!(problem(three).contains("--out"), "{}", problem(three));
    }

    #[test]
    fn what_holds_for_every_command_may_stand_after_its_words() {
        for line in ["config attic list --json", "--json config attic list"] {
            let (Settings { json, .. }, command) = parsed(line).expect(line);
            assert!(json, "{line}");
            assert_eq!(command, Command::Config(ConfigCommand::AtticList));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "config",
            "config frob",
            "config test",
            "config keep",
            "config pin",
            "config report last",
            "config report -1",
            "config attic",
            "config attic get",
            "config merge --base b --user u --out o",
            "-n config diff",
            "config keep -n /a",
        ] {
            problem(line);
        }
        let found = problem("--json config attic get /etc/x");
        assert!(found.contains("cannot share standard output"), "{found}");
    }

    #[test]
    fn an_empty_word_is_no_path() {
        for words in [
            &["config", "keep", ""][..],
            &["config", "pin", "/a", ""],
            &["config", "diff", ""],
            &["config", "attic", "get", ""],
        ] {
            let line = std::iter::once("sysupgrade-rs").chain(words.iter().copied());
            let result = super::super::parse(line.map(OsString::from));
            assert!(matches!(result, Err(NoCommand::Usage(_))), "{words:?}");
        }
    }
}
