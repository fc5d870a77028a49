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
        tree.put(&path(name), text.as_bytes().to_vec(), META);
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
