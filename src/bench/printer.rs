//! Records as text, one at a time: Markdown, JSON, JSON lines, CSV, SQL.

use serde_json::{Map, Value};

use super::record::BenchRecord;

/// Format of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table for people.
    Markdown,
    /// One array of objects.
    Json,
    /// One object per line.
    JsonLines,
    /// A header and one line per record, every value quoted, without the samples.
    Csv,
    /// `CREATE TABLE IF NOT EXISTS llama_bench` and one `INSERT` per record, without the samples.
    Sql,
}

/// Why a record is never refused by serde.
const IS_JSON: &str = "a record is a struct of numbers and text";

/// Formats records one after the other.
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
    Sequences,
    Test,
    Rate,
}

impl Printer {
    /// A printer without records. `with_growth` and `with_sequences` add columns to the table.
    pub fn new(format: Format, with_growth: bool, with_sequences: bool) -> Self {
        use Column::{Backend, Growth, Model, Params, Rate, Sequences, Size, Test, Threads};
        let all = [Model, Growth, Size, Params, Backend, Threads, Sequences, Test, Rate];
        let wanted = |column: &Column| match column {
            Growth => with_growth,
            Sequences => with_sequences,
            _ => true,
        };
        Self { format, columns: all.into_iter().filter(wanted).collect(), num_records: 0, build: String::new() }
    }

    /// Whether no record has been formatted yet.
    pub fn is_empty(&self) -> bool {
        self.num_records == 0
    }

    /// The text of the next record; that of the first includes the header.
    pub fn record(&mut self, record: &BenchRecord) -> String {
        let is_first = self.num_records == 0;
        self.num_records += 1;
        self.build = format!("build: {} ({})", record.build_commit, record.build_number);
        match self.format {
            Format::Markdown => {
                let header = if is_first { self.header() } else { String::new() };
                header + &self.line(|column| column.cell(record))
            }
            Format::Json => {
                let object = serde_json::to_string_pretty(record).expect(IS_JSON).replace('\n', "\n  ");
                format!("{}  {object}", if is_first { "[\n" } else { ",\n" })
            }
            Format::JsonLines => serde_json::to_string(record).expect(IS_JSON) + "\n",
            Format::Csv => {
                let (names, values): (Vec<String>, Vec<String>) =
                    fields(record).into_iter().map(|(name, value)| (name, quoted(&value))).unzip();
                let header = if is_first { names.join(",") + "\n" } else { String::new() };
                header + &values.join(",") + "\n"
            }
            Format::Sql => {
                let fields = fields(record);
                let header = if is_first { create_table(&fields) } else { String::new() };
                let (names, values): (Vec<&str>, Vec<String>) =
                    fields.iter().map(|(name, value)| (name.as_str(), literal(value))).unzip();
                format!("{header}INSERT INTO {TABLE} ({}) VALUES ({});\n", names.join(", "), values.join(", "))
            }
        }
    }

    /// The text after the last record; empty if there was none.
    pub fn footer(&self) -> String {
        match self.format {
            _ if self.num_records == 0 => String::new(),
            Format::Markdown => format!("\n{}\n", self.build),
            Format::Json => "\n]\n".to_owned(),
            Format::JsonLines | Format::Csv | Format::Sql => String::new(),
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
            Self::Sequences => "seqs",
            Self::Test => "test",
            Self::Rate => "t/s",
        }
    }

    fn width(self) -> usize {
        match self {
            Self::Model | Self::Growth => 30,
            Self::Size | Self::Params | Self::Backend => 10,
            Self::Threads => 7,
            Self::Sequences => 5,
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
            Self::Sequences => record.batch_size.to_string(),
            Self::Test => record.test.clone(),
            Self::Rate => format!("{:.2} ± {:.2}", record.avg_ts, record.stddev_ts),
        }
    }
}

/// A number in units of `base²` or, from `base³` on, of `base³`.
fn in_units(number: f64, base: f64, small: &str, large: &str) -> String {
    if number < base.powi(3) {
        format!("{:.2} {small}", number / base.powi(2))
    } else {
        format!("{:.2} {large}", number / base.powi(3))
    }
}

/// The table of llama-bench.
const TABLE: &str = "llama_bench";

/// The fields of a record but for the samples.
fn fields(record: &BenchRecord) -> Vec<(String, Value)> {
    let text = serde_json::to_string(record).expect(IS_JSON);
    let record: Map<String, Value> = serde_json::from_str(&text).expect(IS_JSON);
    record.into_iter().filter(|(_, value)| !value.is_array()).collect()
}

/// A value for CSV; `null` is empty.
fn quoted(value: &Value) -> String {
    format!("\"{}\"", plain(value).replace('"', "\"\""))
}

/// A value for SQL, quoted as llama-bench does.
fn literal(value: &Value) -> String {
    if value.is_null() { "NULL".to_owned() } else { format!("'{}'", plain(value).replace('\'', "''")) }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Bool(yes) => u8::from(*yes).to_string(),
        other => other.to_string(),
    }
}

/// The statement before the first record. A number that may be missing is an integer, or joules.
fn create_table(fields: &[(String, Value)]) -> String {
    let column = |(name, value): &(String, Value)| {
        let affinity = match value {
            Value::String(_) => "TEXT",
            value if value.is_f64() || name.ends_with("_j") => "REAL",
            _ => "INTEGER",
        };
        format!("  {name} {affinity}")
    };
    format!(
        "CREATE TABLE IF NOT EXISTS {TABLE} (\n{}\n);\n\n",
        fields.iter().map(column).collect::<Vec<_>>().join(",\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_escapes_quotes() {
        assert_eq!(quoted(&Value::from("a \"b\", c")), "\"a \"\"b\"\", c\"");
        assert_eq!([Value::Null, true.into(), 3.into()].map(|value| quoted(&value)), ["\"\"", "\"1\"", "\"3\""]);
    }

    #[test]
    fn sql_escapes_quotes_and_knows_types() {
        let values = [Value::from("it's"), Value::Null, true.into(), 2.5.into()];
        assert_eq!(values.each_ref().map(literal), ["'it''s'", "NULL", "'1'", "'2.5'"]);
        let fields = ["a", "b", "c", "d"].map(str::to_owned).into_iter().zip(values).collect::<Vec<_>>();
        let table = "CREATE TABLE IF NOT EXISTS llama_bench (\n  a TEXT,\n  b INTEGER,\n  c INTEGER,\n  d REAL\n);\n\n";
        assert_eq!(create_table(&fields), table);
    }

    #[test]
    fn sizes_change_their_unit_at_a_thousand() {
        assert_eq!(in_units(538_060_032.0, 1024.0, "MiB", "GiB"), "513.13 MiB");
        assert_eq!(in_units(7_241_732_096.0, 1000.0, "M", "B"), "7.24 B");
    }

    #[test]
    fn without_records_nothing_is_printed() {
        for format in [Format::Markdown, Format::Json, Format::JsonLines, Format::Csv, Format::Sql] {
            assert_eq!(Printer::new(format, true, true).footer(), "");
        }
    }
}
