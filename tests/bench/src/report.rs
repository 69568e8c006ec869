//! The table: medians of all rounds, and the ratio round by round.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::measure::{Measurement, Scenario};

/// Between these lines of the Markdown file stands what this program wrote.
const BEGIN: &str = "<!-- table: tests/bench/run --markdown writes it -->";
const END: &str = "<!-- end of the table -->";

/// One round of a scenario.
pub(crate) struct Pair {
    pub(crate) ours: Measurement,
    pub(crate) theirs: Option<Measurement>,
}

/// One line of the table.
pub(crate) struct Row {
    name: String,
    ours: Rates,
    theirs: Option<Rates>,
    /// Medians of the rounds' ratios, ours to theirs.
    ratio: Option<Rates>,
}

struct Rates {
    per_second: f64,
    per_cpu_second: f64,
}

impl Row {
    pub(crate) fn new(scenario: &Scenario, pairs: &[Pair]) -> Row {
        let medians = |rates: &dyn Fn(&Pair) -> Option<(f64, f64)>| -> Option<Rates> {
            let values: Option<Vec<(f64, f64)>> = pairs.iter().map(rates).collect();
            let values = values?;
            Some(Rates {
                per_second: median(values.iter().map(|value| value.0)),
                per_cpu_second: median(values.iter().map(|value| value.1)),
            })
        };
        let both = |one: &Measurement| (one.per_second(), one.per_cpu_second());
        Row {
            name: scenario.name.clone(),
            ours: Rates {
                per_second: median(pairs.iter().map(|pair| pair.ours.per_second())),
                per_cpu_second: median(pairs.iter().map(|pair| pair.ours.per_cpu_second())),
            },
            theirs: medians(&|pair| pair.theirs.as_ref().map(both)),
            ratio: medians(&|pair| {
                let (ours, theirs) = (both(&pair.ours), both(pair.theirs.as_ref()?));
                Some((ours.0 / theirs.0, ours.1 / theirs.1))
            }),
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

/// A line for people who wait.
pub(crate) fn progress(name: &str, round: usize, pair: &Pair) -> String {
    let shown = |one: &Measurement| {
        format!(
            "{}/s, {} per CPU-second",
            number(one.per_second()),
            number(one.per_cpu_second())
        )
    };
    let mut line = format!("{name}, round {}: quorate {}", round + 1, shown(&pair.ours));
    if let Some(theirs) = &pair.theirs {
        let _ = write!(line, "; zookeeper {}", shown(theirs));
    }
    line
}

/// The table in Markdown.
pub(crate) fn table(rows: &[Row], with_zookeeper: bool) -> String {
    let mut text = String::new();
    if with_zookeeper {
        text.push_str(
            "| | Quorate /s | ZooKeeper /s | ratio | Quorate /CPU-s | ZooKeeper /CPU-s | ratio |\n",
        );
        text.push_str("| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    } else {
        text.push_str("| | Quorate /s | Quorate /CPU-s |\n| --- | ---: | ---: |\n");
    }
    for row in rows {
        let (second, cpu) = (row.ours.per_second, row.ours.per_cpu_second);
        let _ = match (&row.theirs, &row.ratio) {
            (Some(theirs), Some(ratio)) => writeln!(
                text,
                "| {} | {} | {} | {:.2}x | {} | {} | {:.2}x |",
                row.name,
                number(second),
                number(theirs.per_second),
                ratio.per_second,
                number(cpu),
                number(theirs.per_cpu_second),
                ratio.per_cpu_second,
            ),
            _ => writeln!(
                text,
                "| {} | {} | {} |",
                row.name,
                number(second),
                number(cpu)
            ),
        };
    }
    text
}

/// Whole numbers, in groups of three.
fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Puts the table into the Markdown file in place of the one that is there.
pub(crate) fn write(path: &Path, table: &str, rounds: usize, seconds: f64) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let (before, rest) = text
        .split_once(BEGIN)
        .context("the first marker is not there")?;
    let (_, after) = rest
        .split_once(END)
        .context("the second marker is not there")?;
    let processors = std::thread::available_parallelism()?;
    let written = format!(
        "{before}{BEGIN}\n\nMedians of {rounds} rounds of {seconds} s each, on {processors} \
         processors that servers and driver share; 128 bytes of data.\n\n{table}\n{END}{after}"
    );
    fs::write(path, written)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(7.4), "7");
        assert_eq!(number(999.6), "1,000");
        assert_eq!(number(1_234_567.0), "1,234,567");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }
}
