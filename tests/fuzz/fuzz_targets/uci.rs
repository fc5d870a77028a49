//! Every text that is read is printed as it was, and reads back after edits and in libuci's form.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sysupgrade_rs::config::uci::{Package, Section, Value};

fuzz_target!(|text: &[u8]| {
    let Ok(package) = Package::parse(text) else {
        return;
    };
    assert_eq!(package.print(), text);
    reads_back(&anew(&package), &package);
    let turned = turned(package.clone());
    reads_back(&turned, &turned);
    let thinned = thinned(package);
    reads_back(&thinned, &thinned);
});

fn reads_back(printed: &Package, meant: &Package) {
    let text = printed.print();
    let read = Package::parse(&text);
    let text = String::from_utf8_lossy(&text);
    assert_eq!(read.as_ref(), Ok(meant), "{text:?}");
}

/// The same without a text that it was read from: printed in libuci's form.
fn anew(package: &Package) -> Package {
    let mut anew = Package::default();
    for section in &package.sections {
        let mut copy = Section::new(&section.kind, section.name.as_deref());
        for option in &section.options {
            copy.set(&option.name, option.value.clone());
        }
        anew.sections.push(copy);
    }
    anew
}

/// All in the other order, and every option made a list or no list.
fn turned(mut package: Package) -> Package {
    package.sections.reverse();
    for section in &mut package.sections {
        section.options.reverse();
        for option in &mut section.options {
            option.value = match &option.value {
                Value::One(value) => Value::List(vec![Vec::new(), value.clone()]),
                Value::List(items) => Value::One(items.concat()),
            };
        }
    }
    package
}

/// Every other section and option, and lists without their first item.
fn thinned(mut package: Package) -> Package {
    let mut keep = false;
    let mut every_other = move || {
        keep = !keep;
        keep
    };
    package.sections.retain(|_| every_other());
    for section in &mut package.sections {
        section.options.retain(|_| every_other());
        for option in &mut section.options {
            if let Value::List(items) = &mut option.value {
                items.remove(0);
            }
        }
    }
    package
}
