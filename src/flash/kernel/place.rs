//! What a device node of raw flash is called in a board file: by names, which stay.

use std::path::Path;

use super::sysfs::{Entry, number_of};
use crate::board::{Place, Volume};
use crate::files::Result;

/// The MTD or UBI volume that `/dev/mtd3`, `/dev/ubi0_3` or `/dev/ubi0:name` is now; of any other node,
/// its path.
///
/// # Errors
/// When the kernel does not know it.
pub fn place(root: &Path, node: &str) -> Result<Place> {
    let name = node.strip_prefix("/dev/").unwrap_or_default();
    if number_of(name, "mtd").is_some() {
        return Ok(Place::Mtd(Entry::new(root, "mtd", name).text("name")?));
    }
    let (device, volume) = match (name.split_once(':'), name.split_once('_')) {
        (Some((device, volume)), _) => (device, Some(volume.to_owned())),
        (None, Some((device, number))) if number_of(number, "").is_some() => (device, None),
        _ => (name, None),
    };
    if number_of(device, "ubi").is_none() || device == name {
        return Ok(Place::Path(node.into()));
    }
    let mtd: u32 = Entry::new(root, "ubi", device).number("mtd_num")?;
    let mtd = Entry::new(root, "mtd", &format!("mtd{mtd}")).text("name")?;
    let volume = match volume {
        Some(volume) => volume,
        None => Entry::new(root, "ubi", name).text("name")?,
    };
    Ok(Place::Ubi(Volume { mtd, volume }))
}
