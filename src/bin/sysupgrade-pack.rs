//! The `sysupgrade-pack` command: makes, signs and shows images on the build host.
//!
//! It is a program of its own so that no router carries code that signs.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use serde_json::json;
use sysupgrade_rs::config::engine::ENGINE;
use sysupgrade_rs::config::steps::{self, CompileError, StepSet};
use sysupgrade_rs::files::{self, FileError, NewFile};
use sysupgrade_rs::image::delta::{DeltaError, Running};
use sysupgrade_rs::image::manifest::{check_block_size, default_block_size};
use sysupgrade_rs::image::openwrt::fwtool;
use sysupgrade_rs::image::openwrt::metadata::{Metadata, Version};
use sysupgrade_rs::image::{
    self, BuildError, Encoding, ImageError, Inspection, OpenWrtSigner, PartSource, Spec,
    Unverified, add_openwrt, openwrt_metadata,
};
use sysupgrade_rs::report::{ExitCode, Reason, printable};
use sysupgrade_rs::trust::ucert;
use sysupgrade_rs::trust::usign::{self, PublicKey, SecretKey, UsignError};
use thiserror::Error;

/// How much is written to the image at a time.
const WRITE_BUFFER: usize = 64 << 10;

/// As long as the certificates of `ucert` are valid.
const VALID_DAYS: u32 = 365;

/// Make, sign and show images for sysupgrade-rs.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 10 not an image or damaged.
#[derive(Parser)]
#[command(name = "sysupgrade-pack", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Keygen(Keygen),
    Certify(Certify),
    Build(Box<Build>),
    Sign(Sign),
    Inspect(Inspect),
    DeltaReport(DeltaReport),
    Steps(Steps),
}

/// Make a key pair and print its fingerprint, the name of the public key in a key directory
#[derive(Args)]
struct Keygen {
    /// File for the secret key; it must not exist
    #[arg(long, value_name = "FILE")]
    secret: PathBuf,
    /// File for the public key; it must not exist
    #[arg(long, value_name = "FILE")]
    public: PathBuf,
    /// Says whose key it is [default: its fingerprint]
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// File for a certificate of the key by itself; it must not exist
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Days that the certificate is valid
    #[arg(long, value_name = "N", default_value_t = VALID_DAYS, requires = "cert")]
    days: u32,
}

/// Make a certificate for stock OpenWrt, valid from SOURCE_DATE_EPOCH or now on
#[derive(Args)]
struct Certify {
    /// Secret key that signs the certificate
    #[arg(long, value_name = "SECRET")]
    key: PathBuf,
    /// Public key it is for [default: the one that signs]
    #[arg(long, value_name = "PUBLIC")]
    subject: Option<PathBuf>,
    /// Certificates of the key that signs, which go before it
    #[arg(long, value_name = "FILE")]
    chain: Option<PathBuf>,
    /// Days that the certificate is valid
    #[arg(long, value_name = "N", default_value_t = VALID_DAYS)]
    days: u32,
    /// File for the record that revokes the key it is for: to be kept until it is needed
    #[arg(long, value_name = "FILE")]
    revocation: Option<PathBuf>,
    /// The certificate
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
}

/// Make an image; the same inputs always give the same bytes
#[derive(Args)]
struct Build {
    /// Board the image is for; give it again for each compatible board
    #[arg(long, value_name = "NAME", required = true)]
    board: Vec<String>,
    /// Version of the new system
    #[arg(long)]
    version: String,
    /// Security number: raise it when an older image must not come back
    #[arg(long, value_name = "N")]
    security: u64,
    /// Compatibility version, as OpenWrt has it
    #[arg(long, value_name = "N.N", default_value = "1.0")]
    compat: String,
    /// Another compatibility version, whose configuration the steps of this image migrate
    #[arg(long, value_name = "N.N", requires = "migrations")]
    migrates_from: Vec<String>,
    /// A part of the slot, and the file for it; give it again for each part
    #[arg(long, value_name = "NAME=FILE", required = true, value_parser = part)]
    part: Vec<PartSource>,
    /// Tree with the default configuration of the new system (etc/...)
    #[arg(long, value_name = "DIR")]
    defaults: Option<PathBuf>,
    /// Directory with the migration steps of the new system, which go into the defaults
    #[arg(long, value_name = "DIR", requires = "defaults")]
    migrations: Option<PathBuf>,
    /// Bytes of a block: a power of two from 4096 to 1048576; delta-report helps to choose [default:
    /// 65536, more if a part has more than 512 MiB]
    #[arg(long, value_name = "N", value_parser = block_size)]
    block_size: Option<u32>,
    /// Deflate the parts
    #[arg(long)]
    deflate: bool,
    /// Secret key to sign with; give it again for more, or none and sign later
    #[arg(long, value_name = "SECRET")]
    key: Vec<PathBuf>,
    /// The image
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    #[command(flatten, next_help_heading = "For stock OpenWrt")]
    openwrt: ForOpenWrt,
    #[command(flatten)]
    openwrt_key: OpenWrtKey,
}

#[derive(Args)]
struct ForOpenWrt {
    /// Let stock OpenWrt install the image, too: metadata at its end, parts plain and named kernel,
    /// root or dtb
    #[arg(long)]
    openwrt_metadata: bool,
    /// Distribution, for people
    #[arg(long, value_name = "NAME", requires = "openwrt_metadata")]
    #[arg(default_value = "OpenWrt")]
    dist: String,
    /// Version, for people [default: the version]
    #[arg(long, value_name = "VERSION", requires = "openwrt_metadata")]
    release: Option<String>,
    /// Revision of the sources, for people
    #[arg(long, value_name = "REVISION", requires = "openwrt_metadata")]
    revision: Option<String>,
    /// Target it was built for, for people
    #[arg(long, value_name = "TARGET", requires = "openwrt_metadata")]
    target: Option<String>,
    /// What stock OpenWrt tells people whose device has another compatibility version
    #[arg(long, value_name = "TEXT", requires = "openwrt_metadata")]
    compat_message: Option<String>,
}

#[derive(Args)]
struct OpenWrtKey {
    /// Secret key to sign with for stock OpenWrt, which does not know the other signatures
    #[arg(long, value_name = "SECRET")]
    openwrt_key: Option<PathBuf>,
    /// Certificates for that key; without them its public half must be on the device
    #[arg(long, value_name = "FILE", requires = "openwrt_key")]
    openwrt_cert: Option<PathBuf>,
}

/// Check an image and add signatures to it
#[derive(Args)]
struct Sign {
    /// Secret key to sign with; give it again for more
    #[arg(long, value_name = "SECRET", required = true)]
    key: Vec<PathBuf>,
    /// The image; it is replaced when all is done
    image: PathBuf,
    #[command(flatten)]
    openwrt_key: OpenWrtKey,
}

/// Show what an image says it is, without checking anything
#[derive(Args)]
struct Inspect {
    /// The answer as one JSON document
    #[arg(long)]
    json: bool,
    /// The image, or - for standard input
    image: PathBuf,
}

/// Count what a router that runs OLD fetches and writes to install NEW, and with which blocks
///
/// Digests are checked, signatures are not.
#[derive(Args)]
struct DeltaReport {
    /// The answer as one JSON document
    #[arg(long)]
    json: bool,
    /// The image that the router runs
    old: PathBuf,
    /// The image that it is to install
    new: PathBuf,
}

/// Check migration steps, try their samples, and list them in their order
#[derive(Args)]
struct Steps {
    /// Write the document that a system has as /lib/upgrade/migrations.json
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Directory with one TOML file a step
    dir: PathBuf,
}

fn part(text: &str) -> Result<PartSource, String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok(PartSource {
            name: name.to_owned(),
            path: PathBuf::from(path),
        }),
        _ => Err("not of the form NAME=FILE".to_owned()),
    }
}

fn block_size(text: &str) -> Result<u32, String> {
    let size = text.parse().map_err(|_| "not a number of bytes")?;
    check_block_size(size)?;
    Ok(size)
}

#[derive(Debug, Error)]
enum PackError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("{}", path.display())]
    Delta { path: PathBuf, source: DeltaError },
    #[error(transparent)]
    Steps(#[from] CompileError),
    #[error("{}", path.display())]
    Key { path: PathBuf, source: UsignError },
    #[error("{} exists already, and a key that is overwritten is lost", path.display())]
    KeyExists { path: PathBuf },
    #[error(
        "SOURCE_DATE_EPOCH is `{}`: not a number of seconds since 1970",
        printable(text)
    )]
    Epoch { text: String },
    #[error("the clock is before 1970")]
    Clock,
    #[error("{} is signed for stock OpenWrt, too, which any change breaks: sign that again with --openwrt-key", path.display())]
    SignedForOpenWrt { path: PathBuf },
    #[error("{} has no metadata for stock OpenWrt, which --openwrt-key would sign: build it with --openwrt-metadata", path.display())]
    NoMetadata { path: PathBuf },
    #[error("cannot write the answer")]
    Answer(#[from] io::Error),
}

impl PackError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Image(error)
            | Self::Build(BuildError::Image(error))
            | Self::Delta {
                source: DeltaError::Image(error),
                ..
            } => error.reason().exit_code(),
            Self::Build(
                BuildError::DeflatedForOpenWrt
                | BuildError::PartForOpenWrt { .. }
                | BuildError::TableTooLong { .. },
            )
            | Self::SignedForOpenWrt { .. }
            | Self::NoMetadata { .. } => ExitCode::Usage,
            Self::Build(BuildError::Fwtool(error)) => match error.reason() {
                Reason::Damaged => ExitCode::NotAnImage,
                _ => ExitCode::Failed,
            },
            // Whoever reads the answer has seen enough of it.
            Self::Answer(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::Done,
            _ => ExitCode::Failed,
        }
    }
}

fn main() -> process::ExitCode {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => return usage(&error),
    };
    let code = match run(command_line.command) {
        Ok(()) => ExitCode::Done,
        Err(error) => {
            let code = error.exit_code();
            if code != ExitCode::Done {
                complain(&error);
            }
            code
        }
    };
    process::ExitCode::from(code as u8)
}

fn usage(error: &clap::Error) -> process::ExitCode {
    let code = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::Done,
        _ => ExitCode::Usage,
    };
    // If even the help cannot be written, there is nobody to tell.
    let _ = error.print();
    process::ExitCode::from(code as u8)
}

fn complain(error: &dyn Error) {
    let mut text = format!("sysupgrade-pack: {error}");
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    let _ = writeln!(io::stderr(), "{text}");
}

fn run(command: Command) -> Result<(), PackError> {
    match command {
        Command::Keygen(args) => keygen(&args),
        Command::Certify(args) => certify(&args),
        Command::Build(args) => build(*args),
        Command::Sign(args) => sign(&args),
        Command::Inspect(args) => inspect(&args),
        Command::DeltaReport(args) => delta_report(&args),
        Command::Steps(args) => steps(&args),
    }
}

fn keygen(args: &Keygen) -> Result<(), PackError> {
    for path in [&args.secret, &args.public].into_iter().chain(&args.cert) {
        if files::exists(path) {
            return Err(PackError::KeyExists { path: path.clone() });
        }
    }
    let secret = SecretKey::from_seed(random()?, &random()?);
    let public = secret.public();
    let id = public.id();
    let comment = args.comment.clone().unwrap_or_else(|| id.to_string());
    let text = secret.to_text(&format!("{comment} secret key"));
    files::replace(&args.secret, text.as_bytes(), 0o600)?;
    let text = public.to_text(&format!("{comment} public key"));
    files::replace(&args.public, text.as_bytes(), 0o644)?;
    if let Some(path) = &args.cert {
        let certificate = certificate(&secret, &public, now()?, args.days);
        files::replace(path, &certificate, 0o644)?;
    }
    writeln!(io::stdout(), "{id}")?;
    Ok(())
}

fn certify(args: &Certify) -> Result<(), PackError> {
    let secret = read_key(&args.key)?;
    let subject = match &args.subject {
        Some(path) => {
            PublicKey::parse(&files::read(path, usign::MAX_KEY_FILE)?).map_err(at(path))?
        }
        None => secret.public(),
    };
    let mut certificates = match &args.chain {
        Some(path) => files::read(path, ucert::MAX_CHAIN as u64)?,
        None => Vec::new(),
    };
    let now = now()?;
    certificates.extend(certificate(&secret, &subject, now, args.days));
    files::replace(&args.output, &certificates, 0o644)?;
    if let Some(path) = &args.revocation {
        let record = ucert::revoke(&secret, subject.id(), now);
        files::replace(path, &record, 0o644)?;
    }
    Ok(())
}

fn certificate(secret: &SecretKey, subject: &PublicKey, now: u64, days: u32) -> Vec<u8> {
    const DAY: u64 = 24 * 60 * 60;
    let until = now.saturating_add(u64::from(days) * DAY);
    ucert::issue(secret, subject, now, until)
}

/// Seconds since 1970. SOURCE_DATE_EPOCH makes builds reproducible:
/// <https://reproducible-builds.org/specs/source-date-epoch/>.
fn now() -> Result<u64, PackError> {
    match env::var_os("SOURCE_DATE_EPOCH") {
        Some(text) => text
            .to_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| PackError::Epoch {
                text: text.to_string_lossy().into_owned(),
            }),
        None => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map(|since| since.as_secs())
            .map_err(|_| PackError::Clock),
    }
}

fn random<const N: usize>() -> Result<[u8; N], FileError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; N];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(FileError::at("read", path))?;
    Ok(bytes)
}

fn read_keys(paths: &[PathBuf]) -> Result<Vec<SecretKey>, PackError> {
    paths.iter().map(|path| read_key(path)).collect()
}

fn read_key(path: &Path) -> Result<SecretKey, PackError> {
    SecretKey::parse(&files::read(path, usign::MAX_KEY_FILE)?).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(UsignError) -> PackError {
    let path = path.to_owned();
    |source| PackError::Key { path, source }
}

fn build(args: Build) -> Result<(), PackError> {
    let keys = read_keys(&args.key)?;
    let mut generated = BTreeMap::new();
    if let Some(dir) = &args.migrations {
        let steps = steps::compile(dir)?;
        generated.insert(PathBuf::from(StepSet::PATH), steps.to_json());
    }
    let openwrt = args.openwrt;
    let signer = openwrt_signer(&args.openwrt_key)?;
    if signer.is_some() && !openwrt.openwrt_metadata {
        return Err(PackError::NoMetadata { path: args.output });
    }
    let version = Version {
        dist: Some(openwrt.dist),
        version: Some(openwrt.release.unwrap_or_else(|| args.version.clone())),
        revision: openwrt.revision,
        target: openwrt.target,
        board: args.board.first().map(|board| board.replace(',', "_")),
    };
    // What is no file has no length yet, and is found missing later.
    let lengths = args.part.iter().map(|part| fs::metadata(&part.path));
    let longest = lengths.flatten().map(|metadata| metadata.len()).max();
    let block_size = args
        .block_size
        .unwrap_or_else(|| default_block_size(longest.unwrap_or_default()));
    let spec = Spec {
        boards: args.board,
        version: args.version,
        security: args.security,
        compat: args.compat,
        migrates_from: args.migrates_from,
        engine: ENGINE,
        parts: args.part,
        defaults: args.defaults,
        generated,
        block_size,
        encoding: if args.deflate {
            Encoding::Deflate
        } else {
            Encoding::Plain
        },
        openwrt: openwrt.openwrt_metadata,
    };
    write_image(&args.output, |file| {
        let manifest = write_buffered(file, |out| image::build(&spec, &keys, out))?;
        if spec.openwrt {
            let metadata = openwrt_metadata(&manifest, version, openwrt.compat_message)
                .map_err(BuildError::from)?;
            add_openwrt(file, &metadata.to_json(), signer.as_ref())?;
        }
        Ok(())
    })
}

fn openwrt_signer(args: &OpenWrtKey) -> Result<Option<OpenWrtSigner>, PackError> {
    let Some(path) = &args.openwrt_key else {
        return Ok(None);
    };
    let certificates = match &args.openwrt_cert {
        Some(path) => files::read(path, ucert::MAX_CHAIN as u64)?,
        None => Vec::new(),
    };
    Ok(Some(OpenWrtSigner {
        key: read_key(path)?,
        certificates,
    }))
}

fn sign(args: &Sign) -> Result<(), PackError> {
    let keys = read_keys(&args.key)?;
    let signer = openwrt_signer(&args.openwrt_key)?;
    let path = || args.image.clone();
    write_image(&args.image, |file| {
        let tail = write_buffered(file, |out| image::sign(&args.image, &keys, out))?;
        if tail.signature.is_some() && signer.is_none() {
            return Err(PackError::SignedForOpenWrt { path: path() });
        }
        match (tail.metadata, &signer) {
            (Some(metadata), signer) => {
                Metadata::parse(&metadata).map_err(BuildError::from)?;
                // It is JSON, and so it is text.
                let metadata = String::from_utf8_lossy(&metadata);
                Ok(add_openwrt(file, &metadata, signer.as_ref())?)
            }
            (None, Some(_)) => Err(PackError::NoMetadata { path: path() }),
            (None, None) => Ok(()),
        }
    })
}

/// The image appears whole under its name, or what was there before stays.
fn write_image(
    path: &Path,
    write: impl FnOnce(&mut NewFile) -> Result<(), PackError>,
) -> Result<(), PackError> {
    let mut file = NewFile::create(path, 0o644)?;
    write(&mut file)?;
    file.commit()?;
    Ok(())
}

fn write_buffered<T>(
    file: &mut NewFile,
    write: impl FnOnce(&mut dyn Write) -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    let mut out = BufWriter::with_capacity(WRITE_BUFFER, file);
    let answer = write(&mut out)?;
    out.flush()?;
    Ok(answer)
}

fn steps(args: &Steps) -> Result<(), PackError> {
    let steps = steps::compile(&args.dir)?;
    if let Some(path) = &args.output {
        files::replace(path, &steps.to_json(), 0o644)?;
    }
    for line in steps.summary() {
        writeln!(io::stdout(), "{line}")?;
    }
    Ok(())
}

/// The metadata at the end of an image, for stock OpenWrt, and whether there is a signature over it.
/// A pipe has no end to look at before all has been read.
fn openwrt_tail(image: &Path) -> Result<Option<(String, bool)>, PackError> {
    if image == Path::new("-") {
        return Ok(None);
    }
    let mut file = File::open(image).map_err(FileError::at("open", image))?;
    let tail = fwtool::read(&mut file).map_err(BuildError::from)?;
    let metadata = tail
        .metadata
        .map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok(metadata.map(|text| (text, tail.signature.is_some())))
}

fn inspect(args: &Inspect) -> Result<(), PackError> {
    let source: Box<dyn Read> = if args.image == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(&args.image).map_err(FileError::at("open", &args.image))?)
    };
    let head = Unverified::open(source)?;
    let inspection = Inspection::of(&head)?;
    let tail = openwrt_tail(&args.image)?;
    let answer = if args.json {
        let mut answer = inspection.to_json()?;
        if let Some((metadata, signed)) = tail {
            answer["openwrt"] = json!({ "metadata": metadata, "signed": signed });
        }
        format!("{answer:#}\n")
    } else {
        let mut answer = inspection.to_text();
        if let Some((metadata, signed)) = tail {
            let signed = if signed { "signed" } else { "not signed" };
            answer += &format!("\nopenwrt    {signed}: {}", printable(metadata.trim_end()));
        }
        answer + "\n"
    };
    io::stdout().write_all(answer.as_bytes())?;
    Ok(())
}

fn delta_report(args: &DeltaReport) -> Result<(), PackError> {
    let open = |path: &PathBuf| File::open(path).map_err(FileError::at("open", path));
    let of = |path: &PathBuf| {
        let path = path.clone();
        |source| PackError::Delta { path, source }
    };
    let running = Running::read(open(&args.old)?).map_err(of(&args.old))?;
    let delta = running.update(open(&args.new)?).map_err(of(&args.new))?;
    let answer = if args.json {
        let answer = serde_json::to_string_pretty(&delta);
        answer.map_err(io::Error::from)?
    } else {
        delta.to_text()
    };
    writeln!(io::stdout(), "{answer}")?;
    Ok(())
}
