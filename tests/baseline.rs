//! The defaults of a running system: found where systems keep them, and stored where the first boot
//! makes them.

mod sim;
mod world;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use sysupgrade_rs::config::ConfigError;
use sysupgrade_rs::config::archive::{self, Source};
use sysupgrade_rs::config::baseline::{Stored, find_defaults, store};
use sysupgrade_rs::config::bundle::{Bundle, OldDefault, Scope};
use sysupgrade_rs::config::keep::KeepList;
use sysupgrade_rs::files::{self, trace};
use world::snapshot::Snapshot;

const STORE: &str = "etc/sysupgrade/baseline";

/// A root as its first boot left it, and the image's files in one of the usual places.
struct System {
    dir: tempfile::TempDir,
}

impl System {
    fn new(defaults: &str) -> Self {
        let memory = Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let system = Self {
            dir: dir.expect("a temporary directory"),
        };
        for tree in [".", defaults] {
            system.write(&format!("{tree}/etc/config/dhcp"), "shipped");
            system.write(&format!("{tree}/etc/hosts"), "shipped");
        }
        system
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn at(&self, place: &str) -> PathBuf {
        self.root().join(place)
    }

    fn write(&self, place: &str, text: &str) {
        let place = self.at(place);
        fs::create_dir_all(place.parent().expect("a parent")).expect("directories");
        fs::write(place, text).expect("write");
    }

    fn link(&self, place: &str, target: &str) {
        let place = self.at(place);
        fs::create_dir_all(place.parent().expect("a parent")).expect("directories");
        symlink(target, place).expect("link");
    }

    fn store(&self) -> Result<Stored, ConfigError> {
        store(self.root(), find_defaults(self.root()).as_deref())
    }

    /// Everything in the store, without its directories.
    fn stored(&self) -> Vec<String> {
        let store = self.at(STORE);
        if !store.exists() {
            return Vec::new();
        }
        let mut paths = Vec::new();
        let mut pending = vec![store.clone()];
        while let Some(dir) = pending.pop() {
            for name in files::list(&dir).expect("a directory") {
                let place = dir.join(name);
                match files::is_dir(&place) {
                    true => pending.push(place),
                    false => {
                        let path = place.strip_prefix(&store).expect("below");
                        paths.push(path.display().to_string());
                    }
                }
            }
        }
        paths.sort();
        paths
    }

    fn bundle(&self, scope: Scope) -> Bundle {
        let keep = KeepList::read(self.root()).expect("a keep list");
        let defaults = find_defaults(self.root());
        let source = Source {
            root: self.root(),
            keep: &keep,
            defaults: defaults.as_deref(),
            scope,
            from_version: "1",
            board: "test",
        };
        let mut bytes = Vec::new();
        archive::write(&mut bytes, &source).expect("an archive");
        archive::verify(&*bytes).expect("verified")
    }

    fn default_of(&self, path: &str) -> Option<(OldDefault, bool)> {
        let bundle = self.bundle(Scope::Etc);
        let mut kept = bundle.kept();
        let member = kept.find(|member| member.path.to_string() == path)?;
        Some((member.default?, member.generated))
    }
}

/// What the first boot of a router makes.
fn booted() -> System {
    let system = System::new("rom");
    system.write("etc/config/network", "generated");
    system.write("etc/config/dhcp", "changed by a script of the image");
    system.write("etc/dropbear/dropbear_ed25519_host_key", "secret");
    system.write("etc/board.json", "{}");
    system.write("etc/os-release", "replaced");
    system.link("etc/localtime", "/tmp/TZ");
    files::set_mode(&system.at("etc/config/network"), 0o640).expect("chmod");
    files::set_modified(&system.at("etc/config/network"), 77).expect("a time");
    system
}

#[test]
fn defaults_are_found_where_each_kind_of_system_keeps_them() {
    for place in ["rom", "usr/share/factory", "usr"] {
        let system = System::new(place);
        assert_eq!(find_defaults(system.root()), Some(system.at(place)));
        system.write("etc/config/dhcp", "edited");
        let dhcp = system.default_of("etc/config/dhcp");
        assert_eq!(dhcp, Some((OldDefault::Changed, false)), "{place}");
        assert_eq!(system.default_of("etc/hosts"), None, "{place}: not changed");
    }
}

#[test]
fn the_first_of_the_usual_places_is_taken_and_never_the_live_tree() {
    let system = System::new("usr");
    system.write("usr/share/factory/etc/x", "");
    assert_eq!(
        find_defaults(system.root()),
        Some(system.at("usr/share/factory"))
    );
    fs::create_dir(system.at("rom")).expect("a directory"); // without etc, as before an overlay
    let second = find_defaults(system.root());
    assert_eq!(second, Some(system.at("usr/share/factory")));
    system.link("rom/etc", "../etc");
    assert_eq!(find_defaults(system.root()), second);
    for place in ["usr/share/factory", "usr/etc"] {
        files::remove_tree(&system.at(place)).expect("removed");
    }
    assert_eq!(find_defaults(system.root()), None);
}

#[test]
fn what_the_first_boot_made_is_stored_with_its_permissions() {
    let system = booted();
    let stored = system.store().expect("stored");
    let bytes = "generated".len() + "changed by a script of the image".len();
    let bytes = bytes as u64;
    assert_eq!(stored, Stored::Now { entries: 3, bytes });
    assert_eq!(
        system.stored(),
        ["etc/config/dhcp", "etc/config/network", "etc/localtime"]
    );
    let metadata = |place: &str| fs::symlink_metadata(system.at(place)).expect("metadata");
    let network = metadata(&format!("{STORE}/etc/config/network"));
    assert_eq!((network.mode() & 0o7777, network.mtime()), (0o640, 77));
    assert_eq!(metadata(STORE).mode() & 0o7777, 0o700);
    assert_eq!(metadata("etc/sysupgrade").mode() & 0o7777, 0o700);

    assert_eq!(system.default_of("etc/config/network"), None, "not changed");
    system.write("etc/config/network", "edited");
    let network = system.default_of("etc/config/network");
    assert_eq!(network, Some((OldDefault::Changed, true)));
    assert_eq!(system.default_of("etc/localtime"), None);
    fs::remove_file(system.at("etc/localtime")).expect("removed");
    let bundle = system.bundle(Scope::Etc);
    assert_eq!(bundle.deletions.len(), 1);
    assert!(bundle.deletions[0].generated);
}

#[test]
fn a_store_that_is_there_is_left_alone() {
    let system = booted();
    system.store().expect("stored");
    system.write("etc/config/network", "edited");
    system.write("etc/config/more", "added");
    assert_eq!(system.store().expect("done"), Stored::AlreadyThere);
    assert_eq!(system.stored().len(), 3);
    let network = fs::read_to_string(system.at(STORE).join("etc/config/network"));
    assert_eq!(network.expect("read"), "generated");
}

#[test]
fn nothing_is_stored_of_a_system_whose_shipped_files_are_not_known() {
    let system = booted();
    files::remove_tree(&system.at("rom")).expect("removed");
    assert_eq!(system.store().expect("done"), Stored::NoDefaults);
    assert!(!system.at("etc/sysupgrade").exists());
}

#[test]
fn nothing_is_stored_of_a_system_that_took_its_configuration_over() {
    let system = booted();
    let report = r#"{"format":1,"from":"1","to":"2","archive":"DIGEST","entries":[],"notices":[]}"#;
    let report = report.replace("DIGEST", &"0".repeat(64));
    system.write("etc/sysupgrade/reports/00001.json", &report);
    assert_eq!(system.store().expect("done"), Stored::NotFresh);
    assert!(!system.at(STORE).exists());
}

#[test]
fn links_of_services_are_stored_all_or_none() {
    let system = System::new("rom");
    for service in ["S10boot", "S50uhttpd"] {
        for tree in ["rom/etc/rc.d", "etc/rc.d"] {
            system.link(&format!("{tree}/{service}"), "../init.d/x");
        }
    }
    assert!(matches!(system.store(), Ok(Stored::Now { entries: 0, .. })));
    let services = |system: &System| {
        let services = system.bundle(Scope::Declared).services.expect("services");
        (services.default.expect("known"), services.user)
    };
    let (default, user) = services(&system);
    assert_eq!((default.len(), &default), (2, &user));

    files::remove_tree(&system.at(STORE)).expect("removed");
    fs::remove_file(system.at("etc/rc.d/S50uhttpd")).expect("disabled by the first boot");
    assert!(matches!(system.store(), Ok(Stored::Now { entries: 1, .. })));
    fs::remove_file(system.at("etc/rc.d/S10boot")).expect("disabled by the user");
    let (default, user) = services(&system);
    assert_eq!(default, ["boot".to_owned()].into());
    assert!(user.is_empty());

    files::remove_tree(&system.at(STORE)).expect("removed");
    assert!(matches!(system.store(), Ok(Stored::Now { entries: 0, .. })));
    let (default, _) = services(&system);
    assert!(default.is_empty(), "that none starts is known, too");
}

#[test]
fn more_than_a_flash_bears_is_refused_and_leaves_nothing() {
    let system = booted();
    let big = fs::File::create(system.at("etc/big")).expect("create");
    big.set_len(5 << 20).expect("a sparse file");
    let error = system.store().expect_err("too much");
    assert!(matches!(error, ConfigError::TooMuch { .. }), "{error}");
    let left = files::list(&system.at("etc/sysupgrade")).expect("a directory");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn power_may_go_at_any_moment_and_there_is_the_whole_store_or_none() {
    let system = booted();
    let root = system.root();
    let start = Snapshot::read(root).expect("read");
    let (done, log) = trace::record(|| system.store());
    done.expect("stored");
    let end = Snapshot::read(root).expect("read");
    let (crashes, cuts) = sim::cuts(root, &start, &log, &mut sim::Random(5));
    assert!(cuts > 50, "{cuts}");
    for crash in crashes {
        files::remove_tree(&system.at("etc")).expect("tidy");
        files::remove_tree(&system.at("rom")).expect("tidy");
        crash.disk.write(root).expect("write");
        let there = system.at(STORE).exists();
        assert!(there || !crash.after_the_end, "{}", crash.story);
        if there {
            let (found, whole) = (crash.disk.below(STORE), end.below(STORE));
            let differences = found.differences(&whole);
            assert_eq!(found, whole, "{}\n{differences}", crash.story);
        }
        system.store().expect("stored again");
        let found = Snapshot::read(root).expect("read");
        let differences = found.differences(&end);
        assert_eq!(found, end, "{}\n{differences}", crash.story);
    }
}
