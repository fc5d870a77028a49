//! Each rule of merged accounts.

use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/ash\ndaemon:*:1:1:daemon:/var:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\n";
const SHADOW: &str = "root:::0:99999:7:::\ndaemon:*:0:0:99999:7:::\n";

/// Files of a tree, made of those above.
#[derive(Clone)]
struct World {
    passwd: String,
    group: String,
    shadow: String,
}

fn world() -> World {
    World {
        passwd: PASSWD.to_owned(),
        group: GROUP.to_owned(),
        shadow: SHADOW.to_owned(),
    }
}

impl World {
    /// With these lines at the ends; empty ones are not added.
    fn with(mut self, passwd: &str, group: &str, shadow: &str) -> Self {
        for (file, line) in [
            (&mut self.passwd, passwd),
            (&mut self.group, group),
            (&mut self.shadow, shadow),
        ] {
            if !line.is_empty() {
                file.push_str(line);
                file.push('\n');
            }
        }
        self
    }

    /// With an account that has the same number everywhere.
    fn with_account(self, name: &str, id: u32) -> Self {
        self.with(
            &format!("{name}:x:{id}:{id}:{name}:/var:/bin/false"),
            &format!("{name}:x:{id}:"),
            &format!("{name}:x:0:0:99999:7:::"),
        )
    }

    fn replace(mut self, from: &str, to: &str) -> Self {
        for file in [&mut self.passwd, &mut self.group, &mut self.shadow] {
            *file = file.replace(from, to);
        }
        self
    }

    fn accounts(&self) -> Accounts<'_> {
        Accounts {
            passwd: Some(self.passwd.as_bytes()),
            group: Some(self.group.as_bytes()),
            shadow: Some(self.shadow.as_bytes()),
        }
    }
}

fn merge_for(base: &World, user: &World, new: &World, winner: Winner) -> Merged {
    let accounts = [base, user, new].map(World::accounts);
    let [base, user, new] = &accounts;
    merge(base, user, new, &mut |_| winner).unwrap()
}

fn text(file: Option<&Vec<u8>>) -> String {
    String::from_utf8(file.unwrap().clone()).unwrap()
}

/// Merges and compares all three files; answers conflicts and notices in short.
#[track_caller]
fn check(base: &World, user: &World, new: &World, wanted: &World) -> Vec<String> {
    let merged = merge_for(base, user, new, Winner::User);
    assert_eq!(text(merged.passwd.as_ref()), wanted.passwd);
    assert_eq!(text(merged.group.as_ref()), wanted.group);
    assert_eq!(text(merged.shadow.as_ref()), wanted.shadow);
    said(&merged)
}

fn said(merged: &Merged) -> Vec<String> {
    let conflicts = merged.conflicts.iter().map(|(database, conflict)| {
        let locus = conflict.locus.as_ref().unwrap();
        format!("{database:?} {locus} {:?}", conflict.kind)
    });
    let notices = merged
        .notices
        .iter()
        .map(|(database, kind, locus)| format!("{database:?} {locus} {kind:?}"));
    conflicts.chain(notices).collect()
}

fn refusal(user: &World, new: &World) -> String {
    refusal_of(user, user, new)
}

fn refusal_of(base: &World, user: &World, new: &World) -> String {
    let (base, user, new) = (base.accounts(), user.accounts(), new.accounts());
    let broken = merge(&base, &user, &new, &mut |_| Winner::User);
    broken.map(drop).unwrap_err().to_string()
}

#[test]
fn new_accounts_are_appended_and_the_users_stay() {
    let user = world()
        .replace("root:::", "root:$5$secret:19720:")
        .with_account("alice", 1000);
    let new = world().with_account("ntp", 123).with_account("logd", 514);
    let wanted = user
        .clone()
        .with_account("ntp", 123)
        .with_account("logd", 514);
    assert_eq!(check(&world(), &user, &new, &wanted), [""; 0]);
}

#[test]
fn who_changed_nothing_gets_the_files_of_the_image_byte_for_byte() {
    let mut new = world().with_account("ntp", 123);
    new.passwd.insert_str(0, "# made by the vendor\n");
    assert_eq!(check(&world(), &world(), &new, &new), [""; 0]);
}

#[test]
fn lines_that_did_not_change_keep_their_bytes() {
    let mut user = world();
    user.passwd = format!("# mine\n\n+::::::\nbroken:x\n{PASSWD}late:*:50:1:::");
    user.group = "root:x:00:\ndaemon:x:1:daemon,,root\nbad:x:y:".to_owned();
    assert_eq!(check(&world(), &user, &world(), &user), [""; 0]);
    // What is added does not run into a last line without end.
    let new = world().with_account("ntp", 123);
    let mut wanted = user.clone();
    wanted.passwd.push('\n');
    wanted.group.push('\n');
    check(&world(), &user, &new, &wanted.with_account("ntp", 123));
}

#[test]
fn fields_are_merged_one_by_one() {
    let base = world();
    let user = world().replace("daemon:/var", "daemon:/home");
    let new = world().replace("daemon:/var:/bin/false", "daemon:/var:/sbin/nologin");
    let wanted = world().replace("daemon:/var:/bin/false", "daemon:/home:/sbin/nologin");
    assert_eq!(check(&base, &user, &new, &wanted), [""; 0]);
}

#[test]
fn a_field_that_both_changed_is_a_dispute_whose_winner_is_asked_for() {
    let user = world().replace("/var:/bin/false", "/u:/bin/false");
    let new = world().replace("/var:/bin/false", "/n:/bin/false");
    for (winner, wanted) in [(Winner::User, &user), (Winner::New, &new)] {
        let merged = merge_for(&world(), &user, &new, winner);
        assert_eq!(text(merged.passwd.as_ref()), wanted.passwd);
        let shown = |text: &str| Some(Shown::Text(text.to_owned()));
        let conflict = Conflict {
            decided: false,
            locus: Some("daemon[home]".to_owned()),
            kind: ConflictKind::BothChanged,
            default: shown("/var"),
            user: shown("/u"),
            new: shown("/n"),
            resolved: winner,
        };
        assert_eq!(merged.conflicts, [(Database::Passwd, conflict)]);
    }
}

#[test]
fn without_defaults_the_users_fields_stay_and_new_accounts_come() {
    let user = world()
        .replace("/var", "/home")
        .replace("root::", "root:$1$s:");
    let new = world().with_account("ntp", 123);
    let (user_accounts, new_accounts) = (user.accounts(), new.accounts());
    let merged = merge(
        &Accounts::default(),
        &user_accounts,
        &new_accounts,
        &mut |_| Winner::User,
    )
    .unwrap();
    let wanted = user.clone().with_account("ntp", 123);
    assert_eq!(text(merged.passwd.as_ref()), wanted.passwd);
    assert_eq!(text(merged.shadow.as_ref()), wanted.shadow);
    assert_eq!(said(&merged), ["Passwd daemon[home] AddAdd"]);
}

#[test]
fn a_password_is_never_given_away_nor_told() {
    let user = world().replace("root:::", "root:$5$mine:19720:");
    let new = world().replace("root:::", "root:$5$theirs:20000:");
    let merged = merge_for(&world(), &user, &new, Winner::New);
    assert_eq!(text(merged.shadow.as_ref()), user.shadow);
    assert_eq!(said(&merged), ["Shadow root[password] BothChanged"]);
    assert!(!format!("{:?}", merged.conflicts).contains("$5$"));
    // In passwd and group as well, for systems without shadow.
    let user = world().replace("root:x:0", "root:$5$mine:0");
    let new = world().replace("root:x:0", "root:$5$theirs:0");
    let merged = merge_for(&world(), &user, &new, Winner::New);
    assert_eq!(text(merged.passwd.as_ref()), user.passwd);
    assert_eq!(text(merged.group.as_ref()), user.group);
    assert!(!format!("{:?}", merged.conflicts).contains("$5$"));
}

#[test]
fn the_day_of_a_password_goes_with_it() {
    let user = world().replace("root:::", "root:$5$mine:19720:");
    let new = world().replace("root:::", "root::20000:");
    assert_eq!(check(&world(), &user, &new, &user), [""; 0]);
    let new = world().replace("root:::", "root:$5$factory:20000:");
    assert_eq!(
        check(
            &world(),
            &world().with_account("a", 1000),
            &new,
            &new.clone().with_account("a", 1000)
        ),
        [""; 0]
    );
}

#[test]
fn an_account_that_the_user_deleted_comes_back_locked() {
    let base = world()
        .with_account("ntp", 123)
        .replace("ntp:x:0:0", "ntp::0:0");
    let new = base.clone();
    let said = check(
        &base,
        &world(),
        &new,
        &world()
            .with_account("ntp", 123)
            .replace("ntp:x:0:0", "ntp:*:0:0"),
    );
    assert_eq!(
        said,
        [
            "Group ntp AccountRestored",
            "Passwd ntp AccountRestored",
            "Shadow ntp AccountRestored"
        ]
    );
}

#[test]
fn an_account_that_the_image_dropped_goes_unless_the_user_changed_it_somewhere() {
    let base = world().with_account("ftp", 55);
    assert_eq!(check(&base, &base, &world(), &world()), [""; 0]);
    let user = base.clone().with_account("alice", 1000);
    check(&base, &user, &world(), &world().with_account("alice", 1000));
    for (from, to, told) in [
        ("ftp:/var", "ftp:/srv", "Passwd ftp ChangeDelete"),
        ("ftp:x:55:\n", "ftp:x:55:alice\n", "Group ftp ChangeDelete"),
        ("ftp:x:0:0", "ftp:$5$s:0:0", "Shadow ftp ChangeDelete"),
    ] {
        let user = base.clone().replace(from, to);
        assert_eq!(check(&base, &user, &world(), &user), [told]);
        let merged = merge_for(&base, &user, &world(), Winner::New);
        assert_eq!(text(merged.passwd.as_ref()), PASSWD, "{told}");
        assert_eq!(text(merged.group.as_ref()), GROUP, "{told}");
        assert_eq!(text(merged.shadow.as_ref()), SHADOW, "{told}");
    }
}

#[test]
fn a_dropped_group_stays_while_it_is_somebodys_primary_one() {
    let base = world().with("", "users:x:100:", "");
    let user = base.clone().with("bob:*:1000:100:::", "", "");
    assert_eq!(check(&base, &user, &world(), &user), [""; 0]);
}

#[test]
fn members_are_merged_one_by_one() {
    for (base, user, new, wanted) in [
        ("", "alice", "", "alice"),
        ("", "", "ntp", "ntp"),
        ("", "alice", "ntp", "alice,ntp"),
        ("a,b,c", "a,c,d", "a,b,e", "a,d,e"),
        ("a,b", "b", "a,b,c", "b,c"),
        ("a,b", "b,a", "a,b", "b,a"),
        ("a", "a,b", "b", "b"),
    ] {
        let group = |members: &str| world().with("", &format!("dialout:x:20:{members}"), "");
        let said = check(&group(base), &group(user), &group(new), &group(wanted));
        assert_eq!(said, [""; 0]);
    }
}

#[test]
fn a_new_account_whose_number_is_taken_gets_the_next_free_one() {
    let user = world().with_account("mine", 123).with_account("other", 124);
    let new = world().with_account("ntp", 123).with_account("logd", 125);
    let merged = merge_for(&world(), &user, &new, Winner::User);
    let wanted = user.with_account("ntp", 126).with_account("logd", 125);
    assert_eq!(text(merged.passwd.as_ref()), wanted.passwd);
    assert_eq!(text(merged.group.as_ref()), wanted.group);
    assert_eq!(
        said(&merged),
        [
            "Group ntp[gid] IdReassigned",
            "Passwd ntp[uid] IdReassigned"
        ]
    );
    let renumbered = |database| Renumbered {
        database,
        name: b"ntp".to_vec(),
        image: 123,
        result: 126,
    };
    assert_eq!(
        merged.renumbered,
        [renumbered(Database::Group), renumbered(Database::Passwd)]
    );
}

#[test]
fn numbers_of_the_system_stay_among_themselves() {
    for (taken, got) in [(999, 100), (55, 100), (1000, 1001), (65_533, 1000)] {
        let user = world().with_account("mine", taken);
        let new = world().with_account("theirs", taken);
        let wanted = user.clone().with_account("theirs", got);
        check(&world(), &user, &new, &wanted);
    }
}

#[test]
fn no_number_left_is_a_refusal() {
    let mut user = world().with("mine:*:50:1:::", "", "");
    for id in 100..1000 {
        user = user.with(&format!("u{id}:*:{id}:1:::"), "", "");
    }
    let new = world().with("theirs:*:50:1:::", "", "");
    let (base, user, new) = (world(), user, new);
    let [base, user, new] = [&base, &user, &new].map(World::accounts);
    let broken = merge(&base, &user, &new, &mut |_| Winner::User).unwrap_err();
    assert_eq!(
        broken.to_string(),
        "no number is left for the new account `theirs`"
    );
}

#[test]
fn two_accounts_of_the_image_may_share_a_number() {
    let new = world().with("toor:*:0:0:::", "", "");
    let user = world().with_account("alice", 1000);
    let wanted = user.clone().with("toor:*:0:0:::", "", "");
    assert_eq!(check(&world(), &user, &new, &wanted), [""; 0]);
}

#[test]
fn who_shares_a_number_of_the_image_takes_it_from_nobody() {
    let user = world().with("admin:$5$s:0:0::/root:/bin/ash", "wheel:x:0:admin", "");
    let new = world().with_account("ntp", 123);
    let wanted = user.clone().with_account("ntp", 123);
    assert_eq!(check(&world(), &user, &new, &wanted), [""; 0]);
}

#[test]
fn primary_groups_follow_their_group_to_its_number() {
    // The image moved the group; a user of it has it as primary group.
    let base = world().with("", "net:x:101:", "");
    let user = base.clone().with("alice:*:1000:101:::", "", "");
    let new = world().with("", "net:x:102:", "");
    let wanted = new.clone().with("alice:*:1000:102:::", "", "");
    assert_eq!(check(&base, &user, &new, &wanted), [""; 0]);
    // The user has taken that number for another group: the image's stays where it was.
    let user = user.with("", "mine:x:102:alice", "");
    assert_eq!(
        check(&base, &user, &new, &user),
        ["Group net[gid] IdReassigned"]
    );
}

#[test]
fn a_user_of_the_image_with_another_group_is_taken_by_the_name_of_the_group() {
    let user = world().with("", "mine:x:20:", "");
    let new = world().with("log:*:514:20:::", "dialout:x:20:", "");
    let merged = merge_for(&world(), &user, &new, Winner::User);
    assert_eq!(
        text(merged.passwd.as_ref()),
        world().with("log:*:514:100:::", "", "").passwd
    );
    assert_eq!(
        text(merged.group.as_ref()),
        user.with("", "dialout:x:100:", "").group
    );
}

#[test]
fn a_name_that_stands_in_an_odd_line_is_taken() {
    // Somebody locked it by hand; the image's line would let it in again.
    let mut user = world();
    user.shadow = "root:::0:99999:7:::\ndaemon:!\n".to_owned();
    let new = world().replace("daemon:*:0", "daemon::0");
    assert_eq!(check(&world(), &user, &new, &user), [""; 0]);
}

#[test]
fn of_two_records_of_a_name_the_first_counts_and_both_stay() {
    let user = world().with("daemon:*:7:7:second:/:/bin/sh", "", "");
    let new = world().replace("/var", "/run");
    let wanted = new.clone().with("daemon:*:7:7:second:/:/bin/sh", "", "");
    assert_eq!(check(&world(), &user, &new, &wanted), [""; 0]);
}

#[test]
fn nothing_is_committed_that_locks_the_owner_out() {
    let root = "root:x:0:0:root:/root:/bin/ash\n";
    for (from, to, wanted) in [
        (
            "root:x:0:0",
            "root:x:5:0",
            "passwd would have no `root` with the number 0",
        ),
        (root, "", "passwd would have no `root` with the number 0"),
        (
            "root:x:0:\n",
            "root:x:5:\n",
            "group would have no `root` with the number 0",
        ),
    ] {
        assert_eq!(refusal(&world(), &world().replace(from, to)), wanted);
    }
    let mut lost = world();
    lost.shadow = "daemon:*:0:0:99999:7:::\n".to_owned();
    assert_eq!(refusal(&lost, &lost), "shadow would have no `root`");
}

#[test]
fn a_user_without_its_group_is_refused() {
    let user = world().with("", "net:broken", "");
    let new = world().with("ntp:*:123:300:::", "net:x:300:", "");
    let wanted = "group 300, the primary one of user `ntp`, would not exist";
    assert_eq!(refusal(&user, &new), wanted);
    // Whoever made it so.
    let new = world().with("ntp:*:123:300:::", "", "");
    assert_eq!(refusal(&world(), &new), wanted);
    let user = world().with("ntp:*:123:300:::", "", "");
    assert_eq!(refusal_of(&world(), &user, &world()), wanted);
}

#[test]
fn a_user_whose_password_got_lost_is_refused() {
    let user = world().with("bob:x:1000:1:::", "", "");
    let wanted = "user `bob` would have no entry in shadow";
    assert_eq!(refusal_of(&world(), &user, &world()), wanted);
    // No way through the merge of sound files is known to lead here; this is the last line of
    // defence.
    let whole = world().with_account("bob", 1000);
    let accounts = whole.accounts();
    let trees = [Database::Passwd, Database::Group, Database::Shadow]
        .map(|database| Trees::new(database, &accounts, &accounts, &accounts));
    let mut merger = Merger {
        resolve: &mut |_| Winner::User,
        merged: Merged::default(),
    };
    let [passwd, group, shadow] = &trees;
    let [people, groups, mut passwords] =
        [passwd, group, shadow].map(|trees| merger.records(trees, &|_| true));
    let sound = super::check([passwd, group, shadow], [&people, &groups, &passwords]);
    assert_eq!(sound, Ok(()));
    passwords.pop();
    let broken = super::check([passwd, group, shadow], [&people, &groups, &passwords]);
    assert_eq!(broken.unwrap_err().to_string(), wanted);
}

#[test]
fn an_image_without_the_files_changes_nothing() {
    let (base, user) = (world(), world().with_account("alice", 1000));
    let new = Accounts::default();
    let merged = merge(&base.accounts(), &user.accounts(), &new, &mut |_| {
        Winner::User
    });
    let merged = merged.unwrap();
    assert_eq!(text(merged.passwd.as_ref()), user.passwd);
    assert_eq!(text(merged.shadow.as_ref()), user.shadow);
    let none = merge(&new, &new, &new, &mut |_| Winner::User).unwrap();
    assert_eq!((none.passwd, none.group, none.shadow), (None, None, None));
}

#[test]
fn no_bytes_are_too_odd() {
    let odd: &[&[u8]] = &[
        b"",
        b":",
        b"::::::",
        b"\n\n",
        b"a:b",
        b"\xff:x:1:1:\xff::\n",
        b"a:x:4294967296:0:::\na:x:-1:0:::\na:x:+1:0:::\na:x::0:::\n",
        b"root:x:0:0:::\nroot:x:0:0:::\n",
        b"a:x:4294967295:4294967295:::",
    ];
    for base in odd {
        for user in odd {
            for new in odd {
                let file = |text: &'static [u8]| Accounts {
                    passwd: Some(text),
                    group: Some(text),
                    shadow: Some(text),
                };
                let result = merge(&file(base), &file(user), &file(new), &mut |_| Winner::New);
                drop(result);
            }
        }
    }
}
