//! Every operation, forward, twice, back, and what it leaves alone.

use serde_json::{Value as Json, json};

use super::*;
use crate::config::tree::Meta;

const META: Meta = Meta {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

fn path(path: &str) -> EntryPath {
    EntryPath::new(path.as_bytes()).unwrap()
}

fn tree(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::default();
    for (name, text) in files {
        tree.put(&path(name), text.as_bytes(), META);
    }
    tree
}

/// What stands in a tree, with permissions.
fn content(tree: &Tree) -> Vec<(String, u32, String)> {
    tree.iter()
        .map(|(path, entry)| {
            let text = tree.bytes(path, u64::MAX).unwrap().unwrap_or_default();
            let text = String::from_utf8(text).unwrap();
            (path.to_string(), entry.meta.mode, text)
        })
        .collect()
}

/// A step with these operations.
fn step(ops: &Json) -> Migration {
    migration(&json!({"id": "test", "component": "test", "seq": 1, "steps": ops}))
}

fn migration(definition: &Json) -> Migration {
    serde_json::from_value(definition.clone()).unwrap()
}

fn refused(definition: &Json) -> String {
    let error = serde_json::from_value::<Migration>(definition.clone()).unwrap_err();
    error.to_string()
}

/// An upgrade of a user's tree, and what is known after it.
#[derive(Clone)]
struct World {
    base: Tree,
    user: Tree,
    state: State,
    facts: Facts,
}

impl World {
    fn new(user: &[(&str, &str)]) -> Self {
        Self {
            base: Tree::default(),
            user: tree(user),
            state: State::default(),
            facts: Facts::default(),
        }
    }

    /// Upgrades to an image that has these steps.
    fn to(&mut self, image: &[Migration]) -> Vec<StepReport> {
        self.try_to(image).unwrap()
    }

    fn try_to(&mut self, image: &[Migration]) -> Result<Vec<StepReport>, StepError> {
        // As it is when it comes from a file.
        let json = self.state.to_json().unwrap();
        self.state = State::parse(&json).unwrap();
        let due = due(Some(&self.state), image, &self.facts);
        run(
            &mut self.base,
            &mut self.user,
            &due,
            &self.facts,
            &mut self.state,
        )
    }

    fn text(&self, name: &str) -> String {
        let bytes = self.user.bytes(&path(name), u64::MAX).unwrap();
        String::from_utf8(bytes.unwrap_or_default()).unwrap()
    }
}

/// Runs operations on a package; `None` if they leave no file at its path.
fn after(ops: &Json, before: &str) -> Option<String> {
    let mut world = World::new(&[("etc/config/test", before)]);
    world.to(&[step(ops)]);
    let bytes = world
        .user
        .bytes(&path("etc/config/test"), u64::MAX)
        .unwrap();
    bytes.map(|bytes| String::from_utf8(bytes).unwrap())
}

#[track_caller]
fn same_package(found: &str, wanted: &str) {
    let parse = |text: &str| crate::config::uci::Package::parse(text.as_bytes()).unwrap();
    assert_eq!(
        parse(found),
        parse(wanted),
        "found:\n{found}\nwanted:\n{wanted}"
    );
}

#[test]
fn each_operation_on_sections_does_what_its_name_says() {
    let old = "
config a
	option x '1'
	option y 'one two'

config a 'second'
	list x '1'
	list x '7'

config b
	option x '2'
";
    let op = |op: &str, more: Json| {
        let mut object = json!({"op": op, "package": "test", "section": "@a"});
        let fields = object.as_object_mut().unwrap();
        fields.append(&mut more.as_object().unwrap().clone());
        json!([object])
    };
    for (ops, changes) in [
        (
            op("uci.rename_option", json!({"from": "x", "to": "z"})),
            vec![
                ("option x '1'\n\toption y", "option z '1'\n\toption y"),
                ("list x '1'\n\tlist x '7'", "list z '1'\n\tlist z '7'"),
            ],
        ),
        (
            op("uci.rename_option", json!({"from": "x", "to": "y"})),
            vec![
                ("option x '1'\n", ""),
                ("list x '1'\n\tlist x '7'", "list y '1'\n\tlist y '7'"),
            ],
        ),
        (
            op(
                "uci.map",
                json!({"option": "x", "map": {"1": "one", "3": "three"}}),
            ),
            vec![
                ("option x '1'", "option x 'one'"),
                ("list x '1'", "list x 'one'"),
            ],
        ),
        (
            op(
                "uci.map",
                json!({"option": "x", "map": {"1": ["p", "q"], "7": null}}),
            ),
            vec![
                ("option x '1'", "list x 'p'\n\tlist x 'q'"),
                ("list x '1'\n\tlist x '7'", "list x 'p'\n\tlist x 'q'"),
            ],
        ),
        (
            op(
                "uci.map",
                json!({"option": "x", "map": {"1": null, "7": []}}),
            ),
            vec![("option x '1'\n", ""), ("list x '1'\n\tlist x '7'\n", "")],
        ),
        (
            op(
                "uci.map",
                json!({"option": "x", "to_option": "w", "map": [["1", "one"]]}),
            ),
            vec![
                ("option x '1'", "option w 'one'"),
                ("list x '1'\n\tlist x '7'", "list w 'one'\n\tlist w '7'"),
            ],
        ),
        (
            op(
                "uci.map",
                json!({"option": "x", "to_option": "y", "map": {"1": "one"}}),
            ),
            vec![
                ("option x '1'\n", ""),
                ("list x '1'\n\tlist x '7'", "list y 'one'\n\tlist y '7'"),
            ],
        ),
        (
            op("uci.to_list", json!({"option": "y"})),
            vec![("option y 'one two'", "list y 'one'\n\tlist y 'two'")],
        ),
        (
            op("uci.to_option", json!({"option": "x"})),
            vec![("list x '1'\n\tlist x '7'", "option x '1 7'")],
        ),
        (
            op("uci.set_type", json!({"type": "c"})),
            vec![("config a\n", "config c\n"), ("config a '", "config c '")],
        ),
        (
            op("uci.delete_option", json!({"option": "x"})),
            vec![("option x '1'\n", ""), ("list x '1'\n\tlist x '7'\n", "")],
        ),
        (
            op("uci.set_default", json!({"option": "y", "value": "d"})),
            vec![("list x '7'\n", "list x '7'\n\toption y 'd'\n")],
        ),
        (
            op(
                "uci.set_option",
                json!({"option": "y", "value": ["d", "e"]}),
            ),
            vec![("option y 'one two'", "list y 'd'\n\tlist y 'e'")],
        ),
        (
            op("uci.name_section", json!({"name": "first"})),
            vec![("config a\n", "config a 'first'\n")],
        ),
        (op("uci.name_section", json!({"name": "second"})), vec![]),
        (
            op("uci.delete_section", json!({"section": "second"})),
            vec![("config a 'second'\n\tlist x '1'\n\tlist x '7'\n", "")],
        ),
        (
            op(
                "uci.set_option",
                json!({"section": "*", "option": "x", "value": "9"}),
            ),
            vec![
                ("option x '1'", "option x '9'"),
                ("list x '1'\n\tlist x '7'", "option x '9'"),
                ("option x '2'", "option x '9'"),
            ],
        ),
        (
            op(
                "uci.set_option",
                json!({"section": "second", "option": "x", "value": "9"}),
            ),
            vec![("list x '1'\n\tlist x '7'", "option x '9'")],
        ),
        (
            op(
                "uci.set_option",
                json!({"section": "@a[0]", "option": "x", "value": "9"}),
            ),
            vec![("option x '1'", "option x '9'")],
        ),
        (
            op(
                "uci.set_option",
                json!({"section": "@a[2]", "option": "x", "value": "9"}),
            ),
            vec![],
        ),
        (
            op(
                "uci.set_option",
                json!({"section": "@a[-3]", "option": "x", "value": "9"}),
            ),
            vec![],
        ),
        (
            op(
                "uci.move_option",
                json!({"option": "x", "to_section": "@b[0]", "to_option": "w"}),
            ),
            vec![
                ("option x '1'\n", ""),
                ("list x '1'\n\tlist x '7'\n", ""),
                ("option x '2'", "option x '2'\n\toption w '1'"),
            ],
        ),
        (
            op(
                "uci.move_option",
                json!({"option": "x", "to_section": "@b"}),
            ),
            vec![("option x '1'\n", ""), ("list x '1'\n\tlist x '7'\n", "")],
        ),
        (
            op(
                "uci.move_option",
                json!({"option": "x", "to_section": "second", "to_option": "y"}),
            ),
            vec![
                ("option x '1'\n", ""),
                ("list x '7'\n", "list x '7'\n\toption y '1'\n"),
            ],
        ),
        (
            op(
                "uci.move_option",
                json!({"option": "y", "to_section": "new", "to_type": "c"}),
            ),
            vec![
                ("option y 'one two'\n", ""),
                (
                    "option x '2'\n",
                    "option x '2'\n\nconfig c 'new'\n\toption y 'one two'\n",
                ),
            ],
        ),
        (
            op(
                "uci.move_option",
                json!({"option": "y", "to_section": "new"}),
            ),
            vec![],
        ),
    ] {
        let mut wanted = old.to_owned();
        for (from, to) in changes {
            assert!(wanted.contains(from), "{from:?}");
            wanted = wanted.replacen(from, to, 1);
        }
        let found = after(&ops, old).unwrap();
        same_package(&found, &wanted);
    }
}

#[test]
fn nothing_is_rewritten_where_nothing_is_to_be_done() {
    let text = "config  'a'   # spaces\n option x 1\n";
    for ops in [
        json!([{"op": "uci.rename_option", "package": "test", "section": "*", "from": "q", "to": "z"}]),
        json!([{"op": "uci.set_type", "package": "test", "section": "@b", "type": "c"}]),
        json!([{"op": "uci.delete_section", "package": "test", "section": "b"}]),
        json!([{"op": "uci.rename_section", "package": "test", "from": "b", "to": "c"}]),
        json!([{"op": "uci.builtin", "package": "test", "name": "network.bridge-to-device"}]),
        json!([{"op": "text.replace_line", "path": "/etc/config/test", "match": "a", "replace": "b"}]),
    ] {
        assert_eq!(after(&ops, text).unwrap(), text, "{ops}");
    }
}

const HWMODE: &str = r#"{"id": "band", "component": "wireless", "seq": 5, "steps": [
    {"op": "uci.map", "package": "wireless", "section": "@wifi-device", "option": "hwmode",
     "to_option": "band", "map": {"11a": "5g", "11g": "2g", "11b": "2g"}}]}"#;

fn hwmode() -> Migration {
    serde_json::from_str(HWMODE).unwrap()
}

fn radio(name: &str, option: &str) -> String {
    format!("\nconfig wifi-device '{name}'\n\toption {option}\n")
}

#[test]
fn of_two_values_that_become_one_the_first_comes_back_even_if_keys_were_sorted_on_the_way() {
    let json = serde_json::to_string(&hwmode()).unwrap();
    let sorted: Json = serde_json::from_str(&json).unwrap();
    let applied = State {
        applied: vec![Applied::with_facts(migration(&sorted), &Facts::default())],
    };
    let mut world = World::new(&[("etc/config/wireless", &radio("radio0", "band '2g'"))]);
    world.state = applied;
    world.to(&[]);
    same_package(
        &world.text("etc/config/wireless"),
        &radio("radio0", "hwmode '11g'"),
    );
}

#[test]
fn undoing_brings_back_what_was_there_unless_it_was_changed_since() {
    let before = [
        radio("kept", "hwmode '11b'"),
        radio("changed", "hwmode '11b'"),
        radio("gone", "hwmode '11b'"),
        radio("odd", "hwmode '11x'"),
    ];
    let mut world = World::new(&[("etc/config/wireless", &before.concat())]);
    let reports = world.to(&[hwmode()]);
    assert_eq!(
        reports[0].touched,
        [
            "etc/config/wireless#changed.band",
            "etc/config/wireless#changed.hwmode",
            "etc/config/wireless#gone.band",
            "etc/config/wireless#gone.hwmode",
            "etc/config/wireless#kept.band",
            "etc/config/wireless#kept.hwmode",
        ]
    );
    let now = [
        radio("kept", "band '2g'"),
        radio("changed", "band '5g'"),
        radio("odd", "hwmode '11x'"),
        radio("new", "band '2g'"),
    ];
    let meta = META;
    let bytes = now.concat().into_bytes();
    world.user.put(&path("etc/config/wireless"), &bytes, meta);
    let reports = world.to(&[]);
    assert_eq!(reports[0].direction, Direction::Backward);
    let back = [
        radio("kept", "hwmode '11b'"),
        radio("changed", "hwmode '11a'"),
        radio("odd", "hwmode '11x'"),
        radio("new", "hwmode '11g'"),
    ];
    same_package(&world.text("etc/config/wireless"), &back.concat());
}

#[test]
fn a_deleted_value_comes_back_to_whom_it_belonged() {
    let delete = step(&json!([
        {"op": "uci.delete_option", "package": "test", "section": "@a", "option": "x"}
    ]));
    let mut world = World::new(&[("etc/config/test", "config a\n\toption x 'mine \u{e4}'\n")]);
    world.base = tree(&[("etc/config/test", "config a\n\toption x 'default'\n")]);
    let before = (meaning(&world.base), meaning(&world.user));
    world.to(std::slice::from_ref(&delete));
    assert!(!world.text("etc/config/test").contains('x'));
    let mut other = world.clone();
    world.to(&[]);
    assert_eq!((meaning(&world.base), meaning(&world.user)), before);

    // Among another number of sections, nobody knows which one it was.
    let text = b"config a\n\toption y '1'\nconfig a\n".to_vec();
    other.user.put(&path("etc/config/test"), &text, META);
    other.to(&[]);
    same_package(
        &other.text("etc/config/test"),
        "config a\n\toption y '1'\nconfig a\n",
    );
}

#[test]
fn names_and_values_need_not_be_text() {
    let bytes = b"config a\n\toption x '\xff\xfe \\'\n\tlist y '\xe4\"'\n".to_vec();
    let delete = |option: &str| json!({"op": "uci.delete_option", "package": "test", "section": "*", "option": option});
    let mut world = World::new(&[]);
    world.user.put(&path("etc/config/test"), &bytes, META);
    world.to(&[step(&json!([delete("x"), delete("y")]))]);
    world.to(&[]);
    let back = world
        .user
        .bytes(&path("etc/config/test"), 1000)
        .unwrap()
        .unwrap();
    let parse = |bytes: &[u8]| crate::config::uci::Package::parse(bytes).unwrap();
    assert_eq!(parse(&back), parse(&bytes));
}

#[test]
fn values_that_somebody_else_kept_are_used() {
    let delete = migration(&json!({"id": "d", "component": "c", "seq": 1, "steps": [
        {"op": "uci.delete_option", "package": "test", "section": "@a", "option": "x"}]}));
    let facts: Facts = serde_json::from_value(json!({
        "board": "acme,one", "from_release": "24.10", "to_release": "23.05",
        "attic": [
            {"package": "test", "section": "one", "option": "x", "value": "mine", "default": ["d"]},
            {"id": "other", "package": "test", "section": "two", "option": "x", "value": "no"},
            {"id": "d", "package": "test", "section": "@a[0]", "option": "x", "value": "anonymous"},
        ],
    }))
    .unwrap();
    assert_eq!(facts.boards, ["acme,one"]);
    let text = "config a 'one'\nconfig a 'two'\nconfig a\n";
    let mut world = World::new(&[("etc/config/test", text)]);
    world.base = tree(&[("etc/config/test", text)]);
    world.state.applied = vec![Applied::with_facts(delete, &facts)];
    world.to(&[]);
    same_package(
        &world.text("etc/config/test"),
        "config a 'one'\n\toption x 'mine'\nconfig a 'two'\nconfig a\n",
    );
    let base = world
        .base
        .bytes(&path("etc/config/test"), 1000)
        .unwrap()
        .unwrap();
    same_package(
        &String::from_utf8(base).unwrap(),
        "config a 'one'\n\tlist x 'd'\nconfig a 'two'\nconfig a\n",
    );
}

/// A step that appends its id to a text.
fn mark(id: &str, seq: i64, more: &Json) -> Migration {
    let mut definition = json!({"id": id, "component": "c", "seq": seq, "steps": [
        {"op": "text.ensure_line", "path": "/etc/t", "line": id}]});
    let fields = definition.as_object_mut().unwrap();
    fields.append(&mut more.as_object().unwrap().clone());
    migration(&definition)
}

#[test]
fn steps_run_in_their_order_and_are_undone_in_the_other() {
    let [a, b, c] = [("a", 3), ("b", 1), ("c", 2)].map(|(id, seq)| mark(id, seq, &json!({})));
    let mut world = World::new(&[("etc/t", "")]);
    world.to(&[a.clone(), b.clone()]);
    assert_eq!(world.text("etc/t"), "b\na\n");
    // A step that comes late, on another branch, runs all the same.
    let reports = world.to(&[a.clone(), b.clone(), c.clone()]);
    assert_eq!(reports.len(), 1);
    assert_eq!(world.text("etc/t"), "b\na\nc\n");
    let reports = world.to(std::slice::from_ref(&c));
    let ids: Vec<&str> = reports.iter().map(|report| report.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(world.text("etc/t"), "c\n");
    let ids: Vec<&str> = world
        .state
        .applied
        .iter()
        .map(|one| one.step.id.as_str())
        .collect();
    assert_eq!(ids, ["c"]);
}

#[test]
fn what_the_old_release_had_already_counts_as_run_on_a_system_without_a_state() {
    let step = |since: &str| mark("s", 1, &json!({"since": since}));
    for (since, from, assumed) in [
        ("21.02", Some("21.02.7"), true),
        ("21.02", Some("21.02-rc3"), true),
        ("21.02", Some("19.07.10"), false),
        ("24.10", Some("23.05.5"), false),
        ("9.4", Some("10.3"), true),
        ("24.10.1", Some("24.10"), false),
        ("24.10", Some("SNAPSHOT"), false),
        ("24.10", Some(""), false),
        ("24.10", None, false),
    ] {
        let facts = Facts {
            from_release: from.map(str::to_owned),
            ..Facts::default()
        };
        let image = [step(since)];
        let first = due(None, &image, &facts);
        assert_eq!(
            first.assumed.len(),
            usize::from(assumed),
            "{since} {from:?}"
        );
        assert_eq!(
            first.forward.len(),
            usize::from(!assumed),
            "{since} {from:?}"
        );
        let known = due(Some(&State::default()), &image, &facts);
        assert_eq!(known.forward.len(), 1, "{since} {from:?}");

        let mut world = World::new(&[("etc/t", "")]);
        let reports = run(
            &mut world.base,
            &mut world.user,
            &first,
            &facts,
            &mut world.state,
        );
        assert_eq!(reports.unwrap().len(), usize::from(!assumed));
        assert_eq!(world.state.applied.len(), 1);
    }
}

#[test]
fn a_step_runs_only_where_its_guards_hold_and_is_asked_again() {
    let option = |value: &str| json!({"package": "system", "section": "@system", "option": "mode", "value": value});
    for (when, runs) in [
        (json!({"board": ["acme,two", "acme,one"]}), true),
        (json!({"board": ["acme,two"]}), false),
        (json!({"package": "system"}), true),
        (json!({"package": "other"}), false),
        (json!({"option": option("on")}), true),
        (json!({"option": option("off")}), false),
        (json!({"board": ["acme,one"], "package": "other"}), false),
        (json!({"package": "system", "option": option("off")}), false),
    ] {
        let step = mark("s", 1, &json!({"when": when}));
        let system = "config system\n\toption mode 'on'\n";
        let mut world = World::new(&[("etc/t", ""), ("etc/config/system", system)]);
        // Only the user is asked.
        world.base = tree(&[("etc/t", ""), ("etc/config/other", "")]);
        world.facts.boards = vec!["acme,one".to_owned()];
        let reports = world.to(std::slice::from_ref(&step));
        assert_eq!(reports.len(), usize::from(runs), "{when}");
        let marked = content(&world.base)
            .iter()
            .any(|(_, _, text)| text == "s\n");
        assert_eq!(marked, runs, "{when}");
        assert_eq!(world.text("etc/t") == "s\n", runs, "{when}");
        assert_eq!(world.state.applied.len(), usize::from(runs), "{when}");
    }
}

#[test]
fn a_step_without_a_way_back_stops_the_older_image_before_anything_is_changed() {
    let one_way = mark("one-way", 1, &json!({"reversible": false}));
    let other = mark("other", 2, &json!({}));
    let mut world = World::new(&[("etc/t", "")]);
    world.to(&[one_way, other.clone()]);
    let before = content(&world.user);
    let error = world.try_to(&[]).unwrap_err().to_string();
    assert!(error.contains("`one-way` cannot be undone"), "{error}");
    assert!(error.contains("rollback"), "{error}");
    assert_eq!(content(&world.user), before);
    assert_eq!(world.state.applied.len(), 2);
}

#[test]
fn a_way_back_that_was_written_down_is_taken() {
    let back =
        json!([{"op": "text.replace_line", "path": "/etc/t", "match": "s", "replace": "was s"}]);
    let step = mark("s", 1, &json!({"back": back}));
    let mut world = World::new(&[("etc/t", "")]);
    world.to(&[step]);
    world.to(&[]);
    assert_eq!(world.text("etc/t"), "was s\n");
}

#[test]
fn a_package_that_cannot_be_read_is_left_alone_and_named() {
    let ops = json!([
        {"op": "uci.set_default", "package": "test", "section": "*", "option": "x", "value": "1"},
        {"op": "uci.move_option", "package": "other", "section": "*", "option": "o",
         "to_package": "test", "to_section": "t", "to_type": "t"},
    ]);
    let other = "config o\n\toption o '1'\n";
    let broken = "config 'unterminated\n";
    let mut world = World::new(&[("etc/config/test", broken), ("etc/config/other", other)]);
    world.base = tree(&[("etc/config/test", "config a\n")]);
    let reports = world.to(&[step(&ops)]);
    assert_eq!(world.text("etc/config/test"), broken);
    assert_eq!(world.text("etc/config/other"), other);
    assert_eq!(reports[0].skipped, [path("etc/config/test")]);
    assert_eq!(reports[0].touched, [""; 0]);
    assert!(content(&world.base)[0].2.contains("option x '1'"));
    let reports = world.to(&[]);
    assert_eq!(reports[0].skipped, [path("etc/config/test")]);
    assert_eq!(content(&world.base)[0].2, "config a\n");
}

#[test]
fn what_does_not_fit_into_the_attic_is_named() {
    let long = "x".repeat(300 << 10);
    let text = format!("config a\n\toption x '{long}'\n\toption y '1'\n");
    let delete = |option: &str| json!({"op": "uci.delete_option", "package": "test", "section": "@a", "option": option});
    let mut world = World::new(&[("etc/config/test", &text), ("etc/big", &long)]);
    let reports = world.to(&[step(&json!([
        delete("x"),
        delete("y"),
        {"op": "file.delete", "path": "/etc/big"},
    ]))]);
    assert_eq!(reports[0].lost, [path("etc/big"), path("etc/config/test")]);
    assert!(world.state.to_json().unwrap().len() < 2000);
    world.to(&[]);
    same_package(&world.text("etc/config/test"), "config a\n\toption y '1'\n");
}

#[test]
fn all_that_is_kept_together_is_bounded() {
    let value = "x".repeat(100 << 10);
    let options = (0..5).map(|number| format!("\toption o{number} '{value}'\n"));
    let text = format!("config a\n{}", options.collect::<String>());
    let delete = (0..5).map(|number| {
        let option = format!("o{number}");
        json!({"op": "uci.delete_option", "package": "test", "section": "@a", "option": option})
    });
    let mut world = World::new(&[("etc/config/test", &text)]);
    let reports = world.to(&[step(&delete.collect())]);
    assert_eq!(reports[0].lost, [path("etc/config/test")]);
    let kept = world.state.to_json().unwrap().len();
    assert!((200 << 10..257 << 10).contains(&kept), "{kept}");
}

#[test]
fn a_deleted_section_stays_away_where_there_is_another_of_its_name() {
    let ops = json!([{"op": "uci.delete_section", "package": "test", "section": "@a"}]);
    let text = "config a 'one'\n\toption x '1'\n\nconfig a 'two'\n\toption x '2'\n";
    let mut world = World::new(&[("etc/config/test", text)]);
    world.to(&[step(&ops)]);
    let now = b"config b 'one'\n".to_vec();
    world.user.put(&path("etc/config/test"), &now, META);
    world.to(&[]);
    same_package(
        &world.text("etc/config/test"),
        "config b 'one'\n\nconfig a 'two'\n\toption x '2'\n",
    );
}

#[test]
fn an_old_default_that_is_known_by_its_sum_counts_as_untouched() {
    let sum = crate::digest::Digest::of(b"old default\n").to_string();
    let ops = json!([{"op": "file.fingerprint", "path": "/etc/t", "sha256": [sum]}]);
    for (text, untouched) in [("old default\n", true), ("mine\n", false)] {
        let mut world = World::new(&[("etc/t", text)]);
        world.to(&[step(&ops)]);
        let base = content(&world.base);
        assert_eq!(base == content(&world.user), untouched, "{text}");
        assert_eq!(base.is_empty(), !untouched, "{text}");
    }
}

#[test]
fn permissions_are_changed_and_come_back_unless_they_were_changed_since() {
    let ops = json!([{"op": "file.chmod", "path": "/etc/t", "mode": "0600"}]);
    let mut world = World::new(&[("etc/t", "")]);
    let reports = world.to(&[step(&ops)]);
    assert_eq!(content(&world.user)[0].1, 0o600);
    assert_eq!(reports[0].touched, ["etc/t"]);
    let mut other = world.clone();
    other.user.set_meta(
        &path("etc/t"),
        Meta {
            mode: 0o640,
            ..META
        },
    );
    other.to(&[]);
    assert_eq!(content(&other.user)[0].1, 0o640);
    world.to(&[]);
    assert_eq!(content(&world.user)[0].1, 0o644);
}

#[test]
fn files_and_links_move_with_their_permissions_but_onto_nothing() {
    let ops = json!([{"op": "file.move", "from": "/etc/t", "to": "/etc/new"}]);
    let mut world = World::new(&[("etc/t", "text")]);
    world.user.set_meta(
        &path("etc/t"),
        Meta {
            mode: 0o700,
            ..META
        },
    );
    world.to(&[step(&ops)]);
    assert_eq!(
        content(&world.user),
        [("etc/new".into(), 0o700, "text".into())]
    );

    let mut world = World::new(&[("etc/t", "text"), ("etc/new", "mine")]);
    let before = content(&world.user);
    let reports = world.to(&[step(&ops)]);
    assert_eq!(content(&world.user), before);
    assert_eq!(reports[0].touched, [""; 0]);
}

#[test]
fn definitions_are_read_strictly_and_refused_with_step_and_field() {
    let with = |field: &str, value: Json| {
        let mut definition: Json = serde_json::from_str(HWMODE).unwrap();
        definition[field] = value;
        definition
    };
    let op = |op: Json| with("steps", json!([op]));
    for (definition, wanted) in [
        (
            with("id", json!("A")),
            "step `A`: field `id` is not of at most 100",
        ),
        (with("id", json!(7)), "step `?`: field `id` is not a text"),
        (
            with("seq", json!("5")),
            "step `band`: field `seq` is not an integer",
        ),
        (with("seq", json!(u64::MAX)), "number too large"),
        (
            with("steps", json!([])),
            "step `band`: field `steps` is not a list with something in it",
        ),
        (with("step", json!([])), "step `band`: unknown field `step`"),
        (
            with("since", json!("SNAPSHOT")),
            "field `since` does not begin with the number",
        ),
        (
            with("when", json!({"boards": []})),
            "when: unknown field `boards`",
        ),
        (
            with("when", json!({"board": []})),
            "when: field `board` is not a list",
        ),
        (
            with("when", json!({"package": "../x"})),
            "when: `../x` is not the name of a package",
        ),
        (
            with("when", json!({"option": {"package": "a"}})),
            "when: field `section` is missing",
        ),
        (
            with("reversible", json!("no")),
            "field `reversible` is neither true nor false",
        ),
        (with("back", json!(1)), "field `back` is not a list"),
        (
            with("back", json!([{"op": "x"}])),
            "back[0] x: unknown operation",
        ),
        (
            op(json!({"op": "uci.to_list", "package": "a.b", "section": "a", "option": "o"})),
            "steps[0] uci.to_list: `a.b` is not the name of a package",
        ),
        (
            op(json!({"op": "uci.to_list", "package": "a", "section": "@", "option": "o"})),
            "field `section`: `@` is not NAME, @TYPE, @TYPE[INDEX] or *",
        ),
        (
            op(json!({"op": "uci.to_list", "package": "a", "section": "@a[x]", "option": "o"})),
            "field `section`: `@a[x]` is not NAME",
        ),
        (
            op(json!({"op": "uci.to_list", "package": "a", "section": "a", "option": "o.p"})),
            "field `option`: `o.p` is not a name",
        ),
        (
            op(
                json!({"op": "uci.rename_option", "package": "a", "section": "a", "from": "o", "to": "o"}),
            ),
            "fields `from` and `to` are the same",
        ),
        (
            op(json!({"op": "uci.set_type", "package": "a", "section": "a", "type": "t"})),
            "field `section` is not `@TYPE`",
        ),
        (
            op(json!({"op": "uci.set_type", "package": "a", "section": "@a[0]", "type": "t"})),
            "this operation takes no index",
        ),
        (
            op(json!({"op": "uci.delete_section", "package": "a", "section": "@a[-1]"})),
            "this operation takes no index",
        ),
        (
            op(json!({"op": "uci.name_section", "package": "a", "section": "a", "name": "t"})),
            "field `section` does not begin with `@`",
        ),
        (
            op(json!({"op": "uci.map", "package": "a", "section": "a", "option": "o", "map": {}})),
            "field `map` is empty",
        ),
        (
            op(
                json!({"op": "uci.map", "package": "a", "section": "a", "option": "o", "map": {"a": 1}}),
            ),
            "field `map`: bad value of `a`",
        ),
        (
            op(
                json!({"op": "uci.map", "package": "a", "section": "a", "option": "o", "map": [["a", "b"], ["a", "c"]]}),
            ),
            "field `map`: `a` is there twice",
        ),
        (
            op(
                json!({"op": "uci.map", "package": "a", "section": "a", "option": "o", "map": [["a"]]}),
            ),
            "field `map`: not a pair",
        ),
        (
            op(
                json!({"op": "uci.map", "package": "a", "section": "a", "option": "o", "map": {"a": ["c", "b"], "b": "x"}}),
            ),
            "field `map`: `b` is both an old and a new value",
        ),
        (
            op(
                json!({"op": "uci.set_default", "package": "a", "section": "a", "option": "o", "value": ""}),
            ),
            "field `value` is neither a text nor a list of texts",
        ),
        (
            op(json!({"op": "uci.builtin", "package": "a", "name": "x"})),
            "field `name`: no transform `x`",
        ),
        (
            op(
                json!({"op": "uci.builtin", "package": "a", "name": "network.bridge-to-device", "params": {"x": 1}}),
            ),
            "params: unknown field `x`",
        ),
        (
            op(json!({"op": "text.ensure_line", "path": "/etc/t", "line": "a\nb"})),
            "field `line` is more than one line",
        ),
        (
            op(json!({"op": "text.ensure_line", "path": "/etc/t", "line": "a\0b"})),
            "a NUL character",
        ),
        (
            op(json!({"op": "file.delete", "path": "/etc/../t"})),
            "field `path`: `/etc/../t` holds `..`",
        ),
        (
            op(json!({"op": "file.delete", "path": "/etc/sysupgrade/state.json"})),
            "is not configuration",
        ),
        (
            op(json!({"op": "file.chmod", "path": "/etc/t", "mode": "4755"})),
            "field `mode` is not an octal",
        ),
        (
            op(json!({"op": "file.chmod", "path": "/etc/t", "mode": "+644"})),
            "field `mode` is not an octal",
        ),
        (
            op(json!({"op": "file.fingerprint", "path": "/etc/t", "sha256": ["00"]})),
            "`00` is not 64 hex digits",
        ),
        (op(json!(7)), "steps[0]: it is not a table"),
    ] {
        let found = refused(&definition);
        assert!(found.contains(wanted), "{wanted:?} not in {found:?}");
    }
    let twice = HWMODE.replace("\"seq\": 5", "\"seq\": 5, \"seq\": 6");
    let error = serde_json::from_str::<Migration>(&twice)
        .unwrap_err()
        .to_string();
    assert!(error.contains("`seq` is there twice"), "{error}");
}

#[test]
fn documents_of_another_format_are_refused_before_anything_in_them_is_read() {
    for (document, wanted) in [
        (
            json!({"format": 2, "steps": 7, "new": 1}),
            "have format 2, this program knows 1",
        ),
        (json!({"steps": []}), "field `format` is missing"),
        (
            json!({"format": 1, "steps": 7}),
            "field `steps` is not a list",
        ),
        (
            json!({"format": 1, "steps": [], "x": 1}),
            "unknown field `x`",
        ),
    ] {
        let error = StepSet::parse(document.to_string().as_bytes()).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    }
    let state = |json: &str| State::parse(json.as_bytes()).unwrap_err().to_string();
    let newer = state(r#"{"format": 2, "applied": 7, "new": 1}"#);
    assert!(newer.contains("have format 2"), "{newer}");
    let applied = format!(r#"{{"step": {HWMODE}}}"#);
    let twice = state(&format!(
        r#"{{"format": 1, "applied": [{applied}, {applied}]}}"#
    ));
    assert_eq!(twice, "migration step `band` is there twice");
    for bad in [
        r#"{"format": 1, "applied": [], "x": 1}"#,
        r#"{"format": 1, "applied": [{"step": {}}]}"#,
        r#"{"format": 1}"#,
        "",
    ] {
        assert!(State::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(StepSet::parse(&b" ".repeat(2 << 20)).is_err());
    assert!(State::parse(&b" ".repeat(2 << 20)).is_err());
}

#[test]
fn a_bridge_that_was_changed_since_goes_back_with_the_change() {
    let ops =
        json!([{"op": "uci.builtin", "package": "network", "name": "network.bridge-to-device"}]);
    let mut world = World::new(&[(
        "etc/config/network",
        "config interface 'lan'\n\toption type 'bridge'\n\toption ifname 'eth0'\n",
    )]);
    world.to(&[step(&ops)]);
    let now = "
config device
	option name 'br-lan'
	option type 'bridge'
	list ports 'eth0'
	list ports 'eth4'
	option stp '1'

config device
	option name 'br-vlan'
	option type 'bridge'
	list ports 'eth5'

config bridge-vlan
	option device 'br-vlan'
	option vlan '7'

config interface 'lan'
	option device 'br-lan'

config interface 'vlan'
	option device 'br-vlan'

config interface 'wan'
	option device 'eth1'

config interface 'lte'
	option device '/dev/ttyUSB0'
";
    let bytes = now.as_bytes().to_vec();
    world.user.put(&path("etc/config/network"), &bytes, META);
    world.to(&[]);
    same_package(
        &world.text("etc/config/network"),
        "
config device
	option name 'br-vlan'
	option type 'bridge'
	list ports 'eth5'

config bridge-vlan
	option device 'br-vlan'
	option vlan '7'

config interface 'lan'
	option type 'bridge'
	option ifname 'eth0 eth4'
	option stp '1'

config interface 'vlan'
	option ifname 'br-vlan'

config interface 'wan'
	option ifname 'eth1'

config interface 'lte'
	option device '/dev/ttyUSB0'
",
    );
}

/// Operations to be tried on all kinds of configurations.
fn all_ops() -> Vec<Json> {
    let uci = |op: &str, section: &str, more: Json| {
        let mut object = json!({"op": op, "package": "test", "section": section});
        let fields = object.as_object_mut().unwrap();
        fields.append(&mut more.as_object().unwrap().clone());
        object
    };
    let sum = crate::digest::Digest::of(b"one\ntwo\n").to_string();
    vec![
        uci("uci.rename_option", "@a", json!({"from": "x", "to": "y"})),
        uci("uci.rename_option", "*", json!({"from": "y", "to": "x"})),
        uci(
            "uci.map",
            "@a",
            json!({"option": "x", "map": {"1": "2 3", "4": "5"}}),
        ),
        uci(
            "uci.map",
            "*",
            json!({"option": "x", "map": {"1": "5", "2": "5", "3": null}}),
        ),
        uci(
            "uci.map",
            "@b[0]",
            json!({"option": "y", "map": {"1": ["5", "6"], "2": []}}),
        ),
        uci(
            "uci.map",
            "@a",
            json!({"option": "x", "to_option": "y", "map": [["1", "4"], ["2", "4"], ["3", "1"]]}),
        ),
        uci("uci.to_list", "*", json!({"option": "x"})),
        uci("uci.to_option", "*", json!({"option": "x"})),
        uci("uci.set_type", "@a", json!({"type": "b"})),
        uci("uci.delete_option", "*", json!({"option": "x"})),
        uci("uci.delete_option", "@a[-1]", json!({"option": "y"})),
        uci("uci.set_default", "*", json!({"option": "x", "value": "1"})),
        uci(
            "uci.set_option",
            "@b",
            json!({"option": "y", "value": ["1", ""]}),
        ),
        uci("uci.name_section", "@a", json!({"name": "n1"})),
        uci("uci.name_section", "@b[1]", json!({"name": "n9"})),
        json!({"op": "uci.rename_section", "package": "test", "from": "n1", "to": "n2"}),
        json!({"op": "uci.rename_section", "package": "test", "from": "n2", "to": "n9"}),
        uci("uci.delete_section", "@a", json!({})),
        uci("uci.delete_section", "n1", json!({})),
        uci("uci.delete_section", "*", json!({})),
        uci(
            "uci.move_option",
            "@a",
            json!({"option": "x", "to_section": "n1"}),
        ),
        uci(
            "uci.move_option",
            "*",
            json!({"option": "x", "to_section": "n9", "to_type": "c", "to_option": "y"}),
        ),
        uci(
            "uci.move_option",
            "@b",
            json!({"option": "y", "to_section": "@a", "to_package": "other", "to_type": "a"}),
        ),
        json!({"op": "uci.rename_package", "from": "test", "to": "other"}),
        json!({"op": "uci.rename_package", "from": "test", "to": "third"}),
        json!({"op": "uci.builtin", "package": "network", "name": "network.bridge-to-device"}),
        json!({"op": "text.replace_line", "path": "/etc/t", "match": "one", "replace": "two"}),
        json!({"op": "text.ensure_line", "path": "/etc/t", "line": "two"}),
        json!({"op": "text.delete_line", "path": "/etc/t", "match": "one"}),
        json!({"op": "file.move", "from": "/etc/t", "to": "/etc/t2"}),
        json!({"op": "file.delete", "path": "/etc/t"}),
        json!({"op": "file.chmod", "path": "/etc/t", "mode": "0600"}),
        json!({"op": "file.fingerprint", "path": "/etc/t", "sha256": [sum]}),
    ]
}

/// What a tree means: packages by what a program is told, other files by their bytes.
fn meaning(tree: &Tree) -> Vec<(String, u32, String)> {
    let mut files = content(tree);
    for (name, _, text) in &mut files {
        if name.starts_with("etc/config/") {
            let mut package = crate::config::uci::Package::parse(text.as_bytes()).unwrap();
            let mut plain = String::new();
            for section in &mut package.sections {
                section.options.sort_by(|a, b| a.name.cmp(&b.name));
                plain.push_str(&format!("{:?} {:?}", section.kind, section.name));
                for option in &section.options {
                    plain.push_str(&format!(" {:?}={:?}", option.name, option.value));
                }
                plain.push('\n');
            }
            *text = plain;
        }
    }
    files
}

mod any_configuration {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn option() -> impl Strategy<Value = String> {
        let value = select(vec!["1", "2", "3", "4", "5", "6", "5 6", " 1  2 ", ""]);
        let name = select(vec!["x", "y", "z"]);
        let word = select(vec!["option", "list", "list"]);
        (word, name, value).prop_map(|(word, name, value)| format!("\t{word} {name} '{value}'\n"))
    }

    fn package() -> impl Strategy<Value = String> {
        let section = (
            select(vec!["a", "b", "a 'n1'", "a 'n2'", "b 'n3'", "a 'n9'"]),
            prop::collection::vec(option(), 0..5),
        );
        let sections = prop::collection::vec(section, 0..6);
        sections.prop_map(|sections| {
            let text = sections.into_iter();
            text.map(|(head, options)| format!("\nconfig {head}\n{}", options.concat()))
                .collect()
        })
    }

    fn network() -> impl Strategy<Value = String> {
        let interface = (
            select(vec!["lan", "wan", "wan6", "guest"]),
            prop::collection::vec(
                select(vec![
                    "option type 'bridge'",
                    "option ifname 'eth0'",
                    "option ifname 'eth1 eth2'",
                    "option ifname '@wan'",
                    "option device 'br-lan'",
                    "option device '/dev/ttyUSB0'",
                    "option stp '1'",
                    "option proto 'static'",
                    "option macaddr '02:00:00:00:00:01'",
                ]),
                0..5,
            ),
        );
        let device = (
            select(vec!["br-lan", "br-guest", "eth0"]),
            prop::collection::vec(
                select(vec![
                    "option type 'bridge'",
                    "list ports 'eth0'",
                    "option ifname 'eth0 eth1'",
                    "option mtu '1400'",
                ]),
                0..4,
            ),
        );
        let vlan = any::<bool>();
        (
            prop::collection::vec(interface, 0..4),
            prop::collection::vec(device, 0..3),
            vlan,
        )
            .prop_map(|(interfaces, devices, vlan)| {
                let mut text = String::new();
                for (name, options) in devices {
                    text.push_str(&format!("config device\n option name '{name}'\n "));
                    text.push_str(&options.join("\n "));
                    text.push('\n');
                }
                for (name, options) in interfaces {
                    text.push_str(&format!("config interface '{name}'\n "));
                    text.push_str(&options.join("\n "));
                    text.push('\n');
                }
                if vlan {
                    text.push_str("config bridge-vlan\n option device 'br-lan'\n");
                }
                text
            })
    }

    fn lines() -> impl Strategy<Value = String> {
        let line = select(vec!["one", "two", "three", ""]);
        let lines = prop::collection::vec(line, 0..7);
        (lines, any::<bool>()).prop_map(|(lines, ends)| {
            let end = if ends { "\n" } else { "" };
            format!("{}{end}", lines.join("\n"))
        })
    }

    fn files() -> impl Strategy<Value = Tree> {
        let some = |text| prop::option::weighted(0.9, text);
        let other = prop::option::weighted(0.5, package());
        (
            some(package().boxed()),
            other,
            some(network().boxed()),
            some(lines().boxed()),
        )
            .prop_map(|(test, other, network, text)| {
                let mut files = Vec::new();
                files.extend(test.as_deref().map(|text| ("etc/config/test", text)));
                files.extend(other.as_deref().map(|text| ("etc/config/other", text)));
                files.extend(network.as_deref().map(|text| ("etc/config/network", text)));
                files.extend(text.as_deref().map(|text| ("etc/t", text)));
                tree(&files)
            })
    }

    fn parses(tree: &Tree) -> bool {
        content(tree).iter().all(|(name, _, text)| {
            let package = crate::config::uci::Package::parse(text.as_bytes());
            !name.starts_with("etc/config/") || package.is_ok()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

        #[test]
        fn an_operation_run_twice_is_an_operation_run_once(user in files(), op in select(all_ops())) {
            prop_assume!(parses(&user));
            let steps = [step(&json!([op]))];
            let mut world = World { base: user.clone(), user, state: State::default(), facts: Facts::default() };
            world.to(&steps);
            let once = content(&world.user);
            prop_assert_eq!(content(&world.base), once.clone());
            world.state = State::default();
            let reports = world.to(&steps);
            prop_assert_eq!(content(&world.user), once);
            let touched = reports[0].touched.clone();
            let fingerprint = op["op"] == "file.fingerprint";
            prop_assert!(touched.is_empty() || fingerprint, "{:?}", touched);
        }

        #[test]
        fn forward_and_backward_is_where_one_was(
            base in files(),
            user in files(),
            ops in prop::collection::vec(select(all_ops()), 1..4),
        ) {
            prop_assume!(parses(&base) && parses(&user));
            let fingerprint = ops.iter().any(|op| op["op"] == "file.fingerprint");
            let mut world = World { base, user, state: State::default(), facts: Facts::default() };
            let before = world.clone();
            world.to(&[step(&Json::Array(ops))]);
            prop_assert_eq!(world.state.applied.len(), 1);
            let reports = world.to(&[]);
            prop_assert_eq!(reports[0].direction, Direction::Backward);
            prop_assert_eq!(world.state.applied.len(), 0);
            prop_assert_eq!(meaning(&world.user), meaning(&before.user));
            if !fingerprint {
                prop_assert_eq!(meaning(&world.base), meaning(&before.base));
            }
        }
    }
}

#[test]
fn values_that_were_kept_elsewhere_may_be_written_as_a_list_or_a_table() {
    let read = |attic: Json| {
        let facts: Facts = serde_json::from_value(json!({ "attic": attic })).unwrap();
        let [one] = &facts.attic[..] else {
            panic!("{facts:?}")
        };
        (one.package.clone(), one.section.clone(), one.option.clone())
    };
    let wanted = ["system", "@led[0]", "name"].map(str::to_owned);
    for attic in [
        json!([{"package": "system", "section": "@led[0]", "option": "name", "value": "x"}]),
        json!([{"path": "/etc/config/system", "locus": "@led[0].name", "step": "s", "default": ["x"]}]),
        json!({"system.@led[0].name": {"value": "x", "default": "y"}}),
    ] {
        assert_eq!(<[String; 3]>::from(read(attic)), wanted);
    }
    let incomplete = json!({"attic": [{"package": "system", "value": "x"}]});
    assert!(serde_json::from_value::<Facts>(incomplete).is_err());
}
