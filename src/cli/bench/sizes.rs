//! Numbers of `bench`: lists and ranges as llama-bench takes them.

use super::super::values::not_negative;

/// Numbers of one list, and the largest number of sequences, threads and repetitions; more is taken for a typing error.
const MAX_COUNT: usize = 4096;

/// One item of a list: a number or a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes(pub(in crate::cli) Vec<usize>);

/// Parses `8`, `8-32` (each), `8-32+8` (every eighth) or `8-64*2` (doubling).
pub(in crate::cli) fn sizes(text: &str) -> Result<Sizes, String> {
    let range = text.split_once('-').filter(|(first, _)| !first.is_empty());
    let Some((first, rest)) = range else { return Ok(Sizes(vec![not_negative(text)?])) };
    let refused = || format!("{text:?} is not a range such as 8-32, 8-32+8 or 8-64*2");
    let number = |text: &str| not_negative(text).map_err(|_| refused());
    let (last, step): (_, &dyn Fn(usize) -> Option<usize>) = match rest.find(['+', '*']) {
        None => (rest, &|at| at.checked_add(1)),
        Some(place) => {
            let by = number(&rest[place + 1..])?;
            let is_sum = rest[place..].starts_with('+');
            (&rest[..place], &move |at: usize| if is_sum { at.checked_add(by) } else { at.checked_mul(by) })
        }
    };
    let (mut at, last) = (number(first)?, number(last)?);
    let mut numbers = Vec::new();
    while at <= last {
        numbers.push(at);
        match step(at) {
            Some(next) if next > at && numbers.len() <= MAX_COUNT => at = next,
            _ => return Err(refused()),
        }
    }
    if numbers.is_empty() || numbers.len() > MAX_COUNT { Err(refused()) } else { Ok(Sizes(numbers)) }
}

/// As [`sizes`], each from 1 to 4096.
pub(in crate::cli) fn counts(text: &str) -> Result<Sizes, String> {
    let Sizes(numbers) = sizes(text)?;
    numbers.iter().try_for_each(|&number| in_range(number))?;
    Ok(Sizes(numbers))
}

/// Parses one number from 1 to 4096.
pub(in crate::cli) fn one_count(text: &str) -> Result<usize, String> {
    let number = not_negative(text)?;
    in_range(number)?;
    Ok(number)
}

fn in_range(number: usize) -> Result<(), String> {
    if (1..=MAX_COUNT).contains(&number) { Ok(()) } else { Err(format!("{number} is not from 1 to {MAX_COUNT}")) }
}

/// Parses `PP,TG`.
pub(super) fn prompt_and_gen(text: &str) -> Result<(usize, usize), String> {
    let refused = || format!("{text:?} is not a pair PP,TG, such as 512,128");
    let (prompt, gen_) = text.split_once(',').ok_or_else(refused)?;
    Ok((not_negative(prompt).map_err(|_| refused())?, not_negative(gen_).map_err(|_| refused())?))
}

/// Parses `BxS`.
pub(in crate::cli) fn train_size(text: &str) -> Result<(usize, usize), String> {
    let refused = || format!("{text:?} is not BxS, sequences and tokens of each, such as 4x256");
    let (batch_size, n_train) = text.split_once('x').ok_or_else(refused)?;
    match (one_count(batch_size), not_negative(n_train)) {
        (Ok(batch_size), Ok(n_train)) if n_train > 0 => Ok((batch_size, n_train)),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_llama_bench() {
        let rows: [(&str, &[usize]); 6] = [
            ("8", &[8]),
            ("8-10", &[8, 9, 10]),
            ("8-32+8", &[8, 16, 24, 32]),
            ("8-30+8", &[8, 16, 24]),
            ("8-64*2", &[8, 16, 32, 64]),
            ("0-2", &[0, 1, 2]),
        ];
        for (text, expected) in rows {
            assert_eq!(sizes(text), Ok(Sizes(expected.to_vec())), "{text}");
        }
    }

    #[test]
    fn a_range_that_does_not_end_is_refused() {
        for refused in ["8-32+0", "8-32*1", "0-8*2", "8-", "32-8", "8-32+", "8-32+8+8", "a-b", "0-4294967295", "1--2"] {
            assert!(sizes(refused).unwrap_err().contains("8-32+8"), "{refused}");
        }
        assert!(sizes("1-4096").is_ok() && sizes("1-4097").is_err());
        assert!(sizes("-1").unwrap_err().contains("negative"));
    }

    #[test]
    fn counts_are_from_1_to_4096() {
        assert_eq!(counts("1-4*4"), Ok(Sizes(vec![1, 4])));
        for refused in ["0", "0-3", "4097", "4000000000", "18446744073709551615"] {
            assert!(counts(refused).is_err() && one_count(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn pairs_and_sizes_have_one_spelling() {
        assert_eq!(prompt_and_gen("512,128"), Ok((512, 128)));
        for refused in ["512", "512,", "a,b", "1,2,3", "-1,2"] {
            assert!(prompt_and_gen(refused).is_err(), "{refused}");
        }
        assert_eq!(train_size("4x256"), Ok((4, 256)));
        for refused in ["4", "0x8", "4x0", "4x", "x8", "4*8", "5000x8"] {
            assert!(train_size(refused).is_err(), "{refused}");
        }
    }
}
