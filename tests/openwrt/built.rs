//! Images that `sysupgrade-pack build --openwrt-metadata` makes: stock OpenWrt finds in them what its
//! tools look for, and our own reader takes them as any other image of ours.

use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use sysupgrade_rs::image::openwrt::compat::{Compat, Device, Fit, judge};
use sysupgrade_rs::image::openwrt::fwtool::{self, MAX_METADATA, MAX_SIGNATURE, Tail};
use sysupgrade_rs::image::openwrt::metadata::Metadata;
use sysupgrade_rs::image::{OpenWrtSigner, Unverified, add_openwrt};
use sysupgrade_rs::report::Reason;
use sysupgrade_rs::slots::Slot;
use sysupgrade_rs::trust::Trust;
use sysupgrade_rs::trust::ucert;
use sysupgrade_rs::trust::usign::{PublicKey, SecretKey};

use crate::world::router::Booted;
use crate::world::{self, System, World};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// The clock of the build host: 2026-01-01.
const BUILT: i64 = 1_767_225_600;
const DAY: i64 = 24 * 60 * 60;

/// A build host: two parts, a key for the image, and one with a certificate for stock OpenWrt.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Result<Self> {
        let host = Self {
            dir: tempfile::tempdir()?,
        };
        fs::write(host.path("kernel.bin"), b"kernel".repeat(5000))?;
        fs::write(host.path("root.bin"), [b"hsqs", &[7; 70_000][..]].concat())?;
        host.keygen("release", &[])?;
        host.keygen("stock", &["--cert", "stock.ucert"])?;
        Ok(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs sysupgrade-pack with these words.
    fn pack(&self, words: &str) -> Result<Output> {
        self.pack_with(&words.split_whitespace().collect::<Vec<_>>())
    }

    fn pack_with(&self, args: &[&str]) -> Result<Output> {
        Ok(Command::new(env!("CARGO_BIN_EXE_sysupgrade-pack"))
            .args(args)
            .current_dir(self.dir.path())
            .env("SOURCE_DATE_EPOCH", BUILT.to_string())
            .output()?)
    }

    fn keygen(&self, name: &str, more: &[&str]) -> Result {
        let secret = format!("{name}.sec");
        let public = format!("{name}.pub");
        let args = ["keygen", "--secret", &secret, "--public", &public];
        done(&self.pack_with(&[&args, more].concat())?);
        Ok(())
    }

    /// What all images here have in common, then `more`; the image is `image.bin`.
    fn build(&self, more: &str) -> Result<Output> {
        self.pack(&format!(
            "build --board acme,nand-x2 --board acme,nand-x3 --version 24.10.1 --security 1 \
             --part kernel=kernel.bin --part root=root.bin --key release.sec -o image.bin {more}"
        ))
    }

    /// An image with metadata, and what fwtool finds at its end.
    fn built(&self, more: &str) -> Result<Tail> {
        done(&self.build(&format!("--openwrt-metadata {more}"))?);
        self.tail()
    }

    /// An image that is signed for stock OpenWrt, too.
    fn signed(&self) -> Result<Tail> {
        self.built("--openwrt-key stock.sec --openwrt-cert stock.ucert")
    }

    fn tail(&self) -> Result<Tail> {
        Ok(fwtool::read(&mut File::open(self.path("image.bin"))?)?)
    }

    /// Trust in one key of the build host, at this time.
    fn trust(&self, name: &str, now: i64) -> Result<Trust> {
        let file = fs::read(self.path(&format!("{name}.pub")))?;
        let mut trust = Trust::in_any_of([PublicKey::parse(&file)?]);
        trust.now = now;
        Ok(trust)
    }

    /// Whether stock OpenWrt, with this trust, would take the image for a signed one.
    fn stock_verdict(&self, trust: &Trust) -> Result<std::result::Result<bool, Reason>> {
        let chunk = self.tail()?.signature.ok_or("not signed")?;
        let proof = match ucert::verify(&chunk.ucert, trust) {
            Ok(proof) => proof,
            Err(error) => return Ok(Err(error.reason())),
        };
        let mut message = Vec::new();
        let image = File::open(self.path("image.bin"))?;
        image.take(chunk.message).read_to_end(&mut message)?;
        let mut verifier = proof.verifier();
        verifier.update(&message);
        Ok(Ok(verifier.finish()))
    }

    /// Whether we would install it.
    fn our_verdict(&self) -> Result {
        let image = File::open(self.path("image.bin"))?;
        let trust = self.trust("release", BUILT)?;
        Ok(Unverified::open(image)?.verify(&trust)?.check()?)
    }
}

/// It worked, and said nothing that nobody asked for.
#[track_caller]
fn done(output: &Output) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

/// It was refused with this code and these words, and there is no image.
#[track_caller]
fn refused(host: &Host, output: &Output, code: i32, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(words), "{said}");
    assert_eq!(output.status.code(), Some(code));
    assert!(!host.path("image.bin").exists(), "an image all the same");
}

/// Names of the members, as the `tar` of this system lists them.
fn listed(image: &Path) -> Result<Vec<String>> {
    let output = Command::new("tar").arg("tf").arg(image).output()?;
    done(&output);
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(ToOwned::to_owned).collect())
}

/// A member, as the flashers of stock OpenWrt take it out: by its name, whatever its header says of
/// the others.
fn extracted(image: &Path, member: &str) -> Result<Vec<u8>> {
    let name = format!("sysupgrade-acme_nand-x2/{member}");
    let mut tar = Command::new("tar");
    let output = tar.arg("xOf").arg(image).arg(&name).output()?;
    done(&output);
    Ok(output.stdout)
}

#[test]
fn stock_flashers_find_their_members_in_the_tar() -> Result {
    let host = Host::new()?;
    host.signed()?;
    let image = host.path("image.bin");
    let dir = "sysupgrade-acme_nand-x2/";
    let members = listed(&image)?;
    // The flasher takes the first directory, which is an entry of its own; then members by name.
    assert_eq!(members.first().map(String::as_str), Some(dir));
    let wanted = ["CONTROL", "kernel", "root"].map(|name| format!("{dir}{name}"));
    let found: Vec<_> = members
        .iter()
        .filter(|name| wanted.contains(name))
        .collect();
    assert_eq!(
        found,
        wanted.iter().collect::<Vec<_>>(),
        "in this order, each once"
    );
    assert!(members.iter().all(|name| name.starts_with(dir)));

    assert_eq!(extracted(&image, "CONTROL")?, b"BOARD=acme_nand-x2\n");
    assert!(extracted(&image, "kernel")? == fs::read(host.path("kernel.bin"))?);
    let root = extracted(&image, "root")?;
    let mut wanted = fs::read(host.path("root.bin"))?;
    assert_ne!(wanted.len() % 1024, 0, "or nothing is shown");
    wanted.resize(wanted.len().next_multiple_of(1024), 0);
    assert!(root == wanted, "zeros up to 1 KiB");

    for entry in tar::Archive::new(File::open(&image)?).entries()? {
        let entry = entry?;
        let header = entry.header();
        assert_eq!((header.uid()?, header.gid()?, header.mtime()?), (0, 0, 0));
    }
    Ok(())
}

#[test]
fn a_root_that_is_a_multiple_of_1_kib_stays_as_it_is() -> Result {
    let host = Host::new()?;
    for len in [1024, 65_536, 65_536 + 1024] {
        fs::write(host.path("root.bin"), vec![1; len])?;
        host.built("")?;
        assert_eq!(extracted(&host.path("image.bin"), "root")?, vec![1; len]);
    }
    Ok(())
}

#[test]
fn fwtool_finds_the_metadata() -> Result {
    let host = Host::new()?;
    let tail = host.built("--revision r28597-04256 --target mediatek/filogic")?;
    let text = String::from_utf8(tail.metadata.ok_or("no metadata")?)?;
    // As OpenWrt's build writes it, which shell scripts are made for.
    assert_eq!(
        text,
        "{  \"metadata_version\": \"1.1\", \"compat_version\": \"1.0\",  \
         \"supported_devices\":[\"acme,nand-x2\", \"acme,nand-x3\"], \
         \"version\": { \"dist\": \"OpenWrt\", \"version\": \"24.10.1\", \
         \"revision\": \"r28597-04256\", \"target\": \"mediatek/filogic\", \
         \"board\": \"acme_nand-x2\" } }\n"
    );
    assert_eq!(tail.signature, None, "nobody has asked for one");
    let tar = fs::read(host.path("image.bin"))?;
    let end = usize::try_from(tail.payload)?;
    assert_eq!(
        tar[end - 1024..end],
        [0; 1024],
        "it follows the end of the tar"
    );
    host.our_verdict()
}

#[test]
fn the_metadata_lets_on_each_board_what_the_manifest_lets_on_it() -> Result {
    let host = Host::new()?;
    let tail = host.built("--compat 2.0 --dist Acme --release 7")?;
    let metadata = Metadata::parse(&tail.metadata.ok_or("no metadata")?)?;
    assert_eq!(metadata.version.dist.as_deref(), Some("Acme"));
    assert_eq!(metadata.version.version.as_deref(), Some("7"));
    let fit = |name: &str, compat: &str| -> Result<Fit> {
        let device = Device {
            name: name.to_owned(),
            oem_name: None,
            compat: Compat::parse(compat)?,
        };
        Ok(judge(&metadata.devices, &metadata.compat, &device))
    };
    assert_eq!(fit("acme,nand-x2", "2.0")?, Fit::Fits);
    assert_eq!(fit("acme,nand-x3", "2.0")?, Fit::Fits);
    assert_eq!(fit("acme,nand-x4", "2.0")?, Fit::WrongDevice);
    assert!(matches!(fit("acme,nand-x3", "2.1")?, Fit::Minor { .. }));
    assert!(matches!(fit("acme,nand-x3", "1.0")?, Fit::Major { .. }));
    Ok(())
}

#[test]
fn stock_openwrt_accepts_the_signature_for_as_long_as_its_certificate_is_valid() -> Result {
    let host = Host::new()?;
    host.signed()?;
    let verdict = |now| host.stock_verdict(&host.trust("stock", now)?);
    assert_eq!(verdict(BUILT)?, Ok(true));
    assert_eq!(verdict(BUILT + 365 * DAY - 1)?, Ok(true));
    assert_eq!(verdict(BUILT + 365 * DAY)?, Err(Reason::CertificateExpired));
    assert_eq!(verdict(BUILT - 1)?, Err(Reason::CertificateNotYetValid));
    let stranger = host.trust("release", BUILT)?;
    assert_eq!(host.stock_verdict(&stranger)?, Err(Reason::UnknownKey));
    host.our_verdict()
}

#[test]
fn the_signature_covers_every_byte_before_it() -> Result {
    let host = Host::new()?;
    let tail = host.signed()?;
    let metadata_end = usize::try_from(tail.signature.ok_or("not signed")?.message)?;
    let path = host.path("image.bin");
    let image = fs::read(&path)?;
    for at in [
        0,
        image.len() / 2,
        usize::try_from(tail.payload)?,
        metadata_end - 1,
    ] {
        let mut signed = image[..metadata_end].to_vec();
        signed[at] ^= 1;
        let chain = image[metadata_end..image.len() - 16].to_vec();
        fs::write(&path, &signed)?;
        // A checksum is no signature: who changes the image makes it right again.
        let mut file = File::options().read(true).write(true).open(&path)?;
        fwtool::append(&mut file, fwtool::New::Signature(&chain))?;
        // In the metadata, the change makes its own checksum wrong, and that is noticed first.
        if let Ok(verdict) = host.stock_verdict(&host.trust("stock", BUILT)?) {
            assert_eq!(verdict, Ok(false), "byte {at}");
        }
    }
    Ok(())
}

#[test]
fn inspect_shows_what_stock_openwrt_is_told() -> Result {
    let host = Host::new()?;
    let inspect = |words: &str| -> Result<String> {
        let output = host.pack(words)?;
        done(&output);
        Ok(String::from_utf8(output.stdout)?)
    };
    host.built("--target mediatek/filogic")?;
    let text = inspect("inspect image.bin")?;
    let (_, line) = text.rsplit_once("\nopenwrt ").ok_or("no line")?;
    assert!(
        line.contains("not signed: {") && line.contains("mediatek/filogic"),
        "{line}"
    );
    host.signed()?;
    let answer: Value = serde_json::from_str(&inspect("inspect --json image.bin")?)?;
    assert_eq!(answer["openwrt"]["signed"], true);
    let metadata = answer["openwrt"]["metadata"].as_str().ok_or("no text")?;
    assert_eq!(Metadata::parse(metadata.as_bytes())?.devices.len(), 2);
    done(&host.build("")?);
    assert!(!inspect("inspect image.bin")?.contains("openwrt"));
    Ok(())
}

#[test]
fn the_same_inputs_give_the_same_bytes() -> Result {
    let host = Host::new()?;
    host.signed()?;
    let first = fs::read(host.path("image.bin"))?;
    let certificate = fs::read(host.path("stock.ucert"))?;
    done(&host.pack("certify --key stock.sec -o stock.ucert")?);
    assert!(fs::read(host.path("stock.ucert"))? == certificate);
    host.signed()?;
    assert!(fs::read(host.path("image.bin"))? == first);
    Ok(())
}

#[test]
fn the_largest_tail_that_stock_openwrt_reads_is_no_obstacle_for_us() -> Result {
    let host = Host::new()?;
    let most = usize::try_from(MAX_METADATA)?;
    let message = "m".repeat(most);
    let build = |len: usize| {
        let mut args = "build --board acme,nand-x2 --version 2 --security 1 --part root=root.bin \
                        --key release.sec -o image.bin --openwrt-metadata \
                        --openwrt-key stock.sec --openwrt-cert stock.ucert --compat-message"
            .split_whitespace()
            .collect::<Vec<_>>();
        args.push(&message[..len]);
        host.pack_with(&args)
    };
    refused(&host, &build(most)?, 1, "30720");
    done(&build(0)?);
    let without = host.tail()?.metadata.ok_or("no metadata")?.len();
    done(&build(most - without)?);
    assert_eq!(host.tail()?.metadata.map(|text| text.len()), Some(most));
    host.our_verdict()
}

#[test]
fn our_own_upgrade_installs_what_stock_openwrt_would_install() -> Result {
    let world = World::new(&System::new(1))?;
    let router = &world.router;
    let boot = || router.boot(|| world::first_boot(router));
    assert!(matches!(boot()?, Booted::Up(Slot::First)));
    let bytes = world.image_with(&System::new(2), &|spec| spec.openwrt = true)?;
    let mut image = std::io::Cursor::new(bytes);
    let signer = OpenWrtSigner {
        key: world::secret_key(),
        certificates: Vec::new(),
    };
    add_openwrt(&mut image, "{}", Some(&signer))?;
    world::install(router, image.get_ref(), true)?;
    assert!(matches!(boot()?, Booted::Up(Slot::Second)));
    assert!(world::confirm(router)?);
    Ok(())
}

#[test]
fn what_stock_openwrt_would_install_differently_is_not_built() -> Result {
    let host = Host::new()?;
    let deflated = host.build("--openwrt-metadata --deflate")?;
    refused(&host, &deflated, 2, "plain parts");
    let part = host.build("--openwrt-metadata --part rootfs=root.bin")?;
    refused(&host, &part, 2, "would not install the part `rootfs`");
    done(&host.build("--openwrt-metadata --part dtb=kernel.bin")?);
    Ok(())
}

#[test]
fn a_signature_that_stock_openwrt_would_not_accept_is_not_made() -> Result {
    let host = Host::new()?;
    host.keygen("other", &[])?;
    let other =
        host.build("--openwrt-metadata --openwrt-key other.sec --openwrt-cert stock.ucert")?;
    refused(&host, &other, 1, "that the certificate is for");
    // fwtool would leave out a longer one, and say that all is well.
    done(
        &host
            .pack("certify --key stock.sec --subject other.pub --chain stock.ucert -o two.ucert")?,
    );
    done(
        &host.pack(
            "certify --key other.sec --subject release.pub --chain two.ucert -o three.ucert",
        )?,
    );
    let long = "--openwrt-metadata --openwrt-key release.sec --openwrt-cert three.ucert";
    refused(&host, &host.build(long)?, 1, &MAX_SIGNATURE.to_string());
    let alone = host.build("--openwrt-key stock.sec")?;
    refused(&host, &alone, 2, "--openwrt-metadata");
    Ok(())
}

#[test]
fn certificates_lead_from_the_key_on_the_device_to_the_one_that_signs() -> Result {
    let host = Host::new()?;
    host.keygen("builder", &[])?;
    done(&host.pack("certify --key stock.sec --subject builder.pub -o builder.ucert")?);
    host.built("--openwrt-key builder.sec --openwrt-cert builder.ucert")?;
    let trust = host.trust("stock", BUILT)?;
    assert_eq!(host.stock_verdict(&trust)?, Ok(true));

    // Without certificates the key itself is on the device, and there is no date.
    host.built("--openwrt-key stock.sec")?;
    let trust = host.trust("stock", i64::MAX)?;
    assert_eq!(host.stock_verdict(&trust)?, Ok(true));
    Ok(())
}

#[test]
fn an_image_that_is_signed_later_keeps_its_metadata() -> Result {
    let host = Host::new()?;
    host.keygen("later", &[])?;
    let before = host.built("")?;
    done(&host.pack("sign --key later.sec image.bin")?);
    let after = host.tail()?;
    assert!(after.signature.is_none());
    // Two signatures take no more blocks of the tar than one.
    assert_eq!(
        after.payload, before.payload,
        "nothing of the old tail is left"
    );
    assert_eq!(after.metadata, before.metadata);
    let trust = host.trust("later", BUILT)?;
    let image = File::open(host.path("image.bin"))?;
    Unverified::open(image)?.verify(&trust)?.check()?;
    host.our_verdict()
}

#[test]
fn a_signature_for_stock_openwrt_is_not_lost_when_another_is_added() -> Result {
    let host = Host::new()?;
    host.keygen("later", &[])?;
    let before = host.signed()?;
    let image = fs::read(host.path("image.bin"))?;
    let output = host.pack("sign --key later.sec image.bin")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("--openwrt-key"), "{said}");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        fs::read(host.path("image.bin"))? == image,
        "it stays as it was"
    );

    done(&host.pack(
        "sign --key later.sec --openwrt-key stock.sec --openwrt-cert stock.ucert image.bin",
    )?);
    assert_eq!(host.tail()?.metadata, before.metadata);
    let trust = host.trust("stock", BUILT)?;
    assert_eq!(host.stock_verdict(&trust)?, Ok(true));
    host.our_verdict()
}

#[test]
fn an_image_whose_metadata_is_damaged_is_not_signed() -> Result {
    let host = Host::new()?;
    host.keygen("later", &[])?;
    let at = usize::try_from(host.built("")?.payload)? + 20;
    let mut image = fs::read(host.path("image.bin"))?;
    image[at] ^= 1;
    fs::write(host.path("image.bin"), &image)?;
    let output = host.pack("sign --key later.sec image.bin")?;
    assert_eq!(output.status.code(), Some(10));
    assert!(
        fs::read(host.path("image.bin"))? == image,
        "it stays as it was"
    );
    Ok(())
}

#[test]
fn metadata_that_an_image_does_not_have_is_not_signed() -> Result {
    let host = Host::new()?;
    host.keygen("later", &[])?;
    done(&host.build("")?);
    let image = fs::read(host.path("image.bin"))?;
    let output = host.pack("sign --key later.sec --openwrt-key stock.sec image.bin")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("has no metadata"), "{said}");
    assert!(
        fs::read(host.path("image.bin"))? == image,
        "it stays as it was"
    );
    Ok(())
}

#[test]
fn no_key_and_no_certificate_is_made_where_something_is() -> Result {
    let host = Host::new()?;
    let certificate = fs::read(host.path("stock.ucert"))?;
    let output = host.pack("keygen --secret new.sec --public new.pub --cert stock.ucert")?;
    assert_eq!(output.status.code(), Some(1));
    assert!(!host.path("new.sec").exists());
    assert!(fs::read(host.path("stock.ucert"))? == certificate);
    Ok(())
}

#[test]
fn a_revocation_record_is_made_with_the_certificate() -> Result {
    let host = Host::new()?;
    host.keygen("builder", &[])?;
    done(&host.pack(
        "certify --key stock.sec --subject builder.pub --revocation revoke -o builder.ucert",
    )?);
    let record = fs::read(host.path("revoke"))?;
    let key = PublicKey::parse(&fs::read(host.path("builder.pub"))?)?.id();
    let digits = key.to_string().into_bytes();
    assert!(
        record.windows(16).any(|bytes| bytes == digits),
        "it names {key}"
    );
    // It is an element like a certificate, and must not pass for one.
    host.built("--openwrt-key builder.sec --openwrt-cert builder.ucert")?;
    let mut bytes = Vec::new();
    let image = File::open(host.path("image.bin"))?;
    image.take(host.tail()?.payload).read_to_end(&mut bytes)?;
    let mut image = std::io::Cursor::new(bytes);
    let secret = fs::read(host.path("builder.sec"))?;
    let signer = OpenWrtSigner {
        key: SecretKey::parse(&secret)?,
        certificates: record,
    };
    add_openwrt(&mut image, "{}", Some(&signer)).unwrap_err();
    Ok(())
}

#[test]
fn a_date_that_is_none_is_refused() -> Result {
    let host = Host::new()?;
    let output = Command::new(env!("CARGO_BIN_EXE_sysupgrade-pack"))
        .args(["certify", "--key", "stock.sec", "-o", "late.ucert"])
        .current_dir(host.dir.path())
        .env("SOURCE_DATE_EPOCH", "today")
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("SOURCE_DATE_EPOCH is `today`"), "{said}");
    assert!(!host.path("late.ucert").exists());
    Ok(())
}
