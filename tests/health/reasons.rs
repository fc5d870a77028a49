//! Why a trial ended that ended without a word.

use std::process::Stdio;

use sysupgrade_rs::slots::Slot;

use crate::Result;
use crate::router::Site;

const DUMP: &str = "/sys/fs/pstore/dmesg-ramoops-0";
const BOOT_STATUS: &str = "/sys/class/watchdog/watchdog0/bootstatus";

/// What pstore shows after a panic.
const PANIC: &str =
    "Panic#1 Part1\n<0>[    9.9] Kernel panic - not syncing: Attempted to kill init!\n";

const STARTED: &str = "it started, but was not confirmed before its tries were used up";

/// Starts a trial so often that it is over; the kernel of the old system then does something. Returns
/// why the trial failed, as the status says.
fn fall_back(site: &Site, kernel: impl FnOnce() -> Result) -> Result<String> {
    for _ in 0..3 {
        assert_eq!(site.boot()?, Slot::Second);
    }
    assert_eq!(site.boot_after(kernel)?, Slot::First);
    let status = site.status()?;
    assert_eq!(status["standing"], "fell-back", "{status}");
    assert_eq!(status["last"]["what"], "fell-back", "{status}");
    let why = status["why"].as_str().ok_or("no reason")?.to_owned();
    let result = site.result()?;
    assert_eq!(result["what"], "fell-back", "{result}");
    let message = result["message"].as_str().unwrap_or_default();
    assert!(message.ends_with(&why), "{result}");
    Ok(why)
}

#[test]
fn a_panic_is_told_by_its_own_words() -> Result {
    let site = Site::new("")?;
    site.install(2, &[])?;
    let why = fall_back(&site, || {
        site.show(BOOT_STATUS, "32\n")?; // the watchdog ended it, and is not the reason
        site.show(DUMP, PANIC)
    })?;
    let words = "Kernel panic - not syncing: Attempted to kill init!; it started";
    assert!(why.starts_with(words), "{why}");
    Ok(())
}

#[test]
fn a_panic_of_long_ago_is_not_blamed_on_the_new_system() -> Result {
    let site = Site::new("")?;
    site.show(DUMP, PANIC)?;
    site.install(2, &[])?;
    assert_eq!(site.recorded()?.crashes.len(), 1);
    let why = fall_back(&site, || site.show(DUMP, PANIC))?;
    assert!(why.starts_with(STARTED), "{why}");
    Ok(())
}

#[test]
fn a_reset_by_the_watchdog_is_told() -> Result {
    let site = Site::new("")?;
    site.install(2, &[])?;
    let why = fall_back(&site, || site.show(BOOT_STATUS, "32\n"))?;
    let words = "it hung, and the watchdog reset it; it started";
    assert!(why.starts_with(words), "{why}");
    Ok(())
}

#[test]
fn how_far_a_trial_came_is_told() -> Result {
    let site = Site::new("")?;
    site.install(2, &[])?;
    let why = fall_back(&site, || Ok(()))?;
    assert_eq!(why, format!("{STARTED}, and its guard never began"));

    site.install(3, &[])?;
    assert_eq!(site.boot()?, Slot::Second);
    let record = site.path("/data/sysupgrade-rs/slot-b.json");
    let before = std::fs::read_to_string(&record)?;
    let mut guard = site.command(&["guard"]).stderr(Stdio::null()).spawn()?;
    while std::fs::read_to_string(&record)? == before {
        assert!(guard.try_wait()?.is_none(), "the guard has ended");
    }
    guard.kill()?;
    guard.wait()?;
    for _ in 0..2 {
        assert_eq!(site.boot()?, Slot::Second);
    }
    assert_eq!(site.boot()?, Slot::First);
    assert_eq!(site.status()?["why"], STARTED);
    Ok(())
}

#[test]
fn a_trial_that_was_called_off_is_no_failure() -> Result {
    let site = Site::new("")?;
    site.install(2, &[])?;
    site.answer(&["rollback", "--no-reboot"], 0)?;
    let status = site.status()?;
    assert_eq!(status["standing"], "good", "{status}");
    assert_eq!(status["why"], serde_json::Value::Null, "{status}");
    Ok(())
}
