//! The compatibility version of a configuration: which form it has, as OpenWrt's tools see it.
//!
//! ```text
//! /etc/config/system      config system                       the first section of this type
//!                             option compat_version '1.1'     without it 1.0
//! ```
//!
//! It belongs to the device and what runs there, and is nobody's setting: who restores a backup of last
//! year does not bring back the form of last year, and an upgrade changes it only where the image
//! migrates the configuration. So it is written into every version of the package that could win, as
//! a migration step is.

use super::steps::{Direction, StepReport};
use super::tree::{Meta, Tree};
use super::uci::{Package, Value};
use super::{ConfigError, EntryPath};
use crate::image::openwrt::Compat;

/// The package that bears it, below a root.
pub const PACKAGE: &str = "etc/config/system";

/// Bounds [`PACKAGE`], which has some hundred bytes.
pub const MAX_PACKAGE: u64 = 1 << 20;

/// The place of it, for reports and notices.
pub(in crate::config) const LOCUS: &str = "@system[0].compat_version";

const TYPE: &[u8] = b"system";
const OPTION: &[u8] = b"compat_version";

/// Of a new file; a package that is there keeps its own.
const META: Meta = Meta {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

/// The compatibility version that a package bears; `None` if it is no package.
///
/// One that cannot be read is taken for 1.0, as stock tools do: it is the oldest, and fits fewest
/// images.
#[must_use]
pub fn read(package: &[u8]) -> Option<Compat> {
    Package::parse(package).ok().map(|package| of(&package))
}

fn of(package: &Package) -> Compat {
    let mut sections = package.sections.iter();
    let system = sections.find(|section| section.kind == TYPE);
    let text = match system.and_then(|system| system.get(OPTION)) {
        Some(Value::One(text)) => std::str::from_utf8(text).ok(),
        _ => None,
    };
    let compat = text.and_then(|text| Compat::parse(text).ok());
    compat.unwrap_or_default()
}

/// The package with this version, all else as it was; `None` if it bears it, or cannot bear any.
pub(in crate::config) fn with(package: &[u8], compat: &Compat) -> Option<Vec<u8>> {
    let mut package = Package::parse(package).ok()?;
    if of(&package) == *compat {
        return None;
    }
    let mut sections = package.sections.iter_mut();
    let system = sections.find(|section| section.kind == TYPE)?;
    system.set(OPTION, Value::One(compat.as_str().as_bytes().to_vec()));
    Some(package.print())
}

/// Writes it into all three versions of a configuration, so that it stands whichever wins; tells of
/// the user's as of a step.
///
/// # Errors
/// When a package cannot be read.
pub(in crate::config) fn write(
    [base, user, new]: [&mut Tree; 3],
    compat: &Compat,
) -> Result<Option<StepReport>, ConfigError> {
    let path = path();
    for tree in [base, new] {
        put(tree, &path, compat)?;
    }
    let before = put(user, &path, compat)?;
    Ok(before.map(|before| StepReport {
        id: format!("compat_version {before} -> {compat}"),
        component: "system".to_owned(),
        direction: Direction::Forward,
        touched: vec![format!("{path}#{LOCUS}")],
        skipped: Vec::new(),
        lost: Vec::new(),
    }))
}

/// Writes it into one; the version before, if that was another.
fn put(tree: &mut Tree, path: &EntryPath, compat: &Compat) -> Result<Option<Compat>, ConfigError> {
    let Some(text) = tree.bytes(path, MAX_PACKAGE)? else {
        return Ok(None);
    };
    let Some(changed) = with(&text, compat) else {
        return Ok(None);
    };
    tree.put(path, &changed, META);
    Ok(read(&text))
}

/// [`PACKAGE`] as a path.
pub(in crate::config) fn path() -> EntryPath {
    EntryPath::new(PACKAGE.as_bytes()).expect("a constant, and a path")
}
