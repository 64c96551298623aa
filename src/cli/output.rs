//! Results on stdout, and how numbers, names and tables are shown there.

use std::io::{self, Write};

use terminal_size::terminal_size_of;

use super::failure::Failure;

/// Prints a result.
///
/// # Errors
/// If stdout cannot be written. A reader that has closed the pipe is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::runtime(format_args!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// A size with a binary prefix: `3.90 MiB`.
pub(super) fn size(bytes: impl Into<u128>) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let bytes: u128 = bytes.into();
    let power = (bytes.max(1).ilog2() / 10).min(4);
    if power == 0 {
        return format!("{bytes} B");
    }
    format!("{:.2} {}", bytes as f64 / f64::from(1u32 << 10).powi(power as i32), units[power as usize])
}

/// A count of parameters or tokens: `46.703 B`.
pub(super) fn short_count(number: u128) -> String {
    scaled(number, "B")
}

/// A number of operations with a decimal prefix: `46.703 G`.
pub(super) fn operations(number: u128) -> String {
    scaled(number, "G")
}

fn scaled(number: u128, billion: &str) -> String {
    let scales = [(1e15, "P"), (1e12, "T"), (1e9, billion), (1e6, "M"), (1e3, "k")];
    let scale = scales.into_iter().find(|(scale, _)| number as f64 >= *scale);
    scale.map_or_else(|| number.to_string(), |(scale, unit)| format!("{:.3} {unit}", number as f64 / scale))
}

/// A table without borders: the first column left-aligned, the others right-aligned, two spaces apart.
pub(super) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths[column] - cell.chars().count());
            line += &if column == 0 { format!("{cell}{padding}") } else { format!("  {padding}{cell}") };
        }
        text += line.trim_end();
        text += "\n";
    }
    text
}

/// Columns of the terminal that shows stdout, if one does.
pub(super) fn terminal_width() -> Option<usize> {
    terminal_size_of(io::stdout()).map(|(width, _)| width.0.into())
}

/// An [`aligned`] table that fits a width, if there is one. Without room for all columns, those with the headings `least` are left out
/// in this order, and a line lists them.
pub(super) fn fitted(mut rows: Vec<Vec<String>>, width: Option<usize>, least: &[&str]) -> String {
    let Some(width) = width else { return aligned(&rows) };
    let (mut left_out, mut least) = (Vec::new(), least.iter());
    let mut text = aligned(&rows);
    while text.lines().any(|line| line.chars().count() > width)
        && let Some(heading) = least.next()
    {
        if let Some(column) = rows[0].iter().position(|cell| cell == heading) {
            rows.iter_mut().for_each(|row| drop(row.remove(column)));
            left_out.push(*heading);
            text = aligned(&rows);
        }
    }
    match left_out.is_empty() {
        true => text,
        false => format!("{text}left out for a terminal of {width} columns: {}\n", left_out.join(", ")),
    }
}

/// A name from a file, safe for a terminal: control characters escaped, truncated to 200 characters.
pub(super) fn shown(name: &str) -> String {
    let escaped: String = name
        .chars()
        .take(200)
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect();
    if name.chars().nth(200).is_some() { format!("{escaped}…") } else { escaped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_are_short() {
        assert_eq!([0u64, 1023, 1024, 14_483_464_192].map(size), ["0 B", "1023 B", "1.00 KiB", "13.49 GiB"]);
        assert_eq!([999, 7_241_732_096, 46_702_792_704].map(short_count), ["999", "7.242 B", "46.703 B"]);
        assert_eq!(operations(7_241_732_096), "7.242 G");
    }

    #[test]
    fn columns_line_up() {
        let rows = [["layers", "8", "12"], ["parameters", "1.0 M", "1.4 M"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(aligned(&rows), "layers          8     12\nparameters  1.0 M  1.4 M\n");
    }

    #[test]
    fn a_narrow_terminal_loses_the_least_columns_and_their_names_are_listed() {
        let rows = [["module", "FLOPs", "share", "ms", "of time"], ["layer.mlp", "1.000 G", "90.0 %", "8.5", "70.0 %"]];
        let rows = rows.map(|row| row.map(String::from).to_vec()).to_vec();
        let fitted = |width| fitted(rows.clone(), width, &["absent", "of time", "FLOPs"]);
        assert_eq!(fitted(None), aligned(&rows));
        assert_eq!(fitted(Some(40)), aligned(&rows));
        let without_times = "module       FLOPs   share   ms\nlayer.mlp  1.000 G  90.0 %  8.5\n";
        assert_eq!(fitted(Some(39)), format!("{without_times}left out for a terminal of 39 columns: of time\n"));
        // What is not among the least stays.
        assert!(fitted(Some(5)).starts_with("module      share   ms\n"), "{}", fitted(Some(5)));
    }

    #[test]
    fn a_name_cannot_move_the_cursor() {
        assert_eq!(shown("a\u{1b}[2J\nb"), r"a\u{1b}[2J\nb");
        assert_eq!(shown(&"x".repeat(300)).chars().count(), 201);
    }
}
