//! Rows that break a rule and are left out.

use std::fmt;

/// Rows that are described.
const DESCRIBED: usize = 5;

/// Rows that break a rule and are left out, up to a number of them. The row after that is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkippedRows {
    limit: u64,
    count: u64,
    first: Vec<String>,
}

impl SkippedRows {
    /// Leaves out at most `limit` rows.
    pub fn up_to(limit: u64) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Leaves out a row.
    ///
    /// # Errors
    /// The error of the row, if as many others were left out as may be.
    pub fn skip<E: fmt::Display>(&mut self, error: E) -> Result<(), E> {
        if self.count == self.limit {
            return Err(error);
        }
        self.count += 1;
        if self.first.len() < DESCRIBED {
            self.first.push(error.to_string());
        }
        Ok(())
    }

    /// How many were left out.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The errors of the first ones, which name file and row.
    pub fn first(&self) -> &[String] {
        &self.first
    }
}

impl fmt::Display for SkippedRows {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let rows = if self.count == 1 { "row that breaks a rule is" } else { "rows that break a rule are" };
        write!(f, "{} {rows} left out:", self.count)?;
        self.first.iter().try_for_each(|error| write!(f, "\n  {error}"))?;
        match self.count - self.first.len() as u64 {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_left_out_up_to_the_limit() {
        let mut skipped = SkippedRows::up_to(7);
        (1..=7).for_each(|line| skipped.skip(format!("a.jsonl: line {line}")).unwrap());
        assert_eq!(skipped.skip("a.jsonl: line 8"), Err("a.jsonl: line 8"));
        assert_eq!(skipped.count(), 7);
        let said = skipped.to_string();
        assert!(said.starts_with("7 rows that break a rule are left out:\n  a.jsonl: line 1\n"), "{said}");
        assert!(said.ends_with("\n  a.jsonl: line 5\n  and 2 more"), "{said}");
    }

    #[test]
    fn by_default_none_is_left_out() {
        assert_eq!(SkippedRows::default().skip("a.jsonl: line 1"), Err("a.jsonl: line 1"));
    }
}
