//! What the package for OpenWrt installs, and boot and upgrade run: preinit, stage2, taking over from
//! the stock tools and giving back, and the package itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use sysupgrade_rs::slots::Slot;

use crate::programs;
use crate::scripts::{Result, SHELLS, Stage, installed};
use crate::world;
use crate::world::router::Booted;

/// Preinit as it calls us: scripts are sourced in the order of their names, then the hooks run in the
/// order in which they were added. Functions stand in for what would touch this machine.
const PREINIT: &str = r#"
boot_hook_add() { hooks="$hooks $2"; }
mount() { echo "mount $*" >>log; }
umount() { echo "umount $*" >>log; }
sync() { :; }
hooks=
for script in "$PREINIT_DIR"/*; do . "$script"; done
for hook in $hooks; do "$hook"; done
"#;

/// Runs preinit; what it did that a machine would notice, in order.
fn preinit(stage: &Stage, shell: &[&str], initramfs: &str) -> Result<String> {
    let dir = stage.path("preinit");
    fs::create_dir_all(&dir)?;
    fs::copy(
        installed("lib/preinit/79_sysupgrade_rs"),
        dir.join("79_sysupgrade_rs"),
    )?;
    for name in ["79_move_config", "80_mount_root", "82_config_generate"] {
        let function = format!("do_{name}() {{ echo {name} >>log; }}\n");
        fs::write(
            dir.join(name),
            format!("{function}boot_hook_add preinit_main do_{name}\n"),
        )?;
    }
    fs::write(stage.path("log"), "")?;
    let mut command = stage.shell(shell)?;
    command.args(["-c", PREINIT]);
    command.env("PREINIT_DIR", dir).env("INITRAMFS", initramfs);
    let output = command.output()?;
    assert!(output.status.success(), "{output:?}");
    Ok(fs::read_to_string(stage.path("log"))?)
}

/// The word for uci-defaults.
fn word(stage: &Stage) -> Option<String> {
    let run = stage.world.router.dir().join("run/sysupgrade-rs");
    fs::read_to_string(run.join("first-boot")).ok()
}

#[test]
fn the_configuration_comes_before_the_overlay_and_before_defaults_are_generated() -> Result {
    for shell in SHELLS {
        let stage = Stage::new()?;
        stage.tool("echo first boot >>log; echo '{\"first_boot\":\"applied\"}'")?;
        assert_eq!(
            preinit(&stage, shell, "")?,
            "79_move_config\nmount -o bind / /rom\nfirst boot\numount /rom\n\
             80_mount_root\n82_config_generate\n"
        );
        assert_eq!(stage.called()?, "[--json][first-boot]\n");
        let other = "79_move_config\n80_mount_root\n82_config_generate\n";
        assert_eq!(preinit(&stage, shell, "1")?, other, "an initramfs");
        fs::remove_file(
            stage
                .world
                .router
                .dir()
                .join("etc/sysupgrade-rs/board.toml"),
        )?;
        assert_eq!(preinit(&stage, shell, "")?, other, "no board file");
        assert_eq!(stage.called()?, "");
    }
    Ok(())
}

#[test]
fn the_overlay_is_marked_as_ready_and_let_go_of_before_mount_root_wants_it() -> Result {
    for shell in SHELLS {
        let stage = Stage::new()?;
        let root = stage.world.router.dir();
        let volume = root.join("run/sysupgrade-rs/mnt/ubi0_1");
        // As fstools left it when the first boot was cut short before.
        fs::create_dir_all(&volume)?;
        symlink("1", volume.join(".fs_state"))?;
        let upper = volume.join("upper/etc");
        stage.tool(&format!(
            "mkdir -p {}; echo '{{\"first_boot\":\"applied\"}}'",
            upper.display()
        ))?;
        let data = root.join("lib/sysupgrade-rs/data");
        programs::write(&data, "#!/bin/sh\necho \"data $1\" >>log\n")?;
        let let_go = format!("umount {}", volume.display());
        assert_eq!(
            preinit(&stage, shell, "")?.lines().collect::<Vec<_>>(),
            [
                "79_move_config",
                "data mount",
                "mount -o bind / /rom",
                "umount /rom",
                &*let_go,
                "data umount",
                "80_mount_root",
                "82_config_generate",
            ]
        );
        let mark = fs::read_link(volume.join(".fs_state"))?;
        assert_eq!(mark, Path::new("2"), "fstools empties the overlay");
        // Nothing was brought over: what fstools thinks of it stays.
        fs::remove_dir_all(volume.join("upper"))?;
        fs::remove_file(volume.join(".fs_state"))?;
        stage.tool("exit 30")?;
        preinit(&stage, shell, "")?;
        assert!(fs::read_link(volume.join(".fs_state")).is_err());
    }
    Ok(())
}

#[test]
fn uci_defaults_learn_whether_this_is_an_upgrade_at_every_boot_of_the_trial() -> Result {
    for (shell, keep, expected) in [
        (SHELLS[0], true, "upgrade\n"),
        (SHELLS[1], false, "fresh\n"),
    ] {
        let stage = Stage::new()?;
        let router = &stage.world.router;
        let boot = || {
            let booted = router.boot(|| preinit(&stage, shell, "").map(|_| true));
            booted.map(|booted| assert!(matches!(booted, Booted::Up(_)), "{booted:?}"))
        };
        boot()?;
        assert_eq!(word(&stage), None, "as it left the factory");
        let image = fs::read(stage.image(2)?)?;
        world::install(router, &image, keep)?;
        boot()?;
        assert_eq!(word(&stage).as_deref(), Some(expected), "first boot");
        boot()?;
        assert_eq!(word(&stage).as_deref(), Some(expected), "second boot");
        assert!(world::confirm(router)?);
        boot()?;
        assert_eq!(word(&stage), None, "confirmed");
    }
    Ok(())
}

#[test]
fn a_first_boot_that_gives_the_slot_up_reboots() -> Result {
    let stage = Stage::new()?;
    for (tool, reboots) in [("exit 22", true), ("exit 0", false), ("exit 30", false)] {
        stage.tool(tool)?;
        let log = preinit(&stage, SHELLS[0], "")?;
        assert_eq!(log.contains("reboot -f"), reboots, "{tool}: {log}");
    }
    Ok(())
}

/// stage2 as it calls us, with a board that would write over the running system.
const STAGE2: &str = r#"
v() { echo "$*" >&2; }
sync() { :; }
platform_do_upgrade() { echo "WRITES THE RUNNING SYSTEM"; }
platform_copy_config() { echo "MOVES THE CONFIGURATION"; }
default_do_upgrade() { echo "WRITES THE RUNNING SYSTEM"; }
. "$GLUE"
if [ "$1" != pivoted ]; then
	platform_pre_upgrade "$IMAGE"
fi
echo pivot
platform_do_upgrade "$IMAGE" || default_do_upgrade "$IMAGE"
platform_copy_config && echo end
"#;

fn stage2(
    stage: &Stage,
    shell: &[&str],
    from: &str,
    backup: &str,
) -> Result<(Option<i32>, String)> {
    let mut command = stage.shell(shell)?;
    command
        .args(["-c", STAGE2, "stage2", from])
        .env("GLUE", installed("usr/libexec/sysupgrade-rs/stage2.sh"))
        .env("IMAGE", stage.path("firmware.bin"))
        .env("UPGRADE_BACKUP", backup);
    let output = command.output()?;
    Ok((output.status.code(), String::from_utf8(output.stdout)?))
}

#[test]
fn who_calls_procd_gets_the_other_slot_and_never_the_pivot() -> Result {
    for shell in SHELLS {
        let stage = Stage::new()?;
        let router = &stage.world.router;
        stage.image(2)?;
        let running = router.read_part(Slot::First, "root")?;
        let (code, said) = stage2(&stage, shell, "begin", "")?;
        assert_eq!(code, Some(0), "{said}");
        assert!(
            !said.contains("pivot") && !said.contains("RUNNING"),
            "{said}"
        );
        let call = format!(
            "[--no-reboot][-n][{}]\n",
            stage.path("firmware.bin").display()
        );
        assert_eq!(stage.called()?, call);
        assert!(router.read_part(Slot::First, "root")? == running);
        router.boot(|| world::first_boot(router))?;
        assert_eq!(router.running()?, Some(Slot::Second));
    }
    Ok(())
}

#[test]
fn the_archive_that_procd_was_given_is_what_the_new_system_gets() -> Result {
    for shell in SHELLS {
        let stage = Stage::new()?;
        let router = &stage.world.router;
        stage.image(2)?;
        let network = router.dir().join("etc/config/network");
        let archive = stage.path("sysupgrade.tgz");
        fs::write(&network, "as saved\n")?;
        let mut save = stage.shell(shell)?;
        save.args(["-c", "sysupgrade-rs -b sysupgrade.tgz"]);
        assert!(save.status()?.success());
        fs::write(&network, "as edited later\n")?;
        let archive = archive.to_str().ok_or("text")?;
        let (code, said) = stage2(&stage, shell, "begin", archive)?;
        assert_eq!(code, Some(0), "{said}");
        router.boot(|| world::first_boot(router))?;
        assert_eq!(router.running()?, Some(Slot::Second));
        assert_eq!(fs::read_to_string(&network)?, "as saved\n");
    }
    Ok(())
}

#[test]
fn an_image_that_is_refused_in_stage2_ends_in_the_system_that_ran() -> Result {
    for shell in SHELLS {
        let stage = Stage::new()?;
        let router = &stage.world.router;
        fs::write(stage.path("firmware.bin"), "hsqs, and nobody has signed it")?;
        let before = router.disk()?;
        let (code, said) = stage2(&stage, shell, "begin", "")?;
        assert_eq!((code, &*said), (Some(11), ""), "nobody has signed it");
        let after = router.disk()?;
        let flash = |disk: &world::snapshot::Snapshot| disk.below("flash").fingerprint();
        assert_eq!(flash(&before), flash(&after));
        // The archive of the caller goes along.
        stage.tool("exit 3")?;
        let (code, _) = stage2(&stage, shell, "begin", "/tmp/sysupgrade.tgz")?;
        assert_eq!(code, Some(3));
        let image = stage.path("firmware.bin");
        let call = format!("[-f][/tmp/sysupgrade.tgz][{}]\n", image.display());
        assert!(stage.called()?.ends_with(&format!("[--no-reboot]{call}")));
    }
    Ok(())
}

#[test]
fn behind_the_pivot_nothing_is_written() -> Result {
    for shell in SHELLS {
        let stage = Stage::new()?;
        let (_, said) = stage2(&stage, shell, "pivoted", "")?;
        assert_eq!(said, "pivot\nend\n");
        assert_eq!(stage.called()?, "");
    }
    Ok(())
}
