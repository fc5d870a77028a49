//! What an image says of itself, without any key.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Encoding, ImageError, Manifest, PartInfo, Unverified};
use crate::report::printable;
use crate::trust::usign::{KeyId, Signature};

/// The head of an image, as both programs show it. Nothing in it has been verified, and both forms
/// say so.
#[derive(Clone, Debug)]
pub struct Inspection {
    manifest: Manifest,
    signers: Vec<KeyId>,
}

impl Inspection {
    /// Of this image.
    ///
    /// # Errors
    /// When manifest or signatures do not make sense.
    pub fn of<R: std::io::Read>(image: &Unverified<R>) -> Result<Self, ImageError> {
        Ok(Self {
            manifest: image.inspect()?,
            signers: image.signatures()?.iter().map(Signature::id).collect(),
        })
    }

    /// For programs.
    ///
    /// # Errors
    /// [`ImageError::Manifest`]
    pub fn to_json(&self) -> Result<Value, ImageError> {
        let signers: Vec<String> = self.signers.iter().map(ToString::to_string).collect();
        let manifest: Value =
            serde_json::from_slice(&self.manifest.to_json()?).map_err(|error| {
                ImageError::Manifest {
                    problem: error.to_string(),
                }
            })?;
        Ok(json!({ "verified": false, "signatures": signers, "manifest": manifest }))
    }

    /// For people; without the last newline.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Self { manifest, signers } = self;
        let mut text = String::from("NOT VERIFIED: this is what the image says of itself");
        let mut line = |name: &str, value: &str| {
            let _ = write!(text, "\n{name:<10} {value}"); // a String cannot fail
        };
        for board in &manifest.boards {
            line("board", &printable(board));
        }
        line("version", &printable(&manifest.version));
        line("security", &manifest.security.to_string());
        line("compat", &printable(&manifest.compat));
        line("engine", &manifest.engine.to_string());
        match &manifest.config {
            Some(config) => line("config", &format!("{} bytes", config.size)),
            None => line("config", "none"),
        }
        for part in &manifest.parts {
            line("part", &describe(part));
        }
        if signers.is_empty() {
            line("signature", "none");
        }
        for signer in signers {
            line("signature", &format!("by key {signer}"));
        }
        text
    }
}

fn describe(part: &PartInfo) -> String {
    let stored = match part.encoding {
        Encoding::Plain => "plain".to_owned(),
        Encoding::Deflate => format!("deflated to {} bytes", part.stored_size),
    };
    format!(
        "{}: {} bytes for {}, {stored}, {} blocks of {}, their table {}, sha256 {}",
        printable(&part.name),
        part.raw_size,
        printable(&part.slot_part),
        part.blocks(),
        part.block_size,
        part.table.size,
        part.raw_sha256,
    )
}
