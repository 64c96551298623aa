//! Codes: in-context lookup. Each document defines the meaning of its colours.

use super::chance::Chance;
use super::pen::{Pen, Stopped};
use super::vocabulary::{COLOURS, ROOMS, THINGS, Word};

/// Colours that a document defines.
const NUM_COLOURS: usize = 5;
/// Longest message, in colours.
const MAX_MESSAGE: usize = 4;
/// `say`, the message, `:`, its meaning, and the final mark.
const LONGEST_ROUND: usize = 2 * MAX_MESSAGE + 3;

/// Colours mean rooms, by the document; rooms hide things, by the world.
///
/// `say red blue : cave hall` looks up the document; `find red blue : lamp key` composes that with what the rooms hide.
pub(super) struct Codes {
    hidden: Vec<usize>,
    colours: Vec<(u32, u32)>,
    rooms: Vec<(u32, u32)>,
}

impl Codes {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let hidden = chance.assignment(ROOMS.len(), THINGS.len());
        Self { hidden, colours: chance.zipf(COLOURS), rooms: ROOMS.ids().map(|id| (id, 1)).collect() }
    }

    /// Emits the definitions, then messages until the document ends.
    pub(super) fn write(&self, pen: &mut impl Pen) -> Result<(), Stopped> {
        let (mut unused, mut free) = (self.colours.clone(), self.rooms.clone());
        // The defined colours, and the indices of the rooms that they mean.
        let (mut colours, mut meanings) = ([(0, 1); NUM_COLOURS], [0; NUM_COLOURS]);
        for index in 0..NUM_COLOURS {
            let colour = pen.choose(&unused)?;
            pen.say(&[Word::Means])?;
            let room = pen.choose(&free)?;
            pen.say(&[Word::FullStop])?;
            (unused[colour].1, free[room].1) = (0, 0);
            (colours[index].0, meanings[index]) = (COLOURS.id(colour), room);
        }
        loop {
            let verb = pen.pick([(Word::Say, 1), (Word::Find, 1)])?;
            for room in message(pen, &colours)?.into_iter().map(|colour| meanings[colour]) {
                pen.put(if verb == Word::Say { ROOMS.id(room) } else { THINGS.id(self.hidden[room]) })?;
            }
            if !pen.goes_on(LONGEST_ROUND)? {
                return Ok(());
            }
        }
    }
}

/// Emits one to four colours and a colon; returns the indices of the colours.
fn message(pen: &mut impl Pen, colours: &[(u32, u32); NUM_COLOURS]) -> Result<Vec<usize>, Stopped> {
    let mut message = Vec::with_capacity(MAX_MESSAGE);
    loop {
        let mut options = [(Word::Colon.id(), 0); NUM_COLOURS + 1];
        if message.len() < MAX_MESSAGE {
            options[..NUM_COLOURS].copy_from_slice(colours);
        }
        options[NUM_COLOURS].1 = if message.is_empty() { 0 } else { 2 };
        match pen.choose(&options)? {
            NUM_COLOURS => return Ok(message),
            colour => message.push(colour),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::data::language::tests::{agrees, sentences};

    #[test]
    fn a_message_means_what_the_document_defined() {
        let mut hidden: HashMap<String, String> = HashMap::new();
        for document in sentences("codes") {
            let (definitions, messages) = document.split_at(NUM_COLOURS);
            let meaning: HashMap<&str, &str> =
                definitions.iter().map(|each| (each[0].as_str(), each[2].as_str())).collect();
            assert_eq!(meaning.len(), NUM_COLOURS);
            for sentence in messages {
                let colon = sentence.iter().position(|word| word == ":").expect("every message has an answer");
                let (message, answer) = (&sentence[1..colon], &sentence[colon + 1..]);
                assert_eq!(message.len(), answer.len());
                for (colour, answer) in message.iter().zip(answer) {
                    let room = meaning[colour.as_str()];
                    match sentence[0].as_str() {
                        "say" => assert_eq!(room, answer),
                        _ => assert!(agrees(&mut hidden, room.to_owned(), answer.clone())),
                    }
                }
            }
        }
        assert_eq!(hidden.len(), ROOMS.len());
    }
}
