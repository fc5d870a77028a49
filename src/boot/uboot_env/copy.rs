//! One copy of an environment, as bytes.
//!
//! ```text
//! single      u32 crc              data
//! redundant   u32 crc   u8 flags   data
//!
//! data        name=value NUL  name=value NUL  ...  NUL  padding of any content
//! ```
//!
//! The CRC is CRC-32 over all of data, padding included, in the byte order of the router's
//! processor. Nothing in the bytes tells that order: it is that of the machine this runs on, and a
//! parameter of the codec for whoever makes an environment for another one.

use byteorder::ByteOrder;

pub(super) const CRC_LEN: usize = 4;

/// Flags on NOR flash (env/flash.c of U-Boot, as `ENV_REDUND_ACTIVE` and kin): each next one can be
/// programmed over the one before.
const BEING_WRITTEN: u8 = 0xff;
pub(super) const ACTIVE: u8 = 1;
pub(super) const OBSOLETE: u8 = 0;

/// Whether a copy stands alone; a redundant one has a byte of flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The only copy.
    Single,
    /// One of two.
    Redundant,
}

impl Kind {
    pub(super) fn of(copies: usize) -> Self {
        if copies == 1 {
            Self::Single
        } else {
            Self::Redundant
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Single => Self::Redundant,
            Self::Redundant => Self::Single,
        }
    }

    fn header_len(self) -> usize {
        match self {
            Self::Single => CRC_LEN,
            Self::Redundant => CRC_LEN + 1,
        }
    }
}

/// The variables of an environment, in their order.
///
/// Entries that nobody here asks for are kept as they are, even those without `=` or of a repeated
/// name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Each `name=value`; never empty and without NUL.
    entries: Vec<Vec<u8>>,
}

/// One copy of an environment that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCopy {
    /// The counter; 0 in a single copy, which has none.
    pub flags: u8,
    /// The variables.
    pub environment: Environment,
}

impl StoredCopy {
    /// Reads a copy that fills `bytes`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn decode<E: ByteOrder>(bytes: &[u8], kind: Kind) -> Result<Self, String> {
        let Some((header, data)) = bytes.split_at_checked(kind.header_len()) else {
            return Err(format!("{} bytes hold no environment", bytes.len()));
        };
        let stored = E::read_u32(header);
        let computed = crc32fast::hash(data);
        if stored != computed {
            let hint = if stored.swap_bytes() == computed {
                ", it is in the other byte order"
            } else {
                ""
            };
            return Err(format!(
                "its CRC is {stored:08x}, its bytes have {computed:08x}{hint}"
            ));
        }
        Ok(Self {
            flags: header.get(CRC_LEN).copied().unwrap_or(0),
            environment: Environment::parse(data),
        })
    }

    /// Writes a copy of exactly `size` bytes, padded with zeros as U-Boot does.
    ///
    /// # Errors
    /// The bytes needed, if they are more than `size`.
    pub fn encode<E: ByteOrder>(&self, kind: Kind, size: usize) -> Result<Vec<u8>, u64> {
        let mut bytes = vec![0; CRC_LEN];
        if kind == Kind::Redundant {
            bytes.push(self.flags);
        }
        for entry in &self.environment.entries {
            bytes.extend_from_slice(entry);
            bytes.push(0);
        }
        bytes.push(0);
        if bytes.len() > size {
            return Err(bytes.len() as u64);
        }
        bytes.resize(size, 0);
        let crc = crc32fast::hash(&bytes[kind.header_len()..]);
        E::write_u32(&mut bytes, crc);
        Ok(bytes)
    }

    /// True if `self`, the first copy, counts rather than `second`, where flags are counters.
    pub(super) fn is_newer_than(&self, second: &Self) -> bool {
        match (self.flags, second.flags) {
            (255, 0) => false,
            (0, 255) => true,
            (first, second) => first >= second,
        }
    }

    /// The same where flags are active or obsolete: as `env_flash_init` and `env_flash_load` of U-Boot
    /// have it (env/flash.c).
    pub(super) fn is_active_rather_than(&self, second: &Self) -> bool {
        match (self.flags, second.flags) {
            (ACTIVE, OBSOLETE) | (BEING_WRITTEN, _) => true,
            (first, second) => first == second,
        }
    }
}

impl Environment {
    /// Reads entries up to the empty one that ends them, or up to the end of the area: some tools
    /// leave out the last NUL when it is full.
    fn parse(data: &[u8]) -> Self {
        Self {
            entries: data
                .split(|byte| *byte == 0)
                .take_while(|entry| !entry.is_empty())
                .map(<[u8]>::to_vec)
                .collect(),
        }
    }

    /// All entries, `name=value` each.
    pub fn entries(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(Vec::as_slice)
    }

    /// The value of a variable; of repeated names the last counts, as U-Boot has it.
    #[must_use]
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        let mut entries = self.entries.iter().rev();
        entries.find_map(|entry| value_of(entry, &name))
    }

    /// Sets a variable where it stands, or after all others. Without a value there is none in U-Boot:
    /// an empty one removes it.
    pub fn set(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return self.remove(name);
        }
        let entry = format!("{name}={value}").into_bytes();
        let Some(at) = self
            .entries
            .iter()
            .rposition(|entry| value_of(entry, name).is_some())
        else {
            self.entries.push(entry);
            return;
        };
        self.entries[at] = entry;
        let mut index = 0;
        self.entries.retain(|entry| {
            index += 1;
            index > at || value_of(entry, name).is_none()
        });
    }

    /// Adds a whole `name=value` after all others.
    pub(super) fn push(&mut self, entry: &[u8]) {
        debug_assert!(!entry.is_empty() && !entry.contains(&0));
        self.entries.push(entry.to_vec());
    }

    /// Sets variables, and removes those that are to have no value.
    pub(super) fn apply(&mut self, changes: &[(&str, Option<&str>)]) {
        for (name, value) in changes {
            match value {
                Some(value) => self.set(name, value),
                None => self.remove(name),
            }
        }
    }

    /// Removes a variable, each time that it stands there.
    pub fn remove(&mut self, name: &str) {
        self.entries.retain(|entry| value_of(entry, name).is_none());
    }
}

fn value_of(entry: &[u8], name: impl AsRef<[u8]>) -> Option<&[u8]> {
    entry.strip_prefix(name.as_ref())?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use byteorder::{BigEndian, LittleEndian};
    use proptest::prelude::*;

    use super::*;

    fn sample() -> StoredCopy {
        let mut environment = Environment::default();
        for (name, value) in [("bootcmd", "run ab"), ("slot", "a"), ("eq", "x=y")] {
            environment.set(name, value);
        }
        StoredCopy {
            flags: 7,
            environment,
        }
    }

    fn round_trip<E: ByteOrder>() {
        let copy = sample();
        let bytes = copy.encode::<E>(Kind::Redundant, 64).expect("it fits");
        assert_eq!(bytes.len(), 64);
        assert_eq!(StoredCopy::decode::<E>(&bytes, Kind::Redundant), Ok(copy));
    }

    #[test]
    fn what_is_written_is_read_back_in_both_byte_orders() {
        round_trip::<LittleEndian>();
        round_trip::<BigEndian>();
    }

    #[test]
    fn a_copy_in_the_other_byte_order_is_refused_and_said_to_be_that() {
        let bytes = sample()
            .encode::<BigEndian>(Kind::Single, 64)
            .expect("it fits");
        let problem = StoredCopy::decode::<LittleEndian>(&bytes, Kind::Single)
            .expect_err("the CRC is swapped");
        assert!(problem.ends_with("other byte order"), "{problem}");
    }

    #[test]
    fn a_flipped_bit_or_a_missing_byte_anywhere_is_noticed_in_both_kinds() {
        for kind in [Kind::Single, Kind::Redundant] {
            let bytes = sample().encode::<LittleEndian>(kind, 64).expect("it fits");
            for bit in 0..bytes.len() * 8 {
                let mut broken = bytes.clone();
                broken[bit / 8] ^= 1 << (bit % 8);
                let copy = StoredCopy::decode::<LittleEndian>(&broken, kind);
                if kind == Kind::Redundant && bit / 8 == CRC_LEN {
                    // The flags stand outside the CRC, so that flash can clear them in place.
                    assert_eq!(copy.map(|copy| copy.environment), Ok(sample().environment));
                } else {
                    assert!(copy.is_err(), "bit {bit} of {kind:?} was not noticed");
                }
            }
            for len in 0..bytes.len() {
                let copy = StoredCopy::decode::<LittleEndian>(&bytes[..len], kind);
                assert!(
                    copy.is_err(),
                    "{len} of {} bytes were accepted",
                    bytes.len()
                );
            }
        }
    }

    #[test]
    fn an_environment_fills_its_area_to_the_last_byte_and_not_beyond() {
        let need = CRC_LEN + "bootcmd=run ab.slot=a.eq=x=y.".len() + 1;
        assert!(sample().encode::<LittleEndian>(Kind::Single, need).is_ok());
        assert_eq!(
            sample().encode::<LittleEndian>(Kind::Single, need - 1),
            Err(need as u64)
        );
    }

    #[test]
    fn setting_a_variable_leaves_all_others_as_they_were_and_where_they_were() {
        let data = b"z=1\0noequals\0=noname\0dup=1\0v=old\0dup=2\0v=\0v=x=y\0a=\xff\n\0\0junk";
        let mut environment = Environment::parse(data);
        assert_eq!(
            environment.get("v"),
            Some(&b"x=y"[..]),
            "the last one counts"
        );
        environment.set("v", "new");
        environment.set("added", "1");
        let entries: Vec<_> = environment.entries().collect();
        let expected: [&[u8]; 8] = [
            b"z=1",
            b"noequals",
            b"=noname",
            b"dup=1",
            b"dup=2",
            b"v=new",
            b"a=\xff\n",
            b"added=1",
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn the_greater_counter_is_newer_but_zero_follows_255() {
        let newer = |first, second| {
            let copy = |flags| StoredCopy { flags, ..sample() };
            copy(first).is_newer_than(&copy(second))
        };
        for (first, second) in [
            (1, 0),
            (255, 254),
            (255, 1),
            (0, 255),
            (128, 0),
            (200, 72),
            (5, 5),
        ] {
            assert!(newer(first, second), "{first} before {second}");
        }
        for (first, second) in [(0, 1), (254, 255), (1, 255), (255, 0), (0, 128), (72, 200)] {
            assert!(!newer(first, second), "{first} before {second}");
        }
        for flags in 0..=255_u8 {
            let next = flags.wrapping_add(1);
            assert!(
                newer(next, flags) && !newer(flags, next),
                "{next} follows {flags}"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_the_data_holds_its_entries_are_kept_byte_for_byte(
            entries in proptest::collection::vec(proptest::collection::vec(1..=255_u8, 1..9), 0..9),
            rest in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut data = entries.join(&0);
            data.extend([0, 0]);
            data.extend(rest);
            let environment = Environment::parse(&data);
            prop_assert_eq!(environment.entries().collect::<Vec<_>>(), entries);
            let copy = StoredCopy { flags: 0, environment };
            let bytes = copy.encode::<LittleEndian>(Kind::Single, 100).expect("it fits");
            prop_assert_eq!(StoredCopy::decode::<LittleEndian>(&bytes, Kind::Single), Ok(copy));
        }

        #[test]
        fn no_bytes_with_a_right_crc_make_the_reader_fail(mut data in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = crc32fast::hash(&data).to_le_bytes().to_vec();
            bytes.append(&mut data);
            prop_assert!(StoredCopy::decode::<LittleEndian>(&bytes, Kind::Single).is_ok());
        }
    }
}
