//! Under which heading each kind of error is told: a new kind does not compile without one.

use sysupgrade_rs::config::ConfigError;
use sysupgrade_rs::config::report::NoticeKind;
use sysupgrade_rs::image::ImageError;
use sysupgrade_rs::image::openwrt::fwtool::FwtoolError;
use sysupgrade_rs::image::openwrt::metadata::MetadataError;
use sysupgrade_rs::image::openwrt::payload::PayloadError;
use sysupgrade_rs::install::InstallError;
use sysupgrade_rs::report::Reason;
use sysupgrade_rs::system::SystemError;
use sysupgrade_rs::trust::ucert::UcertError;
use sysupgrade_rs::trust::{KeysError, TrustError};

/// A `match` over all variants, which must be exhaustive, and the headings of its arms.
macro_rules! headings {
    ($($type:ident: { $($pattern:pat => $heading:literal,)+ })+) => {
        /// Pairs of a variant and a heading.
        pub(super) fn headings() -> Vec<(&'static str, &'static str)> {
            let mut all = Vec::new();
            $({
                use $type::*;
                #[allow(dead_code, reason = "compiled, and that is what it is for")]
                fn every(error: &$type) {
                    match error { $($pattern => (),)+ }
                }
                $(all.push((concat!(stringify!($type), "::", stringify!($pattern)), $heading));)+
            })+
            all
        }
    };
}

headings! {
    ImageError: {
        Source { .. } => "a source that fails in between",
        NotAnImage { .. } => "nothing on standard input",
        Truncated { .. } => "the image is cut",
        Damaged { .. } => "a header is damaged",
        UnexpectedMember { .. } => "a member is missing",
        WrongSize { .. } => "a member has another size",
        TooLong { .. } => "a signature file that is too long",
        Digest { .. } => "a member has another digest",
        Block { .. } => "a block has other bytes",
        Table { .. } => "a block table that makes no sense",
        Manifest { .. } => "a manifest that is no JSON",
        UnknownFormat { .. } => "an image of a later time",
        Signatures(_) => "signatures that are none",
        Trust(_) => "signed by an unknown key",
        Chunks(_) => "a chunk with a wrong checksum",
        Certificate(_) => "certificates that are none",
        Metadata(_) => "metadata that are no JSON",
        Payload(_) => "a tar that is cut",
        Changed { .. } => "changed while it was read",
        Unfinished { .. } => "a member that was not read",
        Trailing { .. } => "more bytes than belong to the image",
    }
    TrustError: {
        Missing => "not signed",
        UnknownKey { .. } => "signed by an unknown key",
        BadSignature { .. } => "a signature that does not fit",
        TooFew { .. } => "too few have signed",
        Revoked { .. } => "signed by a revoked key",
        BelowFloor { .. } => "below the security floor",
    }
    UcertError: {
        TooLong { .. } => "certificates that are too long",
        Malformed { .. } => "certificates that are none",
        Signature { .. } => "a signature in the certificates that is none",
        Unsigned => "certificates without a signature",
        Field { .. } => "a certificate that lacks a field",
        Type { .. } => "a revocation in the place of a certificate",
        UnknownKey { .. } => "a stock signature by an unknown key",
        OtherKey { .. } => "signed by another key than the certified one",
        BadCertificate { .. } => "a certificate that its issuer did not sign",
        Revoked { .. } => "a certified key that was revoked",
        Expired { .. } => "a certificate that has expired",
        NotYetValid { .. } => "a certificate of a later time",
        ClockNotSet { .. } => "a clock that is not set",
        TooFew { .. } => "one signature where two must be",
    }
    FwtoolError: {
        File { .. } => "a file that cannot be read to its end",
        Checksum { .. } => "a chunk with a wrong checksum",
        Size { .. } => "a chunk with an impossible length",
        TooDeep { .. } => "more chunks than can be seen",
        NoPayload => "chunks about nothing",
        TooLong { .. } => "a chunk that is too long",
    }
    MetadataError: {
        TooLong { .. } => "metadata that are too long",
        Json(_) => "metadata that are no JSON",
        NoDevices { .. } => "metadata without devices",
        Compat { .. } => "metadata with a version that is none",
    }
    PayloadError: {
        Source { .. } => "a payload that cannot be read",
        Empty => "nothing in the payload",
        Truncated { .. } => "a tar that is cut",
        Damaged { .. } => "a tar with a damaged header",
        TooLarge { .. } => "a payload that inflates without end",
        WrongBoard { .. } => "a tar with the directory of another board",
        WrongParts { .. } => "a tar without one of the parts",
    }
    KeysError: {
        File(_) => "a key directory that is not there",
        NotAKey { .. } => "a key that is none",
        Misnamed { .. } => "a key under another name",
        Conflict { .. } => "two keys of one name",
        // The board file is refused before.
        NoThreshold => "a board file with a threshold of 0",
    }
    SystemError: {
        File(_) => "a board file that is named and not there",
        NotText { .. } => "a board file that is no text",
        Board(_) => "a board file with another word for unsigned",
        NoBoard => "no board file",
        RunningSlot { .. } => "the slot that runs is not told",
        Data(_) => "a floor that is no number",
        Trust(_) => "a key that is none",
        Reboot { .. } => "a reboot that fails",
    }
    ConfigError: {
        File(_) => "-r with a file that is not there",
        Write(_) => "an archive that cannot be written",
        Read(_) => "an archive that cannot be read",
        Damaged { .. } => "an archive that contradicts itself",
        TooMuch { .. } => "too much configuration",
        NoSpace { .. } => "too little room for a configuration",
        NotJson { .. } => "a record that is no JSON",
        TooSlow { .. } => "a first boot that takes too long",
        Refused { .. } => "a configuration that cannot be merged",
        Steps(_) => "a configuration that cannot be merged",
        NotAPath { .. } => "a path that is none",
        NoOverlay => "-c without an overlay",
        NoRom => "-u without the image's files",
        NoPackages => "-k without packages",
        NothingKept => "a list that names nothing",
        Changed { .. } => "a file that changes while it is read",
    }
    InstallError: {
        Refused(_) => "a part that is too large",
        Image(_) => "the image is cut",
        Machine(_) => "another run goes on",
        Config(_) => "-c without an overlay, with an image",
        Copy(_) => "a copy that fails",
        NoMedium { .. } => "a part without a medium",
        Flash { .. } => "a medium that fails",
        ReadBack { .. } => "a medium that forgets",
        ArchiveReadBack => "a medium that forgets the archive",
        Stopped => "stopped by a signal",
        Unknown { .. } => "stopped, and the boot environment fails",
        Unfinished { .. } => "stopped after the first write",
    }
    Reason: {
        SourceFailed => "a source that fails in between",
        NotAnImage => "nothing on standard input",
        UnknownFormat => "an image of a later time",
        Damaged => "a header is damaged",
        Truncated => "the image is cut",
        SignatureMissing => "not signed",
        UnknownKey => "signed by an unknown key",
        BadSignature => "a signature that does not fit",
        TooFewSignatures => "too few have signed",
        CertificateExpired => "a certificate that has expired",
        CertificateNotYetValid => "a certificate of a later time",
        ClockNotSet => "a clock that is not set",
        RevokedKey => "signed by a revoked key",
        BelowFloor => "below the security floor",
        MetadataMissing => "no metadata",
        MetadataInvalid => "metadata that are no JSON",
        WrongBoard => "made for another board",
        Incompatible => "another major compatibility version",
        IncompatibleConfig => "another minor compatibility version",
        WrongParts => "parts that the slot has not",
        TooLarge => "a part that is too large",
        NoSpace => "no room for the archive",
        MediumMissing => "a medium that is not there",
        MediumUnusable => "a medium that cannot be used",
        MediumReadOnly => "a medium that is read-only",
        MediumBusy => "a medium that somebody uses",
        MediumFailed => "a medium that fails",
        WornOut => "a medium that is worn out",
        ConfigRefused => "-f with a file that is no archive",
        BoardFile => "a board file with another word for unsigned",
        BootEnvironment => "a boot environment that is none",
        SlotContradiction => "the boot environment speaks of another slot",
        OnTrial => "the running slot is on trial",
        Busy => "another run goes on",
    }
    NoticeKind: {
        ByteOrderMark | CarriageReturn | TrailingComment | Quotes | Blanks | Option | Relative | Upward
        | MatchesNothing | NotAPath | BehindLink | LeadsOut | TooDeep => "keep lists with oddities",
        AbsoluteName | Duplicate | HardLinkOutside | OtherKind | NameLeadsOut | LinkLeadsOut | ThroughLink
        | TrailingBytes | StateFile | SpecialFile | SetIdCleared | AccountRestored => "an archive with oddities",
        Vanished => "notice vanished",
        NotKept => "notice not-kept",
        DeleteChange => "notice delete-change",
        IdReassigned => "notice id-reassigned",
        Restored => "notice restored",
        OrphanKept => "notice orphan-kept",
        ResolutionStale => "notice resolution-stale",
        PolicyLine => "notice policy-line",
        PolicyTooLong => "notice policy-too-long",
        AtticFull => "notice attic-full",
        NoBaseline => "notice no-baseline",
        ChangedMeanwhile => "notice changed-meanwhile",
        CompatStays => "notice compat-stays",
        NoEngine => "notice no-engine",
        StepStays => "notice step-stays",
    }
}
