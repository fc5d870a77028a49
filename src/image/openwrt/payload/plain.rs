//! A payload as the flasher sees it: inflated if it is wrapped in gzip.
//!
//! One member and nothing after it: `zcat` would join further members and pass over garbage, but a
//! length that two programs understand differently is no length. The gzip CRC and length are checked
//! when the end is reached, so the end must be read before anything is believed for good.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use thiserror::Error;

/// First bytes of a gzip stream.
pub(super) const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Bytes read from the source at once: 32 system calls for a MiB.
pub(super) const CHUNK: usize = 32 << 10;

/// Why an inflated payload ends early. It travels inside an [`io::Error`]; any other error is the
/// source's own.
#[derive(Debug, Error)]
pub enum PlainError {
    /// More bytes than are wanted.
    #[error("it holds more than {most} bytes")]
    TooLarge {
        /// The most.
        most: u64,
    },
    /// The gzip stream ends too early.
    #[error("the gzip stream is cut short")]
    Truncated,
    /// The gzip stream is broken.
    #[error("the gzip stream is damaged")]
    Damaged(#[source] io::Error),
    /// Bytes after the gzip stream.
    #[error("bytes follow the gzip stream")]
    Trailing,
}

impl From<PlainError> for io::Error {
    fn from(error: PlainError) -> Self {
        let kind = match error {
            PlainError::Truncated => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// The payload, inflated if `gzip`; more than `most` bytes of it are an error. What goes wrong
/// besides the source is a [`PlainError`] inside the [`io::Error`].
pub fn plain<R: Read>(source: R, gzip: bool, most: u64) -> impl Read {
    Plain {
        form: if gzip {
            Form::Gzip(GzDecoder::new(Input::new(source)))
        } else {
            Form::Stored(source)
        },
        most,
        left: most,
    }
}

struct Plain<R> {
    form: Form<R>,
    most: u64,
    left: u64,
}

enum Form<R> {
    Stored(R),
    Gzip(GzDecoder<Input<R>>),
    Ended,
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = match &mut self.form {
            Form::Stored(source) => source.read(buffer)?,
            Form::Gzip(decoder) => {
                let count = inflate(decoder, buffer)?;
                if count == 0 {
                    if !decoder.get_mut().fill_buf()?.is_empty() {
                        return Err(PlainError::Trailing.into());
                    }
                    self.form = Form::Ended;
                }
                count
            }
            Form::Ended => 0,
        };
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or(PlainError::TooLarge { most: self.most })?;
        Ok(count)
    }
}

/// The decoder's errors and the source's come out of the same call; only the input knows which it was.
fn inflate<R: Read>(decoder: &mut GzDecoder<Input<R>>, buffer: &mut [u8]) -> io::Result<usize> {
    decoder.read(buffer).map_err(|error| {
        if decoder.get_ref().failed {
            error
        } else if error.kind() == io::ErrorKind::UnexpectedEof {
            PlainError::Truncated.into()
        } else {
            PlainError::Damaged(error).into()
        }
    })
}

/// A buffer before the decoder that remembers whether an error came from the source.
struct Input<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    failed: bool,
}

impl<R: Read> Input<R> {
    fn new(source: R) -> Self {
        Self {
            source,
            buffer: vec![0; CHUNK].into_boxed_slice(),
            start: 0,
            end: 0,
            failed: false,
        }
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.start == self.end {
            match self.source.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => (self.start, self.end) = (0, count.min(self.buffer.len())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = true;
                    return Err(error);
                }
            }
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
