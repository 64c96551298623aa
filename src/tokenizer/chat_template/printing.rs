//! Printing of values, bounded: a template can nest lists so that they take ages to print or overflow the stack.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};

use crate::python::repr;

const MAX_DEPTH: usize = 100;
const MAX_ITEMS: usize = 1 << 20;

/// Prints the value of `{{ … }}` as Python does.
pub(super) fn print(output: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    match float(value) {
        Some(text) => Ok(output.write_str(&text)?),
        None => {
            check_size(value)?;
            Ok(write!(output, "{value}")?)
        }
    }
}

/// The filter `string`.
pub(super) fn string(value: &Value) -> Result<Value, Error> {
    check_size(value)?;
    Ok(match value.as_str() {
        Some(_) => value.clone(),
        None => float(value).unwrap_or_else(|| value.to_string()).into(),
    })
}

/// The text of a value that is a float.
fn float(value: &Value) -> Option<String> {
    let is_float = value.is_number() && !value.is_integer();
    f64::try_from(value.clone()).ok().filter(|_| is_float).map(repr)
}

/// Refuses lists and maps that are nested too deep or have too many items, counted as often as they would be printed.
pub(super) fn check_size(value: &Value) -> Result<(), Error> {
    check(value, MAX_DEPTH, &mut { MAX_ITEMS })
}

fn check(value: &Value, depth: usize, items: &mut usize) -> Result<(), Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map) {
        return Ok(());
    }
    for item in value.try_iter()? {
        let nested = if value.kind() == ValueKind::Map { value.get_item(&item)? } else { item };
        let too_large = || {
            let limits =
                format!("found a value too large to print, expected at most {MAX_DEPTH} levels and {MAX_ITEMS} items");
            Error::new(ErrorKind::InvalidOperation, limits)
        };
        *items = items.checked_sub(1).ok_or_else(too_large)?;
        check(&nested, depth.checked_sub(1).ok_or_else(too_large)?, items)?;
    }
    Ok(())
}
