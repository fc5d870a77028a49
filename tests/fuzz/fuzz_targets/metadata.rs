//! Metadata that is read reads back as it is written; the rules of compat versions hold for all of it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sysupgrade_rs::image::openwrt::compat::{Compat, Device, Fit, judge};
use sysupgrade_rs::image::openwrt::metadata::Metadata;

fuzz_target!(|text: &[u8]| {
    let Ok(metadata) = Metadata::parse(text) else {
        return;
    };
    let written = metadata.to_json();
    // What is escaped gets longer.
    if written.len() <= 32 << 10 {
        let again = Metadata::parse(written.as_bytes());
        assert_eq!(again.as_ref().ok(), Some(&metadata), "{written}");
    }

    let compat = &metadata.compat;
    assert_eq!(Compat::parse(compat.as_str()).as_ref(), Ok(compat));
    let first = Compat::default();
    assert_eq!(compat.age(&first), first.age(compat).reverse());
    for name in &metadata.devices {
        let device = Device {
            name: name.clone(),
            oem_name: None,
            compat: compat.clone(),
        };
        let fit = judge(&metadata.devices, compat, &device);
        let wanted = match name.is_empty() {
            true => Fit::WrongDevice,
            false => Fit::Fits,
        };
        assert_eq!(fit, wanted);
        let stranger = Device {
            name: format!("{}x", metadata.devices.concat()),
            ..device
        };
        assert_eq!(
            judge(&metadata.devices, compat, &stranger),
            Fit::WrongDevice
        );
    }
});
