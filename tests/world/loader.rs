//! A boot loader of the kind that a switch tells what to boot, played on the variables themselves:
//! it knows nothing of slots and their conditions.

use sysupgrade_rs::board::{Along, Switch};
use sysupgrade_rs::boot::UbootEnv;
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
