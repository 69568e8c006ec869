//! Where a scenario's output is not what stands in it, command by command.

/// One command whose output is another than expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The command's line in the file, from 1.
    pub line: usize,
    /// The command, with its `>`.
    pub command: String,
    /// The output that stands in the file.
    pub expected: Vec<String>,
    /// The output that it has.
    pub actual: Vec<String>,
}

impl Difference {
    /// For people: the command, then its output line by line, `-` before what was expected and `+` before
    /// what came.
    pub fn shown(&self) -> String {
        let same_before = self
            .expected
            .iter()
            .zip(&self.actual)
            .take_while(|(expected, actual)| expected == actual)
            .count();
        let same_behind = self.expected[same_before..]
            .iter()
            .rev()
            .zip(self.actual[same_before..].iter().rev())
            .take_while(|(expected, actual)| expected == actual)
            .count();
        let mut shown = format!("line {}:\n    {}\n", self.line, self.command);
        let mut show = |sign: char, lines: &[String]| {
            for line in lines {
                shown.push_str(format!("  {sign} {line}").trim_end());
                shown.push('\n');
            }
        };
        let middle = |lines: &[String]| same_before..lines.len() - same_behind;
        show(' ', &self.expected[..same_before]);
        show('-', &self.expected[middle(&self.expected)]);
        show('+', &self.actual[middle(&self.actual)]);
        show(' ', &self.expected[self.expected.len() - same_behind..]);
        shown
    }
}

/// The differences between a scenario as it stands in its file and as it went. Both have the same commands.
pub fn differences(expected: &str, actual: &str) -> Vec<Difference> {
    let (expected, actual) = (commands(expected), commands(actual));
    let pairs = expected.into_iter().zip(actual);
    pairs
        .filter(|((_, _, expected), (_, _, actual))| expected != actual)
        .map(|((line, command, expected), (_, _, actual))| Difference {
            line,
            command: command.to_owned(),
            expected: expected.into_iter().map(str::to_owned).collect(),
            actual: actual.into_iter().map(str::to_owned).collect(),
        })
        .collect()
}

/// Each command: its line, itself, its output.
fn commands(script: &str) -> Vec<(usize, &str, Vec<&str>)> {
    let mut commands = Vec::new();
    let mut open = false;
    for (number, line) in script.lines().enumerate() {
        if line.starts_with('>') {
            commands.push((number + 1, line, Vec::new()));
            open = true;
        } else if line.is_empty() || line.starts_with('#') {
            open = false;
        } else if let (true, Some((_, _, output))) = (open, commands.last_mut()) {
            output.push(line);
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_the_command_and_shows_what_came() {
        let expected = "# c\n> one\nsame\nold\nend\n\n> two\nx\n";
        let actual = "# c\n> one\nsame\nnew\nnewer\nend\n\n> two\nx\n";
        let found = differences(expected, actual);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].shown(),
            "line 2:\n    > one\n    same\n  - old\n  + new\n  + newer\n    end\n"
        );
        assert!(differences(expected, expected).is_empty());
    }
}
