//! Transforms that no list of simple operations can express.
//!
//! `network.bridge-to-device`: since OpenWrt 21.02 a bridge is a device of its own.
//!
//! ```text
//! config interface 'lan'                     config device
//!     option type 'bridge'                       option name 'br-lan'
//!     option ifname 'eth0 eth2'        ──>       option type 'bridge'
//!     option stp '1'                             list ports 'eth0'
//!     option proto 'static'                      list ports 'eth2'
//!                                                option stp '1'
//!
//!                                            config interface 'lan'
//!                                                option device 'br-lan'
//!                                                option proto 'static'
//!
//! config interface 'wan6'                    config interface 'wan6'
//!     option ifname '@wan'             ──>       option device '@wan'
//! ```
//!
//! The device goes right before its interface, unless there is a `config device` of that name, which
//! is then the one. An `ifname` of several names without a bridge is left alone: nobody knows what it
//! was meant to do.

use std::collections::{BTreeMap, BTreeSet};

use super::node::Problem;
use crate::config::path::escape;
use crate::config::uci::{Opt, Package, Section, Value};

/// A named transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Builtin {
    /// `network.bridge-to-device`
    BridgeToDevice,
}

/// Options that netifd takes from the interface when that is the bridge, and from the device since.
const OF_THE_BRIDGE: [&[u8]; 19] = [
    b"stp",
    b"forward_delay",
    b"priority",
    b"ageing_time",
    b"hello_time",
    b"max_age",
    b"igmp_snooping",
    b"bridge_empty",
    b"multicast_querier",
    b"multicast_router",
    b"multicast_to_unicast",
    b"hash_max",
    b"robustness",
    b"query_interval",
    b"query_response_interval",
    b"last_member_interval",
    b"macaddr",
    b"mtu",
    b"txqueuelen",
];

impl Builtin {
    pub(super) fn named(name: &str) -> Result<Self, Problem> {
        match name {
            "network.bridge-to-device" => Ok(Self::BridgeToDevice),
            "network.swconfig-to-dsa" => Err("this transform is not in this version".into()),
            _ => Err(format!("field `name`: no transform `{name}`")),
        }
    }

    /// Does it; told are the sections that were changed.
    pub(super) fn apply(self, package: &mut Package) -> Vec<String> {
        match self {
            Self::BridgeToDevice => bridge_to_device(package),
        }
    }

    pub(super) fn undo(self, package: &mut Package) {
        match self {
            Self::BridgeToDevice => device_to_bridge(package),
        }
    }
}

fn bridge_to_device(package: &mut Package) -> Vec<String> {
    let mut devices = BTreeMap::new();
    for (place, section) in package.sections.iter().enumerate() {
        if let Some(name) = device_name(section) {
            devices.insert(name.to_vec(), place);
        }
    }
    let mut touched = Vec::new();
    let mut new: BTreeMap<usize, Section> = BTreeMap::new();
    for place in 0..package.sections.len() {
        let Some(section) = package.sections.get_mut(place) else {
            break;
        };
        if section.kind == b"device" && is(section, b"type", b"bridge") {
            if section.get(b"ports").is_none()
                && let Some(ports) = words(section.remove(b"ifname"))
            {
                section.set(b"ports", Value::List(ports));
            }
            continue;
        }
        if section.kind != b"interface" {
            continue;
        }
        let Some(interface) = section.name.clone() else {
            continue;
        };
        if !is(section, b"type", b"bridge") {
            if section.get(b"device").is_none()
                && matches!(section.get(b"ifname"), Some(Value::One(name)) if is_one_word(name))
            {
                rename(section, b"ifname", b"device");
                touched.push(escape(&interface));
            }
            continue;
        }
        touched.push(escape(&interface));
        let name = [b"br-", &*interface].concat();
        let mut options = vec![Opt::new(b"type", Value::One(b"bridge".to_vec()))];
        if let Some(ports) = words(section.remove(b"ifname")) {
            options.push(Opt::new(b"ports", Value::List(ports)));
        }
        move_options(section, &mut options);
        section.remove(b"type");
        section.set(b"device", Value::One(name.clone()));

        let known = devices.get(&name).copied();
        match known.and_then(|known| package.sections.get_mut(known)) {
            Some(device) => {
                for option in options {
                    device.set(&option.name, option.value);
                }
            }
            None => {
                let mut device = Section::new(b"device", None);
                device.set(b"name", Value::One(name));
                device.options.append(&mut options);
                new.insert(place, device);
            }
        }
    }
    let sections = std::mem::take(&mut package.sections);
    for (place, section) in sections.into_iter().enumerate() {
        package.sections.extend(new.remove(&place));
        package.sections.push(section);
    }
    touched
}

fn device_to_bridge(package: &mut Package) {
    let mut interfaces = BTreeMap::new();
    // A bridge that knows VLANs can only be a device.
    let mut with_vlans = BTreeSet::new();
    for (place, section) in package.sections.iter().enumerate() {
        match (&*section.kind, &section.name, section.get(b"device")) {
            (b"interface", Some(name), Some(Value::One(device)))
                if *device == [b"br-", &**name].concat() =>
            {
                interfaces.insert(device.clone(), place);
            }
            (b"bridge-vlan", _, Some(Value::One(device))) => {
                with_vlans.insert(device.clone());
            }
            _ => {}
        }
    }
    let mut gone = BTreeSet::new();
    for place in 0..package.sections.len() {
        let Some(section) = package.sections.get_mut(place) else {
            break;
        };
        let Some(name) = device_name(section).map(<[u8]>::to_vec) else {
            continue;
        };
        if !is(section, b"type", b"bridge") || with_vlans.contains(&name) {
            continue;
        }
        let ports = words(section.remove(b"ports"));
        let ifname = ports.map(|ports| Value::One(ports.join(&b' ')));
        let Some(interface) = interfaces.get(&name).copied() else {
            if let Some(ifname) = ifname {
                section.set(b"ifname", ifname);
            }
            continue;
        };
        let mut options = vec![Opt::new(b"type", Value::One(b"bridge".to_vec()))];
        options.extend(ifname.map(|ifname| Opt::new(b"ifname", ifname)));
        move_options(section, &mut options);
        section.remove(b"type");
        if section.options.iter().all(|option| option.name == b"name") {
            gone.insert(place);
        }
        if let Some(interface) = package.sections.get_mut(interface) {
            interface.remove(b"device");
            for option in options {
                interface.set(&option.name, option.value);
            }
        }
    }
    let mut place = 0..;
    package
        .sections
        .retain(|_| place.next().is_none_or(|place| !gone.contains(&place)));
    for section in &mut package.sections {
        let is_network_device = |name: &[u8]| is_one_word(name) && !name.starts_with(b"/");
        if section.kind == b"interface"
            && section.get(b"ifname").is_none()
            && matches!(section.get(b"device"), Some(Value::One(name)) if is_network_device(name))
        {
            rename(section, b"device", b"ifname");
        }
    }
}

/// The name that a `config device` is about.
fn device_name(section: &Section) -> Option<&[u8]> {
    match section.get(b"name") {
        Some(Value::One(name)) if section.kind == b"device" => Some(name),
        _ => None,
    }
}

fn is(section: &Section, option: &[u8], wanted: &[u8]) -> bool {
    matches!(section.get(option), Some(Value::One(value)) if value == wanted)
}

fn is_one_word(text: &[u8]) -> bool {
    !text.is_empty() && !text.iter().any(u8::is_ascii_whitespace)
}

/// The words of a value; nothing if there are none.
fn words(value: Option<Value>) -> Option<Vec<Vec<u8>>> {
    let list = match value? {
        Value::One(text) => text
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty())
            .map(<[u8]>::to_vec)
            .collect(),
        Value::List(items) => items,
    };
    Some(list).filter(|list: &Vec<_>| !list.is_empty())
}

fn move_options(section: &mut Section, options: &mut Vec<Opt>) {
    let (bridge, rest) = std::mem::take(&mut section.options)
        .into_iter()
        .partition::<Vec<Opt>, _>(|option| OF_THE_BRIDGE.contains(&&*option.name));
    section.options = rest;
    options.extend(bridge);
}

fn rename(section: &mut Section, from: &[u8], to: &[u8]) {
    for option in &mut section.options {
        if option.name == from {
            option.name = to.to_vec();
        }
    }
}
