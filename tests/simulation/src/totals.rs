//! Totals: what a run counted, as a line, and such lines together.

use std::collections::BTreeMap;
use std::fmt;

/// What was counted, as a line: `3 servers, 12 crashes`.
pub(crate) fn line<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> String {
    let counts = counts.into_iter();
    let counts: Vec<String> = counts
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    counts.join(", ")
}

/// The sums of several such lines.
#[derive(Default)]
pub(crate) struct Totals(BTreeMap<String, u64>);

impl Totals {
    /// Adds what the first line of `said` has.
    pub(crate) fn add(&mut self, said: &str) {
        let line = said.lines().next().unwrap_or_default();
        for part in line.split(", ") {
            if let Some((count, name)) = part.split_once(' ')
                && let Ok(count) = count.parse::<u64>()
            {
                *self.0.entry(name.to_owned()).or_default() += count;
            }
        }
    }

    /// The sum of what is called so.
    pub(crate) fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&line(
            self.0.iter().map(|(name, count)| (name.as_str(), *count)),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_added_up() {
        let mut totals = Totals::default();
        totals.add(&line([("servers", 3), ("crashes", 12)]));
        totals.add("4 servers, 33.5 s, trace 00ff\nVIOLATION lost: 5 servers, 6 servers");
        assert_eq!(totals.to_string(), "12 crashes, 7 servers");
        assert_eq!(totals.of("servers"), 7);
        assert_eq!(totals.of("cuts"), 0);
    }
}
