//! Where in the file something stands, and how a problem there is said to people: `file:line:column`, what is
//! wrong, and what to write instead. Knows TOML, no rule about what may stand in it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// One step from the root of the file to a value.
#[derive(Clone, Debug)]
pub enum Step {
    /// Into a table, by key.
    Key(String),
    /// Into an array, by place.
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<&String> for Step {
    fn from(key: &String) -> Self {
        Self::Key(key.clone())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// Whether a problem keeps the edge from starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not, but somebody should look.
    Warning,
}

/// Something in the file that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Line and column, both from 1; absent where the file itself could not be read.
    pub at: Option<(usize, usize)>,
    /// How bad.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, ": {severity}: {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// The text of a configuration file, which can say where a value stands.
pub struct Source {
    /// The file.
    pub file: PathBuf,
    text: String,
}

impl Source {
    /// Reads `file`.
    pub fn read(file: &Path) -> Result<Self, Problem> {
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(Self { file: file.to_owned(), text }),
            Err(error) => Err(Problem {
                file: file.to_owned(),
                at: None,
                severity: Severity::Error,
                message: format!("cannot be read: {error}"),
                hint: None,
            }),
        }
    }

    /// A source from text, as if it stood in `file`.
    #[cfg(test)]
    pub fn of_text(file: &str, text: &str) -> Self {
        Self { file: file.into(), text: text.to_owned() }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// An error at a range of bytes.
    pub fn error_at(&self, span: Option<Range<usize>>, message: impl Into<String>, hint: Option<String>) -> Problem {
        Problem {
            file: self.file.clone(),
            at: Some(self.position(span.map_or(0, |span| span.start))),
            severity: Severity::Error,
            message: message.into(),
            hint,
        }
    }

    /// The bytes of the value at `path`, or of the deepest table on the way to it that exists.
    pub fn locate(&self, path: &[Step]) -> Option<Range<usize>> {
        let root = DeTable::parse(&self.text).ok()?;
        let (first, rest) = path.split_first()?;
        let Step::Key(first) = first else { return None };
        let (key, value) = root.get_ref().iter().find(|(key, _)| key.get_ref() == first)?;
        let mut span = key.span();
        let mut value: &DeValue<'_> = value.get_ref();
        for step in rest {
            let found = match (step, value) {
                (Step::Key(name), DeValue::Table(table)) => {
                    table.iter().find(|(key, _)| key.get_ref() == name.as_str()).map(|(key, value)| (key.span(), value))
                }
                (Step::Index(index), DeValue::Array(array)) => array.get(*index).map(|value| (value.span(), value)),
                _ => None,
            };
            let Some((at, inner)) = found else { break };
            span = at;
            value = inner.get_ref();
        }
        Some(span)
    }

    /// Line and column of a byte, both from 1; columns count characters.
    fn position(&self, byte: usize) -> (usize, usize) {
        let mut byte = byte.min(self.text.len());
        while !self.text.is_char_boundary(byte) {
            byte -= 1;
        }
        let before = &self.text[..byte];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// The candidate nearest to `word`, if it is near enough to be a slip: one edit for each three letters, at least two.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(2);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_recognised_and_another_word_is_not() {
        let keys = ["listener", "limits", "identity", "cluster"];
        assert_eq!(nearest("lisener", keys), Some("listener"));
        assert_eq!(nearest("limit", keys), Some("limits"));
        assert_eq!(nearest("database", keys), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn a_value_is_found_where_it_stands() {
        let source = Source::of_text("f", "a = 1\n[[route]]\nname = \"x\"\nfilters = [\"é\", \"b\"]\n");
        let at = |path: &[Step]| source.locate(path).map(|span| source.position(span.start));
        assert_eq!(at(&["route".into(), 0.into(), "filters".into(), 1.into()]), Some((4, 17)));
        assert_eq!(at(&["route".into(), 0.into(), "name".into()]), Some((3, 1)));
        assert_eq!(at(&["nothing".into()]), None);
    }
}
