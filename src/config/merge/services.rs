//! Which services start at boot, merged by service.
//!
//! Links in `/etc/rc.d` are not merged as files: their names hold a number that the script says and
//! that changes with it, so a disabled service would come back under another name. What is merged
//! is whether there is an `S` link of a service; the links themselves then are
//!
//! | script of the result | service starts | service does not start |
//! | --- | --- | --- |
//! | none | none | none |
//! | the image's | the image's, else by the script's `START` and `STOP` | none, if the image starts it; else the image's |
//! | the user's instead of it | by the script's `START` and `STOP`, else the image's | likewise |
//! | only the user has one | the user's, else by the script | the user's |
//!
//! Scripts are read, never run: what sets its `START` other than by a line `START=95` has none.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::EntryPath;
use crate::config::carry::services::setting;
pub(super) use crate::config::carry::services::{LINKS as DIR, parse_link};

/// The name of a service: that of its script.
pub(crate) type Name = Vec<u8>;

/// The script of a service.
pub(super) fn script_of(service: &[u8]) -> Option<EntryPath> {
    EntryPath::new(&[b"etc/init.d/", service].concat()).ok()
}

/// The links of one service: what each leads to, by its name.
type ServiceLinks = BTreeMap<Vec<u8>, Vec<u8>>;

/// The links of `/etc/rc.d` that belong to services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Links(BTreeMap<Name, ServiceLinks>);

impl Links {
    /// Of names and targets; what is no link of a service is passed over.
    pub(crate) fn new<'a>(entries: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut links = Self::default();
        for (name, target) in entries {
            if let Some((_, service)) = parse_link(name)
                && !service.is_empty()
            {
                let service = links.0.entry(service.to_vec()).or_default();
                service.insert(name.to_vec(), target.to_vec());
            }
        }
        links
    }

    /// Every service that has a link.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Name> {
        self.0.keys()
    }

    /// The services that start at boot.
    pub(crate) fn enabled(&self) -> BTreeSet<Name> {
        let enabled = self.0.iter().filter(|(_, links)| starts(links));
        enabled.map(|(service, _)| service.clone()).collect()
    }
}

fn starts(links: &ServiceLinks) -> bool {
    links.keys().any(|name| name.starts_with(b"S"))
}

/// Which services shall start.
///
/// If it is not known what the old image started, the user's word counts for the services that the
/// old system had (`had`), and the image's for others.
pub(crate) fn merge(
    base: Option<&BTreeSet<Name>>,
    user: &BTreeSet<Name>,
    new: &BTreeSet<Name>,
    had: &dyn Fn(&[u8]) -> bool,
) -> BTreeSet<Name> {
    let users_word = |service: &Name| match base {
        Some(base) => base.contains(service) != user.contains(service),
        None => user.contains(service) || had(service),
    };
    (user.union(new))
        .filter(|service| {
            let side = if users_word(service) { user } else { new };
            side.contains(*service)
        })
        .cloned()
        .collect()
}

/// The script of a service, as it is in the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    /// What it says.
    pub(crate) text: Vec<u8>,
    /// Who has it.
    pub(crate) origin: Origin,
}

/// Who has the script of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is the image's.
    Image,
    /// The image has one, but this is the user's, or merged.
    Changed,
    /// The image has none.
    User,
}

/// What `/etc/rc.d` becomes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What each link leads to, by its name: all links that belong to services.
    pub(crate) links: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Services of which it is not the image that says whether they start, and whether they do.
    pub(crate) changes: Vec<(Name, bool)>,
}

/// The links for the services that shall start. `script` gives the script of a service in the
/// result. The user's links may be unknown (empty).
pub(crate) fn plan(
    wanted: &BTreeSet<Name>,
    user: &Links,
    new: &Links,
    script: &mut dyn FnMut(&[u8]) -> Option<Script>,
) -> Plan {
    let services: BTreeSet<&Name> = (wanted.iter())
        .chain(user.0.keys())
        .chain(new.0.keys())
        .collect();
    let mut plan = Plan::default();
    for service in services {
        let images = new.0.get(service).cloned().unwrap_or_default();
        let in_image = starts(&images);
        let links = script(service).map_or_else(ServiceLinks::new, |script| {
            let wanted = wanted.contains(service);
            let users = user.0.get(service).cloned().unwrap_or_default();
            let made = || by_script(service, &script.text);
            match (script.origin, wanted) {
                (Origin::User, true) if !starts(&users) => made().unwrap_or(users),
                (Origin::User, _) => users,
                (_, false) if in_image => ServiceLinks::new(),
                (_, false) => images,
                (Origin::Image, true) if in_image => images,
                (_, true) => made().unwrap_or(images),
            }
        });
        if starts(&links) != in_image {
            plan.changes.push((service.clone(), starts(&links)));
        }
        plan.links.extend(links);
    }
    plan
}

/// The links that enabling a service makes, or nothing if its script has no `START`.
fn by_script(service: &[u8], text: &[u8]) -> Option<ServiceLinks> {
    let link = |letter: u8, number: [u8; 2]| {
        let name = [&[letter], &number[..], service].concat();
        (name, [b"../init.d/", service].concat())
    };
    let start = number(text, b"START")?;
    let stop = number(text, b"STOP").map(|number| link(b'K', number));
    Some([link(b'S', start)].into_iter().chain(stop).collect())
}

/// The number of two digits that a script sets a variable to.
fn number(text: &[u8], variable: &[u8]) -> Option<[u8; 2]> {
    match setting(text, variable)? {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some([*a, *b]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::str;

    use super::*;

    fn names(text: &str) -> BTreeSet<Name> {
        text.split_whitespace().map(Into::into).collect()
    }

    fn links(text: &str) -> Links {
        let target = |name: &str| format!("../init.d/{}", name.get(3..).unwrap_or_default());
        let entries: Vec<(String, String)> = (text.split_whitespace())
            .map(|name| (name.to_owned(), target(name)))
            .collect();
        Links::new((entries.iter()).map(|(name, target)| (name.as_bytes(), target.as_bytes())))
    }

    /// The links and changes for scripts that all are of this origin and say this.
    fn planned(
        wanted: &str,
        user: &str,
        new: &str,
        script: Option<(Origin, &str)>,
    ) -> (String, String) {
        let mut script = |_: &[u8]| {
            script.map(|(origin, text)| Script {
                text: text.into(),
                origin,
            })
        };
        let plan = plan(&names(wanted), &links(user), &links(new), &mut script);
        let mut shown = Vec::new();
        for (name, target) in &plan.links {
            let [_, _, _, service @ ..] = &name[..] else {
                panic!("{name:?}")
            };
            assert_eq!(*target, [b"../init.d/", service].concat());
            shown.push(str::from_utf8(name).unwrap());
        }
        let changes = plan.changes.iter().map(|(service, starts)| {
            let sign = if *starts { '+' } else { '-' };
            format!("{sign}{}", str::from_utf8(service).unwrap())
        });
        (shown.join(" "), changes.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_service_starts_that_has_a_start_link() {
        let links = links("S19a K50a K10b S20c S5d S50 x S99e");
        assert_eq!(links.enabled(), names("a c e"));
    }

    #[test]
    fn whoever_changed_it_decides_whether_a_service_starts() {
        let none = |_: &[u8]| -> bool { panic!("the old image is known") };
        for (base, user, new, merged) in [
            ("", "", "", ""),
            ("", "", "x", "x"),
            ("", "x", "", "x"),
            ("", "x", "x", "x"),
            ("x", "", "", ""),
            ("x", "", "x", ""),
            ("x", "x", "", ""),
            ("x", "x", "x", "x"),
        ] {
            let got = merge(Some(&names(base)), &names(user), &names(new), &none);
            assert_eq!(got, names(merged), "{base:?} {user:?} {new:?}");
        }
    }

    #[test]
    fn of_an_unknown_old_image_the_user_decides_about_what_he_had() {
        let had = |service: &[u8]| service == b"off";
        let merged = merge(None, &names("on mine"), &names("on off fresh"), &had);
        assert_eq!(merged, names("on mine fresh"));
    }

    #[test]
    fn links_are_those_of_the_image_while_its_script_runs() {
        let image = Some((Origin::Image, "START=11\nSTOP=12\n"));
        let two = |links: &str, changes: &str| (links.to_owned(), changes.to_owned());
        // Started by both, under another number.
        assert_eq!(
            planned("a", "S50a K50a", "S19a K60a", image),
            two("K60a S19a", "")
        );
        // The user disabled it.
        assert_eq!(planned("", "", "S36a K50a", image), two("", "-a"));
        // The user enabled it.
        assert_eq!(planned("a", "S50a", "", image), two("K12a S11a", "+a"));
        assert_eq!(planned("a", "S50a", "K50a", image), two("K12a S11a", "+a"));
        // The image has nothing but a link that stops it.
        assert_eq!(planned("", "", "K50a", image), two("K50a", ""));
    }

    #[test]
    fn a_changed_script_says_its_own_numbers() {
        let changed = |text| Some((Origin::Changed, text));
        let script = changed("START=99\n");
        assert_eq!(planned("a", "S99a", "S50a K10a", script).0, "S99a");
        let unknown = changed("START=$LATE\n");
        assert_eq!(planned("a", "S99a", "S50a K10a", unknown).0, "K10a S50a");
        assert_eq!(
            planned("", "", "S50a", script),
            (String::new(), "-a".to_owned())
        );
    }

    #[test]
    fn a_service_without_script_has_no_links() {
        let gone = planned("a b", "S50a K50a", "S50b", None);
        assert_eq!(gone, (String::new(), "-b".to_owned()));
    }

    #[test]
    fn a_script_that_only_the_user_has_keeps_its_links() {
        let mine = Some((Origin::User, "START=95\nSTOP=05\n"));
        assert_eq!(
            planned("a", "S80a K20a", "", mine),
            ("K20a S80a".to_owned(), "+a".to_owned())
        );
        assert_eq!(
            planned("", "K20a", "", mine),
            ("K20a".to_owned(), String::new())
        );
        // Of an archive that tells no links.
        assert_eq!(
            planned("a", "", "", mine),
            ("K05a S95a".to_owned(), "+a".to_owned())
        );
        let odd = Some((Origin::User, "# nothing\n"));
        assert_eq!(planned("a", "", "", odd), (String::new(), String::new()));
    }

    #[test]
    fn numbers_are_read_and_scripts_not_run() {
        for (text, wanted) in [
            ("#!/bin/sh /etc/rc.common\nSTART=95\nSTOP=10\n", Some("95")),
            ("START=95", Some("95")),
            ("START=\"95\"\n", Some("95")),
            ("START='09' # early\r\n", Some("09")),
            ("START=95; STOP=5\r\n", Some("95")),
            ("START=95\r\n", Some("95")),
            ("START=10\nSTART=20\n", Some("20")),
            ("START=20\nfoo() {\n\tSTART=30\n}\n", Some("20")),
            ("#START=95\n", None),
            ("RESTART=95\n", None),
            ("START=5\n", None),
            ("START=100\n", None),
            ("START=\n", None),
            ("START=\"95\n", None),
            ("START=$(reboot)\n", None),
            ("START", None),
            ("", None),
        ] {
            let found = number(text.as_bytes(), b"START");
            assert_eq!(
                found.as_ref().map(|n| str::from_utf8(n).unwrap()),
                wanted,
                "{text:?}"
            );
        }
    }
}
