//! Every scenario of `tests/scenarios` has the output that stands in it.
//!
//! `QUORATE_BLESS=1 cargo test -p quorate-tests --test scenarios` writes the output that they have: look at the difference.

use std::fs;
use std::path::Path;

#[test]
fn scenarios_have_the_output_that_stands_in_them() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(
        !files.is_empty(),
        "there are no scenarios in {}",
        directory.display()
    );
    let workbench = quorate_workbench::Workbench::new().unwrap();
    let mut wrong = Vec::new();
    for file in files {
        let expected = fs::read_to_string(&file).unwrap();
        let actual = match workbench.run(&expected, &quorate_tests::Standard) {
            Ok(actual) => actual,
            Err(error) => panic!("{}: {error:#}", file.display()),
        };
        if actual == expected {
            continue;
        }
        if std::env::var_os("QUORATE_BLESS").is_some() {
            fs::write(&file, &actual).unwrap();
        } else {
            wrong.push(format!(
                "{}:\n{}",
                file.display(),
                difference(&expected, &actual)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The first line that differs, with what stands before it.
fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<_>, Vec<_>) =
        (expected.lines().collect(), actual.lines().collect());
    let same = expected
        .iter()
        .zip(&actual)
        .take_while(|(left, right)| left == right)
        .count();
    let before = expected[same.saturating_sub(3)..same].join("\n");
    let line = |lines: &[&str]| lines.get(same).copied().unwrap_or("(the end)").to_owned();
    format!(
        "line {}:\n{before}\n- {}\n+ {}",
        same + 1,
        line(&expected),
        line(&actual)
    )
}
