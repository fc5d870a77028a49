//! The answer of `-T`: what OpenWrt's `validate_firmware_image` says of an image, and why.
//!
//! ```text
//! { "valid": false, "forceable": true, "allow_backup": true,
//!   "tests": { "fwtool_signature": true, "fwtool_device_match": false, "upgrade": true },
//!   "refusals": [ { "reason": "wrong-board", "message": ..., "hint": ..., ... } ],
//!   "image": { "kind": "sysupgrade tar", "board": "acme,router-a1", "boards": [...], "version": "24.10.1",
//!              "signature": { "state": "good", "key": "ef907fab69385a8d" } } }
//! ```
//!
//! The keys of the first two lines are OpenWrt's, but for `upgrade`, which is all that this machine and
//! its configuration say. `allow_backup` is false where the image may be installed, but not with the
//! configuration of this system; that is the same answer whether or not it was to be kept. What is
//! told of an image whose signature is not good is what it says of itself.

use serde_json::{Map, Value, json};

use super::answer::to_value;
use crate::image::candidate::{Contents, Shown};
use crate::report::{Reason, Refusal};

/// What was found out about an image.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// What it says of itself.
    pub(super) shown: Shown,
    /// What it is, once its signature was found good.
    pub(super) contents: Option<Contents>,
    /// Its signature was found good, and then something that it covers was refused.
    pub(super) is_signed: bool,
    /// The configuration may go with it.
    pub(super) may_keep: bool,
    /// The rules that say no.
    pub(super) refusals: Vec<Refusal>,
    /// It could not be examined, and not because of a rule.
    pub(super) failed: bool,
}

impl Verdict {
    fn says_no(&self, rules: &[Reason]) -> bool {
        self.refusals
            .iter()
            .any(|refusal| rules.contains(&refusal.reason))
    }

    pub(super) fn document(&self) -> Map<String, Value> {
        let valid = self.refusals.is_empty() && !self.failed;
        let is_signed = self.contents.is_some() || self.is_signed;
        let signature = is_signed && !self.says_no(SIGNATURE);
        let device = (is_signed || self.says_no(SIGNATURE)) && !self.says_no(DEVICE);
        let others = |refusal: &Refusal| {
            !SIGNATURE.contains(&refusal.reason) && !DEVICE.contains(&refusal.reason)
        };
        let upgrade = !self.failed && !self.refusals.iter().any(others);
        let contents = self.contents.as_ref().unwrap_or(&self.shown.claims);
        let document = json!({
            "valid": valid,
            "forceable": !self.failed && self.refusals.iter().all(|refusal| refusal.forceable),
            "allow_backup": self.may_keep,
            "tests": {
                "fwtool_signature": signature,
                "fwtool_device_match": device,
                "upgrade": upgrade,
            },
            "refusals": to_value(&self.refusals),
            "image": {
                "kind": contents.format.to_string(),
                "board": contents.boards.first(),
                "boards": contents.boards,
                "version": contents.version,
                "signature": { "state": self.signature(), "key": self.key() },
            },
        });
        match document {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn signature(&self) -> &'static str {
        let state = self.refusals.iter().find_map(|refusal| {
            Some(match refusal.reason {
                Reason::SignatureMissing => "absent",
                Reason::UnknownKey => "unknown-key",
                Reason::BadSignature => "bad",
                Reason::TooFewSignatures => "too-few",
                Reason::RevokedKey => "revoked",
                Reason::CertificateExpired => "expired",
                Reason::CertificateNotYetValid => "not-yet-valid",
                Reason::ClockNotSet => "clock-not-set",
                _ => return None,
            })
        });
        match (state, &self.contents) {
            (Some(state), _) => state,
            (None, Some(contents)) if contents.signers.is_empty() => "absent",
            (None, Some(_)) => "good",
            (None, None) if self.is_signed && self.shown.claims.signers.is_empty() => "absent",
            (None, None) if self.is_signed => "good",
            (None, None) => "unchecked",
        }
    }

    fn key(&self) -> Option<String> {
        let contents = self.contents.as_ref().unwrap_or(&self.shown.claims);
        contents.signers.first().map(ToString::to_string)
    }
}

const SIGNATURE: &[Reason] = &[
    Reason::SignatureMissing,
    Reason::UnknownKey,
    Reason::BadSignature,
    Reason::TooFewSignatures,
    Reason::RevokedKey,
    Reason::CertificateExpired,
    Reason::CertificateNotYetValid,
    Reason::ClockNotSet,
];

const DEVICE: &[Reason] = &[
    Reason::MetadataMissing,
    Reason::MetadataInvalid,
    Reason::WrongBoard,
    Reason::Incompatible,
    Reason::IncompatibleConfig,
];
