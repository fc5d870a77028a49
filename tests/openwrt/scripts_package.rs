//! The package for OpenWrt: what it installs, and how it takes over from the stock tools and gives back.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs;
use crate::scripts::{Result, SHELLS, installed};
use crate::world::snapshot::Snapshot;
use crate::world::temporary_directory;

/// What the package's Makefile includes, as far as it uses it.
const RULES: &str = "
INCLUDE_DIR:=$(TOPDIR)
INSTALL_DIR:=install -d -m0755
INSTALL_BIN:=install -m0755
INSTALL_DATA:=install -m0644
";
const PACKAGE: &str = "
define BuildPackage
install:
	$(call Package/$(1)/install,$(DESTINATION))
	$(file >$(DESTINATION).postinst,$(Package/$(1)/postinst))
	$(file >$(DESTINATION).prerm,$(Package/$(1)/prerm))
endef
";

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/openwrt")
}

/// A root file system with the stock tools, and the package installed over it by its own Makefile.
struct Root {
    dir: tempfile::TempDir,
    root: PathBuf,
}

/// Stock files that are replaced, and what takes their place.
const REPLACED: [(&str, &str); 3] = [
    ("sbin/sysupgrade", "/usr/sbin/sysupgrade-rs"),
    (
        "usr/libexec/validate_firmware_image",
        "/usr/libexec/sysupgrade-rs/validate_firmware_image",
    ),
    (
        "etc/init.d/bootcount",
        "/usr/libexec/sysupgrade-rs/bootcount",
    ),
];

/// What is new.
const GLUE: (&str, &str) = (
    "lib/upgrade/zz-sysupgrade-rs.sh",
    "/usr/libexec/sysupgrade-rs/stage2.sh",
);

impl Root {
    fn new() -> Result<Self> {
        let dir = temporary_directory()?;
        let root = dir.path().join("root");
        let mut stock = Snapshot::default();
        for (name, _) in REPLACED {
            stock.put_file(name, 0o755, &format!("#!/bin/sh\necho stock {name}\n"));
        }
        stock.put_file("lib/upgrade/platform.sh", 0o644, "# stock\n");
        stock.put_link("var", "tmp");
        stock.write(&root)?;
        let build = dir.path().join("build");
        fs::create_dir_all(build.join("feeds/packages/lang/rust"))?;
        fs::create_dir_all(build.join("bin"))?;
        fs::write(build.join("rules.mk"), RULES)?;
        fs::write(build.join("package.mk"), PACKAGE)?;
        fs::write(build.join("feeds/packages/lang/rust/rust-package.mk"), "")?;
        fs::write(build.join("bin/sysupgrade-rs"), "the tool")?;
        let output = Command::new("make")
            .arg("-C")
            .arg(package())
            .arg("install")
            .arg(format!("TOPDIR={}", build.display()))
            .arg(format!("PKG_INSTALL_DIR={}", build.display()))
            .arg(format!("DESTINATION={}", root.display()))
            .output()?;
        assert!(output.status.success(), "{output:?}");
        Ok(Self { dir, root })
    }

    /// A program of the router.
    fn program(&self, name: &str, text: &str) -> Result {
        let bin = self.dir.path().join("bin");
        fs::create_dir_all(&bin)?;
        Ok(programs::write(
            &bin.join(name),
            &format!("#!/bin/sh\n{text}\n"),
        )?)
    }

    fn sh(&self, shell: &[&str], script: &str) -> Result<std::process::Output> {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", script]);
        command.env("ADOPT", installed("usr/libexec/sysupgrade-rs/adopt"));
        command.env("BIN", self.dir.path().join("bin"));
        Ok(command.env("IPKG_INSTROOT", &self.root).output()?)
    }

    fn adopt(&self, shell: &[&str], word: &str) -> Result {
        let output = self.sh(
            shell,
            &format!("sync() {{ :; }}; set -- {word}; . \"$ADOPT\""),
        )?;
        assert!(output.status.success(), "{output:?}");
        Ok(())
    }

    fn link(&self, name: &str) -> Option<PathBuf> {
        fs::read_link(self.root.join(name)).ok()
    }

    fn has_taken_over(&self) -> bool {
        let mut all = REPLACED.into_iter().chain([GLUE]);
        all.all(|(name, target)| self.link(name) == Some(target.into()))
    }

    /// All of it but what the package keeps for itself.
    fn visible(&self) -> Result<Snapshot> {
        let mut visible = Snapshot::read(&self.root)?;
        for name in ["usr/lib", "run"] {
            visible.remove(name);
        }
        Ok(visible)
    }
}

/// Files below a directory, by name.
fn files_below(dir: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            match path.is_dir() {
                true => dirs.push(path),
                false => drop(found.insert(path.strip_prefix(dir)?.to_owned())),
            }
        }
    }
    Ok(found)
}

#[test]
fn the_makefile_installs_every_file_where_it_lies_and_as_what_it_is() -> Result {
    let target = Root::new()?;
    let files = package().join("files");
    for name in files_below(&files)? {
        let (from, to) = (files.join(&name), target.root.join(&name));
        let content = fs::read(&from)?;
        assert!(fs::read(&to)? == content, "{}", name.display());
        let runs = fs::metadata(&to)?.permissions().mode() & 0o111 != 0;
        assert_eq!(
            runs,
            fs::metadata(&from)?.permissions().mode() & 0o111 != 0,
            "{} is as executable as here",
            name.display()
        );
        // Preinit and stage2 source theirs.
        let sourced = ["lib/preinit", "usr/share"]
            .iter()
            .any(|dir| name.starts_with(dir));
        let sourced = sourced || name.ends_with("stage2.sh");
        assert_eq!(runs, !sourced, "{}", name.display());
    }
    for name in ["usr/sbin/sysupgrade-rs", "lib/sysupgrade-rs/first-boot"] {
        let mode = fs::metadata(target.root.join(name))?.permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{name}");
    }
    assert!(target.root.join("etc/sysupgrade-rs/keys").is_dir());
    let makefile = fs::read_to_string(package().join("Makefile"))?;
    let version = concat!("PKG_VERSION:=", env!("CARGO_PKG_VERSION"), "\n");
    assert!(makefile.contains(version), "{version}");
    Ok(())
}

#[test]
fn the_readme_names_every_file() -> Result {
    let readme = fs::read_to_string(package().join("README.md"))?;
    for name in files_below(&package())? {
        let name = name.display().to_string();
        // As where it is installed.
        let shown = name.trim_start_matches("files");
        assert!(readme.contains(shown) || name == "README.md", "{name}");
    }
    Ok(())
}

#[test]
fn a_package_is_installed_into_an_image_as_the_tool_and_removed_from_a_router_without_a_trace()
-> Result {
    let target = Root::new()?;
    let script =
        |name: &str| -> Result<String> { Ok(fs::read_to_string(target.dir.path().join(name))?) };
    let before = target.visible()?;
    let output = target.sh(&["dash"], &script("root.postinst")?)?;
    assert!(output.status.success(), "{output:?}");
    assert!(target.has_taken_over());
    assert_eq!(target.link("run"), Some("var/run".into()));
    // An image that is made loses nothing with the package's removal script.
    let output = target.sh(&["dash"], &script("root.prerm")?)?;
    assert!(
        output.status.success() && target.has_taken_over(),
        "{output:?}"
    );
    target.adopt(SHELLS[0], "off")?;
    assert_eq!(target.visible()?.differences(&before), "");
    Ok(())
}

/// The commands that change something, cut off before the one with the number in `CUT`.
const CUT: &str = r#"
n=0
cut() { n=$((n + 1)); [ "$n" != "$CUT" ] || exit 99; }
cp() { cut; command cp "$@"; }
mv() { cut; command mv "$@"; }
ln() { cut; command ln "$@"; }
rm() { cut; command rm "$@"; }
mkdir() { cut; command mkdir "$@"; }
sync() { cut; }
"#;

#[test]
fn taking_over_or_giving_back_can_be_cut_anywhere_and_done_again() -> Result {
    let mut cuts = 0;
    for (number, word) in ["on", "off"].into_iter().cycle().take(4).enumerate() {
        let shell = SHELLS[number / 2];
        for cut in 1.. {
            let target = Root::new()?;
            let stock = target.visible()?;
            if word == "off" {
                target.adopt(shell, "on")?;
            }
            let script = format!("{CUT} CUT={cut}; set -- {word}; . \"$ADOPT\"");
            let was_cut = target.sh(shell, &script)?.status.code() == Some(99);
            for (name, link) in REPLACED {
                let now = fs::read(target.root.join(name)).ok();
                let is_stock = now.as_deref() == stock.data(name);
                let is_ours = target.link(name) == Some(link.into());
                assert!(
                    is_stock || is_ours,
                    "{word} cut before {cut}: {name} is neither"
                );
                let kept = fs::read(target.root.join("usr/lib/sysupgrade-rs/stock").join(name));
                let kept = kept.ok();
                assert!(
                    is_stock || kept.as_deref() == stock.data(name),
                    "{word} cut before {cut}: there is no way back for {name}"
                );
            }
            target.adopt(shell, "on")?;
            target.adopt(shell, "on")?;
            assert!(target.has_taken_over());
            target.adopt(shell, "off")?;
            assert_eq!(target.visible()?.differences(&stock), "");
            cuts += 1;
            if !was_cut {
                break;
            }
        }
    }
    assert!(cuts > 40, "only {cuts} cuts");
    Ok(())
}

#[test]
fn newer_stock_files_are_taken_over_again_and_are_the_ones_given_back() -> Result {
    let target = Root::new()?;
    target.adopt(SHELLS[0], "on")?;
    let place = target.root.join("sbin/sysupgrade");
    fs::remove_file(&place)?;
    fs::write(&place, "newer")?;
    target.adopt(SHELLS[1], "on")?;
    assert!(target.has_taken_over());
    target.adopt(SHELLS[0], "off")?;
    assert_eq!(fs::read_to_string(&place)?, "newer");
    Ok(())
}

#[test]
fn a_router_without_a_boot_counter_gets_none() -> Result {
    let target = Root::new()?;
    fs::remove_file(target.root.join("etc/init.d/bootcount"))?;
    target.adopt(SHELLS[0], "on")?;
    assert_eq!(target.link("etc/init.d/bootcount"), None);
    Ok(())
}

#[test]
fn the_boot_loader_is_told_that_the_system_is_up_where_that_ends_no_trial() -> Result {
    let counted = "[boot.layout]\nvariable = \"active\"\n[boot.layout.counter]\narmed = \"upgrade_available\"\n";
    let inline =
        "[boot.layout]\nvariable = \"active\"\ncounter = { armed = \"upgrade_available\" }\n";
    let apart = "[boot.layout]\nvariable = \"boot_part\"\n# counter = none\n";
    let told = "stock etc/init.d/bootcount boot\n";
    for (board, said) in [(counted, ""), (inline, ""), (apart, told)] {
        let target = Root::new()?;
        let stock = target.root.join("etc/init.d/bootcount");
        programs::write(&stock, "#!/bin/sh\necho stock etc/init.d/bootcount $*\n")?;
        target.adopt(SHELLS[0], "on")?;
        fs::write(target.root.join("etc/sysupgrade-rs/board.toml"), board)?;
        for shell in SHELLS {
            let script = "set -- boot; . \"${ADOPT%/adopt}/bootcount\"";
            let output = target.sh(shell, script)?;
            assert_eq!(String::from_utf8_lossy(&output.stdout), said, "{board}");
        }
    }
    Ok(())
}

#[test]
fn a_router_that_doctor_finds_unfit_keeps_the_stock_tools() -> Result {
    // Nothing here is named below a root: what would change this machine only says so.
    let script = r#"
cp() { echo CHANGES; }
mv() { cp; }
ln() { cp; }
rm() { cp; }
mkdir() { cp; }
sync() { :; }
unset IPKG_INSTROOT
PATH=$BIN:$PATH
set -- on
. "$ADOPT""#;
    for shell in SHELLS {
        let target = Root::new()?;
        target.program("sysupgrade-rs", "echo \"asked $*\"; exit 30")?;
        let output = target.sh(shell, script)?;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout)?, "asked doctor\n");
    }
    Ok(())
}

/// An init script, as rc.common and procd call it: what it starts.
fn service(target: &Root, shell: &[&str], name: &str) -> Result<String> {
    let script = format!(
        r#"
procd_open_instance() {{ :; }}
procd_close_instance() {{ :; }}
procd_set_param() {{ [ "$1" != command ] || {{ shift; "$@"; }}; }}
PATH=$BIN:$PATH
. "$IPKG_INSTROOT/etc/init.d/{name}"
echo "start $START procd $USE_PROCD" >&2
start_service"#
    );
    let output = target.sh(shell, &script)?;
    assert!(output.status.code().is_some(), "{output:?}");
    let place = String::from_utf8(output.stderr)?;
    let place = place.lines().next().ok_or("no place")?;
    Ok(format!("{place}\n{}", String::from_utf8(output.stdout)?))
}

#[test]
fn the_guard_starts_early_and_its_mark_is_the_last_service() -> Result {
    for shell in SHELLS {
        let target = Root::new()?;
        let guard = target.root.join("usr/libexec/sysupgrade-rs/guard");
        programs::write(&guard, "#!/bin/sh\necho guards\n")?;
        let name = "sysupgrade-rs-guard";
        assert_eq!(service(&target, shell, name)?, "start 12 procd 1\n");
        fs::write(target.root.join("etc/sysupgrade-rs/board.toml"), "")?;
        let did = service(&target, shell, name)?;
        assert_eq!(did, "start 12 procd 1\nguards\n");
        let script = r#". "$IPKG_INSTROOT/etc/init.d/sysupgrade-rs-started"; echo $START; start"#;
        let output = target.sh(shell, script)?;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout, b"99\n");
        assert!(target.root.join("run/sysupgrade-rs/started").exists());
    }
    Ok(())
}

/// What the guard of a router does, a line an action. Its tool is this script; `sleep` notes its
/// argument, and the services are all started after so many of them.
fn guarded(target: &Root, shell: &[&str], tool: &str, sleeps: u32) -> Result<Vec<String>> {
    let log = target.dir.path().join("log");
    let _ = fs::remove_file(&log);
    let started = target.root.join("run/sysupgrade-rs/started");
    let _ = fs::remove_file(&started);
    fs::create_dir_all(started.parent().ok_or("a directory")?)?;
    if sleeps == 0 {
        fs::write(&started, "")?;
    }
    let (log, started) = (log.display(), started.display());
    target.program("sysupgrade-rs", &format!("echo \"$*\" >>{log}; {tool}"))?;
    target.program("ubus", &format!("echo \"$*\" >>{log}; echo answer"))?;
    let script = format!(
        r#"PATH=$BIN:$PATH
sleep() {{
    echo "sleep $1" >>{log}
    [ "$(grep -c '^sleep 1$' {log})" != {sleeps} ] || : >{started}
}}
. "$IPKG_INSTROOT/usr/libexec/sysupgrade-rs/guard""#
    );
    let output = target.sh(shell, &script)?;
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(target.dir.path().join("log"))?;
    Ok(text.lines().map(str::to_owned).collect())
}

#[test]
fn the_guard_waits_for_the_services_and_does_not_die_of_an_accident() -> Result {
    for shell in SHELLS {
        let target = Root::new()?;
        fs::write(target.root.join("etc/sysupgrade-rs/board.toml"), "")?;
        assert_eq!(guarded(&target, shell, "exit 0", 0)?, ["guard"]);
        let did = guarded(&target, shell, "exit 0", 3)?;
        assert_eq!(did, ["sleep 1", "sleep 1", "sleep 1", "guard"]);
        // A service that hangs is judged after a while.
        let did = guarded(&target, shell, "exit 0", 1000)?;
        assert_eq!(did.len(), 301);
        assert_eq!(did[300], "guard");
        let log = target.dir.path().join("log");
        let third = format!("[ \"$(grep -c guard {})\" -ge 3 ]", log.display());
        let did = guarded(&target, shell, &third, 0)?;
        assert_eq!(did, ["guard", "sleep 10", "guard", "sleep 10", "guard"]);
    }
    Ok(())
}

#[test]
fn procd_lends_the_guard_the_watchdog_for_a_trial_if_the_guard_feeds_it() -> Result {
    let status = |standing| format!(r#"[ "$1" != status ] || echo '{{"standing":"{standing}"}}'"#);
    let lent = [
        "status --json",
        "call system watchdog {\"magicclose\": true}",
        "call system watchdog {\"stop\": true}",
        "guard",
        "call system watchdog {\"stop\": false}",
    ];
    for shell in SHELLS {
        let target = Root::new()?;
        for (board, standing, did) in [
            ("name = \"x\"\n[watchdog]\n", "on-trial", &lent[..]),
            ("[watchdog]\n", "good", &["status --json", "guard"]),
            ("# [watchdog]\n[health]\n", "on-trial", &["guard"]),
        ] {
            fs::write(target.root.join("etc/sysupgrade-rs/board.toml"), board)?;
            assert_eq!(guarded(&target, shell, &status(standing), 0)?, did);
        }
    }
    Ok(())
}

#[test]
fn the_network_lan_is_up_or_not() -> Result {
    for shell in SHELLS {
        let target = Root::new()?;
        target.program("jsonfilter", "exec jq -r \".${2#@.}\"")?;
        for (lan, healthy, said) in [
            (r#"{"up":true}"#, true, ""),
            (r#"{"up":false}"#, false, "the network lan is not up\n"),
            ("", false, "the network lan is not up\n"),
        ] {
            target.program("ubus", &format!("echo '{lan}'"))?;
            let script = r#"PATH=$BIN:$PATH; . "$IPKG_INSTROOT/lib/sysupgrade-rs/health.d/05-lan""#;
            let output = target.sh(shell, script)?;
            assert_eq!(output.status.success(), healthy, "{output:?}");
            assert_eq!(String::from_utf8(output.stderr)?, said);
        }
    }
    Ok(())
}

#[test]
fn the_health_checks_for_every_router_are_installed_with_its_own() -> Result {
    let target = Root::new()?;
    let device = package().join("../device/health.d");
    let own = package().join("files/lib/sysupgrade-rs/health.d");
    let mut wanted = files_below(&device)?;
    wanted.append(&mut files_below(&own)?);
    let installed = target.root.join("lib/sysupgrade-rs/health.d");
    assert_eq!(files_below(&installed)?, wanted);
    for name in wanted {
        let mode = fs::metadata(installed.join(name))?.permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }
    Ok(())
}

#[test]
fn shellcheck_has_nothing_to_say() -> Result {
    let files = package().join("files");
    let mut checked = 0;
    for name in files_below(&files)? {
        let path = files.join(&name);
        if path.extension().is_some_and(|kind| kind == "json") {
            continue;
        }
        let mut command = Command::new("shellcheck");
        command.args(["--shell=sh", "--norc"]).arg(&path);
        if name.starts_with("etc/init.d") {
            command.arg("--exclude=SC2034"); // rc.common reads the variables
        }
        let output = command.output()?;
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8(output.stdout)?
        );
        checked += 1;
    }
    assert_eq!(checked, 10);
    Ok(())
}
