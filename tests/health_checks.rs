//! The health checks for routers, `scripts/device/health.d`: what each sees, judged against what it saw
//! before. Run by the shells they may meet, busybox and dash, on a tree that plays `/proc` and `/etc`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod programs;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// What the checks call. A check that wants more has to say so.
const TOOLS: [&str; 7] = ["cat", "grep", "head", "ls", "sed", "sort", "tr"];

const SHELLS: [&[&str]; 2] = [&["/bin/busybox", "sh"], &["/bin/dash"]];

fn checks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/device/health.d")
}

/// A router to be looked at.
struct Router {
    dir: TempDir,
}

/// How a check ended: exit code, what it found, what it complained of.
type Outcome = (i32, String, String);

fn works(found: &str) -> Outcome {
    (0, found.to_owned(), String::new())
}

fn fails(complaint: &str) -> Outcome {
    (1, String::new(), format!("{complaint}\n"))
}

impl Router {
    fn new() -> Self {
        let router = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(router.path("bin")).unwrap();
        for tool in TOOLS {
            symlink("/bin/busybox", router.path("bin").join(tool)).unwrap();
        }
        router
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A program that the checks find.
    fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        programs::write(&path, &format!("#!/bin/sh\n{script}\n")).unwrap();
    }

    /// What a check says, the same in every shell: `record`, or `check` with what is on record.
    fn ask(&self, name: &str, word: &str, recorded: Option<&str>) -> Outcome {
        let outcomes = SHELLS.map(|shell| self.ask_in(shell, name, word, recorded));
        assert_eq!(outcomes[0], outcomes[1], "the shells disagree");
        outcomes[0].clone()
    }

    fn ask_in(&self, shell: &[&str], name: &str, word: &str, recorded: Option<&str>) -> Outcome {
        // Busybox's shell takes its own nslookup for any other, but not for a function.
        let script = format!(
            "[ ! -e {root}/nslookup ] || nslookup() {{ /bin/busybox sh {root}/nslookup \"$@\"; }}
            set -- {word}; . {check}",
            root = self.dir.path().display(),
            check = checks().join(name).display()
        );
        let mut child = Command::new("/usr/bin/timeout")
            .arg("60")
            .args(shell)
            .args(["-c", &script])
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("SYSUPGRADE_ROOT", self.dir.path())
            .env(
                "SYSUPGRADE_RECORDED",
                if recorded.is_some() { "yes" } else { "no" },
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        // A check may end without having read it.
        let _ = input.write_all(recorded.unwrap_or_default().as_bytes());
        drop(input);
        let output = child.wait_with_output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }
}

#[test]
fn every_check_runs_and_is_clean() {
    let mut names: Vec<_> = fs::read_dir(checks())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    assert_eq!(names.len(), 5);
    for path in names {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{}", path.display());
        let mut command = Command::new("shellcheck");
        let output = command.args(["--shell=sh", "--norc"]).arg(&path).output();
        let output = output.unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}

// --- Default routes

const ROUTE: &str =
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

/// A line of `/proc/net/route`.
fn route(device: &str, to: &str, flags: &str, mask: &str) -> String {
    format!("{device}\t{to}\t0202000A\t{flags}\t0\t0\t0\t{mask}\t0\t0\t0\n")
}

/// A line of `/proc/net/ipv6_route`.
fn route6(device: &str, to: &str, flags: &str) -> String {
    let nobody = "0".repeat(32);
    format!("{to} 00 {nobody} 00 {nobody} 00000400 00000001 00000000 {flags} {device:>8}\n")
}

#[test]
fn a_family_that_had_a_default_route_must_have_one_again_by_whatever_device() {
    let router = Router::new();
    let lan = route("br-lan", "0002000A", "0001", "00FFFFFF");
    let way_out = |device: &str| route(device, "00000000", "0003", "00000000");
    let put =
        |lines: &[String]| router.put("proc/net/route", &(ROUTE.to_owned() + &lines.concat()));
    let none6 = route6("lo", &"0".repeat(32), "00200200");
    let out6 = route6("wan", &"0".repeat(32), "00450003");

    put(&[way_out("eth1"), lan.clone()]);
    assert_eq!(
        router.ask("10-default-route", "record", None),
        works("ipv4 eth1\n"),
        "a kernel without IPv6"
    );
    router.put("proc/net/ipv6_route", &(out6.clone() + &none6));
    let both = "ipv4 eth1\nipv6 wan\n";
    assert_eq!(router.ask("10-default-route", "record", None), works(both));

    put(&[lan.clone(), way_out("wan")]);
    assert_eq!(
        router.ask("10-default-route", "check", Some(both)),
        works("")
    );
    router.put("proc/net/ipv6_route", &none6);
    assert_eq!(
        router.ask("10-default-route", "check", Some(both)),
        fails("no ipv6 default route any more, it was by wan")
    );
    assert_eq!(
        router.ask("10-default-route", "check", Some("ipv4 eth1\n")),
        works("")
    );
    // Another net, one that is down and one that rejects lead nowhere.
    let host = route("eth0", "00000000", "0001", "FFFFFFFF");
    let down = route("eth0", "00000000", "0002", "00000000");
    let rejects = route("*", "00000000", "0201", "00000000");
    put(&[lan, host, down, rejects]);
    assert_eq!(
        router.ask("10-default-route", "check", Some("ipv4 eth1\nipv4 wwan0\n")),
        fails("no ipv4 default route any more, it was by eth1 wwan0")
    );
    let nothing = fails("no default route");
    assert_eq!(router.ask("10-default-route", "record", None), nothing);
    assert_eq!(router.ask("10-default-route", "check", None), nothing);
}

// --- Names

/// What busybox's nslookup says; the last line of each is its exit status.
const RESOLVES: &str = "printf 'Server:\\t%s\\n\\nNon-authoritative answer:\\n' $3; exit 0";
const UNKNOWN: &str = "echo \"** server can't find .: NXDOMAIN\"; exit 1";
const REFUSES: &str = "echo \"** server can't find .: REFUSED\"; exit 1";
const SILENT: &str = "echo ';; connection timed out; no servers could be reached'; exit 1";

#[test]
fn a_name_server_must_answer_as_well_as_before() {
    let router = Router::new();
    router.put(
        "etc/resolv.conf",
        "# nameserver 192.0.2.9\nsearch lan\nnameserver 192.0.2.1\nnameserver fe80::1%eth0 # the other\n",
    );
    for (answer, found) in [
        (RESOLVES, "resolves\n"),
        (UNKNOWN, "resolves\n"),
        (REFUSES, "answers\n"),
    ] {
        router.put("nslookup", answer);
        assert_eq!(router.ask("20-dns", "record", None), works(found));
        assert_eq!(router.ask("20-dns", "check", None), works(""));
        assert_eq!(router.ask("20-dns", "check", Some("answers\n")), works(""));
    }
    let lost = "192.0.2.1 fe80::1%eth0 answers with an error, names were resolved";
    assert_eq!(
        router.ask("20-dns", "check", Some("resolves\n")),
        fails(lost)
    );
    router.put("nslookup", SILENT);
    for (word, recorded) in [
        ("record", None),
        ("check", None),
        ("check", Some("answers\n")),
        ("check", Some("resolves\n")),
    ] {
        let silence = fails("no answer from 192.0.2.1 fe80::1%eth0");
        assert_eq!(router.ask("20-dns", word, recorded), silence);
    }
}

#[test]
fn the_best_of_all_name_servers_counts() {
    let router = Router::new();
    let of_three = |first: &str, second: &str, third: &str| {
        router.put(
            "nslookup",
            &format!(
                "case $3 in 192.0.2.1) {first} ;; 192.0.2.2) {second} ;; 192.0.2.3) {third} ;; esac"
            ),
        );
        router.ask("20-dns", "record", None)
    };
    router.put(
        "etc/resolv.conf",
        "nameserver 192.0.2.1\nnameserver\t192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n",
    );
    assert_eq!(of_three(REFUSES, SILENT, RESOLVES), works("resolves\n"));
    assert_eq!(of_three(UNKNOWN, SILENT, REFUSES), works("resolves\n"));
    assert_eq!(of_three(SILENT, REFUSES, SILENT), works("answers\n"));
    assert_eq!(
        of_three(SILENT, SILENT, SILENT),
        fails("no answer from 192.0.2.1 192.0.2.2 192.0.2.3")
    );
}

#[test]
fn without_name_server_or_tool_nothing_works_that_could_fail_later() {
    let router = Router::new();
    let nobody = fails("no name server in /etc/resolv.conf");
    router.put("nslookup", RESOLVES);
    assert_eq!(router.ask("20-dns", "record", None), nobody);
    router.put("etc/resolv.conf", "options edns0\n");
    assert_eq!(router.ask("20-dns", "record", None), nobody);
    fs::remove_file(router.path("nslookup")).unwrap();
    // Busybox's shell has one built in.
    assert_eq!(
        router.ask_in(SHELLS[1], "20-dns", "record", None),
        fails("there is no nslookup")
    );
}

// --- Services

/// The head and lines of `/proc/net/tcp` and its kin.
fn sockets(lines: &[(&str, &str, u32)]) -> String {
    let mut text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n".to_owned();
    for (number, (local, state, inode)) in lines.iter().enumerate() {
        text += &format!(
            "{number:4}: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0000000000000000 100 0 0 10 0\n"
        );
    }
    text
}

const ANY6: &str = "00000000000000000000000000000000";

/// A router with dropbear, dnsmasq, a web server of its own and WireGuard in the kernel.
fn serving() -> Router {
    let router = Router::new();
    router.put("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
    router.put(
        "proc/net/tcp",
        &sockets(&[
            ("00000000:0016", "0A", 1001), // 22
            ("0100007F:0050", "0A", 1002), // 80, for this machine alone
            ("0101A8C0:01BB", "01", 1003), // 443, a connection
            ("00000000:A000", "0A", 1004), // 40960, by chance
        ]),
    );
    router.put(
        "proc/net/tcp6",
        &sockets(&[
            (&format!("{ANY6}:0016"), "0A", 1005),
            (&format!("{ANY6}:0035"), "0A", 1006), // 53
            ("00000000000000000000000001000000:1F90", "0A", 1002),
        ]),
    );
    router.put(
        "proc/net/udp",
        &sockets(&[
            ("0101A8C0:0035", "07", 1007), // 53
            ("00000000:0044", "07", 1008), // 68, a client
            ("00000000:04D2", "07", 0),    // 1234, the kernel
            ("0F02000A:007B", "01", 1009), // 123, with a peer
        ]),
    );
    for (process, name, inodes) in [
        (77, "dropbear", vec![1001, 1005]),
        (78, "dnsmasq", vec![1006, 1007]),
    ] {
        router.put(&format!("proc/{process}/comm"), &format!("{name}\n"));
        fs::create_dir(router.path(&format!("proc/{process}/fd"))).unwrap();
        for (number, inode) in inodes.iter().enumerate() {
            let link = router.path(&format!("proc/{process}/fd/{number}"));
            symlink(format!("socket:[{inode}]"), link).unwrap();
        }
    }
    router
}

const SERVICES: &str = "tcp 22 dropbear\ntcp 53 dnsmasq\nudp 1234\nudp 53 dnsmasq\n";

#[test]
fn services_are_the_ports_that_others_reach_with_the_program_behind() {
    assert_eq!(
        serving().ask("30-services", "record", None),
        works(SERVICES)
    );
}

#[test]
fn a_service_that_is_missing_is_named() {
    let router = serving();
    let ask = |recorded| router.ask("30-services", "check", recorded);
    assert_eq!(ask(Some(SERVICES)), works(""));
    // IPv4 is gone, the program has another name: served all the same.
    router.put("proc/net/tcp", &sockets(&[]));
    assert_eq!(ask(Some("tcp 22 sshd\n")), works(""));
    // Neither a longer number nor the other protocol is the port.
    assert_eq!(
        ask(Some("tcp 2 a\ntcp 1234 b c\nudp 53 dnsmasq\nudp 22\n")),
        fails("nobody listens on tcp port 2 (a), tcp port 1234 (b c), udp port 22")
    );
    assert_eq!(ask(None), works(""));
    for table in ["tcp", "tcp6", "udp"] {
        router.put(&format!("proc/net/{table}"), &sockets(&[]));
    }
    assert_eq!(ask(Some(SERVICES)), fails("no service listens"));
    assert_eq!(ask(None), fails("no service listens"));
    assert_eq!(
        router.ask("30-services", "record", None),
        fails("no service listens")
    );
}

#[test]
fn a_builder_can_retire_a_port() {
    let router = serving();
    let script = fs::read_to_string(checks().join("30-services")).unwrap();
    assert!(script.contains("retired=''"));
    let script = script.replace("retired=''", "retired='tcp/23 udp/69'");
    router.put("check", &script);
    let check = router.path("check").display().to_string();
    let recorded = "tcp 23 telnetd\ntcp 22 dropbear\nudp 69 tftpd\n";
    assert_eq!(router.ask(&check, "check", Some(recorded)), works(""));
    assert_eq!(
        router.ask(&check, "check", Some("tcp 2\n")),
        fails("nobody listens on tcp port 2")
    );
}

#[test]
fn many_services_are_recorded_in_whole_lines() {
    let router = serving();
    let local: Vec<String> = (1..200)
        .map(|port| format!("00000000:{port:04X}"))
        .collect();
    let lines: Vec<_> = local.iter().map(|local| (&**local, "0A", 0)).collect();
    router.put("proc/net/tcp", &sockets(&lines));
    let (code, found, _) = router.ask("30-services", "record", None);
    assert_eq!((code, found.lines().count()), (0, 100));
    assert!(found.len() < 4096 && found.ends_with('\n'), "{found}");
    assert_eq!(
        router.ask("30-services", "check", Some(&found)),
        works(""),
        "what is on record is what is there"
    );
}

// --- Stations

const STATION: &str =
    "printf 'Station 02:00:00:00:00:0%s (on wlan0)\\n\\tinactive time:\\t12 ms\\n'";

#[test]
fn of_many_stations_one_must_come_back() {
    let router = Router::new();
    let iw = |stations: &str| {
        router.program(
            "iw",
            &format!(
                "case $* in
                dev) printf 'phy#0\\n\\tInterface wlan1\\n\\t\\tifindex 5\\n\\tInterface wlan0\\n' ;;
                'dev wlan0 station dump') {stations} ;;
                'dev wlan1 station dump') ;;
                *) exit 1 ;;
                esac"
            ),
        );
    };
    iw(&format!("{STATION} 1; {STATION} 2; {STATION} 3"));
    assert_eq!(router.ask("40-stations", "record", None), works("3\n"));
    iw(&format!("{STATION} 7"));
    assert_eq!(router.ask("40-stations", "check", Some("3\n")), works(""));
    iw(":");
    let nobody = fails("no station is associated");
    assert_eq!(router.ask("40-stations", "check", Some("3\n")), nobody);
    assert_eq!(router.ask("40-stations", "record", None), nobody);
}

#[test]
fn stations_are_counted_by_hostapd_where_there_is_no_iw() {
    let router = Router::new();
    assert_eq!(
        router.ask("40-stations", "record", None),
        fails("there is neither iw nor ubus to count stations with")
    );
    let ubus = |clients: &str| {
        router.program(
            "ubus",
            &format!(
                r#"case "$*" in
                "list hostapd.*") echo hostapd.phy0-ap0; echo hostapd.phy1-ap0 ;;
                "call hostapd.phy1-ap0 get_clients") echo '{clients}' ;;
                "call hostapd.phy0-ap0 get_clients") echo '{{"freq":2412,"clients":{{}}}}' ;;
                *) exit 1 ;;
                esac"#
            ),
        );
    };
    ubus(
        r#"{"freq":5180,"clients":{"02:00:00:00:00:01":{"auth":true},"02:00:00:00:00:02": {"auth":true}}}"#,
    );
    assert_eq!(router.ask("40-stations", "record", None), works("2\n"));
    ubus(r#"{"freq":5180,"clients":{}}"#);
    assert_eq!(
        router.ask("40-stations", "check", Some("2\n")),
        fails("no station is associated")
    );
}

// --- The admin

#[test]
fn a_system_that_no_admin_can_log_in_to_is_never_kept() {
    let router = Router::new();
    router.put("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    let gone = |file: &str| (100, String::new(), format!("/etc/{file} has no root\n"));
    assert_eq!(router.ask("90-root-login", "check", None), gone("shadow"));
    router.put("etc/shadow", "rooter:*:::::::\n");
    assert_eq!(router.ask("90-root-login", "check", None), gone("shadow"));
    router.put("etc/shadow", "root:*:::::::\n");
    assert_eq!(router.ask("90-root-login", "check", None), works(""));
    router.put("etc/passwd", "admin:x:0:0:root:/root:/bin/sh\n");
    assert_eq!(router.ask("90-root-login", "check", None), gone("passwd"));
}
