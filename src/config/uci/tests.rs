//! Promises about every text and every edit.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

/// Pieces that meet in every way: what a user types, what tools write, and what nobody should.
const LINES: &[&str] = &[
    "config a 'n'\n",
    "config a m\n",
    "config b\n",
    "config b ''\n",
    "c 'b' # anonymous\n",
    "\toption x 'y'\n",
    "  option  x\t\"y z\" # twice\n",
    "\toption y 'two\nlines' # of them\n",
    "\toption y ''\n",
    "\tlist x 'y'\n",
    "\tlist x 'z' # item\n",
    "\tlist x\n",
    "\tlist z a\\\nb\n",
    "option x 'y' ; option z 'w'\n",
    "option x y;option z 'w'\n",
    "option x 'y' ",
    "option x it\\'s#glued\n",
    "\r\n",
    "\n",
    " \n",
    "# comment\n",
    "# option x 'y'\n",
    "package p\n",
    "config b\r\n\toption x 'y'\r\n",
    "\toption z w",
    "\\",
    "'",
    "\"",
    ";",
    "#",
    "\u{e9}",
];

fn text() -> impl Strategy<Value = String> {
    vec(select(LINES), 0..24).prop_map(|lines| lines.concat())
}

/// A usual file that something has damaged.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let usual =
        "package p\n\nconfig a 'n'\n\toption x 'y' # c\n\tlist z \"w\\\"\"\n# d\nconfig b\n";
    let damage = (any::<Index>(), 0..3_usize, vec(any::<u8>(), 0..3));
    vec(damage, 0..5).prop_map(move |damages| {
        let mut text = usual.as_bytes().to_vec();
        for (at, length, bytes) in damages {
            let at = at.index(text.len() + 1);
            let end = (at + length).min(text.len());
            text.splice(at..end, bytes);
        }
        text
    })
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop_oneof![select(&b"ab '\"\\#;\n\r\t"[..]), 1..=255_u8];
    vec(bytes, 0..6)
}

fn value() -> impl Strategy<Value = Value> {
    let item = prop_oneof![
        word(),
        select(vec![b"y".to_vec(), b"z".to_vec(), Vec::new()])
    ];
    prop_oneof![
        word().prop_map(Value::One),
        vec(item, 0..4).prop_map(Value::List),
    ]
}

#[derive(Clone, Debug)]
enum Edit {
    Set(Index, &'static str, Value),
    Remove(Index, Index),
    RenameOption(Index, Index, &'static str),
    SwapOptions(Index, Index, Index),
    MoveOption(Index, Index, Index),
    Name(Index, Option<&'static str>),
    Kind(Index, &'static str),
    RemoveSection(Index),
    SwapSections(Index, Index),
    NewSection(Index, Vec<(&'static str, Value)>),
    Clone(Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let name = || select(&["x", "y", "z", "new"][..]);
    prop_oneof![
        4 => (at(), name(), value()).prop_map(|(a, b, c)| Edit::Set(a, b, c)),
        2 => (at(), at()).prop_map(|(a, b)| Edit::Remove(a, b)),
        1 => (at(), at(), name()).prop_map(|(a, b, c)| Edit::RenameOption(a, b, c)),
        1 => (at(), at(), at()).prop_map(|(a, b, c)| Edit::SwapOptions(a, b, c)),
        1 => (at(), at(), at()).prop_map(|(a, b, c)| Edit::MoveOption(a, b, c)),
        1 => (at(), select(&[None, Some("n"), Some("new")][..])).prop_map(|(a, b)| Edit::Name(a, b)),
        1 => (at(), select(&["a", "b", "a'#\""][..])).prop_map(|(a, b)| Edit::Kind(a, b)),
        1 => at().prop_map(Edit::RemoveSection),
        1 => (at(), at()).prop_map(|(a, b)| Edit::SwapSections(a, b)),
        1 => (at(), vec((name(), value()), 0..3)).prop_map(|(a, b)| Edit::NewSection(a, b)),
        1 => (at(), at()).prop_map(|(a, b)| Edit::Clone(a, b)),
    ]
}

fn pick<T>(index: Index, list: &mut [T]) -> Option<&mut T> {
    (!list.is_empty()).then(|| index.get_mut(list))
}

/// Makes an edit if it can be made and keeps names unique.
fn apply(package: &mut Package, edit: Edit, other: &Package) -> Option<()> {
    let sections = &mut package.sections;
    let taken: Vec<_> = sections
        .iter()
        .filter_map(|known| known.name.clone())
        .collect();
    match edit {
        Edit::Set(at, name, value) => pick(at, sections)?.set(name.as_bytes(), value),
        Edit::Remove(at, option) => {
            let section = pick(at, sections)?;
            let name = pick(option, &mut section.options)?.name.clone();
            section.remove(&name)?;
        }
        Edit::RenameOption(at, option, name) => {
            let section = pick(at, sections)?;
            if section.get(name.as_bytes()).is_none() {
                pick(option, &mut section.options)?.name = name.into();
            }
        }
        Edit::SwapOptions(at, a, b) => {
            let options = &mut pick(at, sections)?.options;
            pick(a, options)?;
            let (a, b) = (a.index(options.len()), b.index(options.len()));
            options.swap(a, b);
        }
        Edit::MoveOption(from, option, to) => {
            let moved = pick(option, &mut pick(from, sections)?.options)?.clone();
            let section = pick(to, sections)?;
            if section.get(&moved.name).is_none() {
                section.options.insert(0, moved);
            }
        }
        Edit::Name(at, name) => {
            let name = name.map(|name| name.as_bytes().to_vec());
            if !name.as_ref().is_some_and(|name| taken.contains(name)) {
                pick(at, sections)?.name = name;
            }
        }
        Edit::Kind(at, kind) => pick(at, sections)?.kind = kind.into(),
        Edit::RemoveSection(at) => {
            pick(at, sections)?;
            sections.remove(at.index(sections.len()));
        }
        Edit::SwapSections(a, b) => {
            pick(a, sections)?;
            let (a, b) = (a.index(sections.len()), b.index(sections.len()));
            sections.swap(a, b);
        }
        Edit::NewSection(at, options) => {
            let mut section = Section::new(b"fresh", None);
            for (name, value) in options {
                section.set(name.as_bytes(), value);
            }
            sections.insert(at.index(sections.len() + 1), section);
        }
        Edit::Clone(from, to) => {
            let mut section = pick(from, &mut other.sections.clone())?.clone();
            section.name = section.name.filter(|name| !taken.contains(name));
            sections.insert(to.index(sections.len() + 1), section);
        }
    }
    Some(())
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_fail_and_what_is_read_is_printed_as_it_was(
        text in prop_oneof![
            vec(any::<u8>(), 0..64),
            damaged(),
            text().prop_map(String::into_bytes),
        ],
    ) {
        if let Ok(package) = Package::parse(&text) {
            prop_assert_eq!(package.print(), text);
        }
    }

    #[test]
    fn every_comment_outlives_the_canonical_form(text in text()) {
        if let Ok(package) = Package::parse(text.as_bytes()) {
            let canonical = Package::parse(&package.print_canonical()).unwrap();
            prop_assert_eq!(&canonical, &package);
            let sorted = |package: &Package| {
                let mut comments = package.comments();
                comments.sort();
                comments
            };
            prop_assert_eq!(sorted(&canonical), sorted(&package));
        }
    }

    #[test]
    fn what_is_printed_after_any_edits_reads_back(
        text in text(),
        other in text(),
        edits in vec(edit(), 0..6),
    ) {
        let other = Package::parse(other.as_bytes()).unwrap_or_default();
        if let Ok(mut package) = Package::parse(text.as_bytes()) {
            for edit in edits {
                apply(&mut package, edit, &other);
            }
            let printed = package.print();
            let read = Package::parse(&printed);
            prop_assert_eq!(read, Ok(package), "{:?}", String::from_utf8_lossy(&printed));
        }
    }

    #[test]
    fn any_package_that_is_made_here_reads_back(
        sections in vec((prop::bool::ANY, vec((select(&["x", "y"][..]), value()), 0..4)), 0..4),
    ) {
        let mut package = Package::default();
        for (index, (named, options)) in sections.into_iter().enumerate() {
            let name = format!("s{index}");
            let mut section = Section::new(b"a", named.then_some(name.as_bytes()));
            for (name, value) in options {
                section.set(name.as_bytes(), value);
            }
            package.sections.push(section);
        }
        prop_assert_eq!(Package::parse(&package.print()), Ok(package));
    }
}

#[test]
fn packages_are_equal_if_they_mean_the_same() {
    let read = |text: &str| Package::parse(text.as_bytes()).unwrap();
    let package = read("config a n\noption x 1\nlist y 2\nlist y 3\nconfig a");
    let same =
        "# c\nconfig 'a' 'n'\n\tlist y 2\n\toption z ''\n\toption x '1'\n\tlist y 3\nconfig a";
    assert_eq!(package, read(same));
    let others = [
        "config a\nconfig a n\noption x 1\nlist y 2\nlist y 3\n",
        "config a n\noption x 1\nlist y 3\nlist y 2\nconfig a",
        "config a n\nlist x 1\nlist y 2\nlist y 3\nconfig a",
        "config a m\noption x 1\nlist y 2\nlist y 3\nconfig a",
        "config a n\noption x 1\nlist y 2\nlist y 3\nconfig b",
        "config a n\noption x 1\nlist y 2\nlist y 3\n",
        "config a n\noption x 1\nconfig a",
    ];
    for other in others {
        assert_ne!(package, read(other), "{other:?}");
    }
    let mut absent = package.clone();
    absent
        .named_mut(b"n")
        .unwrap()
        .set(b"none", Value::One(Vec::new()));
    absent
        .named_mut(b"n")
        .unwrap()
        .set(b"nothing", Value::List(Vec::new()));
    assert_eq!(package, absent);
}

#[test]
fn options_are_found_set_in_place_and_removed() {
    let mut section = Section::new(b"a", None);
    section.set(b"x", Value::One(b"1".to_vec()));
    section.set(b"y", Value::One(b"2".to_vec()));
    section.set(b"x", Value::One(b"3".to_vec()));
    assert_eq!(section.options.len(), 2);
    assert_eq!(
        section.options[0],
        Opt::new(b"x", Value::One(b"3".to_vec()))
    );
    assert_eq!(section.get(b"y"), Some(&Value::One(b"2".to_vec())));
    assert_eq!(section.remove(b"x"), Some(Value::One(b"3".to_vec())));
    assert_eq!(section.remove(b"x"), None);
    assert_eq!(section.get(b"x"), None);
}
