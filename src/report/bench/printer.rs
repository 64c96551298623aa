//! Records as text, each as soon as there is one: Markdown, JSON, JSON lines, CSV.

use serde_json::{Map, Value};

use super::BenchRecord;

/// How records are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table for people.
    Markdown,
    /// One array of objects.
    Json,
    /// An object a line.
    JsonLines,
    /// A header and a line a record, every value in quotes; samples left out.
    Csv,
}

/// Prints records one after the other.
#[derive(Debug, Clone)]
pub struct Printer {
    format: Format,
    columns: Vec<Column>,
    num_records: usize,
    build: String,
}

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Model,
    Growth,
    Size,
    Params,
    Backend,
    Threads,
    Batch,
    Test,
    Rate,
}

impl Printer {
    /// Nothing printed yet. The table has a column for growth, and one for the sequences at once, if it is told so.
    pub fn new(format: Format, with_growth: bool, with_batch: bool) -> Self {
        use Column::{Backend, Batch, Growth, Model, Params, Rate, Size, Test, Threads};
        let all = [Model, Growth, Size, Params, Backend, Threads, Batch, Test, Rate];
        let wanted = |column: &Column| match column {
            Growth => with_growth,
            Batch => with_batch,
            _ => true,
        };
        Self { format, columns: all.into_iter().filter(wanted).collect(), num_records: 0, build: String::new() }
    }

    /// The text of the next record, with what stands before the first.
    ///
    /// # Errors
    /// If a number is too large for JSON.
    pub fn record(&mut self, record: &BenchRecord) -> Result<String, serde_json::Error> {
        let is_first = self.num_records == 0;
        self.num_records += 1;
        self.build = format!("build: {} ({})", record.build_commit, record.build_number);
        Ok(match self.format {
            Format::Markdown => {
                let header = if is_first { self.header() } else { String::new() };
                header + &self.line(|column| column.cell(record))
            }
            Format::Json => {
                let object = serde_json::to_string_pretty(record)?.replace('\n', "\n  ");
                format!("{}  {object}", if is_first { "[\n" } else { ",\n" })
            }
            Format::JsonLines => serde_json::to_string(record)? + "\n",
            Format::Csv => {
                let mut fields: Map<String, Value> = serde_json::from_str(&serde_json::to_string(record)?)?;
                fields.retain(|_, value| !value.is_array());
                let header = fields.keys().cloned().collect::<Vec<_>>().join(",") + "\n";
                let line = fields.values().map(quoted).collect::<Vec<_>>().join(",") + "\n";
                if is_first { header + &line } else { line }
            }
        })
    }

    /// What stands behind the last record; nothing if there was none.
    pub fn footer(&self) -> String {
        match self.format {
            _ if self.num_records == 0 => String::new(),
            Format::Markdown => format!("\n{}\n", self.build),
            Format::Json => "\n]\n".to_owned(),
            Format::JsonLines | Format::Csv => String::new(),
        }
    }

    fn header(&self) -> String {
        let rule = |column: Column| match column.width() {
            width if column.is_left() => "-".repeat(width),
            width => "-".repeat(width - 1) + ":",
        };
        self.line(|column| column.name().to_owned()) + &self.line(rule)
    }

    fn line(&self, cell: impl Fn(Column) -> String) -> String {
        let padded = |column: &Column| {
            let (cell, width) = (cell(*column), column.width());
            if column.is_left() { format!(" {cell:<width$} |") } else { format!(" {cell:>width$} |") }
        };
        format!("|{}\n", self.columns.iter().map(padded).collect::<String>())
    }
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Growth => "growth",
            Self::Size => "size",
            Self::Params => "params",
            Self::Backend => "backend",
            Self::Threads => "threads",
            Self::Batch => "batch",
            Self::Test => "test",
            Self::Rate => "t/s",
        }
    }

    fn width(self) -> usize {
        match self {
            Self::Model | Self::Growth => 30,
            Self::Size | Self::Params | Self::Backend => 10,
            Self::Threads => 7,
            Self::Batch => 5,
            Self::Test => 15,
            Self::Rate => 20,
        }
    }

    fn is_left(self) -> bool {
        matches!(self, Self::Model | Self::Growth | Self::Backend)
    }

    fn cell(self, record: &BenchRecord) -> String {
        match self {
            Self::Model => record.model_type.clone(),
            Self::Growth => record.growth.clone(),
            Self::Size => in_units(record.model_size as f64, 1024.0, "MiB", "GiB"),
            Self::Params => in_units(record.model_n_params as f64, 1000.0, "M", "B"),
            Self::Backend => record.backends.clone(),
            Self::Threads => record.n_threads.to_string(),
            Self::Batch => record.batch_size.to_string(),
            Self::Test => record.test.clone(),
            Self::Rate => format!("{:.2} ± {:.2}", record.avg_ts, record.stddev_ts),
        }
    }
}

/// Millions, or from a thousand of them on, thousands of millions, by this base.
fn in_units(number: f64, base: f64, million: &str, milliard: &str) -> String {
    if number < base.powi(3) {
        format!("{:.2} {million}", number / base.powi(2))
    } else {
        format!("{:.2} {milliard}", number / base.powi(3))
    }
}

/// A value as CSV has it; nothing is an empty one.
fn quoted(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Bool(yes) => u8::from(*yes).to_string(),
        other => other.to_string(),
    };
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_csv_keep_their_quotes() {
        assert_eq!(quoted(&Value::from("a \"b\", c")), "\"a \"\"b\"\", c\"");
        assert_eq!([Value::Null, true.into(), 3.into()].map(|value| quoted(&value)), ["\"\"", "\"1\"", "\"3\""]);
    }

    #[test]
    fn sizes_change_their_unit_at_a_thousand() {
        assert_eq!(in_units(538_060_032.0, 1024.0, "MiB", "GiB"), "513.13 MiB");
        assert_eq!(in_units(7_241_732_096.0, 1000.0, "M", "B"), "7.24 B");
    }

    #[test]
    fn where_nothing_was_measured_nothing_is_printed() {
        for format in [Format::Markdown, Format::Json, Format::JsonLines, Format::Csv] {
            assert_eq!(Printer::new(format, true, true).footer(), "");
        }
    }
}
