//! The wire format of protocol buffers: numbered fields, one after the other.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>. Groups, which SentencePiece does not use, are refused.

use super::SentencePieceFault as Fault;

/// The fields of a message.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    /// Offset in the file of the first of `bytes`.
    offset: usize,
}

/// A field of a message.
pub(super) struct Field<'a> {
    pub number: u64,
    value: Value<'a>,
    /// Offset in the file.
    offset: usize,
}

enum Value<'a> {
    Varint(u64),
    Fixed64,
    Bytes(Fields<'a>),
    Fixed32([u8; 4]),
}

impl<'a> Fields<'a> {
    /// The fields of a whole file.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// The next field; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Field<'a>>, Fault> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let offset = self.offset;
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(self.take(4)?.bytes.try_into().expect("four bytes were taken")),
            found => return Err(Fault::WireType { offset, found: found as u8 }),
        };
        Ok(Some(Field { number: tag >> 3, value, offset }))
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let (offset, mut value) = (self.offset, 0);
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?.bytes[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Fault::EndlessNumber { offset })
    }

    fn take(&mut self, count: u64) -> Result<Self, Fault> {
        let left_bytes = self.bytes.len();
        let past_the_end = Fault::PastTheEnd { offset: self.offset, found_bytes: count, left_bytes };
        let count = usize::try_from(count).ok().filter(|count| *count <= left_bytes).ok_or(past_the_end)?;
        let taken = Self { bytes: &self.bytes[..count], offset: self.offset };
        self.bytes = &self.bytes[count..];
        self.offset += count;
        Ok(taken)
    }
}

impl<'a> Field<'a> {
    /// The fields of a message in this field.
    pub fn message(self, name: &'static str) -> Result<Fields<'a>, Fault> {
        match self.value {
            Value::Bytes(fields) => Ok(fields),
            _ => Err(self.is_no("a message", name)),
        }
    }

    /// Bytes.
    pub fn bytes(self, name: &'static str) -> Result<&'a [u8], Fault> {
        Ok(self.message(name)?.bytes)
    }

    /// A text.
    pub fn text(self, name: &'static str) -> Result<&'a str, Fault> {
        let offset = self.offset;
        let bytes = self.bytes(name)?;
        std::str::from_utf8(bytes).map_err(|_| Fault::WrongType { offset, field: name, expected: "UTF-8 text" })
    }

    /// A number of up to 64 bits, two's complement.
    pub fn integer(self, name: &'static str) -> Result<i64, Fault> {
        match self.value {
            Value::Varint(value) => Ok(value.cast_signed()),
            _ => Err(self.is_no("an integer", name)),
        }
    }

    /// A number of 32 bits, floating point.
    pub fn float(self, name: &'static str) -> Result<f32, Fault> {
        match self.value {
            Value::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err(self.is_no("a float", name)),
        }
    }

    fn is_no(&self, expected: &'static str, field: &'static str) -> Fault {
        Fault::WrongType { offset: self.offset, field, expected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(bytes: &[u8]) -> Result<Option<Field<'_>>, Fault> {
        Fields::new(bytes).next()
    }

    #[test]
    fn fields_of_each_wire_type_are_read() {
        // Numbers and values by hand, after the encoding's documentation.
        let bytes = [0x08, 0x96, 0x01, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0x1a, 2, b'o', b'k', 0x25, 0, 0, 0x80, 0x3f];
        let mut fields = Fields::new(&bytes);
        let mut next = || fields.next().unwrap();
        let number = next().unwrap();
        assert_eq!((number.number, number.integer("a").unwrap()), (1, 150));
        assert_eq!(next().unwrap().number, 2);
        let text = next().unwrap();
        assert_eq!((text.number, text.text("a").unwrap()), (3, "ok"));
        assert_eq!(next().unwrap().float("a").unwrap(), 1.0);
        assert!(next().is_none());
        let minus_one = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(first(&minus_one).unwrap().unwrap().integer("a").unwrap(), -1);
    }

    #[test]
    fn a_field_of_another_type_is_refused_by_name() {
        let bytes = [0x08, 1];
        let field = || first(&bytes).unwrap().unwrap();
        assert_eq!(
            field().text("name").unwrap_err().to_string(),
            "name at byte 0 is of another type, expected a message"
        );
        assert!(field().float("score").unwrap_err().to_string().contains("expected a float"));
        let text = [0x0a, 1, 0xff];
        assert!(first(&text).unwrap().unwrap().text("name").unwrap_err().to_string().contains("expected UTF-8 text"));
        assert!(first(&text).unwrap().unwrap().integer("id").unwrap_err().to_string().contains("expected an integer"));
    }

    #[test]
    fn what_does_not_end_is_refused_with_its_offset() {
        let said = |bytes: &[u8]| first(bytes).err().unwrap().to_string();
        assert_eq!(said(&[0x0a, 5, 1]), "found 1 bytes from byte 2 on, expected 5");
        assert_eq!(said(&[0x25, 0, 0]), "found 2 bytes from byte 1 on, expected 4");
        assert_eq!(said(&[0x80]), "found 0 bytes from byte 1 on, expected 1");
        let huge = [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert!(said(&huge).ends_with("bytes from byte 11 on, expected 18446744073709551615"));
        assert_eq!(said(&[0xff; 11]), "the number at byte 0 does not end, expected at most 10 bytes");
        assert_eq!(said(&[0x0b]), "the field at byte 0 has wire type 3, expected 0, 1, 2 or 5");
    }
}
