//! Notices: of keep lists, of archives that are restored, and of what an upgrade does.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write as _;
use sysupgrade_rs::config::report::{Notice, NoticeKind};

use super::{Book, Site};

pub(super) fn tell(book: &mut Book) {
    book.chapter("Notices: lines of keep lists, and what they name");
    book.told("keep lists with oddities", "sysupgrade-rs -l", odd_lists);
    book.chapter("Notices: archives that are restored");
    book.told(
        "an archive with oddities",
        "sysupgrade-rs -r backup.tgz",
        odd_archive,
    );
    book.told(
        "the same with -q",
        "sysupgrade-rs -q -r backup.tgz",
        odd_archive,
    );
    book.chapter("Notices: what becomes of the configuration");
    for kind in ELSEWHERE {
        book.notice(*kind);
    }
}

/// What first boots, merges and backups find; told in their reports.
const ELSEWHERE: &[NoticeKind] = &[
    NoticeKind::Vanished,
    NoticeKind::NotKept,
    NoticeKind::DeleteChange,
    NoticeKind::IdReassigned,
    NoticeKind::Restored,
    NoticeKind::OrphanKept,
    NoticeKind::ResolutionStale,
    NoticeKind::PolicyLine,
    NoticeKind::PolicyTooLong,
    NoticeKind::AtticFull,
    NoticeKind::NoBaseline,
    NoticeKind::ChangedMeanwhile,
    NoticeKind::CompatStays,
    NoticeKind::NoEngine,
    NoticeKind::StepStays,
];

impl Book {
    fn notice(&mut self, kind: NoticeKind) {
        let notice = Notice {
            kind,
            path: "etc/config/network".to_owned(),
            locus: None,
            line: None,
        };
        let name = serde_json::to_value(kind).unwrap();
        self.heading(&format!("notice {}", name.as_str().unwrap()));
        self.text
            .push_str(&format!("  (made by hand)\n  ! sysupgrade-rs: {notice}\n"));
    }
}

fn odd_lists(site: &mut Site) {
    let list = b"\xef\xbb\xbf/etc/a\n\
        /etc/config/network\r\n\
        /etc/config/system # and /etc/b\n\
        \"/etc/quoted\"\n\
        /etc/with blank\n\
        -name\n\
        etc/relative\n\
        /etc/up/../down\n\
        /etc/gone\n\
        /\n\
        /etc/special\n\
        /etc/link/\n\
        /etc/out\n\
        /etc/deep\n";
    site.write("etc/sysupgrade.conf", list);
    for name in [
        "a",
        "b",
        "quoted",
        "with blank",
        "relative",
        "down",
        "real/file",
        "up/x",
    ] {
        site.write(&format!("etc/{name}"), "");
    }
    site.write("-name", "");
    let at = |name: &str| site.root().join("etc").join(name);
    fs::create_dir(at("special")).unwrap();
    drop(UnixListener::bind(at("special/socket")).unwrap());
    symlink("real", at("link")).unwrap();
    symlink("../../outside", at("out")).unwrap();
    fs::create_dir_all(at("deep").join("d/".repeat(70))).unwrap();
}

/// A member, as whoever wants to do harm writes it.
fn member(tar: &mut Vec<u8>, name: &str, kind: u8, mode: u32, link: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.extend(header.as_bytes());
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn odd_archive(site: &mut Site) {
    site.write("etc/dir/file", "");
    site.write(
        "rom/etc/passwd",
        "root:x:0:0:root:/root:/bin/ash\ndnsmasq:x:453:453::/:/bin/false\n",
    );
    site.write(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/ash\ndnsmasq:x:453:453::/:/bin/false\n",
    );
    let mut tar = Vec::new();
    let tar = &mut tar;
    member(tar, "etc/config/network", b'0', 0o644, "", b"good\n");
    member(tar, "/etc/absolute", b'0', 0o644, "", b"");
    member(tar, "../etc/upward", b'0', 0o644, "", b"");
    member(tar, "etc/leads-out", b'2', 0o777, "../../outside", b"");
    member(tar, "etc/link", b'2', 0o777, "/tmp", b"");
    member(tar, "etc/link/behind", b'0', 0o644, "", b"");
    member(tar, "etc/device", b'3', 0o600, "", b"");
    member(tar, "etc/set-id", b'0', 0o4755, "", b"");
    member(tar, "etc/twice", b'0', 0o644, "", b"1");
    member(tar, "etc/twice", b'0', 0o644, "", b"2");
    member(tar, "etc/hard", b'1', 0o644, "etc/shadow-of-somebody", b"");
    member(tar, "etc/dir", b'0', 0o644, "", b"");
    member(tar, "etc/sysupgrade/state.json", b'0', 0o644, "", b"");
    member(
        tar,
        "etc/passwd",
        b'0',
        0o644,
        "",
        b"root:x:0:0:root:/root:/bin/ash\n",
    );
    tar.resize(tar.len() + 1024, 0);
    tar.extend(b"more");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(tar).unwrap();
    site.lay("backup.tgz", gzip.finish().unwrap());
}
