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
            op("uci.delete_section", json!({"section": "@a[-1]"})),
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
