//! Rows of a `.json` file: an array of objects, or objects one after the other.

use std::io::{self, BufRead};

use serde::Deserialize;
use serde_json::{Deserializer, Value};

use super::error::{RowFault, SourceFault};
use super::input::Limited;
use super::number::RowNumber;
use super::row::{Fields, MAX_ROW_BYTES, Row};
use crate::error::type_name;

/// The rows of a `.json` file, read one at a time.
pub(super) struct Json<R> {
    stream: R,
    state: State,
    number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    /// In an array, before an element or the end of an empty array.
    First,
    /// In an array, behind an element.
    Next,
    /// Between objects that no array encloses.
    Loose,
    /// Behind the array.
    End,
}

impl<R: BufRead> Json<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, state: State::Start, number: 0 }
    }

    fn read_row(&mut self) -> Result<Option<Row>, SourceFault> {
        if self.state == State::Start {
            self.state = if self.peek()? == Some(b'[') { State::First } else { State::Loose };
            if self.state == State::First {
                self.stream.consume(1);
            }
        }
        let found = self.peek()?;
        match (self.state, found) {
            (State::Loose | State::End, None) => return Ok(None),
            (State::First | State::Next, Some(b']')) => {
                self.stream.consume(1);
                self.state = State::End;
                return self.read_row();
            }
            (State::Next, Some(b',')) => self.stream.consume(1),
            (State::Next | State::End, _) => {
                return Err(RowFault::NoSeparator { found }.at(RowNumber::Row(self.number)));
            }
            _ => {}
        }
        if self.state == State::First {
            self.state = State::Next;
        }
        self.number += 1;
        self.object().map(Some)
    }

    /// Reads a value and no byte behind it.
    fn object(&mut self) -> Result<Row, SourceFault> {
        let number = RowNumber::Row(self.number);
        let is_object = self.peek()? == Some(b'{');
        let mut stream = Limited::new(&mut self.stream, MAX_ROW_BYTES);
        // Of a number, a deserializer of a stream takes the byte behind it too, but then there is no further row.
        let mut deserializer = Deserializer::from_reader(&mut stream);
        let fields = if is_object {
            Fields::deserialize(&mut deserializer).map_err(RowFault::BadJson)
        } else {
            let value = Value::deserialize(&mut deserializer).map_err(RowFault::BadJson);
            value.and_then(|value| Err(RowFault::NotAnObject { found: type_name(&value) }))
        };
        let fault = match fields {
            Ok(fields) => return Ok(Row { number, fields: fields.0 }),
            Err(_) if stream.is_spent() => RowFault::TooLong { limit_bytes: MAX_ROW_BYTES },
            Err(RowFault::BadJson(error)) if error.is_io() => return Err(io::Error::from(error).into()),
            Err(fault) => fault,
        };
        Err(fault.at(number))
    }

    /// The next byte that is not white space, not consumed.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            let buffer = self.stream.fill_buf()?;
            let blank = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            if let Some(byte) = buffer.get(blank) {
                let byte = *byte;
                self.stream.consume(blank);
                return Ok(Some(byte));
            }
            if buffer.is_empty() {
                return Ok(None);
            }
            self.stream.consume(blank);
        }
    }
}

impl<R: BufRead> Iterator for Json<R> {
    type Item = Result<Row, SourceFault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_row().transpose()
    }
}
