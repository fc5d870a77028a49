//! The command lines that programs of OpenWrt say to `/sbin/sysupgrade`, said to this one in its place.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};
use std::{fs, io::Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::site::{Result, Site, members, text};
use crate::vectors;

/// The image that the web page has uploaded is for these.
const BOARD: &str = "acme,router-a1";
const WHOLE: &[&str] = &["firmware"];

/// True if it says why it did not do what was asked, under the name that stock scripts have in logs.
fn complains(output: &Output) -> bool {
    let said = text(&output.stderr);
    said.lines().any(|line| line.starts_with("upgrade: "))
}

#[test]
fn every_upgrade_that_luci_may_ask_for_is_installed_and_rebooted_with_what_was_to_be_kept() -> Result
{
    let all = ["etc/config/dhcp", "etc/config/network", "etc/hosts"];
    let changed = ["etc/config/network"];
    for (line, files, packages) in [
        ("/tmp/firmware.bin", Some(&all[..]), false),
        ("-n /tmp/firmware.bin", None, false),
        ("-k /tmp/firmware.bin", Some(&all), true),
        ("-u /tmp/firmware.bin", Some(&changed), false),
        ("-u -k /tmp/firmware.bin", Some(&changed), true),
        ("--force /tmp/firmware.bin", Some(&all), false),
        ("-n --force /tmp/firmware.bin", None, false),
        ("--force -k /tmp/firmware.bin", Some(&all), true),
        ("--force -u /tmp/firmware.bin", Some(&changed), false),
        ("--force -u -k /tmp/firmware.bin", Some(&changed), true),
    ] {
        let site = Site::new(BOARD, WHOLE, "refuse")?;
        site.upload("images/raw-signed.bin")?;
        let output = site.stock(line).output()?;
        assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
        assert!(site.is_installed()?, "{line}: {output:?}");
        assert!(site.is_rebooted(), "{line}: {output:?}");
        let Some(mut carried) = site.carried()? else {
            assert!(files.is_none(), "{line}: nothing is carried");
            continue;
        };
        let listed = carried.remove("etc/backup/installed_packages.txt");
        let wanted = packages.then(|| b"dnsmasq\trom".to_vec());
        assert_eq!(listed, wanted, "{line}");
        // What the new system learns of the old one, and the list itself, which always travels.
        carried.retain(|name, _| !name.starts_with("etc/sysupgrade"));
        let network = carried.get("etc/config/network").map(Vec::as_slice);
        assert_eq!(network, Some(&b"as edited\n"[..]), "{line}");
        let names: Vec<_> = carried.keys().map(String::as_str).collect();
        assert_eq!(Some(&names[..]), files, "{line}");
    }
    Ok(())
}

#[test]
fn the_test_that_luci_and_rpcd_make_first_answers_and_writes_nothing() -> Result {
    for (image, unsigned, code) in [
        ("images/raw-signed.bin", "refuse", 0),
        ("images/raw-unsigned.bin", "allow", 0),
        ("images/raw-unsigned.bin", "refuse", 1),
        ("images/sig-wrong-key.bin", "allow", 1),
        ("images/raw-no-trailer.bin", "allow", 1),
        ("images/raw-compat-2.0.bin", "allow", 1),
        ("images/empty.bin", "allow", 1),
    ] {
        let site = Site::new(BOARD, WHOLE, unsigned)?;
        site.upload(image)?;
        let before = site.persistent()?;
        for line in ["--test /tmp/firmware.bin", "-T /tmp/firmware.bin"] {
            let output = site.stock(line).output()?;
            assert_eq!(output.status.code(), Some(code), "{image}: {output:?}");
            // LuCI shows standard error when the code is not 0.
            assert_eq!(complains(&output), code != 0, "{image}: {output:?}");
        }
        assert!(site.persistent()? == before, "{image}: something changed");
        assert!(!site.is_rebooted());
    }
    Ok(())
}

#[test]
fn luci_s_list_backup_and_restore_answer_as_it_expects() -> Result {
    let site = Site::new(BOARD, WHOLE, "refuse")?;
    let output = site.stock("--list-backup").output()?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let expected = "/etc/config/dhcp\n/etc/config/network\n/etc/hosts\n";
    assert_eq!(text(&output.stdout), expected);
    assert_eq!(text(&output.stderr), "");

    let output = site.stock("--create-backup -").output()?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    fs::write(site.at("/tmp/backup.tar.gz"), output.stdout)?;
    fs::write(site.at("/etc/config/network"), "spoiled\n")?;
    let output = site.stock("--restore-backup /tmp/backup.tar.gz").output()?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let network = fs::read_to_string(site.at("/etc/config/network"))?;
    assert_eq!(network, "as edited\n");
    Ok(())
}

/// The same command by a shell that closes what `closed` says, as cgi-io does.
fn with_closed(closed: &str, command: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(format!("exec \"$0\" \"$@\" {closed}"))
        .arg(command.get_program())
        .args(command.get_args());
    shell
}

#[test]
fn a_backup_through_cgi_io_is_whole_though_input_and_errors_are_closed() -> Result {
    let site = Site::new(BOARD, WHOLE, "refuse")?;
    let line = site.stock("--create-backup -");
    let open = site.stock("--create-backup -").output()?;
    assert_eq!(text(&open.stderr), "", "nothing is said beside a backup");
    for closed in ["2>&-", "<&- 2>&-"] {
        let output = with_closed(closed, &line).current_dir("/").output()?;
        assert_eq!(output.status.code(), Some(0), "{closed}: {output:?}");
        let files = members(&output.stdout)?;
        let network = files.get("etc/config/network").map(Vec::as_slice);
        assert_eq!(network, Some(&b"as edited\n"[..]), "{closed}");
    }
    Ok(())
}

#[test]
fn a_restore_from_a_pipe_works_with_errors_closed() -> Result {
    let site = Site::new(BOARD, WHOLE, "refuse")?;
    let backup = site.stock("-b -").output()?.stdout;
    fs::write(site.at("/etc/config/network"), "spoiled\n")?;
    let mut child = with_closed("2>&-", &site.stock("--restore-backup -"))
        .stdin(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .ok_or("a pipe to the child")?
        .write_all(&backup)?;
    assert_eq!(child.wait()?.code(), Some(0));
    let network = fs::read_to_string(site.at("/etc/config/network"))?;
    assert_eq!(network, "as edited\n");
    Ok(())
}

/// Lines that stock takes and this program does not, and why.
const STRICTER: &[(&str, &str)] = &[
    ("-s", "it would write over the running system"),
    (
        "-P",
        "a volume is made with ubimkvol, and no upgrade removes it",
    ),
    ("-n -p -s -P -F", "as -s and -P"),
];

#[test]
fn every_recorded_call_of_sysupgrade_has_its_effect_here_or_a_listed_no() -> Result {
    let expected = vectors::json("expected.json");
    let calls = expected["ubus_calls"].as_array().ok_or("a list")?;
    let mut stricter = Vec::new();
    for call in calls {
        let flags = call["flags"].as_str().ok_or("flags")?;
        let image = match call["image"].as_str() {
            Some("good") => "images/raw-unsigned.bin",
            Some("no metadata") => "images/raw-no-trailer.bin",
            other => return Err(format!("an image {other:?}").into()),
        };
        let site = Site::new(BOARD, WHOLE, "allow")?;
        site.upload(image)?;
        // The recorded system had an overlay with nothing in it.
        fs::create_dir_all(site.at("/overlay/upper/etc"))?;
        fs::write(site.at("/tmp/hosts.txt"), "127.0.0.1 localhost\n")?;
        fs::write(site.at("/tmp/cfg.tgz"), ready_archive()?)?;
        let before = site.persistent()?;
        let output = site.stock(&format!("{flags} /tmp/firmware.bin")).output()?;
        let code = output.status.code().ok_or("an exit code")?;
        let said = text(&output.stderr);
        let told = format!("{flags} of {image}: {code}\n{}{said}", text(&output.stdout));

        if code != 0 && call["exit"] == 0 {
            let listed = STRICTER.iter().any(|(line, _)| *line == flags);
            assert!(listed, "stricter, and not listed: {told}");
            stricter.push(flags);
        } else {
            assert_eq!(call["exit"], code, "{told}");
        }
        let installed = code == 0;
        assert_eq!(
            call["ubus_call"].is_object() && installed,
            installed,
            "{told}"
        );
        assert_eq!(site.is_installed()?, installed, "{told}");
        assert_eq!(site.is_rebooted(), installed, "{told}");
        let carried = site.carried()?;
        if installed {
            assert_eq!(call["config_tarball_written"], carried.is_some(), "{told}");
            let ready = carried.is_some_and(|files| files.contains_key("etc/ready"));
            assert_eq!(ready, flags.contains("-f"), "{told}");
        } else {
            assert!(site.persistent()? == before, "something changed: {told}");
            assert_eq!(text(&output.stdout), "", "{told}");
            assert!(complains(&output), "{told}");
        }
        if call["stderr"].as_array().is_some_and(Vec::is_empty) {
            assert_eq!(said, "", "{told}");
        }
    }
    let listed: Vec<_> = STRICTER.iter().map(|(line, _)| *line).collect();
    assert_eq!(stricter, listed, "the table has no line that nothing needs");
    Ok(())
}

/// An archive that somebody has made with tar.
fn ready_archive() -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let mut header = tar::Header::new_gnu();
    header.set_size(6);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, "etc/ready", &b"ready\n"[..])?;
    Ok(tar.into_inner()?.finish()?)
}

#[test]
fn words_that_make_no_sense_are_1_to_stock_callers_and_say_why() -> Result {
    let site = Site::new(BOARD, WHOLE, "refuse")?;
    site.upload("images/raw-signed.bin")?;
    let before = site.persistent()?;
    let image = "/tmp/firmware.bin";
    for (line, code) in [
        (String::new(), 2),
        ("-n".to_owned(), 2),
        ("--frobnicate".to_owned(), 2),
        (format!("-x {image}"), 2),
        ("-b".to_owned(), 2),
        (format!("-b /tmp/b.tgz {image}"), 2),
        (format!("-r /tmp/b.tgz {image}"), 2),
        ("/tmp/missing.bin".to_owned(), 1),
        ("-T /tmp/missing.bin".to_owned(), 1),
        ("-r /tmp/missing.tgz".to_owned(), 1),
        ("-b /tmp/missing/b.tgz".to_owned(), 1),
        // Standard input, which holds nothing; stock knows no such image.
        ("-".to_owned(), 10),
        ("-c /tmp/firmware.bin".to_owned(), 22),
    ] {
        for (command, code) in [(site.stock(&line), 1), (site.ours(&line), code)] {
            let mut command = command;
            let output = command.output()?;
            assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
            assert_ne!(text(&output.stderr), "", "{line}");
            assert_eq!(text(&output.stdout), "", "{line}");
        }
    }
    // An empty word ends the line for stock, which then has no image; here it is no image.
    let output = site.stock("").arg("").args(["-n"]).output()?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(site.persistent()? == before, "something changed");
    assert!(!site.is_rebooted());
    Ok(())
}

#[test]
fn a_list_is_wanted_whatever_else_is() -> Result {
    let site = Site::new(BOARD, WHOLE, "refuse")?;
    for line in ["-l -b /tmp/b.tgz", "-b /tmp/b.tgz -l"] {
        let output = site.stock(line).output()?;
        assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
        let listed = text(&output.stdout);
        assert!(listed.contains("/etc/config/network\n"), "{listed}");
        assert!(!site.at("/tmp/b.tgz").exists(), "{line}");
    }
    let output = site.stock("-l -u").output()?;
    assert_eq!(text(&output.stdout), "/etc/config/network\n");
    for line in ["-h", "--help"] {
        let output = site.stock(line).output()?;
        assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
        assert!(!output.stdout.is_empty(), "{line}");
    }
    Ok(())
}

#[test]
fn a_refusal_is_1_to_stock_callers_and_has_its_own_code_for_ours() -> Result {
    for (image, code) in [
        ("images/empty.bin", 10),
        ("images/raw-flip-payload.bin", 10),
        ("images/raw-unsigned.bin", 11),
        ("images/sig-wrong-key.bin", 11),
        ("images/sig-expired-cert.bin", 11),
        ("images/sig-payload-changed-crc-fixed.bin", 11),
    ] {
        refused(image, BOARD, code)?;
    }
    refused("images/raw-signed.bin", "other,board", 20)
}

fn refused(image: &str, board: &str, code: i32) -> Result {
    let site = Site::new(board, WHOLE, "refuse")?;
    site.upload(image)?;
    let before = site.persistent()?;
    for line in [
        "/tmp/firmware.bin",
        "-T /tmp/firmware.bin",
        "-n -q /tmp/firmware.bin",
    ] {
        let stock = site.stock(line).output()?;
        assert_eq!(stock.status.code(), Some(1), "{image}, {line}: {stock:?}");
        assert!(complains(&stock), "{image}, {line}: {stock:?}");
        let ours = site.ours(line).output()?;
        assert_eq!(ours.status.code(), Some(code), "{image}, {line}: {ours:?}");
        let said = text(&ours.stderr);
        let named = said.lines().any(|line| line.starts_with("sysupgrade-rs: "));
        assert!(named, "{image}, {line}: {said}");
    }
    assert!(site.persistent()? == before, "{image}: something changed");
    assert!(!site.is_rebooted());
    Ok(())
}

#[test]
fn the_system_log_of_the_router_can_be_read_afterwards() -> Result {
    let site = Site::new(BOARD, WHOLE, "refuse")?;
    fs::create_dir_all(site.at("/dev"))?;
    let log = UnixDatagram::bind(site.at("/dev/log"))?;
    log.set_nonblocking(true)?;
    let heard = || {
        let mut heard = Vec::new();
        let mut message = [0; 1024];
        while let Ok(len) = log.recv(&mut message) {
            heard.push(String::from_utf8_lossy(&message[..len]).into_owned());
        }
        heard
    };
    site.upload("images/raw-unsigned.bin")?;
    site.ours("/tmp/firmware.bin").output()?;
    assert_eq!(heard(), Vec::<String>::new());
    site.stock("/tmp/firmware.bin").output()?;
    let refusal = "<14>upgrade: the image is not signed".to_owned();
    let said = heard();
    assert!(said.contains(&refusal), "{said:?}");
    site.upload("images/raw-signed.bin")?;
    site.stock("/tmp/firmware.bin").output()?;
    let said = heard();
    let installed = |line: &String| line.starts_with("<14>upgrade: version 24.10.9 is in slot b");
    assert!(said.iter().any(installed), "{said:?}");
    Ok(())
}

#[test]
fn a_list_of_packages_that_cannot_be_made_stops_an_upgrade_before_anything_is_written() -> Result {
    let site = Site::new(BOARD, WHOLE, "refuse")?;
    for database in ["/usr/lib/opkg", "/lib/apk"] {
        let database = site.at(database);
        if database.exists() {
            fs::remove_dir_all(database)?;
        }
    }
    site.upload("images/raw-signed.bin")?;
    let before = site.persistent()?;
    let output = site.stock("-k /tmp/firmware.bin").output()?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("leave out -k"), "{output:?}");
    assert!(site.persistent()? == before, "something was written");
    Ok(())
}
