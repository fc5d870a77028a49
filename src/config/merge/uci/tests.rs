//! What the merge of UCI packages promises.

use std::fs;
use std::path::Path;

use super::*;
use crate::config::report::ConflictKind;

fn parsed(text: &str) -> Package {
    Package::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// What a merge came to, in a form that tests can write down.
#[derive(Debug, PartialEq)]
struct Outcome {
    text: String,
    /// `KIND LOCUS`
    conflicts: Vec<String>,
    /// Loci of what the user deleted and the image changed.
    notices: Vec<String>,
}

fn merged_for(
    package: &str,
    base: Option<&str>,
    user: &str,
    new: &str,
    winner: Winner,
) -> (Merged, Outcome) {
    let merged = merge(
        package,
        base.map(parsed).as_ref(),
        &parsed(user),
        &parsed(new),
        Hints::built_in(),
        &mut |_| winner,
    );
    let options = merged.package.sections.iter().flat_map(|s| &s.options);
    for option in options {
        assert!(!option.value.is_absent(), "nothing is left of {option:?}");
    }
    let text = String::from_utf8(merged.package.print()).unwrap();
    assert_eq!(parsed(&text), merged.package, "it reads back:\n{text}");
    let conflict = |conflict: &Conflict| {
        assert_eq!(conflict.resolved, winner);
        let kind = serde_json::to_value(conflict.kind).unwrap();
        format!(
            "{} {}",
            kind.as_str().unwrap(),
            conflict.locus.clone().unwrap()
        )
    };
    let notice = |(kind, locus): &(NoticeKind, String)| {
        assert_eq!(*kind, NoticeKind::DeleteChange);
        locus.clone()
    };
    let outcome = Outcome {
        text,
        conflicts: merged.conflicts.iter().map(conflict).collect(),
        notices: merged.notices.iter().map(notice).collect(),
    };
    (merged, outcome)
}

/// Three packages of a name and what should come of them.
#[derive(Clone, Copy, Default)]
struct Case<'a> {
    package: &'a str,
    base: &'a str,
    user: &'a str,
    new: &'a str,
    /// By meaning.
    expected: &'a str,
    conflicts: &'a [&'a str],
    notices: &'a [&'a str],
}

impl Case<'_> {
    #[track_caller]
    fn check(self) {
        let (merged, outcome) = merged_for(
            self.package,
            Some(self.base),
            self.user,
            self.new,
            Winner::User,
        );
        assert_eq!(
            merged.package,
            parsed(self.expected),
            "found:\n{}\nexpected:\n{}",
            outcome.text,
            self.expected
        );
        assert_eq!(outcome.conflicts, self.conflicts);
        assert_eq!(outcome.notices, self.notices);
    }
}

#[test]
fn each_side_changes_another_option() {
    Case {
        base: "config dhcp lan\n option start 100\n option limit 150",
        user: "config dhcp lan\n option start 50\n option limit 150",
        new: "config dhcp lan\n option start 100\n option limit 100",
        expected: "config dhcp lan\n option start 50\n option limit 100",
        ..Case::default()
    }
    .check();
}

/// The recorded cases that need no migration: what the old image, the user and the new image have,
/// and what should come of them.
#[test]
fn the_recorded_cases_come_out_as_they_should() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/config");
    for (case, package) in [
        ("firewall-rules-and-order", "firewall"),
        ("firewall-user-orphaned", "firewall"),
        ("uci-add-add", "attendedsysupgrade"),
        ("uci-both-changed-clean", "dhcp"),
        ("uci-deleted-section", "network"),
        ("uci-list-three-way", "system"),
        ("uci-rewritten-not-changed", "uhttpd"),
        ("uci-same-option-conflict", "dhcp"),
        ("uci-unmodified-takes-new", "uhttpd"),
        ("uci-user-comments-kept", "ddns"),
        ("uci-user-edit-vendor-same", "uhttpd"),
    ] {
        let case = vectors.join(case);
        let tree = |tree: &str| {
            let path = case.join(tree).join("etc/config").join(package);
            fs::read_to_string(path).ok()
        };
        let base = tree("old-default");
        let (user, new) = (tree("user").unwrap(), tree("new-default").unwrap());
        let (merged, outcome) = merged_for(package, base.as_deref(), &user, &new, Winner::User);
        let expected = tree("expected").unwrap();
        assert_eq!(
            merged.package,
            parsed(&expected),
            "{}:\n{}",
            case.display(),
            outcome.text
        );

        let document = fs::read(case.join("case.json")).unwrap();
        let expect = &serde_json::from_slice::<serde_json::Value>(&document).unwrap()["expect"];
        let told = |what: &str, words: &[&str]| -> Vec<String> {
            let entries = expect[what].as_array().cloned().unwrap_or_default();
            let inside = entries.iter().filter(|entry| !entry["locus"].is_null());
            inside
                .map(|entry| {
                    let words = words.iter().map(|word| entry[*word].as_str().unwrap());
                    words.collect::<Vec<_>>().join(" ")
                })
                .collect()
        };
        assert_eq!(
            outcome.conflicts,
            told("conflicts", &["kind", "locus"]),
            "{}",
            case.display()
        );
        let mut notices = outcome.notices;
        let mut expected = told("notices", &["locus"]);
        notices.sort();
        expected.sort();
        assert_eq!(notices, expected, "{}", case.display());
    }
}

#[test]
fn an_option_that_both_changed_is_the_users_and_holds_nothing_else_back() {
    Case {
        base: "config dhcp lan\n option leasetime 12h\n option start 1",
        user: "config dhcp lan\n option leasetime 24h\n option start 1",
        new: "config dhcp lan\n option leasetime 6h\n option start 2\n option ra server",
        expected: "config dhcp lan\n option leasetime 24h\n option start 2\n option ra server",
        conflicts: &["both-changed lan.leasetime"],
        ..Case::default()
    }
    .check();
}

#[test]
fn a_deleted_option_stays_deleted_and_is_told_only_if_the_image_changed_it() {
    Case {
        base: "config a x\n option p 1\n option q 1\n option r 1",
        user: "config a x\n option p 1",
        new: "config a x\n option p 1\n option q 2\n option r 1",
        expected: "config a x\n option p 1",
        notices: &["x.q"],
        ..Case::default()
    }
    .check();
}

#[test]
fn an_option_that_the_image_dropped_goes_unless_the_user_had_changed_it() {
    Case {
        base: "config a x\n option p 1\n option q 1\n list l a\n list k a",
        user: "config a x\n option p 1\n option q 2\n list l a\n list k b",
        new: "config a x",
        expected: "config a x\n option q 2\n list k b",
        conflicts: &["change-delete x.q", "change-delete x.k"],
        ..Case::default()
    }
    .check();
}

#[test]
fn an_option_that_both_added_converges_or_is_the_users() {
    Case {
        base: "config a x",
        user: "config a x\n option p 1\n option q 1\n list l a\n option s a",
        new: "config a x\n option q 2\n option p 1\n list l b\n list l a\n list s a",
        expected: "config a x\n option p 1\n option q 1\n list l b\n list l a\n option s a",
        conflicts: &["add-add x.q", "add-add x.s"],
        ..Case::default()
    }
    .check();
}

#[test]
fn a_scalar_against_a_list_is_a_dispute_unless_one_side_left_it_alone() {
    Case {
        base: "config a x\n option p a\n option q a\n list r a\n list s a",
        user: "config a x\n option p b\n option q a\n option r b\n list s a\n list s b",
        new: "config a x\n list p a\n list q a\n list r a\n list r b\n option s a",
        expected: "config a x\n option p b\n list q a\n option r b\n list s a\n list s b",
        conflicts: &["both-changed x.p", "both-changed x.r", "both-changed x.s"],
        ..Case::default()
    }
    .check();
}

#[test]
fn a_list_that_was_a_scalar_before_both_made_it_one_is_a_dispute() {
    Case {
        base: "config a x\n option p a",
        user: "config a x\n list p a\n list p b",
        new: "config a x\n list p a\n list p c",
        expected: "config a x\n list p a\n list p b",
        conflicts: &["both-changed x.p"],
        ..Case::default()
    }
    .check();
}

#[test]
fn each_change_to_a_list_applies() {
    Case {
        base: "config a x\n list l 0\n list l 1\n list l 2\n list l 3",
        user: "config a x\n list l u\n list l 0\n list l 2\n list l 3",
        new: "config a x\n list l 0\n list l 1\n list l 2\n list l n",
        expected: "config a x\n list l u\n list l 0\n list l 2\n list l n",
        ..Case::default()
    }
    .check();
}

#[test]
fn equal_items_of_a_list_are_told_apart_by_their_number() {
    Case {
        base: "config a x\n list l a\n list l a\n list l a",
        user: "config a x\n list l a\n list l a",
        new: "config a x\n list l a\n list l a\n list l a\n list l ''",
        expected: "config a x\n list l a\n list l a\n list l ''",
        ..Case::default()
    }
    .check();
}

#[test]
fn a_list_that_both_sides_emptied_together_is_absent() {
    Case {
        base: "config a x\n list l a\n list l b",
        user: "config a x\n list l a",
        new: "config a x\n list l b",
        expected: "config a x",
        ..Case::default()
    }
    .check();
}

#[test]
fn ports_of_a_vlan_are_the_same_whatever_their_tags() {
    Case {
        package: "network",
        base: "config bridge-vlan\n option device br\n option vlan 1\n list ports lan1\n list ports lan2\n list ports lan3:t\n list ports lan4\n list ports lan5",
        user: "config bridge-vlan\n option device br\n option vlan 1\n list ports lan1:t\n list ports lan2\n list ports lan3:u*\n list ports lan5:t",
        new: "config bridge-vlan\n option device br\n option vlan 1\n list ports lan1:u*\n list ports lan2:t\n list ports lan3:t\n list ports lan4:t\n list ports lan6",
        expected: "config bridge-vlan\n option device br\n option vlan 1\n list ports lan1:t\n list ports lan2:t\n list ports lan3:u*\n list ports lan6\n list ports lan5:t",
        conflicts: &[
            "both-changed @bridge-vlan[br,1].ports[lan1]",
            "change-delete @bridge-vlan[br,1].ports[lan5]",
        ],
        notices: &["@bridge-vlan[br,1].ports[lan4]"],
    }
    .check();
}

#[test]
fn a_port_that_both_added_in_two_ways_is_a_dispute() {
    Case {
        package: "network",
        base: "config bridge-vlan v\n list ports lan1",
        user: "config bridge-vlan v\n list ports lan1\n list ports lan2:t",
        new: "config bridge-vlan v\n list ports lan1\n list ports lan2:u*",
        expected: "config bridge-vlan v\n list ports lan1\n list ports lan2:t",
        conflicts: &["add-add v.ports[lan2]"],
        ..Case::default()
    }
    .check();
}

#[test]
fn a_deleted_section_stays_deleted_and_is_told_only_if_the_image_changed_it() {
    Case {
        package: "firewall",
        base: "config a x\n option p 1\nconfig a y\nconfig rule\n option name R\n option t 1\nconfig b\n option p 1",
        user: "",
        new: "config a x\n option p 2\nconfig a y\nconfig rule\n option name R\n option t 2\nconfig b\n option p 1\n option q 1",
        expected: "",
        notices: &["x", "@rule[R]", "@b[0]"],
        ..Case::default()
    }
    .check();
}

#[test]
fn a_section_that_the_image_dropped_goes_unless_the_user_had_changed_it() {
    Case {
        package: "firewall",
        base: "config a x\n option p 1\nconfig a y\n option p 1\nconfig include\n option path /f",
        user: "config a x\n option p 1\nconfig a y\n option p 2\nconfig include\n option path /f\n option q 1",
        new: "",
        expected: "config a y\n option p 2\nconfig include\n option path /f\n option q 1",
        conflicts: &["change-delete y", "change-delete @include[/f]"],
        ..Case::default()
    }
    .check();
}

#[test]
fn a_section_that_both_dropped_is_gone_without_a_word() {
    Case {
        base: "config a x\n option p 1\nconfig a y",
        user: "config a y",
        new: "config a y",
        expected: "config a y",
        ..Case::default()
    }
    .check();
}

#[test]
fn the_type_of_a_section_is_merged_like_a_value() {
    Case {
        base: "config a x\n option p 1\nconfig a y\n option p 1\nconfig a z",
        user: "config b x\n option p 1\nconfig a y\n option p 2\nconfig b z",
        new: "config a x\n option p 2\nconfig b y\n option p 1\nconfig b z",
        expected: "config b x\n option p 2\nconfig b y\n option p 2\nconfig b z",
        ..Case::default()
    }
    .check();
}

#[test]
fn two_types_for_one_section_are_a_dispute_about_the_whole_section() {
    Case {
        base: "config a x\n option p 1",
        user: "config b x\n option p 2\nconfig interface guest\n option proto static",
        new: "config c x\n option p 1\n option q 1\nconfig device guest\n option type bridge",
        expected: "config b x\n option p 2\nconfig interface guest\n option proto static",
        conflicts: &["both-changed x", "add-add guest"],
        ..Case::default()
    }
    .check();
}

#[test]
fn sections_that_both_added_are_joined_by_name_or_key() {
    Case {
        package: "firewall",
        base: "",
        user: "config zone\n option name g\n option input A\n option u 1\nconfig a x\n option p 1",
        new: "config a x\n option p 1\nconfig zone\n option name g\n option input R\n option n 1",
        expected: "config zone\n option name g\n option input A\n option u 1\n option n 1\nconfig a x\n option p 1",
        conflicts: &["add-add @zone[g].input"],
        ..Case::default()
    }
    .check();
}

#[test]
fn lists_of_a_section_that_both_added_are_joined() {
    Case {
        package: "firewall",
        base: "config a x",
        user: "config a x\nconfig zone\n option name g\n list network guest\n list network u",
        new: "config a x\nconfig zone\n option name g\n list network guest\n list network n",
        expected: "config a x\nconfig zone\n option name g\n list network guest\n list network n\n list network u",
        ..Case::default()
    }
    .check();
}

#[test]
fn without_a_baseline_the_user_wins_each_option_even_a_list() {
    let (merged, outcome) = merged_for(
        "uhttpd",
        None,
        "config uhttpd main\n list listen 10.0.0.1:80\n option home /www\n option own 1",
        "config uhttpd main\n list listen 0.0.0.0:80\n option home /www\n option fresh 1\nconfig cert c",
        Winner::User,
    );
    let expected = "config uhttpd main\n list listen 10.0.0.1:80\n option home /www\n option own 1\n option fresh 1\nconfig cert c";
    assert_eq!(merged.package, parsed(expected), "{}", outcome.text);
    assert_eq!(outcome.conflicts, ["add-add main.listen"]);
}

#[test]
fn a_changed_key_is_one_section_deleted_and_another_added() {
    Case {
        package: "firewall",
        base: "config rule\n option name A\n option target ACCEPT\n option src wan",
        user: "config rule\n option name Mine\n option target ACCEPT\n option src wan",
        new: "config rule\n option name A\n option target ACCEPT\n option src wan\n option limit 1",
        expected: "config rule\n option name Mine\n option target ACCEPT\n option src wan",
        notices: &["@rule[A]"],
        ..Case::default()
    }
    .check();
    Case {
        package: "firewall",
        base: "config rule\n option name A\n option src wan",
        user: "config rule\n option name A\n option src wan\n option enabled 0",
        new: "config rule\n option name B\n option src wan",
        expected: "config rule\n option name A\n option src wan\n option enabled 0\nconfig rule\n option name B\n option src wan",
        conflicts: &["change-delete @rule[A]"],
        ..Case::default()
    }
    .check();
}

#[test]
fn a_key_of_several_options_needs_them_all() {
    Case {
        package: "firewall",
        base: "config forwarding\n option src lan\n option dest wan\nconfig forwarding\n option src lan\n option dest vpn",
        user: "config forwarding\n option src lan\n option dest vpn\n option u 1\nconfig forwarding\n option src lan\n option dest wan",
        new: "config forwarding\n option src lan\n option dest wan\nconfig forwarding\n option src lan\n option dest vpn\n option n 1",
        expected: "config forwarding\n option src lan\n option dest vpn\n option u 1\n option n 1\nconfig forwarding\n option src lan\n option dest wan",
        ..Case::default()
    }
    .check();
    Case {
        package: "firewall",
        base: "config forwarding\n option src lan\n option dest wan",
        user: "config forwarding\n option src lan\n option dest vpn",
        new: "config forwarding\n option src lan\n option dest wan\n option n 1",
        expected: "config forwarding\n option src lan\n option dest vpn",
        notices: &["@forwarding[lan,wan]"],
        ..Case::default()
    }
    .check();
}

#[test]
fn hosts_are_the_same_by_address_else_by_name() {
    // The user gave one its address, and exchanged the hardware of another.
    Case {
        package: "dhcp",
        base: "config host\n option name a\n option ip 1\nconfig host\n option name b\n option mac m1\n option ip 2",
        user: "config host\n option name a\n option ip 1\n option mac m9\nconfig host\n option name b\n option mac m2\n option ip 2",
        new: "config host\n option name a\n option ip 7\nconfig host\n option name b\n option mac m1\n option ip 8",
        expected: "config host\n option name a\n option ip 7\n option mac m9\nconfig host\n option name b\n option mac m2\n option ip 2",
        notices: &["@host[m1]"],
        ..Case::default()
    }
    .check();
    // The user took an address away.
    Case {
        package: "dhcp",
        base: "config host\n option name a\n option mac m1\n option ip 1",
        user: "config host\n option name a\n option ip 1\n option u 1",
        new: "config host\n option name a\n option mac m1\n option ip 2",
        expected: "config host\n option name a\n option ip 2\n option u 1",
        ..Case::default()
    }
    .check();
    // The image gave it one.
    Case {
        package: "dhcp",
        base: "config host\n option name a\n option ip 1",
        user: "config host\n option name a\n option ip 2",
        new: "config host\n option name a\n option ip 1\n option mac m9",
        expected: "config host\n option name a\n option ip 2\n option mac m9",
        ..Case::default()
    }
    .check();
}

#[test]
fn a_key_may_be_a_list_or_words() {
    Case {
        package: "dhcp",
        base: "config host\n option mac 'm1 m2'\n option ip 1",
        user: "config host\n list mac m1\n list mac m2\n option ip 2",
        new: "config host\n option mac 'm1 m2'\n option ip 3\n option n 1",
        expected: "config host\n list mac m1\n list mac m2\n option ip 2\n option n 1",
        conflicts: &["both-changed @host[m1,m2].ip"],
        ..Case::default()
    }
    .check();
}

#[test]
fn of_a_type_that_is_single_the_first_ones_are_the_same() {
    Case {
        package: "dhcp",
        base: "config dnsmasq\n option a 1",
        user: "config dnsmasq\n option b 1\nconfig dnsmasq\n option c 1",
        new: "config dnsmasq\n option a 1\n option d 1",
        expected: "config dnsmasq\n option b 1\n option d 1\nconfig dnsmasq\n option c 1",
        ..Case::default()
    }
    .check();
    // One that is as it was is the same one, wherever it stands and in whatever order.
    Case {
        package: "dhcp",
        base: "config dnsmasq\n option a 1\n option b 1",
        user: "config dnsmasq\n option c 1\nconfig dnsmasq\n option b 1\n option a 1",
        new: "config dnsmasq\n option a 2\n option b 1",
        expected: "config dnsmasq\n option c 1\nconfig dnsmasq\n option a 2\n option b 1",
        ..Case::default()
    }
    .check();
    // Beyond the first it says nothing.
    Case {
        package: "dhcp",
        base: "config dnsmasq\n option a 1\nconfig dnsmasq\n option b 1",
        user: "config dnsmasq\n option a 2\nconfig dnsmasq\n option b 2",
        new: "config dnsmasq\n option a 1",
        expected: "config dnsmasq\n option a 2\nconfig dnsmasq\n option b 2",
        ..Case::default()
    }
    .check();
}

#[test]
fn sections_without_a_key_are_the_same_if_half_of_their_options_are() {
    Case {
        base: "config t\n option a 1\n option b 1\nconfig t\n option c 1\n option d 1",
        user: "config t\n option c 1\n option d 2\nconfig t\n option a 1\n option b 1",
        new: "config t\n option a 1\n option b 1\n option n 1\nconfig t\n option c 1\n option d 1\n option n 2",
        expected: "config t\n option c 1\n option d 2\n option n 2\nconfig t\n option a 1\n option b 1\n option n 1",
        ..Case::default()
    }
    .check();
    // One of two and one of three: two fifths.
    Case {
        base: "config t\n option a 1\n option b 1",
        user: "config t\n option a 1\n option b 2\n option c 2",
        new: "config t\n option a 1\n option b 1\n option n 1",
        expected: "config t\n option a 1\n option b 2\n option c 2",
        notices: &["@t[0]"],
        ..Case::default()
    }
    .check();
}

#[test]
fn the_most_similar_sections_are_paired_first() {
    Case {
        base: "config t\n option a 1\n option b 1\n option c 1\n option d 1",
        user: "config t\n option a 1\n option b 1\n option x 1\n option y 1\nconfig t\n option a 1\n option b 1\n option c 1\n option d 9",
        new: "config t\n option a 1\n option b 1\n option c 1\n option d 1\n option n 1",
        expected: "config t\n option a 1\n option b 1\n option x 1\n option y 1\nconfig t\n option a 1\n option b 1\n option c 1\n option d 9\n option n 1",
        ..Case::default()
    }
    .check();
}

#[test]
fn of_sections_with_one_key_the_most_similar_are_paired() {
    // The user deleted the first and changed the second.
    Case {
        package: "firewall",
        base: "config rule\n option name R\n option family ipv4\n option proto tcp\nconfig rule\n option name R\n option family ipv6\n option proto tcp",
        user: "config rule\n option name R\n option family ipv6\n option proto tcp\n option u 1",
        new: "config rule\n option name R\n option family ipv4\n option proto tcp\nconfig rule\n option name R\n option family ipv6\n option proto udp",
        expected: "config rule\n option name R\n option family ipv6\n option proto udp\n option u 1",
        ..Case::default()
    }
    .check();
}

#[test]
fn sections_with_and_without_a_name_are_different_ones() {
    Case {
        base: "config dropbear\n option Port 22\n option a 1",
        user: "config dropbear\n option Port 2222\n option a 1",
        new: "config dropbear main\n option Port 22\n option a 1",
        expected: "config dropbear\n option Port 2222\n option a 1\nconfig dropbear main\n option Port 22\n option a 1",
        conflicts: &["change-delete @dropbear[0]"],
        ..Case::default()
    }
    .check();
}

#[test]
fn the_index_of_a_section_counts_all_of_its_type_as_uci_does() {
    Case {
        base: "config t\n option a 1\n option p 1",
        user: "config t named\nconfig other\nconfig t\n option a 1\n option p 2",
        new: "config t\n option a 1\n option p 3",
        expected: "config t named\nconfig other\nconfig t\n option a 1\n option p 2",
        conflicts: &["both-changed @t[1].p"],
        ..Case::default()
    }
    .check();
}

#[test]
fn sections_stand_as_the_user_put_them_unless_only_the_image_moved_them() {
    let (abc, cab) = (
        "config t a\nconfig t b\nconfig t c",
        "config t c\nconfig t a\nconfig t b",
    );
    let bac = "config t b\nconfig t a\nconfig t c";
    for (user, new, expected) in [(abc, cab, cab), (bac, abc, bac), (bac, cab, bac)] {
        Case {
            base: abc,
            user,
            new,
            expected,
            ..Case::default()
        }
        .check();
    }
    Case {
        base: abc,
        user: "config t mine\nconfig t a\nconfig t own\nconfig t c",
        new: "config t first\nconfig t a\nconfig t b\nconfig t fresh\nconfig t c\nconfig t last",
        expected: "config t mine\nconfig t first\nconfig t a\nconfig t fresh\nconfig t own\nconfig t c\nconfig t last",
        ..Case::default()
    }
    .check();
}

#[test]
fn the_image_wins_what_it_is_given() {
    let base = "config a x\n option p 1\n list l a\nconfig a y\n option p 1\nconfig a z";
    let user = "# mine\nconfig a x\n option p 2\n option q 1\n list l b\nconfig a y\n option p 2\nconfig b z";
    let new = "config a x\n option p 3\n option q 2\n option l b\nconfig c z";
    let (merged, outcome) = merged_for("x", Some(base), user, new, Winner::New);
    assert_eq!(merged.package, parsed(new), "{}", outcome.text);
    assert_eq!(
        outcome.conflicts,
        [
            "both-changed x.p",
            "add-add x.q",
            "both-changed x.l",
            "change-delete y",
            "both-changed z"
        ]
    );
    assert!(outcome.text.contains("# mine"), "{}", outcome.text);
}

#[test]
fn whoever_resolves_a_dispute_sees_the_place_and_all_three_values() {
    let base = parsed("config a x\n option p 1\n list k a\nconfig a y\n option p 1");
    let user = parsed("config a x\n option p 2\n list k b\n option q 1\nconfig a y\n option p 2");
    let new = parsed("config a x\n option p 3\n option k b\n list q 1");
    let mut seen = Vec::new();
    let merged = merge(
        "p",
        Some(&base),
        &user,
        &new,
        Hints::built_in(),
        &mut |dispute| {
            let text = |value: Option<&Value>| value.map(|value| format!("{value:?}"));
            seen.push((
                dispute.locus.to_owned(),
                [dispute.default, dispute.user, dispute.new].map(text),
            ));
            if dispute.locus == "x.p" {
                Winner::New
            } else {
                Winner::User
            }
        },
    );
    let one = |text: &str| Some(format!("{:?}", Value::One(text.into())));
    let list = |text: &str| Some(format!("{:?}", Value::List(vec![text.into()])));
    assert_eq!(
        seen,
        [
            ("x.p".into(), [one("1"), one("2"), one("3")]),
            ("x.k".into(), [list("a"), list("b"), one("b")]),
            ("x.q".into(), [None, one("1"), list("1")]),
            ("y".into(), [None, None, None]),
        ]
    );
    let winners: Vec<_> = merged
        .conflicts
        .iter()
        .map(|conflict| conflict.resolved)
        .collect();
    assert_eq!(
        winners,
        [Winner::New, Winner::User, Winner::User, Winner::User]
    );
    let shown = merged.conflicts.into_iter().nth(1).unwrap();
    assert_eq!(shown.default, Some(Shown::List(vec!["a".into()])));
    assert_eq!(shown.user, Some(Shown::List(vec!["b".into()])));
    assert_eq!(shown.new, Some(Shown::Text("b".into())));
}

#[test]
fn no_secret_is_told() {
    let (merged, outcome) = merged_for(
        "wireless",
        Some(
            "config wifi-iface w\n option key hush0\n list password hush1\nconfig t\n option key hush2",
        ),
        "config wifi-iface w\n option key hush3\n list password hush4\n option psk hush5\nconfig t\n option key hush6",
        "config wifi-iface w\n option key hush7\n option password hush8\n option psk hush9",
        Winner::User,
    );
    assert_eq!(
        outcome.conflicts,
        [
            "both-changed w.key",
            "both-changed w.password",
            "add-add w.psk"
        ]
    );
    let told = serde_json::to_string(&merged.conflicts).unwrap();
    assert!(!told.contains("hush"), "{told}");
    let key = merged.conflicts.first().unwrap();
    assert_eq!(key.default, Some(Shown::SECRET));
    assert_eq!(merged.conflicts.last().unwrap().default, None);
}

#[test]
fn bytes_that_are_not_text_are_escaped_in_what_is_told() {
    let with = |value: &[u8]| {
        let mut section = Section::new(b"rule", None);
        section.set(b"name", Value::One(b"\xffR".to_vec()));
        section.set(b"p", Value::One(value.to_vec()));
        let mut package = Package::default();
        package.sections.push(section);
        package
    };
    let (base, user, new) = (with(b"1"), with(b"\xfe"), with(b"3"));
    let hints = Hints::built_in();
    let merged = merge("firewall", Some(&base), &user, &new, hints, &mut |_| {
        Winner::User
    });
    let [conflict] = &merged.conflicts[..] else {
        panic!("{:?}", merged.conflicts)
    };
    assert_eq!(conflict.locus.as_deref(), Some("@rule[\\xffR].p"));
    assert_eq!(conflict.user, Some(Shown::Text("\\xfe".into())));
}

#[test]
fn comments_of_the_user_stay_and_what_the_image_adds_brings_its_own() {
    let (_, outcome) = merged_for(
        "x",
        Some("config a x\n\toption p 1\n\toption q 1\n"),
        "# mine\nconfig a x\n\t# because\n\toption p 1\n\toption q   1 # as it was\n",
        "# vendor's x\nconfig a x\n\toption p 2\n\toption q 1\n\t# new in this version\n\toption r 1\n\n# about y\nconfig a y\n\toption s \"1\"\n",
        Winner::User,
    );
    for kept in ["# mine\n", "\t# because\n", "\toption q   1 # as it was\n"] {
        assert!(outcome.text.contains(kept), "{kept} in:\n{}", outcome.text);
    }
    for brought in [
        "\t# new in this version\n\toption r 1\n",
        "# about y\nconfig a y\n\toption s \"1\"\n",
    ] {
        assert!(
            outcome.text.contains(brought),
            "{brought} in:\n{}",
            outcome.text
        );
    }
    assert!(!outcome.text.contains("vendor's x"), "{}", outcome.text);
}

#[test]
fn more_sections_than_can_be_compared_are_paired_in_their_order_or_not_at_all() {
    let many = |kind: &str, extra: &str| -> String {
        let section = |n: usize| format!("config {kind}\n option name R\n option p {n}\n{extra}");
        (0..200).map(section).collect()
    };
    let (base, user) = (many("rule", ""), many("rule", " option u 1\n"));
    let new = many("rule", " option n 1\n");
    let expected = many("rule", " option u 1\n option n 1\n");
    let (merged, _) = merged_for("firewall", Some(&base), &user, &new, Winner::User);
    assert_eq!(merged.package, parsed(&expected));

    let (base, user) = (many("t", ""), many("t", " option u 1\n"));
    let new = many("t", " option n 1\n");
    let (merged, _) = merged_for("x", Some(&base), &user, &new, Winner::User);
    assert_eq!(merged.package, parsed(&(user + &new)));
}

#[test]
fn an_empty_value_is_an_absent_one() {
    let host = |name: &str, ip: &str, empty: &str| {
        let mut section = Section::new(b"host", None);
        section.set(b"mac", Value::One(empty.into()));
        section.set(b"name", Value::One(name.into()));
        section.set(b"ip", Value::One(ip.into()));
        section.set(b"l", Value::List(Vec::new()));
        section
    };
    let package = |sections: [Section; 2]| {
        let mut package = Package::default();
        package.sections.extend(sections);
        package
    };
    // Both have the empty address, which identifies none of them.
    let base = package([host("a", "1", ""), host("b", "1", "")]);
    let user = package([host("b", "2", ""), host("a", "2", "")]);
    let new = package([host("a", "1", "m"), host("b", "", "")]);
    let hints = Hints::built_in();
    let merged = merge("dhcp", Some(&base), &user, &new, hints, &mut |_| {
        Winner::User
    });
    let expected = "config host\n option name b\n option ip 2\nconfig host\n option mac m\n option name a\n option ip 2";
    assert_eq!(merged.package, parsed(expected));
    let conflicts = merged.conflicts.iter();
    let conflicts: Vec<_> = conflicts.map(|c| (c.kind, c.locus.as_deref())).collect();
    assert_eq!(
        conflicts,
        [(ConflictKind::ChangeDelete, Some("@host[b].ip"))]
    );
}

#[test]
fn sections_that_differ_by_an_empty_value_are_identical() {
    let mut base = parsed("config dnsmasq\n option a 1");
    for section in &mut base.sections {
        section.set(b"l", Value::List(Vec::new()));
    }
    let user = parsed("config dnsmasq\n option c 1\nconfig dnsmasq\n option a 1");
    let new = parsed("config dnsmasq\n option a 2");
    let hints = Hints::built_in();
    let merged = merge("dhcp", Some(&base), &user, &new, hints, &mut |_| {
        Winner::User
    });
    let expected = "config dnsmasq\n option c 1\nconfig dnsmasq\n option a 2";
    assert_eq!(merged.package, parsed(expected));
}

mod any_packages {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let item = || select(vec!["1", "2", "3", "3:t", "3:u"]).prop_map(Into::into);
        prop_oneof![
            3 => item().prop_map(Value::One),
            1 => vec(item(), 1..4).prop_map(Value::List),
        ]
    }

    /// Sections of types with a key, two alternatives for one, a list of keyed items, one that is
    /// single, and none of these; so few words that much is equal or nearly so.
    fn section() -> impl Strategy<Value = Section> {
        let kind = select(vec!["host", "dnsmasq", "domain", "other", "else"]);
        let options = btree_map(select(vec!["name", "mac", "ip", "p", "q"]), value(), 0..4);
        (kind, options).prop_map(|(kind, options)| {
            let mut section = Section::new(kind.as_bytes(), None);
            for (name, value) in options {
                section.set(name.as_bytes(), value);
            }
            section
        })
    }

    /// Some named sections, then shuffled with the unnamed ones.
    fn package() -> impl Strategy<Value = Package> {
        let named = btree_map(select(vec!["a", "b", "c"]), section(), 0..4);
        let named = named.prop_map(|sections| {
            let name = |(name, mut section): (&str, Section)| {
                section.name = Some(name.into());
                section
            };
            sections.into_iter().map(name).collect::<Vec<_>>()
        });
        (named, vec(section(), 0..6))
            .prop_map(|(named, unnamed)| [named, unnamed].concat())
            .prop_shuffle()
            .prop_map(|sections| {
                let mut package = Package::default();
                package.sections = sections;
                package
            })
    }

    fn merged(base: &Package, user: &Package, new: &Package, winner: Winner) -> Merged {
        let hints = Hints::built_in();
        merge("dhcp", Some(base), user, new, hints, &mut |_| winner)
    }

    fn is_quiet(merged: &Merged) -> bool {
        merged.conflicts.is_empty() && merged.notices.is_empty()
    }

    proptest! {
        #[test]
        fn who_alone_changed_it_gets_exactly_what_he_has(old in package(), other in package()) {
            for (user, new) in [(&old, &other), (&other, &old), (&other, &other)] {
                let merged = merged(&old, user, new, Winner::User);
                prop_assert_eq!(&merged.package, &other);
                prop_assert!(is_quiet(&merged));
            }
        }

        #[test]
        fn without_a_baseline_two_equal_packages_are_the_result(package in package()) {
            let hints = Hints::built_in();
            let merged = merge("dhcp", None, &package, &package, hints, &mut |_| Winner::User);
            prop_assert_eq!(&merged.package, &package);
            prop_assert!(is_quiet(&merged));
        }

        #[test]
        fn the_result_reads_back_and_the_image_can_be_merged_into_it_again(
            base in package(), user in package(), new in package(),
        ) {
            let result = merged(&base, &user, &new, Winner::User).package;
            let again = Package::parse(&result.print()).unwrap();
            prop_assert_eq!(&again, &result);
            prop_assert_eq!(&merged(&new, &result, &new, Winner::User).package, &result);
        }

        #[test]
        fn a_named_section_is_merged_option_by_option(
            base in package(), user in package(), new in package(),
        ) {
            let result = merged(&base, &user, &new, Winner::User).package;
            for section in &user.sections {
                let Some(name) = section.name.as_deref() else { continue };
                let (Some(b), Some(n)) = (base.named(name), new.named(name)) else { continue };
                if b.kind != section.kind || n.kind != section.kind {
                    continue;
                }
                let found = result.named(name).unwrap();
                for option in ["name", "mac", "ip", "p", "q"] {
                    let of = |section: &Section| section.get(option.as_bytes()).cloned();
                    let (b, u, n, found) = (of(b), of(section), of(n), of(found));
                    let list = |value: &Option<Value>| matches!(value, Some(Value::List(_)));
                    if u == b {
                        prop_assert_eq!(found, n);
                    } else if n == b || !list(&u) || !list(&n) {
                        prop_assert_eq!(found, u);
                    }
                }
            }
        }

        #[test]
        fn where_nothing_is_disputed_it_does_not_matter_who_would_win(
            base in package(), user in package(), new in package(),
        ) {
            let users = merged(&base, &user, &new, Winner::User);
            let news = merged(&base, &user, &new, Winner::New);
            if users.conflicts.is_empty() {
                prop_assert_eq!(users.package, news.package);
            }
            prop_assert_eq!(users.notices, news.notices);
        }
    }
}
