//! Where the parts of a package were read: what lets an edit change one line of a file and no other.
//!
//! A text is cut at the ends of its statements. A comment behind a statement on its line belongs to it,
//! and so do the lines above it. But what a blank line parts from the statement below belongs to the
//! file: the head of the file, captions, and what somebody has commented out at the end of a section.
//!
//! ```text
//!  loose ─  # option target 'DROP'
//!
//!   from ┬
//!        │  # why this rule is here
//!        │  config rule 'ping' # stays
//!        │  └────┘ └──┘ └────┘
//!    end ┴  words
//! ```

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::parse::{Keyword, Lexer, Line};

/// A statement in the text that it was read from. Every option has one at least, and a merge three packages:
/// places are 32 bits, which [`MAX_TEXT`](super::MAX_TEXT) is far below.
#[derive(Clone)]
pub(super) struct Statement {
    pub(super) text: Arc<[u8]>,
    from: u32,
    words: [Range<u32>; 3],
    end: u32,
}

impl Statement {
    /// With all that belongs to it, from `from` to the end of the line.
    pub(super) fn new(text: &Arc<[u8]>, from: usize, line: &Line) -> Self {
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            text: Arc::clone(text),
            from: place(from),
            words: line
                .words
                .clone()
                .map(|word| place(word.start)..place(word.end)),
            end: place(line.end),
        }
    }

    /// Where it begins and ends, with all that belongs to it.
    pub(super) fn place(&self) -> Range<usize> {
        self.from as usize..self.end as usize
    }

    /// The statement with all that belongs to it.
    pub(super) fn all(&self) -> &[u8] {
        self.slice(self.from..self.end)
    }

    /// What belongs to it above, up to its keyword.
    pub(super) fn above(&self) -> &[u8] {
        self.slice(self.from..self.words[0].start)
    }

    pub(super) fn keyword(&self) -> Option<Keyword> {
        Keyword::read(self.slice(self.words[0].clone()))
    }

    /// What its second word means.
    pub(super) fn second(&self) -> Vec<u8> {
        Lexer::decode(self.slice(self.words[2].clone()))
    }

    /// Writes the statement so that it says `keyword first second`. Words that mean this already
    /// stay as they were written, and so does all around them.
    pub(super) fn rewrite(
        &self,
        out: &mut Vec<u8>,
        keyword: Keyword,
        first: &[u8],
        second: Option<&[u8]>,
    ) {
        let [keyword_at, first_at, second_at] = &self.words;
        out.extend(self.above());
        if self.keyword() == Some(keyword) {
            out.extend(self.slice(keyword_at.clone()));
        } else {
            out.extend(keyword.as_bytes());
        }
        out.extend(self.slice(keyword_at.end..first_at.start));
        let written = self.slice(first_at.clone());
        if Lexer::decode(written) == first {
            out.extend(written);
        } else {
            bare(out, first);
        }
        let gap = self.slice(first_at.end..second_at.start);
        if self.second() == second.unwrap_or_default() {
            out.extend(gap);
            out.extend(self.slice(second_at.clone()));
        } else if let Some(second) = second {
            out.extend(if gap.is_empty() { b" " } else { gap });
            quote(out, second);
        }
        out.extend(self.slice(second_at.end..self.end));
    }

    fn slice(&self, range: Range<u32>) -> &[u8] {
        let range = range.start as usize..range.end as usize;
        self.text.get(range).unwrap_or_default()
    }
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.all()))
    }
}

/// Writes a word without quotes if that is possible.
pub(super) fn bare(out: &mut Vec<u8>, word: &[u8]) {
    if Lexer::decode(word) == word && !word.is_empty() {
        out.extend(word);
    } else {
        quote(out, word);
    }
}

/// Writes a word in single quotes, where nothing but a single quote needs care.
pub(super) fn quote(out: &mut Vec<u8>, word: &[u8]) {
    out.push(b'\'');
    for byte in word {
        match byte {
            b'\'' => out.extend(br"'\''"),
            byte => out.push(*byte),
        }
    }
    out.push(b'\'');
}
