//! The wire format: numbered fields of four kinds.

use super::DecodeError;
use super::DecodeError::Malformed;

/// One value on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire<'a> {
    /// A number of variable length.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Text, bytes or a message.
    Bytes(&'a [u8]),
    /// Four bytes.
    Fixed32(u32),
}

impl<'a> Wire<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], DecodeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed("a field has the wrong wire type")),
        }
    }

    pub(super) fn varint(self) -> Result<u64, DecodeError> {
        match self {
            Self::Varint(number) => Ok(number),
            _ => Err(Malformed("a field has the wrong wire type")),
        }
    }
}

/// Reads the fields of one message.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next field, `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, DecodeError> {
        let Some(tag) = self.next_varint()? else { return Ok(None) };
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0);
        let number = number.ok_or(Malformed("a field has no number"))?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.next_varint()?.ok_or(ENDS)?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = self.next_varint()?.ok_or(ENDS)?;
                let length = usize::try_from(length).map_err(|_| ENDS)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Malformed("a field has an unknown wire type")),
        };
        Ok(Some((number, value)))
    }

    /// The next number, `None` at the end.
    pub(super) fn next_varint(&mut self) -> Result<Option<u64>, DecodeError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.0.first().ok_or(ENDS)?;
            self.0 = &self.0[1..];
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(number));
            }
        }
        Err(Malformed("a number is too long"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ENDS)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| ENDS)
    }
}

const ENDS: DecodeError = Malformed("it ends in the middle of a field");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_damage_is_noticed() {
        let mut reader = Reader::new(&[0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1d, 1, 0, 0, 0]);
        assert_eq!(reader.next(), Ok(Some((1, Wire::Varint(150)))));
        assert_eq!(reader.next(), Ok(Some((2, Wire::Bytes(b"hi")))));
        assert_eq!(reader.next(), Ok(Some((3, Wire::Fixed32(1)))));
        assert_eq!(reader.next(), Ok(None));
        for damaged in [&[0x08][..], &[0x12, 0x05, b'h'], &[0x00], &[0x0b], &[0xff; 12], &[0x1d, 1]]
        {
            assert!(Reader::new(damaged).next().is_err(), "{damaged:?}");
        }
    }
}
