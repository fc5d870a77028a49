//! A system that was lived in: at its upgrade a bit of everything happens that can happen to a
//! configuration.
//!
//! ```text
//! version 1   no steps                                       as the router left the factory
//! version 2   steps; other defaults, accounts, services      upgrade: the steps are taken
//! version 3   no steps, as if of an older branch             upgrade: the steps are undone
//! ```

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use sysupgrade_rs::config::EntryPath;
use sysupgrade_rs::config::bundle::RESOLUTIONS;
use sysupgrade_rs::config::merge::resolve::Resolutions;
use sysupgrade_rs::config::report::Winner;
use sysupgrade_rs::digest::Digest;

use super::router::Result;
use super::snapshot::Snapshot;
use super::{System, World, plan};

/// What is kept, whatever the version.
const KEEP: &str = "/etc/config/
/etc/crontabs/
/etc/group
/etc/hosts
/etc/init.d/
/etc/issue
/etc/localtime
/etc/nftables.d
/etc/passwd
/etc/ppp/
/etc/profile
/etc/shadow
";

/// One step whose way back is its opposite, one that needs what it deleted, one that moves a file.
pub const STEPS: &str = r#"{"format": 1, "steps": [
  {"id": "wireless-band", "component": "wireless", "seq": 1, "steps": [
    {"op": "uci.rename_option", "package": "wireless", "section": "@wifi-device", "from": "hwmode", "to": "band"}]},
  {"id": "firewall-syn-flood", "component": "firewall", "seq": 2, "steps": [
    {"op": "uci.delete_option", "package": "firewall", "section": "@defaults", "option": "syn_flood"}]},
  {"id": "ppp-options", "component": "ppp", "seq": 3, "steps": [
    {"op": "file.move", "from": "/etc/ppp/options", "to": "/etc/ppp/options.conf"}]}
]}
"#;

/// The system of this version, 1 to 3.
pub fn system(version: u8) -> System {
    let steps = version == 2;
    let later = version > 1;
    let mut system = System::new(version);
    system.says_defaults = true;
    let root = &mut system.root;
    root.remove("etc/config");
    let mut file = |path: &str, text: &str| root.put_file(path, 0o644, text);
    file("lib/upgrade/keep.d/base", KEEP);
    file("lib/upgrade/policy.d/image.conf", "/etc/issue replace\n");
    if steps {
        file("lib/upgrade/migrations.json", STEPS);
    }
    file(
        "etc/config/network",
        &format!(
            "config interface 'lan'\n\toption proto 'static'\n\toption ipaddr '192.168.{version}.1'\n\
             \toption mtu '150{version}'\n\toption igmp_snooping '{version}'\n\tlist dns '9.9.9.{version}'\n"
        ),
    );
    let syn_flood = if steps {
        ""
    } else {
        "\toption syn_flood '1'\n"
    };
    let ping = "\nconfig rule\n\toption name 'Allow-Ping'\n\toption proto 'icmp'\n";
    file(
        "etc/config/firewall",
        &format!(
            "config defaults\n\toption input 'REJECT'\n{syn_flood}{}\n\
             config rule\n\toption name 'Shipped-{version}'\n\toption proto 'udp'\n",
            if version == 1 { ping } else { "" },
        ),
    );
    file(
        "etc/config/system",
        &format!("config system\n\toption hostname 'router{version}'\n"),
    );
    file(
        "etc/config/telnet",
        &format!("config telnet\n\toption port '{version}'\n"),
    );
    if version == 1 {
        file("etc/config/retired", "config retired\n");
    }
    file("etc/config/broken", &format!("option lost '{version}'\n"));
    file("etc/issue", &format!("version {version}\n"));
    file(
        "etc/profile",
        &format!("# version {version}\nPATH=/bin\nexport PATH\numask 022\nHOME=/root\n"),
    );
    let localhost6 = if later { "::1 localhost\n" } else { "" };
    file("etc/hosts", &format!("127.0.0.1 localhost\n{localhost6}"));
    let options = if steps { "options.conf" } else { "options" };
    file(&format!("etc/ppp/{options}"), "debug\nmtu 1492\n");
    if later {
        file("etc/nftables.d/README", "rules go here\n");
    }
    let (user, group, shadow) = match later {
        true => (
            "ntp:x:123:123:ntp:/var/run/ntp:/bin/false\n",
            "ntp:x:123:\n",
            "ntp:x:0:0:99999:7:::\n",
        ),
        false => ("", "", ""),
    };
    let passwd = format!("root:x:0:0:root:/root:/bin/ash\n{user}");
    file("etc/passwd", &passwd);
    file("etc/group", &format!("root:x:0:\n{group}"));
    root.put_file(
        "etc/shadow",
        0o600,
        &format!("root:::0:99999:7:::\n{shadow}"),
    );
    let mut service = |name: &str, start: u8| {
        let script = format!("#!/bin/sh /etc/rc.common\nSTART={start}\n");
        root.put_file(format!("etc/init.d/{name}"), 0o755, &script);
        root.put_link(
            format!("etc/rc.d/S{start}{name}"),
            &format!("../init.d/{name}"),
        );
    };
    service("dnsmasq", 19 + version);
    service("telnet", 50);
    if later {
        service("fresh", 60);
    }
    root.put_link("etc/localtime", &format!("/tmp/zone{version}"));
    system
}

/// The owner of the system at `root` moves in; all he writes bears his mark.
pub fn move_in(root: &Path, mark: &str) -> Result<()> {
    let etc = root.join("etc");
    let write = |path: &str, text: &str| -> Result<()> {
        let place = etc.join(path);
        fs::create_dir_all(place.parent().ok_or("a file needs a directory")?)?;
        Ok(fs::write(place, text)?)
    };
    let edit = |path: &str, from: &str, to: &str| -> Result<()> {
        let text = fs::read_to_string(etc.join(path))?;
        if !text.contains(from) {
            return Err(format!("{path} does not say {from:?}").into());
        }
        write(path, &text.replace(from, to))
    };
    edit(
        "config/network",
        "option ipaddr '",
        &format!("option ipaddr '{mark}."),
    )?;
    edit(
        "config/network",
        "option mtu '",
        &format!("option mtu '{mark}"),
    )?;
    edit(
        "config/network",
        "list dns",
        &format!("list dns '{mark}'\n\tlist dns"),
    )?;
    edit("config/firewall", "REJECT", &format!("REJECT{mark}"))?;
    if etc.join("config/telnet").exists() {
        fs::remove_file(etc.join("config/telnet"))?;
    }
    write("config/broken", &format!("option lost '{mark}'\n"))?;
    write(
        "config/added",
        &format!("config added\n\toption mark '{mark}'\n"),
    )?;
    write("issue", mark)?;
    edit("profile", "umask 022", &format!("umask 022 # {mark}"))?;
    edit(
        "hosts",
        "127.0.0.1 localhost\n",
        &format!("127.0.0.1 localhost\n10.0.0.2 {mark}\n"),
    )?;
    write("crontabs/root", &format!("0 4 * * * {mark}\n"))?;
    if !etc.join("nftables.d").is_dir() {
        write("nftables.d", mark)?;
    }
    edit("passwd", ":/root:", &format!("{mark}:/root:"))?;
    edit("shadow", "root:", &format!("root:$1${mark}"))?;
    write("init.d/mine", "#!/bin/sh /etc/rc.common\nSTART=95\n")?;
    fs::set_permissions(etc.join("init.d/mine"), fs::Permissions::from_mode(0o755))?;
    let link = |path: &str, target: &str| -> Result<()> {
        let place = etc.join(path);
        if fs::symlink_metadata(&place).is_ok() {
            fs::remove_file(&place)?;
        }
        Ok(symlink(target, place)?)
    };
    link("rc.d/S95mine", "../init.d/mine")?;
    if etc.join("rc.d/S50telnet").symlink_metadata().is_ok() {
        fs::remove_file(etc.join("rc.d/S50telnet"))?;
    }
    link("localtime", &format!("/tmp/{mark}"))?;
    Ok(())
}

/// What the first boot of version 1 generates: no image ships it.
pub fn generate(root: &Path) -> Result<()> {
    let made = "config wifi-device 'radio0'\n\toption hwmode '11g'\n\toption channel 'auto'\n";
    for dir in ["etc/config", "etc/sysupgrade/baseline/etc/config"] {
        fs::create_dir_all(root.join(dir))?;
        fs::write(root.join(dir).join("wireless"), made)?;
    }
    let mine = made.replace("auto", "11");
    Ok(fs::write(root.join("etc/config/wireless"), mine)?)
}

/// The owner of a running system sees in a plan what will be disputed at one place, and decides
/// that the new version wins.
pub fn take_new(world: &World, new: &System, path: &str, locus: &str) -> Result<()> {
    let plan = plan(&world.router, &world.image(new)?)?;
    let forecast = plan.config.ok_or("nothing was forecast")?;
    let disputes = &forecast.disputes;
    let here = |(at, place, _): &&(EntryPath, Option<String>, Digest)| {
        at.to_string() == path && place.as_deref() == Some(locus)
    };
    let Some((path, _, seen)) = disputes.iter().find(here) else {
        return Err(format!("no dispute about {locus} among {disputes:?}").into());
    };
    let mut resolutions = Resolutions::default();
    resolutions.decide(path, Some(locus), Winner::New, *seen);
    let file = world.router.dir().join(RESOLUTIONS);
    Ok(fs::write(file, serde_json::to_vec(&resolutions)?)?)
}

/// Version 2 shows what was meant to become of the configuration of version 1.
#[track_caller]
pub fn check_upgraded(view: &Snapshot) {
    check(
        view,
        &[
            ("etc/config/network", "ipaddr 'one.192.168.1.1'"), // disputed
            ("etc/config/network", "mtu '1502'"),               // disputed and decided
            ("etc/config/network", "igmp_snooping '2'"),
            ("etc/config/network", "dns 'one'"),
            ("etc/config/wireless", "option band '11g'"),
            ("etc/config/wireless", "option channel '11'"),
            ("etc/sysupgrade/baseline/etc/config/wireless", "option band"),
            ("etc/config/firewall", "input 'REJECTone'"),
            ("etc/config/firewall", "Shipped-2"),
            ("etc/config/added", "mark 'one'"),
            ("etc/config/system", "router2"),
            ("etc/config/broken", "'one'"),
            (
                "etc/sysupgrade/conflicts/00001/etc/config/broken.new",
                "'2'",
            ),
            ("etc/issue", "version 2"),
            ("etc/sysupgrade/attic/00001/etc/issue", "one"),
            ("etc/sysupgrade/attic/00001/etc/nftables.d", "one"),
            ("etc/nftables.d/README", "rules"),
            ("etc/profile", "umask 022 # one"),
            ("etc/profile", "# version 2"),
            ("etc/hosts", "10.0.0.2 one"),
            ("etc/hosts", "::1"),
            ("etc/ppp/options.conf", "debug"),
            ("etc/passwd", "root:x:0:0:rootone:/root"),
            ("etc/passwd", "ntp:x:123"),
            ("etc/shadow", "root:$1$one:"),
            ("etc/sysupgrade/state.json", "firewall-syn-flood"),
        ],
        &[
            "etc/config/telnet",
            "etc/config/retired",
            "etc/ppp/options",
            "etc/rc.d/S50telnet",
            "etc/rc.d/S20dnsmasq",
        ],
        &[
            "etc/rc.d/S21dnsmasq",
            "etc/rc.d/S60fresh",
            "etc/rc.d/S95mine",
        ],
    );
}

/// Version 3 shows what was meant to become of the configuration of version 2.
#[track_caller]
pub fn check_way_back(view: &Snapshot) {
    check(
        view,
        &[
            ("etc/config/network", "igmp_snooping '3'"),
            ("etc/config/wireless", "option hwmode '11g'"),
            (
                "etc/sysupgrade/baseline/etc/config/wireless",
                "option hwmode",
            ),
            ("etc/config/firewall", "syn_flood '1'"),
            ("etc/config/firewall", "input 'REJECTtwoone'"),
            ("etc/ppp/options", "debug"),
            ("etc/hosts", "10.0.0.2 two"),
            ("etc/shadow", "root:$1$two$1$one:"),
        ],
        &[
            "etc/ppp/options.conf",
            "etc/config/telnet",
            "etc/rc.d/S50telnet",
        ],
        &["etc/rc.d/S22dnsmasq", "etc/rc.d/S95mine"],
    );
}

#[track_caller]
fn check(view: &Snapshot, says: &[(&str, &str)], gone: &[&str], links: &[&str]) {
    for (path, words) in says {
        let text = view.data(path).map(String::from_utf8_lossy);
        let text = text.unwrap_or_else(|| panic!("{path} is missing"));
        assert!(text.contains(words), "{path} does not say {words}:\n{text}");
    }
    for path in gone {
        assert!(!view.0.contains_key(Path::new(path)), "{path} is there");
    }
    for path in links {
        assert!(view.0.contains_key(Path::new(path)), "{path} is missing");
    }
}
