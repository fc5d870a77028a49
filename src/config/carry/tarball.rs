//! Gzipped tar, as streams: one member after the other, in bounded memory.
//!
//! Headers are [`tar::Header`]; the framing is done here, because what `tar::Archive` takes in
//! good faith is hostile input to us: names of any length, an archive that just stops, data after
//! its end. Understood are ustar, GNU long names (`L`, `K`) and pax (`x`: path, linkpath, size, uid,
//! gid, mtime). Written are ustar and GNU long names.

use std::borrow::Cow;
use std::io::{self, BufRead, Read, Write};

use flate2::bufread::GzDecoder;
use tar::{EntryType, Header};

use crate::config::ConfigError;
use crate::config::tree::{Kind, Meta};

const BLOCK: usize = 512;

/// The longest name or link target in a GNU long-name record: a path of Linux and its NUL.
const MAX_NAME: u64 = 4096;

/// The longest pax header: two names and some numbers.
const MAX_PAX: u64 = 16 << 10;

fn invalid(problem: impl Into<Cow<'static, str>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into().into_owned())
}

/// What the header of a member says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Member {
    /// As it is in the archive: nothing is known of it.
    pub name: Vec<u8>,
    pub kind: MemberKind,
    pub meta: Meta,
    /// Seconds since 1970.
    pub modified: u64,
    /// Bytes that follow.
    pub size: u64,
}

/// Kinds of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) enum MemberKind {
    File,
    Link(Vec<u8>),
    Dir,
    /// Another name of a file, as it is in the archive.
    HardLink(Vec<u8>),
    /// Device, fifo, or something this program does not know.
    Other,
}

/// Reads members one after the other; as a [`Read`] it is the content of the current one.
pub(in crate::config) struct Members<R> {
    source: R,
    /// Content of the current member not read yet.
    left: u64,
    /// Zeros that follow it.
    padding: u64,
    ended: bool,
}

impl<R: Read> Members<R> {
    pub(in crate::config) fn new(source: R) -> Self {
        Self {
            source,
            left: 0,
            padding: 0,
            ended: false,
        }
    }

    /// The next member; what was not read of the current one is passed over. `None` at the two
    /// zero blocks that end an archive: one that stops without them is an error.
    pub(in crate::config) fn next(&mut self) -> io::Result<Option<Member>> {
        let mut long_name = None;
        let mut long_link = None;
        let mut pax = Pax::default();
        let mut lone_zero = false;
        while !self.ended {
            self.skip_content()?;
            let mut header = Header::new_old();
            self.source.read_exact(header.as_mut_bytes())?;
            if header.as_bytes().iter().all(|byte| *byte == 0) {
                // Stock backups may hold a single zero block in their midst.
                self.ended = lone_zero;
                lone_zero = true;
                continue;
            }
            lone_zero = false;
            check_sum(&header)?;
            let size = header.entry_size()?;
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(self.record(size, MAX_NAME)?),
                EntryType::GNULongLink => long_link = Some(self.record(size, MAX_NAME)?),
                EntryType::XHeader => pax = Pax::parse(&self.record(size, MAX_PAX)?)?,
                EntryType::XGlobalHeader => drop(self.record(size, MAX_PAX)?),
                _ => return self.member(&header, long_name, long_link, pax).map(Some),
            }
        }
        if long_name.is_some() || long_link.is_some() {
            return Err(invalid("a long name belongs to no member"));
        }
        Ok(None)
    }

    /// Reads the source to its end; true if there was more than zeros.
    pub(in crate::config) fn drain(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let mut other = false;
        loop {
            match self.source.read(&mut buffer)? {
                0 => return Ok(other),
                count => other |= buffer[..count].iter().any(|byte| *byte != 0),
            }
        }
    }

    /// What the members are read from.
    pub(in crate::config) fn source(&self) -> &R {
        &self.source
    }

    fn member(
        &mut self,
        header: &Header,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        pax: Pax,
    ) -> io::Result<Member> {
        let name = long_name
            .or(pax.path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || {
            long_link
                .or(pax.linkpath)
                .or_else(|| header.link_name_bytes().map(Cow::into_owned))
                .unwrap_or_default()
        };
        let kind = match header.entry_type() {
            // Old archives mark a directory by a slash at the end of its name.
            EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => MemberKind::Dir,
            EntryType::Regular | EntryType::Continuous => MemberKind::File,
            EntryType::Symlink => MemberKind::Link(link()),
            EntryType::Link => MemberKind::HardLink(link()),
            EntryType::Directory => MemberKind::Dir,
            _ => MemberKind::Other,
        };
        // Of links and directories the size says nothing about what follows.
        let size = match kind {
            MemberKind::File | MemberKind::Other => {
                pax.size.map_or_else(|| header.entry_size(), Ok)?
            }
            _ => 0,
        };
        self.expect(size)?;
        let number =
            |value: u64| u32::try_from(value).map_err(|_| invalid("owner is no 32-bit number"));
        Ok(Member {
            name,
            kind,
            meta: Meta {
                mode: header.mode()? & 0o7777,
                uid: number(pax.uid.map_or_else(|| header.uid(), Ok)?)?,
                gid: number(pax.gid.map_or_else(|| header.gid(), Ok)?)?,
            },
            modified: pax.mtime.map_or_else(|| header.mtime(), Ok).unwrap_or(0),
            size,
        })
    }

    /// Announces content.
    fn expect(&mut self, size: u64) -> io::Result<()> {
        self.left = size;
        self.padding = padding(size);
        size.checked_add(self.padding)
            .map(drop)
            .ok_or_else(|| invalid("size of a member is no 64-bit number"))
    }

    fn record(&mut self, size: u64, max: u64) -> io::Result<Vec<u8>> {
        if size > max {
            return Err(invalid(format!(
                "a name record has {size} bytes, {max} are the most"
            )));
        }
        self.expect(size)?;
        let mut bytes = Vec::new();
        self.by_ref().read_to_end(&mut bytes)?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    fn skip_content(&mut self) -> io::Result<()> {
        let rest = self.left + self.padding;
        let skipped = io::copy(&mut (&mut self.source).take(rest), &mut io::sink())?;
        if skipped < rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let count = self.source.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn check_sum(header: &Header) -> io::Result<()> {
    let sum: u32 = (header.as_bytes().iter().enumerate())
        .map(|(at, byte)| match at {
            148..156 => u32::from(b' '),
            _ => u32::from(*byte),
        })
        .sum();
    if header.cksum()? == sum {
        Ok(())
    } else {
        Err(invalid("checksum of a tar header is wrong"))
    }
}

/// The keys of a pax header that matter here.
#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    linkpath: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<u64>,
}

impl Pax {
    /// Records `LENGTH KEY=VALUE\n`, where LENGTH counts all of it.
    fn parse(mut bytes: &[u8]) -> io::Result<Self> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or_else(|| invalid("bad pax header"))?;
            bytes = rest;
            let number = || {
                let whole = value.split(|byte| *byte == b'.').next().unwrap_or_default();
                std::str::from_utf8(whole).ok()?.parse().ok()
            };
            let needed = || number().ok_or_else(|| invalid("bad number in a pax header"));
            match key {
                b"path" => pax.path = Some(value.to_vec()),
                b"linkpath" => pax.linkpath = Some(value.to_vec()),
                b"size" => pax.size = Some(needed()?),
                b"uid" => pax.uid = Some(needed()?),
                b"gid" => pax.gid = Some(needed()?),
                b"mtime" => pax.mtime = number(),
                _ => {}
            }
        }
        return Ok(pax);

        fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
            let digits = bytes.iter().position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&bytes[..digits]).ok()?.parse().ok()?;
            let text = bytes.get(digits + 1..length)?.strip_suffix(b"\n")?;
            let equals = text.iter().position(|byte| *byte == b'=')?;
            Some((&text[..equals], &text[equals + 1..], &bytes[length..]))
        }
    }
}

/// Writes members.
pub(in crate::config) struct Tarball<W> {
    sink: W,
}

impl<W: Write> Tarball<W> {
    pub(in crate::config) fn new(sink: W) -> Self {
        Self { sink }
    }

    /// Appends a member with the `size` bytes of `content`. Directories get a slash at the end of
    /// their name, as every tar does.
    pub(in crate::config) fn append(
        &mut self,
        name: &[u8],
        target: Option<&[u8]>,
        kind: Kind,
        head: &Head,
        content: &mut dyn Read,
    ) -> Result<(), AppendError> {
        let mut header = Header::new_gnu();
        header.set_mode(head.meta.mode);
        header.set_uid(head.meta.uid.into());
        header.set_gid(head.meta.gid.into());
        header.set_mtime(head.modified);
        header.set_size(head.size);
        if head.made
            && let Some(fields) = header.as_gnu_mut()
        {
            fields.uname[..4].copy_from_slice(b"root");
            fields.gname[..4].copy_from_slice(b"root");
        }
        let mut name = name.to_vec();
        match kind {
            Kind::File => header.set_entry_type(EntryType::Regular),
            Kind::Link => header.set_entry_type(EntryType::Symlink),
            Kind::Dir => {
                header.set_entry_type(EntryType::Directory);
                name.push(b'/');
            }
        }
        let target = target.unwrap_or_default();
        let fields = header.as_old_mut();
        let fits = put(&mut fields.name, &name);
        let target_fits = put(&mut fields.linkname, target);
        if !target_fits {
            self.long_record(EntryType::GNULongLink, target)?;
        }
        if !fits {
            self.long_record(EntryType::GNULongName, &name)?;
        }
        header.set_cksum();
        self.sink.write_all(header.as_bytes())?;
        self.copy(content, head.size)?;
        self.pad(head.size)?;
        Ok(())
    }

    fn copy(&mut self, content: &mut dyn Read, size: u64) -> Result<(), AppendError> {
        let mut buffer = [0; 16 << 10];
        let mut content = content.take(size);
        while content.limit() > 0 {
            match content.read(&mut buffer) {
                Ok(0) => return Err(AppendError::Short),
                Ok(count) => self.sink.write_all(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(AppendError::Source(error)),
            }
        }
        Ok(())
    }

    /// Ends the archive.
    pub(in crate::config) fn finish(mut self) -> io::Result<W> {
        self.sink.write_all(&[0; 2 * BLOCK])?;
        Ok(self.sink)
    }

    fn long_record(&mut self, kind: EntryType, text: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        put(&mut header.as_old_mut().name, b"././@LongLink");
        header.set_entry_type(kind);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let size = text.len() as u64 + 1;
        header.set_size(size);
        header.set_cksum();
        self.sink.write_all(header.as_bytes())?;
        self.sink.write_all(text)?;
        self.sink.write_all(&[0])?;
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        io::copy(&mut io::repeat(0).take(padding(size)), &mut self.sink)?;
        Ok(())
    }
}

/// Why a member could not be appended.
#[derive(Debug)]
pub(in crate::config) enum AppendError {
    /// The content ended before its announced size.
    Short,
    /// The content could not be read.
    Source(io::Error),
    /// The archive could not be written.
    Sink(io::Error),
}

impl AppendError {
    /// For content that cannot fail.
    pub(in crate::config) fn into_write(self) -> ConfigError {
        ConfigError::Write(match self {
            Self::Short => io::ErrorKind::UnexpectedEof.into(),
            Self::Source(error) | Self::Sink(error) => error,
        })
    }
}

impl From<io::Error> for AppendError {
    fn from(error: io::Error) -> Self {
        Self::Sink(error)
    }
}

/// What a member has besides its name and content.
pub(in crate::config) struct Head {
    pub meta: Meta,
    pub modified: u64,
    pub size: u64,
    /// It is no file of a system: stock tools write the name of its owner, which is root, here only.
    pub made: bool,
}

/// Puts text into a field, cut to its length; false if it did not fit.
fn put(field: &mut [u8; 100], text: &[u8]) -> bool {
    let fits = text.len() <= field.len();
    field.fill(0);
    for (place, byte) in field.iter_mut().zip(text) {
        *place = *byte;
    }
    fits
}

/// Unpacks gzip, with its checksums, up to a limit. Reads all of `source`.
pub(in crate::config) struct Gunzip<R> {
    state: State<R>,
    left: u64,
    strict: bool,
    trailing: bool,
}

enum State<R> {
    Inside(GzDecoder<R>),
    Ended,
}

impl<R: BufRead> Gunzip<R> {
    /// `strict`: one gzip member and nothing after it. Else, as gzip does, members are joined, and
    /// other bytes after them are passed over and remembered.
    pub(in crate::config) fn new(source: R, most: u64, strict: bool) -> Self {
        Self {
            state: State::Inside(GzDecoder::new(source)),
            left: most,
            strict,
            trailing: false,
        }
    }

    /// True if there were bytes after the last gzip member.
    pub(in crate::config) fn has_trailing_bytes(&self) -> bool {
        self.trailing
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            let State::Inside(decoder) = &mut self.state else {
                return Ok(0);
            };
            let count = decoder.read(buffer)?;
            if count > 0 {
                self.left = self
                    .left
                    .checked_sub(count as u64)
                    .ok_or_else(|| invalid("unpacks to more than is allowed"))?;
                return Ok(count);
            }
            let State::Inside(decoder) = std::mem::replace(&mut self.state, State::Ended) else {
                return Ok(0);
            };
            let mut source = decoder.into_inner();
            match source.fill_buf()? {
                [] => {}
                _ if self.strict => return Err(invalid("bytes follow the gzip stream")),
                [0x1f, ..] => self.state = State::Inside(GzDecoder::new(source)),
                _ => {
                    self.trailing = true;
                    io::copy(&mut source, &mut io::sink())?;
                }
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Meta = Meta {
        mode: 0o644,
        uid: 0,
        gid: 0,
    };

    fn head(size: u64) -> Head {
        Head {
            meta: PLAIN,
            modified: 0,
            size,
            made: false,
        }
    }

    fn one_file() -> Vec<u8> {
        let mut tarball = Tarball::new(Vec::new());
        let mut content = &b"content"[..];
        tarball
            .append(b"name", None, Kind::File, &head(7), &mut content)
            .unwrap();
        tarball.finish().unwrap()
    }

    fn names(bytes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut members = Members::new(bytes);
        let mut names = Vec::new();
        while let Some(member) = members.next()? {
            names.push(member.name);
        }
        Ok(names)
    }

    #[test]
    fn names_of_every_length_come_back() {
        let mut tarball = Tarball::new(Vec::new());
        let texts: Vec<Vec<u8>> = [1, 99, 100, 101, 511, 512, 4095]
            .map(|n| vec![b'n'; n])
            .into();
        for text in &texts {
            tarball
                .append(text, Some(text), Kind::Link, &head(0), &mut io::empty())
                .unwrap();
        }
        let bytes = tarball.finish().unwrap();
        let mut members = Members::new(&*bytes);
        for text in &texts {
            let member = members.next().unwrap().unwrap();
            assert_eq!(member.name, *text);
            assert_eq!(member.kind, MemberKind::Link(text.clone()));
        }
        assert_eq!(members.next().unwrap(), None);
    }

    #[test]
    fn an_archive_that_just_stops_is_an_error() {
        let whole = one_file();
        assert_eq!(names(&whole).unwrap(), [b"name"]);
        for length in 0..whole.len() {
            assert!(names(&whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn content_that_ends_early_is_no_member() {
        let mut tarball = Tarball::new(Vec::new());
        let mut content = &b"short"[..];
        let appended = tarball.append(b"name", None, Kind::File, &head(6), &mut content);
        assert!(matches!(appended, Err(AppendError::Short)));
    }

    #[test]
    fn pax_headers_are_read_strictly() {
        let pax = Pax::parse(b"15 path=etc/abc\n19 uid=4294967297\n20 mtime=17.123456\n");
        assert!(pax.is_err(), "a length that is too short");
        let pax = Pax::parse(b"16 path=etc/abc\n18 uid=4294967297\n18 mtime=17.12345\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"etc/abc"[..]));
        assert_eq!((pax.uid, pax.mtime), (Some(4_294_967_297), Some(17)));
        for wrong in [
            &b"x path=a\n"[..],
            b"9 path=a",
            b"99 path=a\n",
            b"0 path=a\n",
            b"7 path\n",
            b"11 size=-1\n",
            b"18446744073709551616 a=b\n",
        ] {
            assert!(Pax::parse(wrong).is_err(), "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn name_records_have_a_bound() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(MAX_NAME + 1);
        header.set_cksum();
        let error = Members::new(header.as_bytes().as_slice())
            .next()
            .unwrap_err();
        assert!(error.to_string().contains("4096 are the most"), "{error}");
    }

    #[test]
    fn unpacking_has_a_bound_and_an_end() {
        let gzip = |bytes: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let unpack = |bytes: &[u8], most, strict| {
            let mut gunzip = Gunzip::new(bytes, most, strict);
            let mut plain = Vec::new();
            gunzip.read_to_end(&mut plain)?;
            Ok::<_, io::Error>((plain, gunzip.has_trailing_bytes()))
        };
        let zeros = vec![0; 1000];
        let packed = gzip(&zeros);
        assert_eq!(unpack(&packed, 1000, true).unwrap(), (zeros.clone(), false));
        assert!(unpack(&packed, 999, true).is_err(), "more than is allowed");
        let twice = [packed.as_slice(), &packed].concat();
        assert!(unpack(&twice, 9999, true).is_err(), "one member");
        assert_eq!(unpack(&twice, 9999, false).unwrap().0.len(), 2000);
        let garbage = [packed.as_slice(), b"garbage"].concat();
        assert!(unpack(&garbage, 9999, true).is_err(), "nothing after it");
        assert_eq!(unpack(&garbage, 9999, false).unwrap(), (zeros, true));
    }
}
