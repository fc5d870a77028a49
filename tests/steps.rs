//! Migration steps on the build host: checked, listed, and packed into images.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod programs;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use programs::{fails, succeeds};
use sysupgrade_rs::config::steps::StepSet;

fn pack(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sysupgrade-pack"))
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap()
}

const STEP: &str = "
id = 'a-step'
component = 'a'
seq = 2
[[steps]]
op = 'uci.rename_option'
package = 'a'
section = '@a'
from = 'x'
to = 'y'
";

const SAMPLE: &str = "
[[sample]]
package = 'a'
before = '''
config a
	option x '1'
'''
after = '''
config a
	option y '1'
'''
";

/// A directory with steps `steps/NAME.toml`, a part and a tree of defaults.
fn world(steps: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("steps")).unwrap();
    fs::create_dir_all(dir.path().join("defaults/etc/config")).unwrap();
    fs::write(dir.path().join("defaults/etc/config/a"), "config a\n").unwrap();
    fs::write(dir.path().join("part"), "part").unwrap();
    for (name, text) in steps {
        fs::write(dir.path().join(format!("steps/{name}.toml")), text).unwrap();
    }
    dir
}

const BUILD: [&str; 9] = [
    "build",
    "--board",
    "b",
    "--version",
    "1",
    "--security",
    "0",
    "--part",
    "root=part",
];

fn build(more: &[&str], dir: &Path) -> Output {
    pack(&[&BUILD, more, &["-o", "image"]].concat(), dir)
}

/// The members of the configuration of the image that was built, unpacked into `config`.
fn unpack(dir: &Path) -> Vec<String> {
    let tar = |args: &[&str]| {
        let output = Command::new("tar").args(args).current_dir(dir).output();
        succeeds(&output.unwrap())
    };
    tar(&["-xf", "image", "--strip-components=1"]);
    fs::create_dir_all(dir.join("config")).unwrap();
    let names = tar(&["-xvzf", "config.tar.gz", "-C", "config"]);
    names.lines().map(str::to_owned).collect()
}

#[test]
fn steps_are_listed_in_their_order() {
    let later = STEP
        .replace("a-step", "later")
        .replace("seq = 2", "seq = 10");
    let one_way = STEP
        .replace("a-step", "first")
        .replace("seq = 2", "seq = 1\nreversible = false");
    let dir = world(&[
        ("a", &later),
        ("b", &[STEP, SAMPLE].concat()),
        ("c", &one_way),
    ]);
    fs::write(dir.path().join("steps/README.md"), "no step").unwrap();
    let list = succeeds(&pack(&["steps", "steps", "-o", "out.json"], dir.path()));
    assert_eq!(list, "1 first [a] (one way)\n2 a-step [a]\n10 later [a]\n");
    let set = StepSet::parse(&fs::read(dir.path().join("out.json")).unwrap()).unwrap();
    assert_eq!(set.summary().join("\n") + "\n", list);
}

#[test]
fn an_image_carries_its_steps_beside_the_defaults() {
    let dir = world(&[("a", STEP)]);
    let dir = dir.path();
    fs::create_dir_all(dir.join("defaults/lib")).unwrap();
    succeeds(&build(
        &["--defaults", "defaults", "--migrations", "steps"],
        dir,
    ));
    assert_eq!(
        unpack(dir),
        [
            "etc/",
            "etc/config/",
            "etc/config/a",
            "lib/",
            "lib/upgrade/",
            "lib/upgrade/migrations.json"
        ]
    );
    let json = fs::read(dir.join("config/lib/upgrade/migrations.json")).unwrap();
    assert_eq!(StepSet::parse(&json).unwrap().summary(), ["2 a-step [a]"]);

    let first = fs::read(dir.join("image")).unwrap();
    succeeds(&build(
        &["--defaults", "defaults", "--migrations", "steps"],
        dir,
    ));
    assert!(
        fs::read(dir.join("image")).unwrap() == first,
        "the bytes differ"
    );
}

#[test]
fn steps_that_cannot_be_packed_make_no_image() {
    let dir = world(&[("a", STEP)]);
    let dir = dir.path();
    let message = fails(&build(&["--migrations", "steps"], dir), 2);
    assert!(message.contains("--defaults <DIR>"), "{message}");

    let both = ["--defaults", "defaults", "--migrations", "steps"];
    symlink("etc", dir.join("defaults/lib")).unwrap();
    let message = fails(&build(&both, dir), 1);
    assert!(
        message.contains("lib in the defaults is in the way"),
        "{message}"
    );

    fs::remove_file(dir.join("defaults/lib")).unwrap();
    fs::create_dir_all(dir.join("defaults/lib/upgrade")).unwrap();
    fs::write(dir.join("defaults/lib/upgrade/migrations.json"), "").unwrap();
    let message = fails(&build(&both, dir), 1);
    assert!(
        message.contains("lib/upgrade/migrations.json in the defaults is in the way"),
        "{message}"
    );
    assert!(!dir.join("image").exists());
}

#[test]
fn a_directory_with_a_bad_step_is_refused_with_file_step_and_field() {
    let replace = |from: &str, to: &str| {
        assert!(STEP.contains(from), "{from}");
        STEP.replace(from, to)
    };
    let map = |map: &str| {
        let fields = format!("option = 'x'\nmap = {map}");
        replace("from = 'x'\nto = 'y'", &fields).replace("rename_option", "map")
    };
    for (text, wanted) in [
        (replace("to = 'y'", "to = y"), &["steps/a.toml:10: "][..]),
        (
            replace("rename_option", "rename_opt"),
            &["steps/a.toml: migration step `a-step`: steps[0] uci.rename_opt: unknown operation"],
        ),
        (
            replace("to = 'y'", ""),
            &["`a-step`: steps[0] uci.rename_option: field `to` is missing"],
        ),
        (
            replace("to = 'y'", "to = 'y'\nto_option = 'y'"),
            &["steps[0] uci.rename_option: unknown field `to_option`"],
        ),
        (
            replace("uci.rename_option", "script"),
            &["steps[0] script: this operation is not in this version"],
        ),
        (
            replace(
                "uci.rename_option'",
                "uci.builtin'\nname = 'network.swconfig-to-dsa'",
            ),
            &["steps[0] uci.builtin: this transform is not in this version"],
        ),
        (
            replace("seq = 2", ""),
            &["`a-step`: field `seq` is missing"],
        ),
        (
            map("{a = 'c', b = 'c'}"),
            &["steps[0] uci.map: field `map`: `a` and `b` become the same"],
        ),
        (
            map("{a = 'b', b = 'c'}"),
            &["steps[0] uci.map: field `map`: `b` is both an old and a new value"],
        ),
        (
            [STEP, &SAMPLE.replace("option y '1'", "option y '2'")].concat(),
            &[
                "steps/a.toml: sample 1: after the step, etc/config/a is\n",
                "option y '1'",
                "instead of\n",
                "option y '2'",
            ],
        ),
        (
            "
id = 'twice'
component = 'a'
seq = 1
[[steps]]
op = 'text.replace_line'
path = '/etc/t'
match = 'a'
replace = 'b'
[[steps]]
op = 'text.ensure_line'
path = '/etc/t'
line = 'a'
[[sample]]
path = '/etc/t'
before = 'a'
after = \"b\\na\"
"
            .to_owned(),
            &["sample 1: not idempotent: after it ran twice, etc/t is\nb\nb\na\n"],
        ),
        (
            [
                STEP,
                "[[back]]\nop = 'uci.delete_option'\npackage = 'a'\nsection = '@a'\noption = 'y'\n",
                SAMPLE,
            ]
            .concat(),
            &["sample 1: after the step was undone, etc/config/a is\nconfig a\n"],
        ),
        (
            [STEP, &SAMPLE.replace("package = 'a'", "")].concat(),
            &["sample 1: field `before` is not a table of paths"],
        ),
        (
            [STEP, &SAMPLE.replace("config a", "conf a")].concat(),
            &["sample 1: etc/config/a: "],
        ),
        (
            [STEP, "sample = 1\n"]
                .concat()
                .replace("component", "sample = 1\ncomponent"),
            &["steps/a.toml:"],
        ),
    ] {
        let dir = world(&[("a", &text)]);
        let message = fails(&pack(&["steps", "steps"], dir.path()), 1);
        for wanted in wanted {
            assert!(message.contains(wanted), "{wanted:?} not in: {message}");
        }
    }
}

#[test]
fn two_steps_have_neither_the_same_id_nor_the_same_place() {
    let other = STEP.replace("a-step", "other");
    for (other, field) in [(STEP.replace("seq = 2", "seq = 3"), "id"), (other, "seq")] {
        let dir = world(&[("a", STEP), ("b", &other)]);
        let message = fails(&pack(&["steps", "steps"], dir.path()), 1);
        let wanted = format!("steps/b.toml and steps/a.toml have the same `{field}`");
        assert!(message.contains(&wanted), "{message}");
    }
    let dir = world(&[]);
    let message = fails(&pack(&["steps", "steps"], dir.path()), 1);
    assert!(message.contains("steps holds no *.toml file"), "{message}");
}

#[test]
fn a_sample_may_have_several_files() {
    let step = "
id = 'split'
component = 'a'
seq = 1
[[steps]]
op = 'uci.move_option'
package = 'a'
section = '@a'
option = 'x'
to_package = 'b'
to_section = 'main'
to_type = 'b'
[[steps]]
op = 'file.move'
from = '/etc/old'
to = '/etc/new'
[[sample]]
[sample.before]
'etc/config/a' = \"config a\\n\\toption x '1'\\n\\toption y '1'\\n\"
'etc/old' = 'text'
[sample.after]
'etc/config/a' = \"config a\\n\\toption y '1'\\n\"
'etc/config/b' = \"config b 'main'\\n\\toption x '1'\\n\"
'etc/new' = 'text'
";
    let dir = world(&[("a", step)]);
    succeeds(&pack(&["steps", "steps"], dir.path()));
    let dir = world(&[("a", &step.replace("'etc/new' = 'text'", ""))]);
    let message = fails(&pack(&["steps", "steps"], dir.path()), 1);
    assert!(
        message.contains("after the step, etc/new is there"),
        "{message}"
    );
}
