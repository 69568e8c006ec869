//! A command's words: split at spaces, but not within quotes, brackets or braces, so that JSON stays one word.

/// Splits leniently: what is left open goes on to the end of the line.
pub(crate) fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut begin = None;
    let (mut depth, mut quoted, mut escaped) = (0_u32, false, false);
    for (at, c) in line.char_indices() {
        if c.is_whitespace() && depth == 0 && !quoted {
            words.extend(begin.take().map(|begin| &line[begin..at]));
            continue;
        }
        begin.get_or_insert(at);
        if quoted {
            quoted = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            '"' => quoted = true,
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    words.extend(begin.map(|begin| &line[begin..]));
    words
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn json_is_one_word() {
        assert_eq!(words("  call /a  b "), ["call", "/a", "b"]);
        let line = r#"call /a b "two \" words" {"x": [1, 2]} --key=1"#;
        let expected = [
            "call",
            "/a",
            "b",
            r#""two \" words""#,
            r#"{"x": [1, 2]}"#,
            "--key=1",
        ];
        assert_eq!(words(line), expected);
        assert_eq!(words("set /a it [is open"), ["set", "/a", "it", "[is open"]);
        assert_eq!(words("a ] b"), ["a", "]", "b"]);
    }
}
