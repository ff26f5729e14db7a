//! Strings of bits, as PostgreSQL's `varbit` has them: the first bit is the highest one of the first byte.

/// A string of bits. The bits of the last byte that do not belong to it are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    /// How many bits.
    pub len: usize,
    /// The bits, eight in a byte.
    pub bytes: Vec<u8>,
}

impl Bits {
    /// Whether there are as many bytes as the length says, and nothing behind the last bit.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.bytes.len() != self.len.div_ceil(8) {
            return Err(format!("a string of {} bits has {} bytes", self.len, self.bytes.len()));
        }
        let unused = self.bytes.len() * 8 - self.len;
        match self.bytes.last() {
            Some(last) if last & !(0xff_u8 << unused) != 0 => Err("there is something behind the last bit".to_owned()),
            _ => Ok(()),
        }
    }
}

/// Writes codes one after the other.
#[derive(Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    /// Bits that do not fill the word yet, from its highest one on.
    word: u64,
    filled: u32,
}

impl Writer {
    /// Adds the `width` low bits of a code; those above them must be zero.
    #[inline]
    pub(super) fn put(&mut self, code: u64, width: u32) {
        if width == 0 {
            return;
        }
        let free = 64 - self.filled;
        if width < free {
            self.word |= code << (free - width);
            self.filled += width;
            return;
        }
        let over = width - free;
        self.bytes.extend_from_slice(&(self.word | (code >> over)).to_be_bytes());
        self.word = if over == 0 { 0 } else { code << (64 - over) };
        self.filled = over;
    }

    /// Adds `len` bits out of others.
    pub(super) fn copy(&mut self, bytes: &[u8], mut at: usize, mut len: usize) {
        while len > 0 {
            let width = len.min(64) as u32;
            self.put(code_at(bytes, at, width), width);
            at += width as usize;
            len -= width as usize;
        }
    }

    /// What was written.
    pub(super) fn finish(mut self) -> Bits {
        let len = self.bytes.len() * 8 + self.filled as usize;
        self.bytes.extend_from_slice(&self.word.to_be_bytes()[..self.filled.div_ceil(8) as usize]);
        Bits { len, bytes: self.bytes }
    }
}

/// Reads fields one after the other.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(bits: &'a Bits) -> Self {
        Self { bytes: &bits.bytes, at: 0 }
    }

    pub(super) fn take(&mut self, width: u32) -> u64 {
        let field = code_at(self.bytes, self.at, width);
        self.at += width as usize;
        field
    }

    /// A number with its sign, as [`put_signed`] writes it.
    pub(super) fn take_signed(&mut self, width: u32) -> i64 {
        match width {
            0 => 0,
            _ => (self.take(width) as i64).wrapping_sub(1 << (width - 1)),
        }
    }
}

/// Writes a number with its sign: from what is the least one of that width on.
pub(super) fn put_signed(out: &mut Writer, number: i64, width: u32) {
    if width > 0 {
        out.put(number.wrapping_add(1 << (width - 1)) as u64, width);
    }
}

/// How wide a number is.
pub(super) fn width_of(number: u64) -> u32 {
    u64::BITS - number.leading_zeros()
}

/// How wide a number is with its sign.
pub(super) fn signed_width_of(number: i64) -> u32 {
    match number {
        0 => 0,
        _ => width_of((if number < 0 { !number } else { number }) as u64) + 1,
    }
}

/// The code of 0 to 64 bits that begins at a bit. What is not there is read as zero.
#[inline]
pub(super) fn code_at(bytes: &[u8], at: usize, width: u32) -> u64 {
    let (byte, shift) = (at / 8, (at % 8) as u32);
    if width == 0 {
        return 0;
    }
    let there = bytes.get(byte..).unwrap_or_default();
    // A code may begin within a byte, and so reach into nine of them.
    if let Some([first @ .., ninth]) = there.first_chunk::<9>() {
        return ((u64::from_be_bytes(*first) << shift) | ((u64::from(*ninth) << shift) >> 8)) >> (64 - width);
    }
    let mut word = [0; 16];
    let there = &there[..there.len().min(16)];
    word[..there.len()].copy_from_slice(there);
    (u128::from_be_bytes(word) << shift >> (128 - width)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn codes_come_back(codes in prop::collection::vec((any::<u64>(), 0u32..=64), 0..200)) {
            let codes: Vec<(u64, u32)> = codes.into_iter().map(|(code, width)| (code.checked_shr(64 - width).unwrap_or(0), width)).collect();
            let mut out = Writer::default();
            for (code, width) in &codes {
                out.put(*code, *width);
            }
            let bits = out.finish();
            prop_assert_eq!(bits.len, codes.iter().map(|(_, width)| *width as usize).sum::<usize>());
            prop_assert_eq!(bits.check(), Ok(()));
            let mut fields = Fields::new(&bits);
            for (code, width) in codes {
                prop_assert_eq!(fields.take(width), code);
            }
        }

        #[test]
        fn bits_are_copied(bytes in prop::collection::vec(any::<u8>(), 0..100), at in 0usize..99, before in 0u32..64) {
            let at = at.min(bytes.len() * 8);
            let len = bytes.len() * 8 - at;
            let mut out = Writer::default();
            out.put(0, before);
            out.copy(&bytes, at, len);
            let bits = out.finish();
            prop_assert_eq!(bits.len, before as usize + len);
            for i in 0..len {
                prop_assert_eq!(code_at(&bits.bytes, before as usize + i, 1), code_at(&bytes, at + i, 1));
            }
        }

        #[test]
        fn numbers_keep_their_sign(number in any::<i64>(), right in 2u32..64, more in 0u32..3) {
            let number = number >> right;
            let width = signed_width_of(number) + more;
            let mut out = Writer::default();
            put_signed(&mut out, number, width);
            prop_assert_eq!(Fields::new(&out.finish()).take_signed(width), number);
        }
    }

    #[test]
    fn a_damaged_string_is_seen() {
        assert!(Bits { len: 9, bytes: vec![1] }.check().is_err());
        assert!(Bits { len: 7, bytes: vec![1] }.check().is_err());
        assert!(Bits { len: 8, bytes: vec![1] }.check().is_ok());
    }
}
