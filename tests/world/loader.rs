//! Boot loaders that know nothing of slots and their conditions, played on what they read: one of the
//! kind that a switch tells what to boot, on the variables themselves, and systemd-boot, on the names
//! of its entries.

use std::cmp::Ordering;
use std::fs;
use std::path::Path;

use sysupgrade_rs::board::{Along, Switch};
use sysupgrade_rs::boot::UbootEnv;
use sysupgrade_rs::files;
use sysupgrade_rs::slots::Slot;

use super::router::Result;

/// `altbootcmd` of a router that has none of its own: it boots the other slot and stores nothing.
const FALLBACK: &str = "run other";

/// Variables that the factory sets.
pub fn factory(switch: &Switch) -> Vec<(&str, &str)> {
    let counter = switch.counter.as_ref();
    let fallback = counter.and_then(|counter| counter.fallback.as_deref());
    let fallback = fallback.map(|name| (name, FALLBACK));
    [(switch.variable.as_str(), switch.value(Slot::First))]
        .into_iter()
        .chain(fallback)
        .collect()
}

/// What it boots, and what it stores before it does: with a counter as `bootcount_inc` and
/// `bootdelay_process` of U-Boot.
pub fn choose(env: &UbootEnv, switch: &Switch) -> Result<Slot> {
    let variables = env.variables()?;
    let text = |name: &str| Some(String::from_utf8_lossy(variables.get(name)?).into_owned());
    let told = text(&switch.variable).or(switch.absent.clone());
    let told = told.ok_or("there is no switch")?;
    let slot = Slot::ALL
        .into_iter()
        .find(|slot| switch.value(*slot) == told);
    let slot = slot.ok_or_else(|| format!("it boots no slot of {told}"))?;
    let Some(counter) = &switch.counter else {
        return Ok(slot);
    };
    if text(&counter.armed).as_deref() != Some("1") {
        return Ok(slot);
    }
    let number = |name: &str| {
        Ok::<u8, std::num::ParseIntError>(match text(name) {
            Some(text) => text.parse()?,
            None => 0,
        })
    };
    let count = number(&counter.count)? + 1;
    let limit = match &counter.limit {
        Some(limit) => number(limit)?,
        None => 3,
    };
    let raised = count.to_string();
    if limit == 0 || count <= limit {
        env.change(&[(&counter.count, Some(&raised))])?;
        return Ok(slot);
    }
    let other = slot.other();
    let stores = match &counter.fallback {
        Some(name) => {
            let command = switch
                .along
                .get(name)
                .map(|along: &Along| along.of(slot).to_owned());
            let command = command.or_else(|| text(name));
            command
                .ok_or("U-Boot stops at its prompt")?
                .contains("saveenv")
        }
        None => true,
    };
    match stores {
        true => env.change(&[
            (&switch.variable, Some(switch.value(other))),
            (&counter.count, Some("0")),
        ])?,
        false => env.change(&[(&counter.count, Some(&raised))])?,
    }
    Ok(other)
}

/// The entry that systemd-boot boots of those in this directory; its name is counted down then. After
/// `config_load_entries`, `config_entry_compare`, `config_default_entry_select` and
/// `config_entry_bump_counters` of version 252, for entries without a `sort-key` and a `default` that
/// ends in a star.
pub fn systemd_boot(entries: &Path) -> Result<String> {
    let config = fs::read_to_string(entries.with_file_name("loader.conf"))?;
    let default = config
        .lines()
        .find_map(|line| line.strip_prefix("default ")?.strip_suffix('*'));
    let default = default.ok_or("loader.conf does not say what is booted")?;
    let mut names = Vec::new();
    for name in files::list(entries)? {
        let name = name.to_str().ok_or("a name that is no text")?.to_owned();
        let text = fs::read_to_string(entries.join(&name)).unwrap_or_default();
        let starts = text.lines().any(|line| line.starts_with("linux "));
        if name.ends_with(".conf") && !name.starts_with('.') && starts {
            names.push(name);
        }
    }
    let is_out = |name: &String| counter(name).is_some_and(|(_, left, _)| left == 0);
    names.sort_by(|a, b| {
        let by_tries = is_out(a).cmp(&is_out(b));
        by_tries.then_with(|| by_version(b.as_bytes(), a.as_bytes()))
    });
    let name = names.into_iter().find(|name| name.starts_with(default));
    let name = name.ok_or("systemd-boot has nothing to boot")?;
    let text = fs::read_to_string(entries.join(&name))?;
    if let Some((begin, left, done)) = counter(&name) {
        let (left, done) = (left.saturating_sub(1), done + 1);
        let next = format!("{begin}+{left}-{done}.conf");
        files::rename_durably(&entries.join(name), &entries.join(next))?;
    }
    Ok(text)
}

/// The counter at the end of an entry's name: what is before it, tries left, tries done.
fn counter(name: &str) -> Option<(&str, u32, u32)> {
    let (begin, counter) = name.strip_suffix(".conf")?.rsplit_once('+')?;
    let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
    Some((begin, left.parse().ok()?, done.parse().ok()?))
}

/// How systemd compares versions (UAPI.10, Version Format Specification).
fn by_version(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let counts = |byte: &u8| byte.is_ascii_alphanumeric() || b"~-^.".contains(byte);
    let skip = |text: &mut &[u8]| {
        let at = text.iter().position(counts).unwrap_or(text.len());
        *text = &text[at..];
    };
    let take = |text: &mut &[u8], of: fn(&u8) -> bool| {
        let at = text.iter().position(|byte| !of(byte)).unwrap_or(text.len());
        let (taken, rest) = text.split_at(at);
        *text = rest;
        taken.to_vec()
    };
    loop {
        skip(&mut a);
        skip(&mut b);
        // What begins with one of these is older than what does not, the end included where it stands.
        for mark in [Some(b'~'), None, Some(b'-'), Some(b'^'), Some(b'.')] {
            let marked = [a, b].map(|text| text.first().copied() == mark);
            match (marked, mark) {
                ([true, true], None) => return Ordering::Equal,
                ([true, true], Some(_)) => (a, b) = (&a[1..], &b[1..]),
                ([true, false], _) => return Ordering::Less,
                ([false, true], _) => return Ordering::Greater,
                ([false, false], _) => {}
            }
        }
        let digits = [a, b].map(|text| text.first().is_some_and(u8::is_ascii_digit));
        let of: fn(&u8) -> bool = match digits.contains(&true) {
            true => u8::is_ascii_digit,
            false => u8::is_ascii_alphabetic,
        };
        let (run_a, run_b) = (take(&mut a, of), take(&mut b, of));
        let order = match digits.contains(&true) {
            true => {
                let number = |run: Vec<u8>| {
                    let zeros = run.iter().take_while(|digit| **digit == b'0').count();
                    (run.len() - zeros, run[zeros..].to_vec())
                };
                number(run_a).cmp(&number(run_b))
            }
            false => run_a.cmp(&run_b),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}
