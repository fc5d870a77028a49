//! GRUB's environment block: a file of 1024 bytes that GRUB reads (`load_env`) and rewrites in
//! place, without knowing the file system, by the blocks that hold it (`save_env`).
//!
//! ```text
//! # GRUB Environment Block\n       the head, exactly this
//! # any comment\n                  lines that begin with '#'
//! name=value\n                     '\' and '\n' in a value have a '\' before them
//! ##############################   '#' up to the last byte
//! ```
//!
//! GRUB never saves into a block whose lines are not followed by `#` up to the end, yet still reads
//! its lines: a trial would never be counted down and never end. So does [`Bootloader::load`] here,
//! [`Bootloader::flaws`] tells, and a store makes the block whole before anything else changes.
//!
//! A block with a line without `=`, which GRUB takes for the beginning of the next name, is
//! [`BootError::Damaged`], and so is one without the head, of which GRUB reads nothing:
//! [`Bootloader::repair`] writes a new one with the lines that can be read of it.
//! GRUB reads the last and saves into the first of two lines of one name: one of our variables standing
//! twice is refused when it is read and mended when it is written.
//!
//! # Power cuts
//!
//! The values of [`order`](super::order) never change their width, so a store changes bytes in place
//! only, and no mix of old and new bytes boots a slot that is not whole; there too is the reason.
//! Where our variables are missing or of another width, a store puts them first in the block: from
//! then on all its writes fall into the first sector of 512 bytes, which disks write as one.
//!
//! Two writes mend a block, each synced: first what follows the lines becomes `#`, then the variables
//! change. A cut between them leaves the old state, and GRUB able to count. A repair is one write; of two
//! sectors either may land first. A cut leaves a block as unreadable as before, the lines that GRUB has
//! read of it all the time, or the new state, at worst to be mended by the next store: no slot is on
//! trial in it.

use std::path::{Path, PathBuf};

use super::order::{HINT, Order};
use super::{BootError, Bootloader, read_medium, write_and_prove};
use crate::files::{self, InPlace};
use crate::report::describe;
use crate::slots::BootState;

/// All GRUB environment blocks have this size.
const LEN: usize = 1024;

/// What is wrong with a block that GRUB reads and does not save into.
const NO_PADDING: &str = "its lines are not followed by `#` up to the end";

const HEAD: &[u8] = b"# GRUB Environment Block\n";

/// A GRUB environment block in a file or block device, with the layout `order`.
#[derive(Debug)]
pub struct GrubEnv {
    path: PathBuf,
    offset: u64,
    order: Order,
}

impl GrubEnv {
    /// The block in this file, for slots of these names (in the order of the board file). The file
    /// is opened when it is read or written.
    #[must_use]
    pub fn new(path: PathBuf, names: [String; 2]) -> Self {
        Self {
            path,
            offset: 0,
            order: Order::new(names),
        }
    }

    /// The same, with the block at this byte of the file or device.
    #[must_use]
    pub fn at(self, offset: u64) -> Self {
        Self { offset, ..self }
    }

    /// The bytes of a new block that holds `state`, as a factory image has it.
    ///
    /// # Errors
    /// [`BootError::Full`] for slot names of hundreds of letters.
    pub fn format(names: [String; 2], state: &BootState) -> Result<Vec<u8>, BootError> {
        let mut block = Block::default();
        block.set(&Order::new(names).variables(state));
        block.encode(Path::new("a new GRUB environment"))
    }

    fn read(&self, file: &InPlace) -> Result<(Vec<u8>, Block), BootError> {
        // GRUB takes a whole file for the block, whatever its size.
        if self.offset == 0 && file.len() != LEN as u64 {
            let problem = format!("{} bytes, a GRUB environment block has {LEN}", file.len());
            return Err(damaged(&self.path, problem));
        }
        let bytes = read_medium(file, self.offset, LEN)?;
        let block = Block::parse(&bytes, &self.path)?;
        Ok((bytes, block))
    }

    /// Writes a new block over one that nobody can read. A file of another size becomes another file.
    fn renew(&self, state: &BootState) -> Result<(), BootError> {
        let (mut block, medium) = match InPlace::open(&self.path) {
            Ok(file) if self.offset == 0 && file.len() != LEN as u64 => (Block::default(), None),
            Ok(file) => {
                let bytes = read_medium(&file, self.offset, LEN)?;
                (Block::salvage(&bytes), Some((file, bytes)))
            }
            Err(error) => return Err(error.into()),
        };
        block.set(&self.order.variables(state));
        let new = block.encode(&self.path)?;
        let Some((file, old)) = medium else {
            // Through a link, which some systems have there.
            let path = self.path.canonicalize();
            let path = path.as_ref().unwrap_or(&self.path);
            return Ok(files::replace(path, &new, 0o644)?);
        };
        write_and_prove(&file, self.offset, &old, &new)
    }
}

impl Bootloader for GrubEnv {
    fn load(&mut self) -> Result<BootState, BootError> {
        let (_, block) = self.read(&InPlace::open_read_only(&self.path)?)?;
        block.state(&self.order, &self.path)
    }

    fn store(&mut self, state: &BootState) -> Result<(), BootError> {
        let file = InPlace::open(&self.path)?;
        let (mut old, mut block) = self.read(&file)?;
        if !block.rest.is_empty() {
            block.rest.clear();
            let whole = block.encode(&self.path)?;
            write_and_prove(&file, self.offset, &old, &whole)?;
            old = whole;
        }
        block.set(&self.order.variables(state));
        let new = block.encode(&self.path)?;
        write_and_prove(&file, self.offset, &old, &new)
    }

    fn flaws(&mut self) -> Result<Vec<String>, BootError> {
        let (_, block) = self.read(&InPlace::open_read_only(&self.path)?)?;
        block.state(&self.order, &self.path)?;
        let flaw = || {
            let path = self.path.display();
            format!("{path}: {NO_PADDING}: GRUB reads it, and could count no boot of a trial in it")
        };
        Ok((!block.rest.is_empty()).then(flaw).into_iter().collect())
    }

    fn repair(&mut self, state: &BootState) -> Result<Vec<String>, BootError> {
        let path = self.path.display();
        let read = InPlace::open_read_only(&self.path).map_err(BootError::from);
        let done = match read.and_then(|file| self.read(&file)) {
            Ok((_, block)) => {
                let mended = match block.rest.is_empty() {
                    true => "the state was stored anew",
                    false => "what follows its lines is `#` up to the end again",
                };
                let done = format!("{path}: {mended}");
                self.store(state)?;
                done
            }
            Err(error) => {
                let done = format!("{}: a new block was written", describe(&error));
                self.renew(state)?;
                done
            }
        };
        Ok(vec![done])
    }
}

fn damaged(path: &Path, problem: impl Into<String>) -> BootError {
    BootError::Damaged {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

/// The lines of a block, comments among them, each with its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Block {
    lines: Vec<Vec<u8>>,
    /// What follows the lines and is neither a line nor padding: GRUB reads what stands before it, and
    /// saves nothing.
    rest: Vec<u8>,
}

impl Block {
    fn parse(bytes: &[u8], path: &Path) -> Result<Self, BootError> {
        let Some(block) = Self::split(bytes) else {
            return Err(damaged(path, "does not begin as a GRUB environment block"));
        };
        match block.lines.iter().position(|line| !is_whole(line)) {
            Some(at) => Err(damaged(path, format!("line {} has no `=`", at + 2))),
            None => Ok(block),
        }
    }

    /// The lines that can be read of a block that is damaged.
    fn salvage(bytes: &[u8]) -> Self {
        let mut block = Self::split(bytes).unwrap_or_default();
        block.lines.retain(|line| is_whole(line));
        block.rest.clear();
        block
    }

    fn split(bytes: &[u8]) -> Option<Self> {
        let body = bytes.strip_prefix(HEAD)?;
        let padding = body.iter().rev().take_while(|byte| **byte == b'#').count();
        let mut rest = &body[..body.len() - padding];
        let mut lines = Vec::new();
        while let Some(end) = line_end(rest) {
            let (line, after) = rest.split_at(end);
            lines.push(line.to_vec());
            rest = after;
        }
        let rest = rest.to_vec();
        Some(Self { lines, rest })
    }

    fn encode(&self, path: &Path) -> Result<Vec<u8>, BootError> {
        let mut bytes = HEAD.to_vec();
        bytes.extend(self.lines.iter().flatten());
        bytes.extend(&self.rest);
        if bytes.len() > LEN {
            return Err(BootError::Full {
                path: path.to_owned(),
                need: bytes.len() as u64,
                room: LEN as u64,
            });
        }
        bytes.resize(LEN, b'#');
        Ok(bytes)
    }

    fn state(&self, order: &Order, path: &Path) -> Result<BootState, BootError> {
        for (name, _) in order.variables(&BootState::FACTORY) {
            if self.values(&name).count() > 1 {
                return Err(BootError::Variable {
                    path: path.to_owned(),
                    name,
                    problem: format!("stands there twice; {HINT}"),
                });
            }
        }
        order.read(path, |name| self.values(name).next().map(unescape))
    }

    /// The escaped values of all lines of this name.
    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.lines
            .iter()
            .filter_map(move |line| value_of(line, name))
    }

    /// Gives variables these values: in place where that changes no width, else all of them anew,
    /// before the first other variable.
    fn set(&mut self, variables: &[(String, String)]) {
        let line_of = |(name, value): &(String, String)| format!("{name}={value}\n").into_bytes();
        let fits = variables.iter().all(|(name, value)| {
            let mut values = self.values(name);
            values.next().is_some_and(|old| old.len() == value.len()) && values.next().is_none()
        });
        if fits {
            for line in &mut self.lines {
                if let Some(variable) = variables
                    .iter()
                    .find(|(name, _)| value_of(line, name).is_some())
                {
                    *line = line_of(variable);
                }
            }
            return;
        }
        self.lines.retain(|line| {
            variables
                .iter()
                .all(|(name, _)| value_of(line, name).is_none())
        });
        let comments = self
            .lines
            .iter()
            .take_while(|line| line.starts_with(b"#"))
            .count();
        self.lines
            .splice(comments..comments, variables.iter().map(line_of));
    }
}

/// True for a comment, and for a line that gives a variable its value.
fn is_whole(line: &[u8]) -> bool {
    line.starts_with(b"#") || line.contains(&b'=')
}

/// The value in a line of this name, escaped, without the line's end.
fn value_of<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    line.strip_prefix(name.as_bytes())?
        .strip_prefix(b"=")?
        .strip_suffix(b"\n")
}

/// Where the first line ends, its newline included: one with a backslash before it is part of a value.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'\n' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn unescape(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => out.extend(bytes.next()),
            _ => out.push(*byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::slots::model::{assert_a_way_home, explore};
    use crate::slots::{Condition, Slot};

    fn names() -> [String; 2] {
        ["a".to_owned(), "b".to_owned()]
    }

    fn parse(bytes: &[u8]) -> Result<Block, BootError> {
        Block::parse(bytes, Path::new("env"))
    }

    /// A block of these lines, padded.
    fn block(lines: &[u8]) -> Vec<u8> {
        let mut bytes = [HEAD, lines].concat();
        bytes.resize(LEN, b'#');
        bytes
    }

    fn problem<T: std::fmt::Debug>(result: Result<T, BootError>) -> String {
        result.expect_err("this is to be refused").to_string()
    }

    #[test]
    fn a_new_block_has_the_variables_first_and_padding_to_the_end() {
        let bytes = GrubEnv::format(names(), &BootState::FACTORY).expect("it fits");
        assert_eq!(
            bytes,
            block(b"BOOT_ORDER=A B\nBOOT_A_LEFT=9\nBOOT_B_LEFT=0\n")
        );
    }

    #[test]
    fn parsing_and_writing_gives_the_same_bytes() {
        let full = [b"x=".as_slice(), &[b'y'; LEN - 28], b"\n"].concat();
        for lines in [
            b"".as_slice(),
            b"# a comment\nx=1\n#\n",
            b"empty=\neq=a=b\nback=a\\\\\nline=a\\\nb\nbytes=\xff\0\nx=1\nx=2\n",
            &full,
        ] {
            let bytes = block(lines);
            let again = parse(&bytes).and_then(|block| block.encode(Path::new("env")));
            assert_eq!(again.expect("this is a block"), bytes);
        }
    }

    #[test]
    fn of_a_block_that_grub_reads_but_does_not_save_the_lines_are_read_and_nothing_is_lost() {
        let good = block(b"x=1\ny=2\n");
        let mut half_zeroed = good.clone();
        half_zeroed[LEN / 2..].fill(0);
        let mut zeroed_in_a_line = good.clone();
        zeroed_in_a_line[HEAD.len() + 7..].fill(0);
        let mut no_newline = good.clone();
        no_newline[HEAD.len() + 7] = b'#';
        let escaped_end = block(b"x=1\ny=2\\\n");
        for (bytes, lines) in [
            (half_zeroed, 2),
            (zeroed_in_a_line, 1),
            (no_newline, 1),
            (escaped_end, 1),
        ] {
            let mut found = parse(&bytes).expect("GRUB reads it, too");
            let expected: &[&[u8]] = &[b"x=1\n", b"y=2\n"];
            assert_eq!(found.lines, expected[..lines]);
            assert!(!found.rest.is_empty(), "it is no whole block");
            assert_eq!(found.encode(Path::new("env")).expect("as it was"), bytes);
            found.rest.clear();
            let whole = found.encode(Path::new("env")).expect("it fits");
            assert_eq!(whole, block(&expected[..lines].concat()));
        }
    }

    #[test]
    fn a_block_without_the_head_or_with_a_line_without_equals_is_damaged() {
        for bytes in [vec![0; LEN], vec![0xff; LEN], block(b"")[1..].to_vec()] {
            assert!(problem(parse(&bytes)).contains("does not begin"));
        }
        let problem = problem(parse(&block(b"x=1\ngarbage\ny=2\n")));
        assert_eq!(problem, "env: line 3 has no `=`");
    }

    #[test]
    fn of_a_damaged_block_the_lines_are_kept_that_are_whole() {
        let kept = Block::salvage(&block(b"x=1\ngarbage\n# note\ny=2\n\0\0"));
        assert_eq!(kept, parse(&block(b"x=1\n# note\ny=2\n")).expect("whole"));
        assert_eq!(Block::salvage(&block(b"x=1\n")[1..]), Block::default());
    }

    #[test]
    fn variables_of_the_same_width_change_in_place_and_nothing_else_moves() {
        let old =
            block(b"# note\nfirst=1\nBOOT_B_LEFT=0\nx=1\nBOOT_ORDER=A B\nBOOT_A_LEFT=9\nz=#\n");
        let mut block = parse(&old).expect("this is a block");
        let state = BootState {
            primary: Slot::Second,
            conditions: [Condition::Good, Condition::Trial(3)],
        };
        block.set(&Order::new(names()).variables(&state));
        let new = block.encode(Path::new("env")).expect("it fits");
        let changed: Vec<_> = (0..LEN)
            .filter(|at| old[*at] != new[*at])
            .map(|at| (old[at], new[at]))
            .collect();
        assert_eq!(changed, [(b'0', b'3'), (b'A', b'B'), (b'B', b'A')]);
    }

    /// The block after `state` was stored over `old`.
    fn stored(old: &[u8], order: &Order, state: &BootState) -> Vec<u8> {
        let mut block = parse(old).expect("this is a block");
        block.set(&order.variables(state));
        block.encode(Path::new("env")).expect("it fits")
    }

    /// Every block in which some of the bytes that differ are old and the others new.
    fn mixes(old: &[u8], new: &[u8]) -> Vec<Vec<u8>> {
        let changed: Vec<usize> = (0..old.len()).filter(|at| old[*at] != new[*at]).collect();
        assert!(
            changed.len() <= 3,
            "the order has two bytes and one digit may change"
        );
        (0..1_u32 << changed.len())
            .map(|which| {
                let mut mix = old.to_vec();
                for (bit, at) in changed.iter().enumerate() {
                    if which >> bit & 1 == 1 {
                        mix[*at] = new[*at];
                    }
                }
                mix
            })
            .collect()
    }

    /// Power goes while any transition is stored, by us or by GRUB, and any of the changed bytes
    /// have arrived (each prefix and each suffix of the write among these mixes). From what the next
    /// boot makes of it, everything may happen again.
    #[test]
    fn a_store_that_power_interrupts_anywhere_leaves_a_whole_slot_that_boots() {
        for names in [["a", "b"], ["slot1", "slot2"]] {
            let names = names.map(str::to_owned);
            let order = Order::new(names.clone());
            let mut torn = 0;
            explore(|world| {
                let old = GrubEnv::format(names.clone(), &world.state).expect("it fits");
                let mut all = Vec::new();
                for (event, next) in world.next() {
                    let new = stored(&old, &order, &next.state);
                    for mix in mixes(&old, &new) {
                        let state =
                            parse(&mix).and_then(|block| block.state(&order, Path::new("env")));
                        let state =
                            state.unwrap_or_else(|error| panic!("{event:?} of {world:?}: {error}"));
                        if state == next.state {
                            continue; // all of it has arrived
                        }
                        torn += 1;
                        let cut = world.with_state(state);
                        assert_a_way_home(cut);
                        all.push(cut.boot());
                    }
                    all.push(next);
                }
                all
            });
            assert!(torn > 0);
        }
    }

    #[test]
    fn missing_wide_or_doubled_variables_are_put_first_and_the_rest_keeps_its_order() {
        for lines in [
            b"# note\nx=1\n#\ny=2\n".as_slice(),
            b"# note\nx=1\nBOOT_ORDER=A B\nBOOT_A_LEFT=9\nBOOT_B_LEFT=12\n#\ny=2\n",
            b"# note\nBOOT_ORDER=A B\nBOOT_A_LEFT=9\nBOOT_B_LEFT=1\nx=1\n#\nBOOT_B_LEFT=1\ny=2\n",
        ] {
            let mut found = parse(&block(lines)).expect("this is a block");
            found.set(&Order::new(names()).variables(&BootState::FACTORY));
            let expected = b"# note\nBOOT_ORDER=A B\nBOOT_A_LEFT=9\nBOOT_B_LEFT=0\nx=1\n#\ny=2\n";
            assert_eq!(found, parse(&block(expected)).expect("this is a block"));
        }
    }

    #[test]
    fn a_variable_that_stands_there_twice_is_refused() {
        let bytes = block(b"BOOT_ORDER=A B\nBOOT_A_LEFT=9\nBOOT_B_LEFT=1\nBOOT_B_LEFT=0\n");
        let state =
            parse(&bytes).and_then(|block| block.state(&Order::new(names()), Path::new("env")));
        assert_eq!(
            problem(state),
            format!("env: variable BOOT_B_LEFT: stands there twice; {HINT}")
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let other = [b"x=".as_slice(), &[b'y'; LEN - 28], b"\n"].concat();
        let mut block = parse(&block(&other)).expect("this is a block");
        block.set(&Order::new(names()).variables(&BootState::FACTORY));
        let result = block.encode(Path::new("env"));
        assert!(
            matches!(
                result,
                Err(BootError::Full {
                    need: 1067,
                    room: 1024,
                    ..
                })
            ),
            "{result:?}"
        );
    }

    proptest! {
        /// Lines of the bytes that mean something, and of any others.
        #[test]
        fn whatever_the_block_holds_it_is_refused_or_kept_byte_for_byte(
            lines in proptest::collection::vec(prop_oneof![
                "[a=#\\\\\n]{0,12}",
                "(BOOT_ORDER|BOOT_A_LEFT|BOOT_B_LEFT)=[AB 0-9]{0,3}\n",
            ], 0..12),
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let bytes = block(&[lines.concat().as_bytes(), &bytes].concat());
            if let Ok(mut found) = parse(&bytes) {
                let others = |block: &Block| -> Vec<Vec<u8>> {
                    let ours = |line: &&Vec<u8>| line.starts_with(b"BOOT_");
                    block.lines.iter().filter(|line| !ours(line)).cloned().collect()
                };
                prop_assert_eq!(found.encode(Path::new("env")).expect("as it was"), bytes);
                let before = others(&found);
                let order = Order::new(names());
                found.set(&order.variables(&BootState::FACTORY));
                prop_assert_eq!(others(&found), before);
                prop_assert_eq!(found.state(&order, Path::new("env")).expect("just set"), BootState::FACTORY);
            }
        }
    }
}
